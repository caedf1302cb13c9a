#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""P2: neighbours never change your tokens. Clients that share batches get, to the last bit, what they get alone."""

import os

from moedtest import SOURCE, Daemon, finish, prompts


SECOND = os.path.join(SOURCE, "tests/reference/data/models/mixtral/model.gguf")


def clients_share_batches(d, cases):
    alone = [d.run(prompt, *args) for prompt, args in cases]
    before = d.stats()
    running = [d.start_run(prompt, *args) for prompt, args in cases]
    together = [finish(p) for p in running]
    after = d.stats()

    rows = (after["rows"] - before["rows"]) / (after["iterations"] - before["iterations"])
    generated = after["tokens_generated"] - before["tokens_generated"]
    decoding = generated / (after["iterations"] - before["iterations"])
    print("mean rows per batch: %.2f, tokens per iteration: %.2f" % (rows, decoding))
    assert decoding > 1.2, "the clients did not share batches"
    for a, b in zip(alone, together):
        for key in ("tokens", "logprobs", "text", "experts", "activations"):
            assert a[key] == b[key], key


def main():
    cases = [(prompt, ("--max-tokens", 600, "--ignore-eog", "--temp", temperature, "--seed", 11 + i))
             for i, (prompt, temperature) in enumerate(zip(prompts(), (0, 1.0, 0.7, 1.3)))]
    # What is computed together must not have been there before.
    config = "[Daemon]\nPrefixCache=no\n"
    with Daemon(config=config) as d:
        clients_share_batches(d, cases)
    # Two models in one daemon, their streams in the same iterations.
    with Daemon("--model", "other=" + SECOND, config=config) as d:
        assert [m["name"] for m in d.json("models")["models"]] == ["tiny", "other"]
        clients_share_batches(d, [(prompt, args + ("--model", name)) for prompt, args in cases[:3]
                                  for name in ("tiny", "other")])


main()
