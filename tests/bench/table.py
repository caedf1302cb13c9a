#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The table of what this build reaches of what the machine can do: whole forward passes of models of published shapes, single
layers, and the daemon with its clients. Each figure is the median of rounds in which all cases of a model, the machine's limits
and the other programs (--peer) take turns; the spread is (slowest - fastest) / median. Models are files with random weights,
made when they are missing. A row that can't be measured here says why."""

import argparse
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon import TOP  # noqa: E402
from measure import PROMPT, Measured  # noqa: E402
from programs import Missing, Models  # noqa: E402

READ_BYTES = 4 << 30
LINEAR = 1.05  # that time rises no more than rows do, with room for what measuring adds
# OLMoE's matrices under an architecture that other programs know, too.
SHAPES = {"OLMoE-1B-7B": "olmoe-q-q4_k", "DeepSeek-V2-Lite": "deepseek-v2-lite-q4_k", "Qwen3-30B-A3B": "qwen3-30b-a3b-q4_k"}
CLIENTS = (1, 2, 4, 8, 16)
GENERATED = 64
LONGEST = 4064  # what a context of 4,096 takes with a token more, in whole pages
FORMATS = ("q4_k", "q8_0", "bf16", "q4_0", "q6_k", "mxfp4", "iq4_xs")
ROWS_PER_EXPERT = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 512)


# --- rows ---------------------------------------------------------------------------------------------------------


class Figure:
    """What a row has found: in words, and the number that must be at least, or with `most` at most, what it must reach."""

    def __init__(self, text, number, spread, limit="", percent=True, must=None, other=None, speed=None):
        self.text, self.number, self.spread, self.limit, self.percent = text, number, spread, limit, percent
        self.must, self.other, self.times = must, other, speed / other if other else None


class Row:
    """`find` makes the figure of what was measured and of `needs`; `also` is measured with it, for the plots."""

    def __init__(self, what, find, needs, must, most=False, times=None, also=()):
        self.what, self.find, self.needs, self.must, self.most, self.times = what, find, needs, must, most, times
        self.also = also

    def figure(self, measured):
        f = self.find(measured, *self.needs)
        f.must = self.must if f.must is None else f.must
        return f

    def reached(self, f):
        """None: nothing says what it must reach."""
        good = [] if f.must is None else [f.number <= f.must if self.most else f.number >= f.must]
        if f.times is not None and self.times is not None:
            good.append(f.times >= self.times)
        return all(good) if good else None


def of_reading(m, need):
    """Bytes touched, against reading so many."""
    seconds, answer, limit = m.median(need), m.of(need)[0], m.limit(need, "read_all")
    speed = answer["tokens"] / seconds
    text = "%.1f tokens/s" % speed if speed else "%.2f ms" % (1e3 * seconds)
    return Figure("%s, %.1f GB/s" % (text, answer["bytes"] / seconds / 1e9), m.share(need, bytes="read_all"), m.spread(need),
                  "%.1f GB/s" % (limit / 1e9), other=m.best_other(need), speed=speed)


def of_batch(m, need):
    """Reading the distinct experts, and the rest, once a pass; or, where computing binds, half of the int8 peak."""
    answer, speed = m.of(need)[0], m.of(need)[0]["tokens"] / m.median(need)
    reading, computing = m.share(need, bytes="read_all"), m.share(need, products="int8")
    text = "%.1f tokens/s, %.0f MB for each" % (speed, answer["bytes"] / answer["tokens"] / 1e6)
    if computing > reading:
        return Figure(text, computing, m.spread(need), "int8 peak", must=0.5, other=m.best_other(need), speed=speed)
    return Figure(text, reading, m.spread(need), "%.1f GB/s" % (m.limit(need, "read_all") / 1e9), other=m.best_other(need),
                  speed=speed)


def of_peak(m, need):
    seconds, answer = m.median(need), m.of(need)[0]
    speed = answer["tokens"] / seconds
    return Figure("%.0f tokens/s, %.2f Tflop/s" % (speed, 2 * answer["products"] / seconds / 1e12),
                  m.share(need, products="bf16"), m.spread(need), "%.2f Tflop/s" % (2 * m.limit(need, "bf16") / 1e12),
                  other=m.best_other(need), speed=speed)


def of_other_format(m, need, base):
    """Prefill, against that of the base format."""
    speed, theirs = (m.of(n)[0]["tokens"] / m.median(n) for n in (need, base))
    return Figure("%.0f tokens/s, %.0f%% of peak" % (speed, 100 * m.share(need, products="bf16")), m.ratio(need, base),
                  m.spread(need), "%.0f tokens/s" % theirs, other=m.best_other(need), speed=speed)


def times_less(m, need, base):
    return Figure("%.2f ms, dense %.1f ms" % (1e3 * m.median(need), 1e3 * m.median(base)), m.ratio(need, base),
                  m.spread(need), percent=False)


def of_indexer(m, need):
    """Reading its keys or multiplying them, whichever takes longer."""
    share = m.share(need, bytes="read_all", products="bf16")
    return Figure("%.2f ms" % (1e3 * m.median(need)), share, m.spread(need), "%.2f ms" % (1e3 * m.median(need) * share))


def of_bytes(m, half, whole):
    """How much less time, against how many fewer bytes."""
    ratio, fewer = m.ratio(half, whole), m.of(whole)[0]["bytes"] / m.of(half)[0]["bytes"]
    return Figure("%.2fx as fast" % ratio, ratio / fewer, m.spread(half), "%.2fx fewer bytes" % fewer)


def of_quiet(m, beside, alone):
    return Figure("%.1f tokens/s" % (m.of(beside)[0]["tokens"] / m.median(beside)), m.ratio(beside, alone), m.spread(beside),
                  "alone")


def worst_step(m, *needs):
    """How much more the time rises than the rows do, from one count to the next, at worst."""
    rows = [int(need[1].split("-")[-1]) for need in needs]
    rises = {(fewer, more): m.ratio(a, b) / (more / fewer) for a, b, fewer, more in zip(needs, needs[1:], rows, rows[1:])}
    worst = max(rises, key=rises.get)
    times = " ".join("%.3g" % (1e3 * m.median(need)) for need in needs)
    return Figure("%s ms, %.0f%% of peak" % (times, 100 * m.share(needs[-1], products="bf16")), rises[worst],
                  max(map(m.spread, needs)), "from %d to %d rows" % worst, percent=False)


def seconds_to_ready(m, need):
    return Figure("%.1f%% of the file cached" % (100 * m.median(need, "cached")), m.median(need, "ready"), m.spread(need, "ready"), percent=False)


def seconds_to_token(m, need):
    text = "%.1f%% of the file cached, the prompt again %.3f" % (100 * m.median(need, "cached"), m.median(need, "again"))
    return Figure(text, m.median(need), m.spread(need), percent=False)


def of_iteration(m, need):
    outside = [1 - answer["step"] / answer["seconds"] for answer in m.of(need)]
    return Figure("%.1f rows a pass, %.1f tokens/s" % (m.median(need, "rows_per_batch"), m.median(need, "tokens_per_second")),
                  statistics.median(outside), m.spread(need))


def served(m, need):
    speed = m.median(need, "tokens_per_second")
    return Figure("inter-token p50 %.0f ms, p95 %.0f ms" % tuple(m.median(need, "inter_token_ms_" + p) for p in ("p50", "p95")),
                  speed, m.spread(need, "tokens_per_second"), percent=False, other=m.other_server("tokens_per_second"),
                  speed=speed)


def first_token(m, need):
    """The other way round: less is better."""
    ours, theirs = m.median(need, "ttft_ms_p95") / 1e3, m.other_server("ttft_p95")
    f = Figure("p50 %.2f s" % (m.median(need, "ttft_ms_p50") / 1e3), ours, m.spread(need, "ttft_ms_p95"), percent=False)
    if theirs:
        f.other, f.times = theirs, theirs / ours
    return f


def memory(m, need):
    resident, weights, kv = (m.median(need, value) for value in ("resident", "weights", "kv"))
    return Figure("%.2f GB; weights %.2f, KV %.2f" % (resident / 1e9, weights / 1e9, kv / 1e9),
                  (resident - weights - kv) / 1e6, m.spread(need, "resident"), "MB", percent=False)


# --- the table, in its order: (heading, rows) ---------------------------------------------------------------------


def rows_of_models(shapes, formats, formats_of):
    """Shapes: {name: file} in Q4_K; formats: {type: file}, of one shape."""
    first, olmoe = next(iter(shapes.items()))
    base = formats["q4_k"], "prefill-512"
    others = {kind: key for kind, key in formats.items() if kind != "q4_k"}
    lengths = {512: 0.30, 4096: 0.45} if len(shapes) > 1 else {512: 0.30}
    return [
        ("decode, 1 stream, Q4_K", [Row(name, of_reading, [(key, "decode-1")], 0.85) for name, key in shapes.items()]),
        ("decode, 1 stream, other formats, " + formats_of, [
            Row(kind.upper(), of_reading, [(key, "decode-1")], 0.90 if kind in ("q8_0", "bf16") else 0.80)
            for kind, key in others.items()]),
        ("decode in batches, Q4_K", [
            Row("%s, %d streams" % (first, n), of_batch, [(olmoe, "decode-%d" % n)], 0.80, times=1.5) for n in (8, 16)]),
        ("prefill, Q4_K", [
            Row("%s, %d tokens" % (name, n), of_peak, [(key, "prefill-%d" % n)], must, times=5)
            for n, must in lengths.items() for name, key in shapes.items()]),
        ("prefill of 512, other formats against Q4_K, " + formats_of, [
            Row(kind.upper(), of_other_format, [(key, "prefill-512"), base], 0.85) for kind, key in others.items()]),
    ]


def rows_of_attention(near, far):
    def layer(shape, part, tokens):
        return "layers", "%s-%s-%d" % (shape, part, tokens)

    def sparse(name, shape):
        chosen, dense, index = (layer(shape, part, far) for part in ("chosen", "dense", "index"))
        return [Row("%s, dense to it" % name, times_less, [chosen, dense], 8),
                Row("%s, the indexer" % name, of_indexer, [index], 0.70)]

    return [
        ("attention, decode at %dk" % (near // 1024), [
            Row("GQA (Qwen3-30B-A3B)", of_reading, [layer("gqa", "dense", near)], 0.75),
            Row("MLA, absorbed (DeepSeek-V2-Lite)", of_reading, [layer("mla", "dense", near)], 0.75)]),
        ("sparse attention at %dk, times less" % (far // 1024),
         sparse("DSA (DeepSeek-V3.2)", "dsa") + sparse("CSA (DeepSeek-V4-Flash)", "csa")),
    ]


def rows_of_daemon(olmoe, largest, largest_key):
    served_by, start = "serve:" + olmoe, ("start:" + largest_key, "start")
    clients = [(served_by, "clients-%d" % n) for n in CLIENTS]
    eight = served_by, "clients-8"
    return [
        ("start, file in the page cache, s", [
            Row("%s, READY" % largest, seconds_to_ready, [start], 0.3, most=True),
            Row("%s, first token" % largest, seconds_to_token, [start], 0.6, most=True)]),
        ("scheduler and IPC of an iteration", [
            Row("16 streams", of_iteration, [(served_by, "overhead-16")], 0.01, most=True)]),
        ("8 client processes, prompts of %d" % PROMPT, [
            Row("generated, tokens/s", served, [eight], None, times=2, also=clients),
            Row("first token, p95, s", first_token, [eight], None, most=True, times=2)]),
        ("memory beside weights and KV, MB", [
            Row("after 16 clients, a prompt of %d" % LONGEST, memory, [(served_by, "memory")], 300, most=True,
                also=[*clients, (served_by, "prompt-%d" % LONGEST)])]),
    ]


def rows_of_table(quick):
    formats_of, formats = ("small, 2 layers", "small-2l-") if quick else ("OLMoE-1B-7B, 4 layers", "olmoe-q-4l-")
    shapes = {"small": "small-q4_k"} if quick else SHAPES
    first, olmoe = next(iter(shapes.items()))
    half = "decode-1/2" if quick else "decode-1/4"
    largest = list(shapes.items())[-1]
    return [
        *rows_of_models(shapes, {kind: formats + kind for kind in FORMATS}, formats_of),
        *(rows_of_attention(4096, 16384) if quick else rows_of_attention(32768, 131072)),
        ("half of the experts, against the bytes", [
            Row(name, of_bytes, [(key, half), (key, "decode-1")], 0.95)
            for name, key in shapes.items() if "DeepSeek" not in name]),
        *rows_of_daemon(olmoe, *largest),
        ("rows per expert, an OLMoE layer, Q4_K", [
            Row("%s: worst rise, times the rows" % what, worst_step,
                [("layers", case % n) for n in ROWS_PER_EXPERT[::3 if quick else 1]], LINEAR, most=True)
            for what, case in (("generated", "moe-%d"), ("prompts", "moe-prompt-%d"))]),
        ("one core taken by another process", [
            Row("%s, decode, 1 stream" % first, of_quiet, [(olmoe, "decode-1!"), (olmoe, "decode-1")], 0.45)]),
    ]


# --- printing -----------------------------------------------------------------------------------------------------


def number(f, value):
    return "%.0f%%" % (100 * value) if f.percent and value >= 0.095 else "%.1f%%" % (100 * value) if f.percent else "%.3g" % value


def print_row(row, f):
    other = "" if f.other is None else "  peer %.1f, %.2fx%s" % (f.other, f.times, "" if row.times is None else
                                                                 " (must %.1fx)" % row.times)
    must = "" if f.must is None else ("≤ " if row.most else "≥ ") + number(f, f.must)
    print("  %-34s %-46s %-18s %7s %-7s %5.0f%%  %-5s%s" % (
        row.what, f.text, f.limit, number(f, f.number), must, 100 * f.spread,
        {True: "ok", False: "short", None: ""}[row.reached(f)], other))


def print_table(measured, table):
    print("  %-34s %-46s %-18s %7s   %-5s %6s" % ("", "measured", "limit", "is", "must", "spread"))
    found = []
    for heading, rows in table:
        print(heading)
        for row in rows:
            try:
                f = row.figure(measured)
            except Missing as e:
                print("  %-34s not measured: %s" % (row.what, e))
                found.append({"heading": heading, "what": row.what, "missing": str(e)})
                continue
            print_row(row, f)
            found.append({"heading": heading, "what": row.what, "text": f.text, "limit": f.limit, "number": f.number,
                          "must": f.must, "most": row.most, "share": f.percent, "spread": f.spread, "reached": row.reached(f),
                          "peer": f.other, "times_peer": f.times, "must_times_peer": row.times})
    return found


def summary_of_limits(measured):
    every = [limits for group in measured.limits.values() for limits in group]
    if not every:
        return None
    values = {name: [limits[name] for limits in every] for name in ("read_one", "read_all", "bf16", "int8")}
    median = {name: statistics.median(v) for name, v in values.items()}
    print("%d threads read %.1f GB/s (one %.1f); %s %.2f Tflop/s, int8 %.2f Top/s; medians of %d" % (
        every[0]["threads"], median["read_all"] / 1e9, median["read_one"] / 1e9,
        "AMX bf16" if every[0]["matrix"] else "no AMX: vectors of float32", 2 * median["bf16"] / 1e12, 2 * median["int8"] / 1e12,
        len(every)))
    return {**median, "matrix": every[0]["matrix"], "threads": every[0]["threads"],
            "spread": {name: (max(v) - min(v)) / statistics.median(v) for name, v in values.items()}}


def latencies(measured):
    """By the number of clients, for the plot."""
    keys = ("tokens_per_second", "inter_token_ms_p50", "inter_token_ms_p95", "ttft_ms_p50", "ttft_ms_p95")
    return [{"clients": int(case.split("-")[1]), **{k: statistics.median(a[k] for a in answers) for k in keys}}
            for (_, case), answers in measured.answers.items() if case.startswith("clients-")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default=os.path.join(TOP, "build"), metavar="DIR", help="build folder (default: build)")
    parser.add_argument("--quick", action="store_true", help="small shapes and few rounds: a minute")
    parser.add_argument("--json", metavar="FILE", help="write what was found into a file, too: plot.py draws it")
    parser.add_argument("--rows", metavar="TEXT", help="only those whose heading or name has this in it")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5, with --quick 3")
    parser.add_argument("--peer", action="append", default=[], metavar="CMD",
                        help="another program's benchmark, run in every round; {model} in it is the file, else -m FILE is added. "
                        "Figures of llama-bench (-o json or its table) and of llama-batched-bench are understood")
    parser.add_argument("--peer-server", metavar="CMD", help="the same for 8 clients of another server; prints gen_tok_s=N and "
                        "ttft_p95_ms=N")
    parser.add_argument("--models", metavar="DIR", default=os.environ.get("MOED_BENCH_MODELS", "/var/tmp/moed-bench-models"),
                        help="where the files are kept, up to 50 GB (default: $MOED_BENCH_MODELS, or %(default)s)")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.read_bytes = 512 << 20 if options.quick else READ_BYTES
    options.generated = 16 if options.quick else GENERATED
    table = [(heading, [row for row in rows if not options.rows or options.rows.lower() in (heading + " " + row.what).lower()])
             for heading, rows in rows_of_table(options.quick)]
    table = [(heading, rows) for heading, rows in table if rows]
    measured = Measured(options, Models(options.models))
    groups = {}
    for need in (need for _, rows in table for row in rows for need in [*row.also, *row.needs]):
        groups.setdefault(Measured.group(need[0]), {})[need] = None
    for group, needs in groups.items():
        measured.run(group, list(needs))
    limits = summary_of_limits(measured)
    found = print_table(measured, table)
    if options.json:
        with open(options.json, "w") as f:
            json.dump({"rounds": options.rounds, "limits": limits, "rows": found, "latency": latencies(measured),
                       "peers": options.peer}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
