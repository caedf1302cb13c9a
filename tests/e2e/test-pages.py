#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""When KV pages run out a generation waits or is computed again, and its text and its accounting stay what they were."""

import os

from moedtest import Daemon, finish, other_user, prompts, wait_until


def a_newcomer_gets_pages_of_those_who_have_hardly_begun(memory, uid):
    with Daemon(config="[Daemon]\nKvMemory=%d\n" % memory) as d:
        d.moectl("budget", "set", "uid:%d" % os.getuid(), "ActivationRate=1", "ActivationBurst=1", "OnEmpty=wait")
        flood = d.helper("load", "-r", 16, "-p", 500, "-n", 2, "-d", 60)
        wait_until(lambda: d.stats()["streams_waiting"] > 0, "there are no more pages")
        newcomer = (prompts()[0] * 400)[:400]
        assert len(d.run(newcomer, "--max-tokens", 3, "--ignore-eog", user=uid)["tokens"]) == 3
        assert d.stats()["evictions"] > 0
        flood.kill()
        flood.communicate()


def what_a_user_left_in_the_cache_is_not_in_its_way(page_bytes, uid):
    """Two users have begun what they may not go on with and hold nearly all pages; the rest is what a third one's request left."""
    others = (os.getuid(), uid)
    with Daemon(config="[Daemon]\nKvMemory=%d\n" % (62 * page_bytes)) as d:
        prompt = (prompts()[0] * 500)[:500]
        d.run(prompt[:400], "--max-tokens", 1, "--ignore-eog", user=uid - 1)
        for other in others:
            d.moectl("budget", "set", "uid:%d" % other, "ActivationRate=1", "ActivationBurst=1", "OnEmpty=wait")
        floods = [d.helper("load", "-r", n, "-p", 500, "-n", 2, "-d", 60, user=other) for n, other in zip((2, 1), others)]
        wait_until(lambda: d.stats()["streams_running"] == 3, "they have their pages")
        stats = d.stats()
        assert stats["prefix_pages_idle"] > 10 and stats["kv_pages_free"] < 16, stats
        assert len(d.run(prompt[::-1], "--max-tokens", 3, "--ignore-eog", user=uid - 1)["tokens"]) == 3
        assert d.stats()["evictions"] == 1
        for flood in floods:
            flood.kill()
            flood.communicate()


def main():
    cases = [(prompts()[i % 4], ("--max-tokens", 500, "--ignore-eog", "--temp", 1, "--seed", i, "--experts", 1.75))
             for i in range(8)]
    with Daemon() as d:
        page = d.json("models")["models"][0]
        alone = [d.run(prompt, *args) for prompt, args in cases]
        bytes_per_token = page["kv_bytes_per_token"]
    # Room for two contexts and a little: eight generations cannot be there together.
    memory = int(2.2 * page["context"] * bytes_per_token)
    with Daemon(config="[Daemon]\nKvMemory=%d\n" % memory) as d:
        together = [finish(p) for p in [d.start_run(prompt, *args) for prompt, args in cases]]
        stats = d.stats()
        print("evictions:", stats["evictions"], "rows computed again:", stats["tokens_recomputed"])
        assert stats["evictions"] > 0, "the pages sufficed; the test tests nothing"
        assert stats["tokens_recomputed"] > 0
        assert stats["kv_pages_free"] == stats["kv_pages"]
        for a, b in zip(alone, together):
            for key in ("tokens", "logprobs", "text", "experts"):
                assert a[key] == b[key], key
        # What was computed twice was paid twice, and nothing else was.
        assert sum(b["activations"] for b in together) == stats["activations"]
        assert stats["activations"] > sum(a["activations"] for a in alone)
    uid = other_user()
    if uid is None:
        print("not tested, needs other users: that a newcomer gets pages")
    else:
        a_newcomer_gets_pages_of_those_who_have_hardly_begun(memory, uid)
        what_a_user_left_in_the_cache_is_not_in_its_way(32 * bytes_per_token, uid)


main()
