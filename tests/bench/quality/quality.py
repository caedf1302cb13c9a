#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Quality against experts per token, measured through daemons of its own: the tables of daemon/demo/README.md.

The same number of experts in all tokens and layers is one way to spend a budget (fixed). The others spend it on the tokens
where the router sees use (router), and give each layer what the model's calibration says (layers), whose predictor is heard,
too (predictor); see moed.conf(5), Adaptive=, and moectl(1), calibrate.

Bits per byte: each document of eval-text.txt behind <|endoftext|>, scored (moectl score). Tasks: each question of
eval-tasks.jsonl through the chat template, answered greedily (moectl run --chat); right is exactly the answer and then
the model's end of text."""

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from daemon import DEMO, Daemon, add_arguments, find_model  # noqa: E402

CAPS = (1, 2, 3, 4, 6, 8)
WAYS = ("fixed", "router", "layers", "predictor")


def side_car(path):
    return path.removesuffix(".gguf") + ".calibration.gguf"


def prepare(way, model, calibration, folder):
    """Where the model lies for that way, and the configuration. Both are found beside each other only in `folder`."""
    path = os.path.join(folder, way + ".gguf")
    os.symlink(model, path)
    if way in ("layers", "predictor"):
        with open(calibration, "rb") as f:
            data = f.read()
        if way == "layers":  # a predictor by another name is none
            data = data.replace(b"predictor.weight", b"predictor.unused")
        with open(side_car(path), "wb") as f:
            f.write(data)
    return path, "[Budget default]\nAdaptive=%s\n" % ("no" if way == "fixed" else "yes")


def documents():
    with open(os.path.join(DEMO, "eval-text.txt"), encoding="utf-8", newline="") as f:
        return f.read().removesuffix("\n").split("\n%%\n")


def tasks():
    with open(os.path.join(DEMO, "eval-tasks.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def score(daemon, prefix, document, cap):
    """Bits and bytes of one document, and its mean experts times the latter."""
    got = daemon.json("score", "--special", "--experts", cap, "-", input=prefix + document)
    size = len(document.encode())
    if got["bytes"] != size:
        sys.exit("quality: %d bytes of a document of %d were scored; is %r no special token of this model? See --prefix"
                 % (got["bytes"], size, prefix))
    return got["bits"], size, size * got["mean_experts"]


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
            bits, size, experts = map(sum, zip(*(f.result() for f in scores[cap])))
            hits = {}
            for task, f in zip(questions, answers[cap]):
                hits.setdefault(task["task"], []).append(f.result())
            found[cap] = {"bits_per_byte": bits / size, "experts": experts / size,
                          "accuracy": {name: sum(h) / len(h) for name, h in hits.items()}}
    return found


def row(name, values):
    print("| %s | %s |" % (name, " | ".join(values)))


def mean(found, names):
    return "%.1f %%" % (100 * sum(found["accuracy"][n] for n in names) / len(names))


def groups_of(found):
    return {t["task"]: t["group"] for t in tasks() if t["task"] in found["accuracy"]}


def table(found):
    """Of one way, with every task."""
    caps = list(found)
    groups = groups_of(found[caps[0]])
    row("experts per token", map(str, caps))
    print("| --- |" + " ---: |" * len(caps))
    row("bits per byte", ("%.3f" % found[cap]["bits_per_byte"] for cap in caps))
    for group in ("computed", "recalled"):
        names = [n for n, g in groups.items() if g == group]
        row("**%s, mean**" % group, (mean(found[cap], names) for cap in caps))
        for name in names:
            row(name, ("%.0f %%" % (100 * found[cap]["accuracy"][name]) for cap in caps))
    row("**all tasks, mean**", (mean(found[cap], groups) for cap in caps))


def compare(found):
    """Of several ways, a row each, with means only."""
    caps = list(next(iter(found.values())))
    groups = groups_of(next(iter(found.values()))[caps[0]])
    for title, value in (
            ("bits per byte", lambda f: "%.4f" % f["bits_per_byte"]),
            ("experts used", lambda f: "%.2f" % f["experts"]),
            ("computed tasks", lambda f: mean(f, [n for n, g in groups.items() if g == "computed"])),
            ("recalled tasks", lambda f: mean(f, [n for n, g in groups.items() if g == "recalled"]))):
        row(title + ", of at most", map(str, caps))
        print("| --- |" + " ---: |" * len(caps))
        for way in found:
            row(way, (value(found[way][cap]) for cap in caps))
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--experts", default=",".join(map(str, CAPS)), metavar="N,N,...", help="caps (default: %(default)s)")
    parser.add_argument("--ways", default="fixed", metavar="WAY,...", help="some of %s (default: fixed)" % ",".join(WAYS))
    parser.add_argument("--calibration", metavar="FILE", help="of the model (default: beside it)")
    parser.add_argument("--prefix", default="<|endoftext|>", help="what goes before a document (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=12, metavar="N", help="at a time (default: %(default)s)")
    options = parser.parse_args()
    options.every = 6 if options.quick else 1
    ways, file, found, requests = options.ways.split(","), find_model(options), {}, 0
    if not set(ways) <= set(WAYS):
        parser.error("--ways: some of %s" % ",".join(WAYS))
    begin = time.monotonic()
    for way in ways:
        with tempfile.TemporaryDirectory(prefix="moed-quality-") as folder:
            path, config = prepare(way, file, options.calibration or side_car(file), folder)
            with Daemon(options.build, path, config) as daemon:
                model = daemon.json("models")["models"][0]
                expected = way if way in ("layers", "predictor") else None
                if model.get("calibration") != expected:
                    sys.exit("quality: the calibration is not used: %s" % daemon.log())
                most = model["experts_used"]
                caps = [float(c) if "." in c else int(c) for c in options.experts.split(",") if float(c) <= most] or [most]
                found[way] = measure(daemon, options, caps)
                stats = daemon.json("stats")
                requests += stats["requests_done"]
    seconds = time.monotonic() - begin
    if options.json:
        print(json.dumps({"model": file, "quick": options.quick, "seconds": seconds,
                          "rows_per_batch": stats["rows"] / stats["iterations"], "ways": found}))
        return
    if len(found) == 1:
        table(found[ways[0]])
    else:
        compare(found)
    print("\n%s%s: %d requests in %.0f s, %.1f rows per batch in the mean" % (
        file, " (every sixth document and question)" if options.quick else "", requests, seconds,
        stats["rows"] / stats["iterations"]))


main()
