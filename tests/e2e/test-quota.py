#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""KvMax=, QueueMax= and PromptMax=: nobody holds more, who is inside gets no error, and a refusal names its rule."""

import os
import re

from moedtest import Daemon, finish, other_user, prompts, wait_until

ME = "uid:%d" % os.getuid()


def model(d):
    return d.json("models")["models"][0]


def page_bytes(d):
    return 32 * model(d)["kv_bytes_per_token"]


def kv_bytes(d, who=ME):
    return sum(b["kv_bytes"] for b in d.json("budget")["budgets"] if b["principal"] == who)


def requests(d):
    return {r["number"]: r for p in d.json("ps")["peers"] for r in p["requests"]}


def generations_share_a_quota_and_end_as_if_there_were_none(d):
    cases = [(prompts()[i % 4], ("--max-tokens", 400, "--ignore-eog", "--temp", 1, "--seed", i)) for i in range(6)]
    alone = [d.run(prompt, *args) for prompt, args in cases]
    # The longest takes 22 pages; six together want a hundred.
    quota = 40 * page_bytes(d)
    d.moectl("budget", "set", ME, "KvMax=%d" % quota)
    before = d.stats()
    clients = [d.start_run(prompt, *args) for prompt, args in cases]
    most = [0]

    def watch():
        most[0] = max(most[0], kv_bytes(d))
        return all(p.poll() is not None for p in clients)

    wait_until(watch, "they end", 60)
    together = [finish(p) for p in clients]
    for a, b in zip(alone, together):
        for key in ("tokens", "logprobs", "experts"):
            assert a[key] == b[key], key
    print("of %d bytes at most %d were held; pauses: %d" % (quota, most[0], d.stats()["evictions"] - before["evictions"]))
    assert most[0] <= quota
    assert d.stats()["evictions"] > before["evictions"], "nobody had to pause; the test tests nothing"
    told = [d.json("explain", b["number"]) for b in together]
    assert any(t["evictions"] > 0 for t in told) and all(t["outcome"] == "length" for t in told)
    d.moectl("budget", "reset", ME)


def a_quota_is_no_matter_to_others(d, uid):
    d.moectl("budget", "set", ME, "KvMax=%d" % (12 * page_bytes(d)))
    mine = [d.start_run(prompts()[0], "--max-tokens", 300, "--ignore-eog") for _ in range(3)]
    theirs = d.run(prompts()[3], "--max-tokens", 300, "--ignore-eog", user=uid)
    assert d.json("explain", theirs["number"])["evictions"] == 0 and len(theirs["tokens"]) == 300
    for p in mine:
        assert len(finish(p)["tokens"]) == 300
    d.moectl("budget", "reset", ME)


def one_that_fills_it_alone_ends_there_and_can_tell_why(d):
    d.moectl("budget", "set", ME, "KvMax=%d" % (10 * page_bytes(d)))
    got = d.run(prompts()[1], "--ignore-eog", "--max-tokens", 900)
    assert got["finish"] == "length" and got["prompt_tokens"] + len(got["tokens"]) == 320 + 1, len(got["tokens"])
    told = d.json("explain", got["number"])
    assert told["outcome"] == "length" and "no room for another token within KvMax=" in told["reason"], told
    assert "of %s (moectl budget set)" % ME in told["reason"], told
    # 300 tokens fit just so, 330 never will.
    assert d.run(prompts()[3], "--max-tokens", 1)["tokens"]
    p = d.moectl("run", "--tokens", ",".join(["7"] * 330), check=False)
    assert p.returncode == 75 and "the prompt's 330 tokens need" in p.stderr and "KvMax=" in p.stderr, p.stderr
    assert "moectl budget set" in p.stderr
    d.moectl("budget", "reset", ME)


def a_quota_that_is_lowered_makes_the_younger_pause(d):
    whole = d.run([5, 6, 7], "--max-tokens", 90, "--ignore-eog")["tokens"]
    # Two that do not read for now, with a page each. Neither can have its three while the other has one.
    clients = []
    for n in (1, 2):
        clients.append(d.helper("stall", 90, stdin=-1))
        wait_until(lambda: sum(r["state"] == "stalled" for r in requests(d).values()) == n, "it has begun")
    old, young = sorted(requests(d))
    d.moectl("budget", "set", ME, "KvMax=%d" % (3 * page_bytes(d)))
    for p in clients:
        p.stdin.close()
        p.stdin = None
    for p in clients:
        assert [int(t) for t in finish(p).strip().strip(",").split(",")] == whole
    d.moectl("budget", "reset", ME)
    assert d.json("explain", old)["evictions"] == 0 < d.json("explain", young)["evictions"]


def a_queue_has_the_length_that_its_rule_says(d):
    d.moectl("budget", "set", ME, "QueueMax=2")
    # Four places (StreamsMax=) for those that run: no burst fills a queue that nothing waits in.
    for p in [d.start_run(prompts()[0], "--max-tokens", 2) for _ in range(4)]:
        finish(p)
    # Clients that do not read keep their places.
    running = [d.helper("stall", 200, stdin=-1) for _ in range(4)]
    wait_until(lambda: sum(r["state"] == "stalled" for r in requests(d).values()) == 4, "four have places")
    waiting = [d.start_run(prompts()[0], "--max-tokens", 2) for _ in range(2)]
    wait_until(lambda: sum(r["state"] == "waiting" for r in requests(d).values()) == 2, "two wait")
    assert sorted(r["position"] for r in requests(d).values() if "position" in r) == [1, 2]
    p = d.moectl("run", "--tokens", "1,2,3", check=False)
    assert p.returncode == 75, p
    assert "2 requests of %s wait already; allowed is QueueMax=2 of %s (moectl budget set)" % (ME, ME) in p.stderr, p.stderr
    assert sum(r["state"] == "waiting" for r in requests(d).values()) == 2
    for p in running:
        p.stdin.close()
        p.stdin = None
    for p in waiting:
        assert len(finish(p)["tokens"]) == 2
    for p in running:
        finish(p)
    d.moectl("budget", "reset", ME)


def who_waits_is_told_a_position_and_when_it_begins(d):
    """Also when nobody has waited before: what those that run have left is known."""
    running = [d.helper("stall", 200, stdin=-1) for _ in range(4)]
    wait_until(lambda: sum(r["state"] == "stalled" for r in requests(d).values()) == 4, "four have places")
    waiting = [d.start_run(prompts()[0], "--max-tokens", 2) for _ in range(3)]
    wait_until(lambda: sum(r["state"] == "waiting" for r in requests(d).values()) == 3, "three wait")
    told = sorted((r["position"], r["estimate_nsec"]) for r in requests(d).values() if r["state"] == "waiting")
    assert [position for position, _ in told] == [1, 2, 3] and told[0][1] <= told[1][1] <= told[2][1], told
    shown = d.moectl("ps").stdout
    assert re.search(r"BEGINS-IN", shown) and len(re.findall(r" waiting +[123] +[0-9.]+ s ", shown)) == 3, shown
    for p in running:
        p.stdin.close()
        p.stdin = None
    for p in waiting + running:
        finish(p)


def prompts_have_a_length_in_tokens(d):
    assert d.run([7] * 400, "--max-tokens", 1)["tokens"]
    p = d.moectl("run", "--tokens", ",".join(["7"] * 401), check=False)
    assert p.returncode != 0 and "401 tokens; PromptMax=400 of [Limits]" in p.stderr, p.stderr


def main():
    with Daemon() as d:
        generations_share_a_quota_and_end_as_if_there_were_none(d)
        one_that_fills_it_alone_ends_there_and_can_tell_why(d)
        a_quota_that_is_lowered_makes_the_younger_pause(d)
        uid = other_user()
        if uid is None:
            print("not tested, needs another user: that a quota is no matter to others")
        else:
            a_quota_is_no_matter_to_others(d, uid)
    with Daemon(config="[Limits]\nStreamsMax=4\nPromptMax=400\n") as d:
        who_waits_is_told_a_position_and_when_it_begins(d)
        a_queue_has_the_length_that_its_rule_says(d)
        prompts_have_a_length_in_tokens(d)


main()
