#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the daemon generates is what the reference says, and it ends where it was told to."""

import signal

from moedtest import Daemon, finish, greedy, prompts, wait_until


def continuations_equal_the_reference(d):
    for prompt, expected in zip(prompts(), greedy()):
        got = d.run(prompt, "--max-tokens", 24, "--ignore-eog")
        assert got["tokens"] == expected, (got["tokens"], expected)
        assert got["prompt_tokens"] == len(prompt)
        assert got["finish"] == "length"


def stop_strings_end_the_text_before_them(d):
    prompt = prompts()[0]
    whole = d.run(prompt, "--max-tokens", 24, "--ignore-eog")["text"]
    # Any stretch of it, however it lies across tokens.
    for start, length in ((3, 1), (2, 5), (4, 9), (1, 12)):
        stop = whole[start:start + length]
        if "\ufffd" in stop:
            continue
        got = d.run(prompt, "--max-tokens", 24, "--ignore-eog", "--stop", stop)
        assert got["finish"] == "stop", got
        assert got["text"] == whole[:whole.index(stop)], (stop, got["text"], whole)
    got = d.run(prompt, "--max-tokens", 24, "--ignore-eog", "--stop", "never in it")
    assert got["text"] == whole and got["finish"] == "length"


def a_seed_repeats_and_another_differs(d):
    prompt = prompts()[1]
    args = ("--max-tokens", 40, "--ignore-eog", "--temp", 1.5)
    first = d.run(prompt, *args, "--seed", 7)
    assert d.run(prompt, *args, "--seed", 7)["tokens"] == first["tokens"]
    assert d.run(prompt, *args, "--seed", 8)["tokens"] != first["tokens"]


def the_context_ends_a_generation(d):
    context = d.json("models")["models"][0]["context"]
    prompt = prompts()[3]
    got = d.run(prompt, "--ignore-eog")
    assert got["finish"] == "length"
    assert len(prompt) + len(got["tokens"]) == context, (len(got["tokens"]), context)


def refusals_say_why(d):
    context = d.json("models")["models"][0]["context"]
    for args, status, words in (
        (("--tokens", "1,2,3000"), None, "token 2 of the prompt is 3000"),
        (("--tokens", ",".join(["5"] * context)), None, "context of model tiny is %d" % context),
        (("--temp", "nan", "x"), None, "temp"),
        (("--model", "absent", "x"), None, "absent"),
    ):
        p = d.moectl("run", *args, check=False)
        assert p.returncode != 0 and words in p.stderr, (args, p.returncode, p.stderr)


def an_interrupt_cancels_the_request_and_not_the_daemon(d):
    def interrupt():
        before = d.stats()
        p = d.start_run(prompts()[0], "--ignore-eog")
        wait_until(lambda: d.stats()["requests"] > before["requests"], "it runs")
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=10)
        return p.returncode == 130 and d.stats()["requests_cancelled"] == before["requests_cancelled"] + 1

    # It may just have ended by itself.
    wait_until(interrupt, "one is cancelled")
    wait_until(lambda: d.stats()["streams"] == 0, "the stream has ended")
    after = d.stats()
    assert after["kv_pages_free"] == after["kv_pages"]


def long_texts_are_tokenised_beside_the_loop(d):
    text = "the there en " * 20000
    p = d.moectl("run", "--max-tokens", 1, "-", input=text, check=False)
    assert p.returncode != 0 and "context" in p.stderr, p.stderr


def long_prompts_tell_their_progress():
    with Daemon(config="[Daemon]\nRowsMax=32\n") as d:
        got = finish(d.helper("load", "-p", 500, "-n", 1))
        # 500 tokens, 32 at a time; the last chunk ends in the first token.
        assert got["progress"] == 15, got
        assert d.stats()["rows_max"] == 32


def main():
    with Daemon() as d:
        continuations_equal_the_reference(d)
        stop_strings_end_the_text_before_them(d)
        a_seed_repeats_and_another_differs(d)
        the_context_ends_a_generation(d)
        refusals_say_why(d)
        an_interrupt_cancels_the_request_and_not_the_daemon(d)
        long_texts_are_tokenised_beside_the_loop(d)
    long_prompts_tell_their_progress()


main()
