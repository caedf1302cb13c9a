#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Quality against experts per token, measured through a daemon of its own: the table of daemon/demo/README.md.

Bits per byte: each document of eval-text.txt behind <|endoftext|>, scored (moectl score). Tasks: each question of
eval-tasks.jsonl through the chat template, answered greedily (moectl run --chat); right is exactly the answer and then
the model's end of text."""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from daemon import DEMO, Daemon, add_arguments, find_model  # noqa: E402

CAPS = (1, 2, 3, 4, 6, 8)


def documents():
    with open(os.path.join(DEMO, "eval-text.txt"), encoding="utf-8", newline="") as f:
        return f.read().removesuffix("\n").split("\n%%\n")


def tasks():
    with open(os.path.join(DEMO, "eval-tasks.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def score(daemon, prefix, document, cap):
    """Bits and bytes of one document."""
    got = daemon.json("score", "--special", "--experts", cap, "-", input=prefix + document)
    size = len(document.encode())
    if got["bytes"] != size:
        sys.exit("quality: %d bytes of a document of %d were scored; is %r no special token of this model? See --prefix"
                 % (got["bytes"], size, prefix))
    return got["bits"], size


def answer(daemon, task, cap):
    """Whether one question is answered rightly."""
    got = daemon.json("run", "--chat", "--experts", cap, "--max-tokens", len(task["answer"]) + 8, "--", task["prompt"])
    return got["finish"] == "end" and got["text"] == task["answer"]


def measure(daemon, options, caps):
    """{cap: {"bits_per_byte": x, "accuracy": {task: share}}}"""
    texts, questions = documents()[::options.every], tasks()[::options.every]
    with ThreadPoolExecutor(options.clients) as pool:
        scores = {cap: [pool.submit(score, daemon, options.prefix, text, cap) for text in texts] for cap in caps}
        answers = {cap: [pool.submit(answer, daemon, task, cap) for task in questions] for cap in caps}
        found = {}
        for cap in caps:
            bits, size = map(sum, zip(*(f.result() for f in scores[cap])))
            hits = {}
            for task, f in zip(questions, answers[cap]):
                hits.setdefault(task["task"], []).append(f.result())
            found[cap] = {"bits_per_byte": bits / size,
                          "accuracy": {name: sum(h) / len(h) for name, h in hits.items()}}
    return found


def table(found):
    caps = list(found)
    groups = {t["task"]: t["group"] for t in tasks() if t["task"] in found[caps[0]]["accuracy"]}

    def row(name, values):
        print("| %s | %s |" % (name, " | ".join(values)))

    def mean(cap, names):
        return "%.1f %%" % (100 * sum(found[cap]["accuracy"][n] for n in names) / len(names))

    row("experts per token", map(str, caps))
    print("| --- |" + " ---: |" * len(caps))
    row("bits per byte", ("%.3f" % found[cap]["bits_per_byte"] for cap in caps))
    for group in ("computed", "recalled"):
        names = [n for n, g in groups.items() if g == group]
        row("**%s, mean**" % group, (mean(cap, names) for cap in caps))
        for name in names:
            row(name, ("%.0f %%" % (100 * found[cap]["accuracy"][name]) for cap in caps))
    row("**all tasks, mean**", (mean(cap, groups) for cap in caps))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--experts", default=",".join(map(str, CAPS)), metavar="N,N,...", help="caps (default: %(default)s)")
    parser.add_argument("--prefix", default="<|endoftext|>", help="what goes before a document (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=12, metavar="N", help="at a time (default: %(default)s)")
    options = parser.parse_args()
    options.every = 6 if options.quick else 1
    begin = time.monotonic()
    with Daemon(options.build, find_model(options)) as daemon:
        model = daemon.json("models")["models"][0]
        most = model["experts_used"]
        caps = [float(c) if "." in c else int(c) for c in options.experts.split(",") if float(c) <= most] or [most]
        found = measure(daemon, options, caps)
        stats = daemon.json("stats")
    seconds = time.monotonic() - begin
    rows = stats["rows"] / stats["iterations"]
    if options.json:
        print(json.dumps({"model": model["file"], "quick": options.quick, "seconds": seconds, "rows_per_batch": rows,
                          "caps": found}))
        return
    table(found)
    print("\n%s%s: %d requests in %.0f s, %.1f rows per batch in the mean, %d tokens/s" % (
        model["file"], " (every sixth document and question)" if options.quick else "", stats["requests_done"], seconds,
        rows, (stats["tokens_prompt"] + stats["tokens_generated"]) / seconds))


main()
