# SPDX-License-Identifier: MIT
"""Measures what rows of the table need (table.py): runs programs of cases in rounds, and keeps their answers."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

from daemon import Daemon, cached_share, read_all, start_ready
from programs import Cases, Missing, Peer, PeerServer

PROMPT = 128
PAGE_TOKENS = 32
ROWS_MAX = 2048  # of a pass: LongRowsMax= in moed.conf
CACHED = 0.99  # less of a file, and the disk is what is measured
READINGS = 3   # before it is given up


# --- programs of cases that are not in C --------------------------------------------------------------------------


class Started:
    """Case `start`: seconds from exec to READY, and to the first token of a client that was started then, which are the
    start's and the prompt's: so also how long another takes for the same prompt. The share of the file that the page cache
    had, before and after: whatever else runs on this machine pushes it out."""

    def __init__(self, build, model):
        self.build, self.model = build, model

    def ask(self, case):
        for _ in range(READINGS):
            read_all(self.model)
            before = cached_share(self.model)
            answer = self.start() if before >= CACHED else {}
            answer["cached"] = min(before, cached_share(self.model))
            if answer["cached"] >= CACHED:
                return answer
        raise Missing("%.1f%% of the file stay in the page cache" % (100 * answer["cached"]))

    def generate(self, env):
        subprocess.run([os.path.join(self.build, "client/moectl/moectl"), "run", "--ignore-eog", "--max-tokens", "1",
                        "--tokens", "1000,2000,3000,4000"], env=env, stdout=subprocess.DEVNULL, check=True)

    def start(self):
        with tempfile.TemporaryDirectory(prefix="moed-bench-") as folder:
            config, path = os.path.join(folder, "moed.conf"), os.path.join(folder, "moed.sock")
            open(config, "w").close()
            env = {**os.environ, "MOED_SOCKET": path}
            begin = time.monotonic()
            process, ready = start_ready([os.path.join(self.build, "daemon/service/moed"), "--config", config, "--socket", path,
                                          "--model", self.model, "--log-level", "err"], env)
            try:
                self.generate(env)
                first = time.monotonic()
                self.generate(env)
                return {"seconds": first - begin, "ready": ready, "again": time.monotonic() - first}
            finally:
                process.terminate()
                process.wait()

    def close(self):
        pass


class Served:
    """A daemon. Cases: `clients-N`, so many processes, a prompt and some tokens each; `overhead-N`, the same with prompts of one
    token, and the seconds that forward passes took of it; `prompt-N`, a prompt of so many tokens and one more; `memory`, after
    those."""

    def __init__(self, build, model, generated):
        self.generated, self.pages = generated, 0
        self.daemon = Daemon(build, model)
        try:
            self.daemon.__enter__()
        except SystemExit as e:
            raise Missing(str(e)) from None

    def ask(self, case):
        if case == "memory":
            return self.memory()
        name, n = case.split("-")
        clients, prompt, generated = {
            "clients": (int(n), PROMPT, self.generated),
            "overhead": (int(n), 1, self.generated),
            "prompt": (1, int(n), 1),
        }[name]
        before = self.daemon.json("stats")["step_nsec"]
        found = self.daemon.json("bench", "-c", clients, "-n", generated, "-p", prompt)
        found["step"] = (self.daemon.json("stats")["step_nsec"] - before) / 1e9
        self.pages = max(self.pages, clients * -(-(prompt + generated) // PAGE_TOKENS))
        return found

    def memory(self):
        pid, model = self.daemon.process.pid, self.daemon.json("models")["models"][0]
        with open("/proc/%d/status" % pid) as f:
            status = {line.split()[0]: int(line.split()[1]) * 1024 for line in f if line.startswith("Rss")}
        with open("/proc/%d/smaps_rollup" % pid) as f:
            resident = next(int(line.split()[1]) * 1024 for line in f if line.startswith("Rss:"))
        pages = max(self.pages, self.daemon.json("stats")["prefix_pages"])
        return {"seconds": 0, "resident": resident, "kv": pages * PAGE_TOKENS * model["kv_bytes_per_token"],
                "weights": min(status["RssFile:"] + status["RssShmem:"], model["size"])}

    def close(self):
        self.daemon.__exit__(None, None, None)


class Neighbour:
    """A process that keeps one of our cores busy, in a session of its own."""

    def __enter__(self):
        core = max(os.sched_getaffinity(0))
        program = "import os\nos.sched_setaffinity(0, {%d})\nprint(flush=True)\nwhile True: pass" % core
        self.process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


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
        build, limits = self.options.build, ["--read-bytes", self.options.read_bytes]
        if key == "layers":
            return Cases(os.path.join(build, "tests/bench/kernels/bench-layers"), *limits)
        kind, _, name = key.rpartition(":")
        path = self.models.path(name, (1 << 30) + (0 if kind else self.options.read_bytes))
        if kind == "start":
            return Started(build, path)
        if kind == "serve":
            return Served(build, path, self.options.generated)
        return Cases(os.path.join(build, "tests/bench/engine/bench-engine"), "--rows", ROWS_MAX, *limits, path)

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

    # What rows read. Ratios are taken within each round, where both sides had the same machine.

    def of(self, need):
        """The answers, a round each."""
        if need[0] in self.missing or need in self.missing:
            raise Missing(self.missing.get(need, self.missing.get(need[0])))
        return self.answers[need]

    def median(self, need, value="seconds"):
        return statistics.median(answer[value] for answer in self.of(need))

    def ratio(self, need, base):
        """How much longer the second takes."""
        return statistics.median(b["seconds"] / a["seconds"] for a, b in zip(self.of(need), self.of(base)))

    def share(self, need, **limits):
        """Of the time: what the fewest seconds are for its bytes or products (bytes="read_all", products="bf16")."""
        def least(answer, measured):
            return max(answer[what] / self.known(measured[limit]) for what, limit in limits.items())
        every = zip(self.of(need), self.limits[self.group(need[0])])
        return statistics.median(least(answer, measured) / answer["seconds"] for answer, measured in every)

    def limit(self, need, name):
        self.of(need)
        return self.known(statistics.median(limits[name] for limits in self.limits[self.group(need[0])]))

    @staticmethod
    def known(limit):
        if limit == 0:
            raise Missing("the peak of this kind of processor is not known")
        return limit

    def spread(self, need, value="seconds"):
        values = [answer[value] for answer in self.of(need)]
        return (max(values) - min(values)) / statistics.median(values)

    def other_server(self, value):
        return statistics.median(found[value] for found in self.served_by_other) if self.served_by_other else None

    def best_other(self, need):
        """The best of the other programs' medians; None: no figure."""
        return max((statistics.median(v) for v in self.others.get(need, {}).values()), default=None)
