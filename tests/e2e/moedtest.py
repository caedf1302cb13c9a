# SPDX-License-Identifier: MIT
"""A daemon of its own for a test: the real binary, on a socket in a temporary folder, with a tiny model whose
continuations are known. Tests are plain scripts: an assertion that fails ends them with 1, skip() with 77."""

import contextlib
import json
import os
import pwd
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

MOED = os.environ.get("MOED", "moed")
MOECTL = os.environ.get("MOECTL", "moectl")
HELPERS = os.environ.get("MOED_TEST_HELPERS", os.path.dirname(os.path.abspath(__file__)))
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL_DIR = os.environ.get("MOED_TEST_MODEL", os.path.join(SOURCE, "tests/reference/data/models/olmoe"))
MODEL = os.path.join(MODEL_DIR, "model.gguf")
PROMPT_LENGTHS = (7, 33, 80, 300)


def skip(why):
    print("skipped:", why)
    sys.exit(77)


def read_i32(name):
    with open(os.path.join(MODEL_DIR, name), "rb") as f:
        data = f.read()
    return list(struct.unpack("<%di" % (len(data) // 4), data))


def prompts():
    """The fixture's four prompts, as lists of ids."""
    ids, at, out = read_i32("prompts.i32"), 0, []
    for n in PROMPT_LENGTHS:
        out.append(ids[at:at + n])
        at += n
    return out


def greedy():
    """The continuation of each prompt."""
    ids = read_i32("greedy.i32")
    return [ids[24 * i:24 * i + 24] for i in range(4)]


def join(ids):
    return ",".join(map(str, ids))


def wait_until(condition, what, seconds=30.0):
    """Polls; fails naming `what` when it does not come true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("not within %g s: %s" % (seconds, what))


class Daemon:
    """with Daemon() as d: …   `config` is the text of a moed.conf."""

    def __init__(self, *args, config="", model=MODEL, wrap=(), kv_type="f32", env=None, program=MOED):
        self.folder = tempfile.TemporaryDirectory(prefix="moed-")
        os.chmod(self.folder.name, 0o755)
        self.socket = os.path.join(self.folder.name, "moed.sock")
        self.config_path = os.path.join(self.folder.name, "moed.conf")
        self.log_path = os.path.join(self.folder.name, "log")
        self.write_config(config)
        self.command = [*wrap, program, "--config", self.config_path, "--socket", self.socket, "--kv-type", kv_type]
        if model:
            self.command += ["--model", "tiny=" + model]
        self.command += map(str, args)
        self.env = {**os.environ, "MOED_SOCKET": self.socket, **(env or {})}
        self.process = None
        self.stdin = None

    def write_config(self, text):
        with open(self.config_path, "w") as f:
            f.write(text)

    def start(self):
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=self.stdin, stderr=log, stdout=log, env=self.env)
        wait_until(lambda: self.process.poll() is not None or "serves on" in self.log(), "the daemon serves")
        assert self.process.poll() is None, "the daemon did not start:\n" + self.log()
        return self

    def restart(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.log()
        return self.start()

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, traceback):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                if kind is None:
                    raise AssertionError("the daemon did not stop")
        if kind is not None:
            print("--- log of the daemon\n" + self.log()[-6000:], file=sys.stderr)
        elif self.process:
            assert self.process.returncode == 0, "exit status %d\n%s" % (self.process.returncode, self.log())
        self.folder.cleanup()

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def pid(self):
        """Of moed itself, also when something runs around it."""
        return self.stats()["pid"]

    def moectl(self, *args, check=True, user=None, timeout=60, **kwargs):
        """The finished process; its exit status must be 0 unless `check` is false."""
        p = subprocess.run([MOECTL, *map(str, args)], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, timeout=timeout, user=user, **kwargs)
        assert not check or p.returncode == 0, "moectl %s: %d\n%s" % (" ".join(map(str, args)), p.returncode, p.stderr)
        return p

    def json(self, *args, **kwargs):
        return json.loads(self.moectl(*args, "--json", **kwargs).stdout)

    def stats(self):
        return self.json("stats")

    def run(self, ids, *args, **kwargs):
        """`moectl run` with token ids; the object that it prints."""
        return self.json("run", "--tokens", join(ids), *args, **kwargs)

    def start_run(self, ids, *args, **kwargs):
        return self.spawn([MOECTL, "run", "--json", "--tokens", join(ids), *map(str, args)], **kwargs)

    def spawn(self, command, **kwargs):
        return subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)

    def helper(self, name, *args, **kwargs):
        return self.spawn([os.path.join(HELPERS, name), *map(str, args)], **kwargs)


@contextlib.contextmanager
def slowed(process):
    """It runs a twentieth of the time: what takes it a few milliseconds lasts long enough to be looked at."""
    done = threading.Event()

    def hold():
        while not done.is_set():
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.019)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.001)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def finish(process, timeout=60, status=0):
    """Waits for it and returns what it printed, as JSON if it is that."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == status, "exit status %d: %s%s" % (process.returncode, out, err)
    try:
        return json.loads(out)
    except ValueError:
        return out


def other_user():
    """A uid that is not ours, for a client; None where there is no way to be another user."""
    if os.geteuid() != 0:
        return None
    uid = pwd.getpwnam("nobody").pw_uid
    try:
        subprocess.run([MOECTL, "--version"], user=uid, stdout=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # the build lies in a folder that others cannot enter
    return uid
