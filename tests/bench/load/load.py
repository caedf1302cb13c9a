#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""load.py --build BUILD [--folder DIR] [--tokens N] [SHAPE...]: large files with random weights (tests/lib/make-model.py), one
after the other: with the file in the page cache, the time from exec to READY=1; what a generation then takes, against the
forecast of `moectl inspect`. Each needs room in DIR for the file and memory for it, and is deleted afterwards."""

import argparse
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from daemon import read_all, start_ready  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
MAKE_MODEL = os.path.join(SOURCE, "tests/lib/make-model.py")
READY_SECONDS, TOLERANCE = 1.0, 0.05


def resident(pid):
    with open("/proc/%d/smaps_rollup" % pid) as f:
        return sum(int(line.split()[1]) * 1024 for line in f if line.startswith("Rss:"))


class Load:
    def __init__(self, args, folder, path):
        self.path, self.tokens, self.folder = path, args.tokens, folder
        self.moed = os.path.join(args.build, "daemon/service/moed")
        self.moectl = os.path.join(args.build, "client/moectl/moectl")
        self.config = os.path.join(folder, "moed.conf")
        open(self.config, "w").close()
        self.env = {**os.environ, "MOED_SOCKET": os.path.join(folder, "moed.sock"), "MOED_DAEMON": self.moed}

    def options(self):
        return ["--config", self.config, "--context", str(self.tokens)]

    def start(self):
        """The daemon, and the seconds from exec until it was ready."""
        return start_ready([self.moed, *self.options(), "--socket", self.env["MOED_SOCKET"], "--model", self.path,
                            "--log-level", "err"], self.env)

    def generate(self):
        """Of a prompt and as much text again as fills the context, of which 16 tokens are generated."""
        prompt = ",".join(str(i * 7919 % 50000) for i in range(self.tokens - 16))
        p = subprocess.run([self.moectl, "run", "--json", "--ignore-eog", "--max-tokens", "16", "--tokens", prompt], env=self.env,
                           stdout=subprocess.PIPE, check=True)
        return json.loads(p.stdout)

    def forecast(self):
        p = subprocess.run([self.moed, *self.options(), "--inspect", self.path, "--json"], env=self.env, stdout=subprocess.PIPE,
                           check=True)
        return json.loads(p.stdout)

    def run(self):
        read_all(self.path)
        starts = []
        for _ in range(3):
            process, seconds = self.start()
            starts.append(seconds)
            process.terminate()
            process.wait()
        process, seconds = self.start()
        try:
            got = self.generate()
            real = resident(process.pid)
        finally:
            process.terminate()
            process.wait()
        return min(starts + [seconds]), got, real, self.forecast()


def report(shape, size, ready, got, real, inspected):
    forecast = inspected["forecast"]
    ratio = real / forecast["total"]
    good = ready < READY_SECONDS and abs(ratio - 1) <= TOLERANCE
    gib = lambda n: "%.2f GiB" % (n / 2 ** 30)
    print("%-17s %9s  ready in %.0f ms (limit %.0f)  %.1f tokens/s (memory allows %.1f)  resident %s of %s forecast: %.1f %%  %s" % (
        shape, gib(size), ready * 1e3, READY_SECONDS * 1e3, got["tokens_per_second"],
        inspected["machine"]["tokens_per_second_estimate"], gib(real), gib(forecast["total"]), 100 * ratio,
        "ok" if good else "FAILED"), flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--folder", default=None, help="where the files go; default: that of temporary files")
    parser.add_argument("--tokens", type=int, default=1024, help="of the text")
    parser.add_argument("shapes", nargs="*", default=["olmoe-1b-7b", "deepseek-v2-lite", "qwen3-30b-a3b"])
    args = parser.parse_args()
    good = True
    for shape in args.shapes:
        with tempfile.TemporaryDirectory(prefix="moed-load-", dir=args.folder) as folder:
            path = os.path.join(folder, shape + ".gguf")
            subprocess.run([sys.executable, MAKE_MODEL, shape, path], check=True)
            good &= report(shape, os.path.getsize(path), *Load(args, folder, path).run())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
