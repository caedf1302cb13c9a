# SPDX-License-Identifier: MIT
"""What the table of benchmarks asks: our programs of cases, a line for a line (tests/bench/kernels/cases.h), other people's
benchmarks, by what they print; and the model files that both open."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAKE_MODEL = os.path.join(TOP, "tests/lib/make-model.py")
# Another maker of the same shapes, where it is and can run; it knows fewer types.
SHARED_MAKER = os.path.join(TOP, "../shared/peers/make_model.py")
SHARED_TYPES = ("q4_k", "q8_0", "q4_0", "bf16")


class Missing(Exception):
    """Why something can't be measured here."""


class Cases:
    """A program that answers each line that names a case."""

    def __init__(self, *command):
        self.command, self.process = [*map(str, command)], None

    def ask(self, case):
        if not self.process:
            self.process = subprocess.Popen([self.command[0], "--json", *self.command[1:]], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True)
        try:
            self.process.stdin.write(case + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Missing("%s ended" % os.path.basename(self.command[0]))
        answer = json.loads(line)
        if "error" in answer:
            raise Missing(answer["error"])
        return answer

    def close(self):
        if not self.process:
            return
        try:
            self.process.stdin.close()
        except BrokenPipeError:  # it had ended
            pass
        self.process.wait()


class Peer:
    """Another program's benchmark; in its command {model} is the file, else -m FILE goes behind it."""

    def __init__(self, command):
        self.command = shlex.split(command)

    def run(self, model):
        """{case: tokens per second}"""
        command = [word.replace("{model}", model) for word in self.command]
        if command == self.command:
            command += ["-m", model]
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        found = self.read(p.stdout) or self.read(p.stderr)  # some of them print their table there
        if not found:
            print("%s: exit status %d, and no figure that is understood: %s" % (
                command[0], p.returncode, p.stderr.strip()[-200:]), file=sys.stderr)
        return found

    def read(self, text):
        return read_peer(text)


class PeerServer(Peer):
    def read(self, text):
        """{"tokens_per_second", "ttft_p95"}"""
        found = [re.search(r"\b%s\W+([\d.e+]+)" % name, text) for name in ("gen_tok_s", "ttft_p95_ms")]
        if all(found):
            return {"tokens_per_second": float(found[0][1]), "ttft_p95": float(found[1][1]) / 1e3}


def read_peer(text):
    """Figures of llama-bench, of its JSON or its table, and of llama-batched-bench's table."""
    if text.lstrip().startswith("["):
        return dict(filter(None, map(json_figure, json.loads(text))))
    return dict(filter(None, map(table_figure, text.splitlines())))


def json_figure(run):
    if run["n_prompt"] and not run["n_gen"]:
        return "prefill-%d" % run["n_prompt"], run["avg_ts"]
    if run["n_gen"] and not run["n_prompt"]:
        return "decode-1", run["avg_ts"]


def table_figure(line):
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    test = re.fullmatch(r"(pp|tg)(\d+)", cells[-2]) if len(cells) > 2 else None
    speed = re.match(r"[\d.]+", cells[-1])
    if test and speed:
        return "prefill-" + test[2] if test[1] == "pp" else "decode-1", float(speed[0])
    # | PP | TG | B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | T s | S t/s |
    if len(cells) == 10 and cells[0].isdigit():
        return "decode-" + cells[2], float(cells[7])


# --- model files ------------------------------------------------------------------------------------------------


def memory_available():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable:"))


def shared_maker():
    if os.path.exists(SHARED_MAKER) and not subprocess.run([sys.executable, "-c", "import gguf, numpy"],
                                                           stderr=subprocess.DEVNULL).returncode:
        return SHARED_MAKER


class Models:
    """Files with random weights, made when they are first asked for: SHAPE-TYPE or, of fewer layers, SHAPE-NNl-TYPE."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, name, spare):
        """The file's path; `spare` bytes of memory are needed beside it."""
        path = os.path.join(self.folder, name + ".gguf")
        if not os.path.exists(path):
            self.make(name, path)
        needed = os.path.getsize(path) + spare
        if needed > memory_available():
            raise Missing("it takes %.1f GB of memory, %.1f are available" % (needed / 1e9, memory_available() / 1e9))
        return path

    def make(self, name, path):
        shape, layers, kind = re.fullmatch(r"(.+?)(?:-(\d+)l)?-([^-]+)", name).groups()
        only = ["--layers", layers] if layers else []
        own = [sys.executable, MAKE_MODEL, shape, path + ".part", "--type", kind, *only]
        size = int(subprocess.run([*own, "--size"], stdout=subprocess.PIPE, check=True).stdout)
        os.makedirs(self.folder, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if size + (1 << 30) > free:
            raise Missing("the file takes %.1f GB in %s, %.1f are free" % (size / 1e9, self.folder, free / 1e9))
        print("making %s.gguf, %.1f GB, in %s" % (name, size / 1e9, self.folder), file=sys.stderr)
        shared = shared_maker() if kind in SHARED_TYPES and shape != "small" else None
        subprocess.run([sys.executable, shared, "--shape", shape, "--type", kind, "--out", path + ".part", *only]
                       if shared else own, check=True, stdout=subprocess.DEVNULL)
        os.rename(path + ".part", path)
