#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How likely a model finds a text: what it said of the same tokens when it generated them, and what the reference says."""

import math
import os
import struct

from moedtest import MODEL_DIR, Daemon, finish, join, prompts, wait_until


def score(d, ids, *args):
    return d.json("score", "--tokens", join(ids), *args)


def generated_tokens_have_the_scores_that_they_were_generated_with(d):
    for i, prompt in enumerate(prompts()):
        args = ("--experts", 2.5) if i % 2 else ()
        got = d.run(prompt, "--max-tokens", 24, "--ignore-eog", "--temp", 1, "--seed", i, *args)
        scored = score(d, prompt + got["tokens"], *args)
        assert scored["tokens"] == prompt[1:] + got["tokens"]
        assert scored["logprobs"][-24:] == got["logprobs"], (scored["logprobs"][-24:], got["logprobs"])
        assert scored["experts"][-24:] == got["experts"]
        assert scored["cap"] == got["cap"] and scored["activations"] == got["activations"]
        assert scored["finish"] == "complete"


def the_reference_agrees(d):
    ids = prompts()[1]
    with open(os.path.join(MODEL_DIR, "logits_33.f32"), "rb") as f:
        data = f.read()
    flat = struct.unpack("<%df" % (len(data) // 4), data)
    vocab = len(flat) // len(ids)
    scored = score(d, ids)
    for row, (token, got) in enumerate(zip(ids[1:], scored["logprobs"], strict=True)):
        logits = flat[row * vocab:(row + 1) * vocab]
        best = max(logits)
        expected = logits[token] - best - math.log(sum(math.exp(x - best) for x in logits))
        assert abs(expected - got) < 1e-3, (row, expected, got)


def sums_are_of_what_is_listed(d):
    text = "The the\u00e9 there \U0001f600 en"
    got = d.json("score", text)
    bits = -sum(got["logprobs"]) / math.log(2)
    first = d.json("tokenize", text)["tokens"][0]
    skipped = len(d.json("tokenize", "--decode", first)["text"].encode()) if first < 256 else 0
    assert got["bytes"] == len(text.encode()) - skipped, (got["bytes"], first)
    assert math.isclose(got["bits"], bits, rel_tol=1e-5)
    assert math.isclose(got["bits_per_byte"], bits / got["bytes"], rel_tol=1e-5)
    assert math.isclose(got["perplexity"], 2 ** (bits / len(got["tokens"])), rel_tol=1e-5)
    lines = d.moectl("score", "-", input=text).stdout
    assert "bits per byte  %.4f" % got["bits_per_byte"] in lines and "tokens         %d\n" % len(got["tokens"]) in lines


def a_cap_holds(d):
    before = d.stats()["activations"]
    got = score(d, prompts()[3], "--experts", 1.5)
    used = d.stats()["activations"] - before
    assert got["activations"] == used and got["mean_experts"] <= 1.5 and got["cap"] == 1.5
    model = d.json("models")["models"][0]
    rows = len(prompts()[3]) - 1
    assert used <= 1.5 * rows * model["moe_layers"] and used > 1.4 * rows * model["moe_layers"]
    assert sum(got["experts"]) * model["moe_layers"] == used


def the_whole_context_can_be_scored_and_no_more(d):
    context = d.json("models")["models"][0]["context"]
    ids = (prompts()[3] * 4)[:context + 1]
    assert len(score(d, ids[:context])["tokens"]) == context - 1
    for bad, words in ((ids, "context of model tiny is %d" % context), ([5], "one token")):
        p = d.moectl("score", "--tokens", join(bad), check=False)
        assert p.returncode != 0 and words in p.stderr, (p.returncode, p.stderr)


def neighbours_and_evictions_change_nothing(alone, cases, config):
    with Daemon(config=config) as d:
        load = d.helper("load", "-n", 400, "-r", 6, "-d", 4)
        wait_until(lambda: d.stats()["streams_running"] > 0, "they run")
        together = [finish(p) for p in [d.spawn([os.environ.get("MOECTL", "moectl"), "score", "--json", "--tokens",
                                                 join(ids)]) for ids in cases]]
        finish(load)
        stats = d.stats()
    for a, b in zip(alone, together, strict=True):
        for key in ("tokens", "logprobs", "experts", "bits"):
            assert a[key] == b[key], key
    return stats


def main():
    cases = [(prompts()[i % 4] * 9)[:900] for i in range(8)]
    with Daemon() as d:
        generated_tokens_have_the_scores_that_they_were_generated_with(d)
        the_reference_agrees(d)
        sums_are_of_what_is_listed(d)
        a_cap_holds(d)
        the_whole_context_can_be_scored_and_no_more(d)
        alone = [score(d, ids) for ids in cases]
        model = d.json("models")["models"][0]
        assert d.stats()["streams"] == 0 and d.stats()["kv_pages_free"] == d.stats()["kv_pages"]
    neighbours_and_evictions_change_nothing(alone, cases, "[Daemon]\nPromptRowsMax=7\n")
    memory = int(2.2 * model["context"] * model["kv_bytes_per_token"])
    stats = neighbours_and_evictions_change_nothing(alone, cases, "[Daemon]\nPromptRowsMax=2\nKvMemory=%d\n" % memory)
    assert stats["evictions"] > 0, "the pages sufficed; the test tests nothing"


main()
