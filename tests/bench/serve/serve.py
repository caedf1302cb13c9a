#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Speed through the daemon: 1, 4, 8 and 16 client processes that generate at the same time, and one that generates beside
another client's 16 requests. Each figure is the median of interleaved rounds; the spread is (highest - lowest) / median of
the tokens per second. The ratios are to one client alone, and to the rate at which this machine's threads can read the
weights that one token touches, measured in the same run."""

import argparse
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from daemon import Daemon, add_arguments, find_model  # noqa: E402

CLIENTS = (1, 4, 8, 16)
FLOOD = 16


class Gguf:
    """The tensors of a GGUF file: {name: bytes}, padding included."""

    SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    STRING, ARRAY = 8, 9

    def __init__(self, path):
        with open(path, "rb") as self.f:
            magic, _, n_tensors, n_keys = self.take("<4sIQQ")
            if magic != b"GGUF":
                sys.exit("serve: %s is no GGUF file" % path)
            for _ in range(n_keys):
                self.string()
                self.skip(*self.take("<I"))
            starts = {}
            for _ in range(n_tensors):
                name = self.string()
                (dims,) = self.take("<I")
                self.f.seek(8 * dims + 4, 1)
                (starts[name],) = self.take("<Q")
            data = self.f.tell()
        order = sorted(starts, key=starts.get)
        ends = [starts[name] for name in order[1:]] + [os.path.getsize(path) - data]
        self.tensors = {name: end - starts[name] for name, end in zip(order, ends)}

    def take(self, form):
        return struct.unpack(form, self.f.read(struct.calcsize(form)))

    def string(self):
        (n,) = self.take("<Q")
        return self.f.read(n).decode(errors="replace")

    def skip(self, kind, n=1):
        if kind == self.ARRAY:
            self.skip(*self.take("<IQ"))
        elif kind == self.STRING:
            for _ in range(n):
                self.string()
        else:
            self.f.seek(n * self.SIZES[kind], 1)

    def touched(self, model):
        """Bytes of weights that one token reads: all but the embeddings (a row) and the experts that are not chosen."""
        total = 0
        for name, size in self.tensors.items():
            if name == "token_embd.weight" and "output.weight" in self.tensors:
                continue
            total += size * model["experts_used"] // model["experts"] if "_exps." in name else size
        return total


def bench(daemon, options, clients):
    return daemon.json("bench", "-c", clients, "-n", options.tokens, "-p", options.prompt)


def flooded(daemon, options):
    """One client's generation while another runs 16 at a time."""
    flood = daemon.start(os.path.join(options.build, "tests/e2e/load"), "-r", FLOOD, "-p", options.prompt, "-n", 256, "-d", 600)
    try:
        while daemon.json("stats")["streams_running"] < FLOOD:
            if flood.poll() is not None:
                sys.exit("serve: the flood ended: " + flood.stderr.read())
            time.sleep(0.01)
        return bench(daemon, options, 1)
    finally:
        flood.kill()
        flood.communicate()
        while daemon.json("stats")["streams"] > 0:
            time.sleep(0.01)


def read_limit(daemon, options, size):
    threads = re.search(r"(\d+) threads", daemon.log()).group(1)
    program = os.path.join(options.build, "tests/bench/serve/read-limit")
    return float(subprocess.run([program, threads, str(size)], stdout=subprocess.PIPE, check=True, text=True).stdout)


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def summary(runs):
    found = {key: median(runs, key) for key in runs[0] if isinstance(runs[0][key], (int, float))}
    speeds = [run["tokens_per_second"] for run in runs]
    found["spread"] = (max(speeds) - min(speeds)) / statistics.median(speeds)
    return found


def measure(daemon, options):
    cases = {str(n): lambda n=n: bench(daemon, options, n) for n in CLIENTS}
    cases["flood"] = lambda: flooded(daemon, options)
    runs = {name: [] for name in cases}
    limits = []
    model = daemon.json("models")["models"][0]
    touched = Gguf(model["file"]).touched(model)
    bench(daemon, options, CLIENTS[-1])  # pages in, memory grown
    for _ in range(options.rounds):
        limits.append(read_limit(daemon, options, touched))
        for name, run in cases.items():
            runs[name].append(run())
    found = {name: summary(r) for name, r in runs.items()}
    alone = found["1"]["inter_token_ms_p50"]
    return {"model": model["file"], "rounds": options.rounds, "cases": found,
            "flood_to_alone": found["flood"]["inter_token_ms_p50"] / alone,
            "flood_to_16_clients": found["flood"]["inter_token_ms_p50"] / found["16"]["inter_token_ms_p50"],
            "bytes_per_token": touched, "read_limit": statistics.median(limits),
            "share_of_read_limit": touched / (alone / 1000) / statistics.median(limits)}


def table(found):
    alone = found["cases"]["1"]
    print("%-8s %9s %6s  %9s %9s  %9s %9s %6s  %6s %7s" % ("clients", "tokens/s", "of 1", "first p50", "p95", "next p50",
                                                          "p95", "of 1", "rows", "spread"))
    for name, c in found["cases"].items():
        print("%-8s %9.1f %5.2fx  %6.1f ms %6.1f ms  %6.2f ms %6.2f ms %5.2fx  %6.2f %6.0f%%" % (
            name if name != "flood" else "1 + %d" % FLOOD, c["tokens_per_second"],
            c["tokens_per_second"] / alone["tokens_per_second"], c["ttft_ms_p50"], c["ttft_ms_p95"],
            c["inter_token_ms_p50"], c["inter_token_ms_p95"], c["inter_token_ms_p50"] / alone["inter_token_ms_p50"],
            c["rows_per_batch"], 100 * c["spread"]))
    print("\nfirst: time to the first token; next: between tokens; rows: mean rows per batch. '1 + %d' is one client beside "
          "another's\n%d requests at a time: its time between tokens is %.2fx that of 16 clients, whose batches are nearly as large."
          % (FLOOD, FLOOD, found["flood_to_16_clients"]))
    print("One token reads %.1f MB of weights; alone that is %.0f%% of the %.1f GB/s at which the same threads read so much."
          % (found["bytes_per_token"] / 1e6, 100 * found["share_of_read_limit"], found["read_limit"] / 1e9))
    print("Medians of %d rounds; %s" % (found["rounds"], found["model"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5, with --quick 3")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="that each client generates (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=32, metavar="N", help="tokens of each prompt (default: %(default)s)")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    options.rounds = options.rounds or (3 if options.quick else 5)
    if options.quick:
        options.tokens = min(options.tokens, 48)
    if not os.path.exists(os.path.join(options.build, "tests/e2e/load")):
        sys.exit("serve: %s was built without tests; use -Dtests=true" % options.build)
    with Daemon(options.build, find_model(options)) as daemon:
        found = measure(daemon, options)
    if options.json:
        print(json.dumps(found))
    else:
        table(found)


main()
