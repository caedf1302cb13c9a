#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every request can be explained: what it asked for, what it got, and which rule made it so. To whose it was."""

import os

from moedtest import Daemon, finish, other_user, prompts, slowed, wait_until

ME = "uid:%d" % os.getuid()


def explain(d, number, **kwargs):
    return d.json("explain", number, **kwargs)


def stretches(told):
    return [(s["row"], s["cap_milli"], s["rule"], s["why"]) for s in told["stretches"]]


def allowed(told):
    """What P1 grants over all stretches; what one leaves of an activation, the next may use."""
    ends = [s["row"] for s in told["stretches"][1:]] + [told["rows"]]
    return sum((end - s["row"]) * s["cap_milli"] for s, end in zip(told["stretches"], ends)) * told["moe_layers"] // 1000


def requests_have_numbers_that_everything_calls_them_by(d):
    first = d.run(prompts()[0], "--max-tokens", 3)["number"]
    second = d.run(prompts()[0], "--max-tokens", 3)["number"]
    assert first >= 1 and second == first + 1
    assert [r["number"] for r in d.json("explain")["requests"]][:2] == [second, first]
    p = d.moectl("run", "--tokens", "1,2,3", "--max-tokens", 3, "--stats", errors="replace")
    assert "request %d: 3 prompt tokens" % (second + 1) in p.stderr, p.stderr
    scored = d.json("score", "--tokens", "1,2,3")["number"]
    assert scored == second + 2 and explain(d, scored)["prompt"] == 3


def what_it_asked_for_and_used_is_told(d):
    layers = d.json("models")["models"][0]["moe_layers"]
    d.moectl("budget", "set", "default", "Adaptive=no")
    got = d.run(prompts()[1], "--max-tokens", 20, "--ignore-eog", "--experts", 1.5)
    told = explain(d, got["number"])
    assert told["principal"] == ME and told["name"] == "moectl" and told["model"] == "tiny", told
    assert told["outcome"] == "length" and told["prompt"] == len(prompts()[1]) and told["generated"] == 20, told
    assert told["asked_milli"] == told["cap_milli"] == 1500
    rows = len(prompts()[1]) + 19
    assert told["rows"] == rows and told["activations"] == got["activations"] == rows * 1500 * layers // 1000
    assert told["experts_milli"] == 1000 * got["activations"] // (rows * layers)
    assert stretches(told) == [(0, 1500, "request", None)], told
    # Alone, all rows of its batches are its own.
    assert told["batch_rows"] == rows and 20 <= told["passes"] <= 20 + rows
    assert told["evictions"] == told["recomputed"] == 0
    assert 0 <= told["wait_nsec"] <= told["first_nsec"] <= told["total_nsec"]
    text = d.moectl("explain", got["number"]).stdout
    assert "ended" not in text and "asked for    1.50 experts" in text and "the request asked for it" in text, text
    assert "100.0 % of them its own" in text, text
    d.moectl("budget", "reset", "default")


def the_rule_that_lowered_a_cap_is_told(d):
    d.write_config("[Budget default]\nExpertsMax=1.25\n")
    d.moectl("reload")
    told = explain(d, d.run(prompts()[0], "--max-tokens", 3, "--experts", 2)["number"])
    assert stretches(told) == [(0, 1250, "ExpertsMax", "ExpertsMax=1.250 of default (%s:2)" % d.config_path)], told
    d.write_config("")
    d.moectl("reload")
    told = explain(d, d.run(prompts()[0], "--max-tokens", 3)["number"])
    assert stretches(told) == [(0, 4000, "model", None)], told


def begun(d):
    """The one request, once it has generated something."""
    return wait_until(lambda: [r for p in d.json("ps")["peers"] for r in p["requests"] if r["generated"] > 0], "it runs")[0]


def a_change_in_the_middle_begins_a_stretch(d):
    with slowed(d.process):
        client = d.start_run(prompts()[0], "--ignore-eog", "--max-tokens", 900)
        running = begun(d)
        number = running["number"]
        assert running["state"] == "running" and running["rule"] == "model", running
        d.moectl("budget", "set", ME, "ExpertsMax=2")
        half = explain(d, number)
        assert half["outcome"] == "running" and half["total_nsec"] > 0, half
        d.moectl("budget", "set", ME, "ExpertsMax=1")
    finish(client)
    d.moectl("budget", "reset", ME)
    told = explain(d, number)
    got = stretches(told)
    assert told["outcome"] == "length" and [s[1:] for s in got] == [
        (4000, "model", None), (2000, "ExpertsMax", "ExpertsMax=2 of %s (moectl budget set)" % ME),
        (1000, "ExpertsMax", "ExpertsMax=1 of %s (moectl budget set)" % ME)], got
    assert 0 == got[0][0] < got[1][0] < got[2][0]
    # P1 over the stretches; what adaptive counts save up, and do not spend in the end, is two tokens' worth.
    assert 0 <= allowed(told) - told["activations"] <= 2 * 4 * told["moe_layers"], told


def an_allowance_that_drains_is_told_step_by_step(d):
    d.moectl("budget", "set", ME, "ExpertsMax=3.5", "ActivationRate=100", "ActivationBurst=2000")
    told = explain(d, d.run(prompts()[0], "--max-tokens", 600, "--ignore-eog")["number"])
    d.moectl("budget", "reset", ME)
    got = stretches(told)
    assert len(got) > 4 and got[0][1:3] == (3500, "ExpertsMax"), got
    assert all(s[2:] == ("ActivationRate", "ActivationRate=100 of %s (moectl budget set)" % ME) for s in got[1:]), got
    assert told["activations"] <= allowed(told), told


def its_share_of_the_batches_is_told(d):
    client = d.helper("load", "-r", 4, "-n", 60)
    finish(client)
    told = [explain(d, r["number"]) for r in d.json("explain", "-n", 4)["requests"]]
    assert all(t["name"] == "load" and t["batch_rows"] >= t["rows"] for t in told), told
    assert any(t["batch_rows"] > 1.5 * t["rows"] for t in told), told


def how_it_ended_is_told(d):
    with slowed(d.process):
        client = d.start_run(prompts()[0], "--ignore-eog")
        number = begun(d)["number"]
        client.kill()
        client.communicate()
    wait_until(lambda: explain(d, number)["outcome"] == "cancelled", "its end is noticed")
    d.moectl("run", "--tokens", ",".join(["1"] * 5000), check=False, errors="replace")
    failed = d.json("explain", "-n", 1)["requests"][0]
    assert failed["outcome"] == "error" and "the prompt has 5000 tokens" in failed["reason"], failed
    for args in (("explain", 4000000000), ("explain", "x"), ("explain", 1, 2)):
        p = d.moectl(*args, check=False)
        assert p.returncode != 0 and p.stderr, args
    assert "no request 4000000000 of yours" in d.moectl("explain", 4000000000, check=False).stderr


def the_last_1024_are_kept(d):
    before = d.json("explain", "-n", 1)["requests"][0]["number"]
    requests = d.stats()["requests"]
    while d.stats()["requests"] < requests + 1024:
        finish(d.helper("load", "-r", 64, "-n", 1, "-p", 2, "-d", 0.5))
    p = d.moectl("explain", before, check=False)
    assert p.returncode != 0, "%d is still known" % before
    kept = [r["number"] for r in d.json("explain", "-n", 4000)["requests"]]
    assert len(set(kept)) == 1024, len(kept)


def many_of_one_user_push_out_none_of_another(d, uid):
    theirs = d.run(prompts()[0], "--max-tokens", 3, user=uid)["number"]
    requests = d.stats()["requests"]
    while d.stats()["requests"] < requests + 1024:
        finish(d.helper("load", "-r", 64, "-n", 1, "-p", 2, "-d", 0.5))
    assert explain(d, theirs)["outcome"] == "length"
    assert len({r["number"] for r in d.json("explain", "-n", 4000)["requests"]}) == 1024


def nobody_is_told_about_others(d, uid):
    mine = d.run(prompts()[0], "--max-tokens", 3)["number"]
    theirs = d.run(prompts()[0], "--max-tokens", 3, user=uid)["number"]
    p = d.moectl("explain", mine, user=uid, check=False)
    q = d.moectl("explain", theirs + 1000, user=uid, check=False)
    # That it exists is none of their business either.
    assert p.returncode == q.returncode != 0 and p.stderr.replace(str(mine), "N") == q.stderr.replace(str(theirs + 1000), "N")
    assert [r["number"] for r in d.json("explain", user=uid)["requests"]] == [theirs]
    assert explain(d, theirs, user=uid)["principal"] == "uid:%d" % uid
    assert explain(d, theirs)["principal"] == "uid:%d" % uid, "root sees all"


def main():
    with Daemon() as d:
        requests_have_numbers_that_everything_calls_them_by(d)
        what_it_asked_for_and_used_is_told(d)
        the_rule_that_lowered_a_cap_is_told(d)
        a_change_in_the_middle_begins_a_stretch(d)
        an_allowance_that_drains_is_told_step_by_step(d)
        its_share_of_the_batches_is_told(d)
        how_it_ended_is_told(d)
        the_last_1024_are_kept(d)
        uid = other_user()
        if uid is None:
            print("not tested, needs another user: that nobody is told about others")
        else:
            nobody_is_told_about_others(d, uid)
            many_of_one_user_push_out_none_of_another(d, uid)


main()
