#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The table of what this build reaches of what the machine can do: whole forward passes of models of published shapes, single
layers, and the daemon with its clients. Each figure is the median of rounds in which all cases of a model, the machine's limits
and the other programs (--peer) take turns; the spread is (slowest - fastest) / median. Models are files with random weights,
made when they are missing. A row that can't be measured here says why."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon import TOP, Daemon, start_ready  # noqa: E402
from programs import Cases, Missing, Models, Peer, PeerServer  # noqa: E402

READ_BYTES = 4 << 30
CLIENTS = (1, 2, 4, 8, 16)
PROMPT, GENERATED = 128, 64
ROWS_PER_EXPERT = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 512)
PAGE_TOKENS = 32


# --- programs of cases that are not in C --------------------------------------------------------------------------


class Started:
    """Case `start`: seconds from exec to READY, and to the first token of a client that was started then."""

    def __init__(self, build, model):
        self.build, self.model = build, model
        with open(model, "rb", buffering=0) as f:  # into the page cache
            part = bytearray(16 << 20)
            while f.readinto(part):
                pass

    def ask(self, case):
        with tempfile.TemporaryDirectory(prefix="moed-bench-") as folder:
            config, path = os.path.join(folder, "moed.conf"), os.path.join(folder, "moed.sock")
            open(config, "w").close()
            env = {**os.environ, "MOED_SOCKET": path}
            begin = time.monotonic()
            process, ready = start_ready([os.path.join(self.build, "daemon/service/moed"), "--config", config, "--socket", path,
                                          "--model", self.model, "--log-level", "err"], env)
            try:
                subprocess.run([os.path.join(self.build, "client/moectl/moectl"), "run", "--ignore-eog", "--max-tokens", "1",
                                "--tokens", "1000,2000,3000,4000"], env=env, stdout=subprocess.DEVNULL, check=True)
                return {"seconds": time.monotonic() - begin, "ready": ready}
            finally:
                process.terminate()
                process.wait()

    def close(self):
        pass


class Served:
    """A daemon. Cases: `clients-N`, so many processes, a prompt and some tokens each; `overhead-N`, the same with prompts of one
    token, and the seconds that forward passes took of it; `memory`, after those."""

    def __init__(self, build, model, generated):
        self.generated, self.pages = generated, 0
        self.daemon = Daemon(build, model)
        self.daemon.__enter__()

    def ask(self, case):
        if case == "memory":
            return self.memory()
        name, n = case.split("-")
        prompt = PROMPT if name == "clients" else 1
        before = self.daemon.json("stats")["step_nsec"]
        found = self.daemon.json("bench", "-c", n, "-n", self.generated, "-p", prompt)
        found["step"] = (self.daemon.json("stats")["step_nsec"] - before) / 1e9
        self.pages = max(self.pages, int(n) * -(-(prompt + self.generated) // PAGE_TOKENS))
        return found

    def memory(self):
        pid, model = self.daemon.process.pid, self.daemon.json("models")["models"][0]
        with open("/proc/%d/status" % pid) as f:
            status = {line.split()[0]: int(line.split()[1]) * 1024 for line in f if line.startswith("Rss")}
        with open("/proc/%d/smaps_rollup" % pid) as f:
            resident = next(int(line.split()[1]) * 1024 for line in f if line.startswith("Rss:"))
        return {"seconds": 0, "resident": resident, "kv": self.pages * PAGE_TOKENS * model["kv_bytes_per_token"],
                "weights": min(status["RssFile:"] + status["RssShmem:"], model["size"])}

    def close(self):
        self.daemon.__exit__(None, None, None)


class Neighbour:
    """A process that keeps one of our cores busy, in a session of its own."""

    def __enter__(self):
        core = max(os.sched_getaffinity(0))
        self.process = subprocess.Popen([sys.executable, "-c", "import os\nos.sched_setaffinity(0, {%d})\nwhile True: pass" % core],
                                        start_new_session=True)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


# --- measuring ----------------------------------------------------------------------------------------------------


class Measured:
    """What was found: answers of every case, limits and other programs' figures of every group, in rounds."""

    def __init__(self, options, models):
        self.options, self.models = options, models
        self.peers = [Peer(command) for command in options.peer]
        self.answers, self.limits, self.others, self.missing, self.served_by_other = {}, {}, {}, {}, []

    @staticmethod
    def group(key):
        """Formats take turns with each other; everything else with itself."""
        return "formats" if re.search(r"-\d+l-", key) else key

    def open(self, key):
        build = self.options.build
        if key == "layers":
            return Cases(os.path.join(build, "tests/bench/kernels/bench-layers"), "--read-bytes", self.options.read_bytes)
        kind, _, name = key.rpartition(":")
        path = self.models.path(name, 1 << 30 if kind else self.options.read_bytes + (1 << 30))
        if kind == "start":
            return Started(build, path)
        if kind == "serve":
            return Served(build, path, self.options.generated)
        return Cases(os.path.join(build, "tests/bench/engine/bench-engine"), "--read-bytes", self.options.read_bytes, path)

    def open_all(self, keys):
        found = {}
        for key in keys:
            try:
                found[key] = self.open(key)
            except Missing as e:
                self.missing[key] = str(e)
        return found

    def run(self, group, needs):
        programs = self.open_all(dict.fromkeys(key for key, _ in needs))
        try:
            for i in range(self.options.rounds):
                print("%s: round %d of %d" % (group, i + 1, self.options.rounds), file=sys.stderr)
                self.round(group, programs, needs)
        finally:
            for program in programs.values():
                program.close()

    def round(self, group, programs, needs):
        self.ask_limits(group, programs)
        for key, case in needs:
            if key in self.missing or (key, case) in self.missing:
                continue
            try:
                self.answers.setdefault((key, case), []).append(self.ask(programs[key], case))
            except Missing as e:
                self.missing[key, case] = str(e)
        for key, program in programs.items():
            if key != "layers" and isinstance(program, Cases):
                self.ask_peers(key)
            elif isinstance(program, Served) and self.options.peer_server:
                model = self.models.path(key.rpartition(":")[2], 0)
                found = PeerServer(self.options.peer_server).run(model)
                self.served_by_other += [found] if found else []

    def ask_limits(self, group, programs):
        for key, program in programs.items():
            if not isinstance(program, Cases) or key in self.missing:
                continue
            try:
                self.limits.setdefault(group, []).append(program.ask("limits"))
                return
            except Missing as e:
                self.missing[key] = str(e)

    @staticmethod
    def ask(program, case):
        if not case.endswith("!"):
            return program.ask(case)
        with Neighbour():
            return program.ask(case[:-1])

    def ask_peers(self, key):
        for number, peer in enumerate(self.peers):
            for case, speed in peer.run(self.models.path(key, 0)).items():
                self.others.setdefault((key, case), {}).setdefault(number, []).append(speed)

    # What rows read.

    def median(self, need, value="seconds"):
        if need[0] in self.missing or need in self.missing:
            raise Missing(self.missing.get(need, self.missing.get(need[0])))
        return statistics.median(answer[value] for answer in self.answers[need])

    def spread(self, need, value="seconds"):
        values = [answer[value] for answer in self.answers[need]]
        return (max(values) - min(values)) / statistics.median(values)

    def limit(self, need, name):
        return statistics.median(limits[name] for limits in self.limits[self.group(need[0])])

    def other_server(self, value):
        return statistics.median(found[value] for found in self.served_by_other) if self.served_by_other else None

    def best_other(self, need):
        """The best of the other programs' medians; None: no figure."""
        return max((statistics.median(v) for v in self.others.get(need, {}).values()), default=None)


# --- rows ---------------------------------------------------------------------------------------------------------


class Figure:
    """What a row has found: in words, and the number that must be at least, or with `most` at most, what it must reach."""

    def __init__(self, text, number, spread, limit="", percent=True, other=None, speed=None):
        self.text, self.number, self.spread, self.limit, self.percent = text, number, spread, limit, percent
        self.other, self.times = other, speed / other if other else None


class Row:
    def __init__(self, what, needs, figure, must, most=False, times=None):
        self.what, self.needs, self.figure, self.must, self.most, self.times = what, needs, figure, must, most, times

    def reached(self, f):
        """None: nothing says what it must reach."""
        good = [] if self.must is None else [f.number <= self.must if self.most else f.number >= self.must]
        if f.times is not None and self.times is not None:
            good.append(f.times >= self.times)
        return all(good) if good else None


def of_reading(need):
    """Bytes touched, against reading so many."""
    def figure(m):
        seconds, answer = m.median(need), m.answers[need][0]
        speed, limit = answer["tokens"] / seconds, m.limit(need, "read_all")
        text = "%.1f tokens/s" % speed if speed else "%.2f ms" % (1e3 * seconds)
        return Figure("%s, %.1f GB/s" % (text, answer["bytes"] / seconds / 1e9), answer["bytes"] / seconds / limit,
                      m.spread(need), "%.1f GB/s" % (limit / 1e9), other=m.best_other(need), speed=speed)
    return figure


def of_batch(need):
    """The larger of what reading the distinct experts takes and, where computing binds, a share of the int8 peak that counts as
    much."""
    def figure(m):
        seconds, answer = m.median(need), m.answers[need][0]
        reading, computing = answer["bytes"] / m.limit(need, "read_all"), answer["products"] / m.limit(need, "int8")
        bound = "int8 peak" if computing > reading else "%.2f GB" % (answer["bytes"] / answer["tokens"] / 1e9)
        number = computing / seconds * 0.8 / 0.5 if computing > reading else reading / seconds
        speed = answer["tokens"] / seconds
        return Figure("%.1f tokens/s" % speed, number, m.spread(need), bound, other=m.best_other(need), speed=speed)
    return figure


def of_peak(need):
    def figure(m):
        seconds, answer, limit = m.median(need), m.answers[need][0], m.limit(need, "bf16")
        speed = answer["tokens"] / seconds
        return Figure("%.0f tokens/s, %.2f Tflop/s" % (speed, 2 * answer["products"] / seconds / 1e12),
                      answer["products"] / seconds / limit, m.spread(need), "%.2f Tflop/s" % (2 * limit / 1e12),
                      other=m.best_other(need), speed=speed)
    return figure


def of_other_format(need, base):
    """Prefill, against that of the base format."""
    def figure(m):
        speed, ours = (m.answers[n][0]["tokens"] / m.median(n) for n in (base, need))
        share = m.answers[need][0]["products"] / m.median(need) / m.limit(need, "bf16")
        return Figure("%.0f tokens/s, %.0f%% of peak" % (ours, 100 * share), ours / speed, m.spread(need), "%.0f tokens/s" % speed,
                      other=m.best_other(need), speed=ours)
    return figure


def times_less(need, base):
    def figure(m):
        ours, theirs = m.median(need), m.median(base)
        return Figure("%.2f ms, dense %.1f ms" % (1e3 * ours, 1e3 * theirs), theirs / ours, m.spread(need), percent=False)
    return figure


def of_indexer(need):
    """Reading its keys or multiplying them, whichever takes longer."""
    def figure(m):
        seconds, answer = m.median(need), m.answers[need][0]
        bound = max(answer["bytes"] / m.limit(need, "read_all"), answer["products"] / m.limit(need, "bf16"))
        return Figure("%.2f ms" % (1e3 * seconds), bound / seconds, m.spread(need), "%.2f ms" % (1e3 * bound))
    return figure


def of_bytes(half, whole):
    """How much less time, against how many fewer bytes."""
    def figure(m):
        ratio = m.median(whole) / m.median(half)
        fewer = m.answers[whole][0]["bytes"] / m.answers[half][0]["bytes"]
        return Figure("%.2fx as fast" % ratio, ratio / fewer, m.spread(half), "%.2fx fewer bytes" % fewer)
    return figure


def of_quiet(beside, alone):
    def figure(m):
        return Figure("%.1f tokens/s" % (m.answers[beside][0]["tokens"] / m.median(beside)), m.median(alone) / m.median(beside),
                      m.spread(beside), "alone")
    return figure


def worst_step(needs):
    """How much more the time rises than the rows do, from one count to the next, at worst."""
    def figure(m):
        rows = [(int(need[1].split("-")[1]), m.median(need)) for need in needs]
        steps = [(t1 / t0) / (n1 / n0) for (n0, t0), (n1, t1) in zip(rows, rows[1:])]
        peak = m.answers[needs[-1]][0]["products"] / rows[-1][1] / m.limit(needs[-1], "bf16")
        return Figure("%s ms; %.0f%% of peak" % (" ".join("%.3g" % (1e3 * t) for _, t in rows), 100 * peak), max(steps),
                      max(map(m.spread, needs)), percent=False)
    return figure


def seconds(need, value):
    def figure(m):
        return Figure("%.0f ms" % (1e3 * m.median(need, value)), m.median(need, value), m.spread(need, value), percent=False)
    return figure


def of_iteration(need):
    def figure(m):
        outside = [1 - a["step"] / a["seconds"] for a in m.answers.get(need, [])]
        return Figure("%.1f rows, %.1f tokens/s" % (m.median(need, "rows_per_batch"), m.median(need, "tokens_per_second")),
                      statistics.median(outside), m.spread(need))
    return figure


def served(need):
    def figure(m):
        speed = m.median(need, "tokens_per_second")
        return Figure("inter-token p50 %.0f ms, p95 %.0f ms" % tuple(m.median(need, "inter_token_ms_" + p) for p in ("p50", "p95")),
                      speed, m.spread(need, "tokens_per_second"), percent=False, other=m.other_server("tokens_per_second"),
                      speed=speed)
    return figure


def first_token(need):
    """The other way round: less is better."""
    def figure(m):
        ours, theirs = m.median(need, "ttft_ms_p95") / 1e3, m.other_server("ttft_p95")
        f = Figure("p50 %.2f s" % (m.median(need, "ttft_ms_p50") / 1e3), ours, m.spread(need, "ttft_ms_p95"), percent=False)
        if theirs:
            f.other, f.times = theirs, theirs / ours
        return f
    return figure


def memory(need):
    def figure(m):
        resident, weights, kv = (m.median(need, value) for value in ("resident", "weights", "kv"))
        return Figure("%.2f GB; weights %.2f, KV %.2f" % (resident / 1e9, weights / 1e9, kv / 1e9),
                      (resident - weights - kv) / 1e6, m.spread(need, "resident"), "MB", percent=False)
    return figure


def rows_of_table(quick):
    """In the table's order: (heading, rows)."""
    olmoe = "small-q4_k" if quick else "olmoe-q-q4_k"
    shapes = [("small", olmoe)] if quick else [("OLMoE-1B-7B", olmoe), ("DeepSeek-V2-Lite", "deepseek-v2-lite-q4_k"),
                                               ("Qwen3-30B-A3B", "qwen3-30b-a3b-q4_k")]
    formats = {kind: "%s-%s" % ("small-2l" if quick else "olmoe-q-4l", kind)
               for kind in ("q4_k", "q8_0", "bf16", "q4_0", "q6_k", "mxfp4", "iq4_xs")}
    half = "decode-1/2" if quick else "decode-1/4"
    near, far = (4096, 16384) if quick else (32768, 131072)
    near_name, far_name = ("%dk" % (n // 1024) for n in (near, far))
    moe = [("layers", "moe-%d" % n) for n in (ROWS_PER_EXPERT[::3] if quick else ROWS_PER_EXPERT)]
    served_by, largest = "serve:" + olmoe, shapes[-1]

    def layer(shape, part, tokens):
        return "layers", "%s-%s-%d" % (shape, part, tokens)

    def sparse(name, shape):
        need, dense, index = (layer(shape, part, far) for part in ("chosen", "dense", "index"))
        return [Row("%s, dense to it" % name, [need, dense], times_less(need, dense), 8),
                Row("%s, the indexer" % name, [index], of_indexer(index), 0.70)]

    return [
        ("decode, 1 stream, Q4_K",
         [Row(name, [(key, "decode-1")], of_reading((key, "decode-1")), 0.85) for name, key in shapes]),
        ("decode, 1 stream, other formats",
         [Row("%s %s" % (key.rsplit("-", 1)[0], kind.upper()), [(key, "decode-1")], of_reading((key, "decode-1")),
              0.90 if kind in ("q8_0", "bf16") else 0.80) for kind, key in formats.items() if kind != "q4_k"]),
        ("decode in batches, Q4_K",
         [Row("%s, %d streams" % (shapes[0][0], n), [(olmoe, "decode-%d" % n)], of_batch((olmoe, "decode-%d" % n)), 0.80,
              times=1.5) for n in (8, 16)]),
        ("prefill, Q4_K",
         [Row("%s, %d tokens" % (name, n), [(key, "prefill-%d" % n)], of_peak((key, "prefill-%d" % n)), must, times=5)
          for n, must in ((512, 0.30),) + (() if quick else ((4096, 0.45),)) for name, key in shapes]),
        ("prefill of 512, other formats against Q4_K",
         [Row("%s %s" % (key.rsplit("-", 1)[0], kind.upper()), [(formats["q4_k"], "prefill-512"), (key, "prefill-512")],
              of_other_format((key, "prefill-512"), (formats["q4_k"], "prefill-512")), 0.85)
          for kind, key in formats.items() if kind != "q4_k"]),
        ("attention, decode at %s" % near_name,
         [Row("GQA (Qwen3-30B-A3B)", [layer("gqa", "dense", near)], of_reading(layer("gqa", "dense", near)), 0.75),
          Row("MLA, absorbed (DeepSeek-V2-Lite)", [layer("mla", "dense", near)], of_reading(layer("mla", "dense", near)), 0.75)]),
        ("sparse attention at %s, times less" % far_name,
         sparse("DSA (DeepSeek-V3.2)", "dsa") + sparse("CSA (DeepSeek-V4-Flash)", "csa")),
        ("half of the experts, against the bytes",
         [Row(name, [(key, half), (key, "decode-1")], of_bytes((key, half), (key, "decode-1")), 0.95)
          for name, key in shapes if "DeepSeek" not in name]),
        ("start, file in the page cache, s",
         [Row("%s, READY" % largest[0], [("start:" + largest[1], "start")], seconds(("start:" + largest[1], "start"), "ready"),
              0.3, most=True),
          Row("%s, first token" % largest[0], [("start:" + largest[1], "start")],
              seconds(("start:" + largest[1], "start"), "seconds"), 0.6, most=True)]),
        ("scheduler and IPC of an iteration",
         [Row("16 streams", [(served_by, "overhead-16")], of_iteration((served_by, "overhead-16")), 0.01, most=True)]),
        ("8 client processes, prompts of %d" % PROMPT,
         [Row("generated, tokens/s", [(served_by, "clients-%d" % n) for n in CLIENTS], served((served_by, "clients-8")), None,
              times=2),
          Row("first token, p95, s", [(served_by, "clients-8")], first_token((served_by, "clients-8")), None, most=True,
              times=2)]),
        ("memory beside weights and KV, MB",
         [Row("after 16 clients", [(served_by, "clients-16"), (served_by, "memory")], memory((served_by, "memory")), 300,
              most=True)]),
        ("rows per expert, an OLMoE layer, Q4_K",
         [Row("worst rise, times the rows", moe, worst_step(moe), 1.0, most=True)]),
        ("one core taken by another process",
         [Row("%s, decode, 1 stream" % shapes[0][0], [(olmoe, "decode-1"), (olmoe, "decode-1!")],
              of_quiet((olmoe, "decode-1!"), (olmoe, "decode-1")), 0.45)]),
    ]


# --- printing -----------------------------------------------------------------------------------------------------


def number(f, value):
    return "%.0f%%" % (100 * value) if f.percent and value >= 0.095 else "%.1f%%" % (100 * value) if f.percent else "%.3g" % value


def print_row(row, f):
    other = "" if f.other is None else "  peer %.1f, %.2fx%s" % (f.other, f.times, "" if row.times is None else
                                                                 " (must %.1fx)" % row.times)
    must = "" if row.must is None else ("≤ " if row.most else "≥ ") + number(f, row.must)
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
                          "must": row.must, "most": row.most, "share": f.percent, "spread": f.spread, "reached": row.reached(f),
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
                        help="other programs' benchmark, run in every round; {model} in it is the file, or else -m FILE is added. "
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
    for need in (need for _, rows in table for row in rows for need in row.needs):
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
