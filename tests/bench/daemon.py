# SPDX-License-Identifier: MIT
"""What the benchmarks that go through the daemon share: a daemon of their own, on a socket in a temporary folder."""

import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEMO = os.path.join(TOP, "daemon/demo")


def add_arguments(parser):
    parser.add_argument("--build", default=os.path.join(TOP, "build"), metavar="DIR", help="build folder (default: build)")
    parser.add_argument("--model", metavar="FILE", help="GGUF file (default: the demo model)")
    parser.add_argument("--quick", action="store_true", help="a part of it, in a few seconds")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")


def find_model(options):
    """The file that the options mean; ends the program with 77 where there is no demo model."""
    path = options.model or os.path.join(DEMO, "demo.gguf")
    if not os.path.exists(path):
        print("there is no %s%s" % (path, "" if options.model else "; name a model with --model"), file=sys.stderr)
        sys.exit(66 if options.model else 77)
    return os.path.abspath(path)


def read_all(path):
    """Into the page cache."""
    with open(path, "rb", buffering=0) as f:
        part = bytearray(16 << 20)
        while f.readinto(part):
            pass


def cached_share(path):
    """How much of a file is in the page cache."""
    size = os.path.getsize(path)
    pages = -(-size // mmap.PAGESIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, *3 * [ctypes.c_int], ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    found = ctypes.create_string_buffer(pages)
    with open(path, "rb") as f:
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, f.fileno(), 0)
    if at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap", path)
    libc.mincore(at, size, found)
    libc.munmap(at, size)
    return found.raw.count(b"\1") / pages


def start_ready(command, env):
    """Starts a daemon; the process, and the seconds from exec until it said READY=1."""
    with tempfile.TemporaryDirectory(prefix="moed-bench-") as folder, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        path = os.path.join(folder, "notify")
        notify.bind(path)
        notify.settimeout(60)
        begin = time.monotonic()
        process = subprocess.Popen(command, env={**env, "NOTIFY_SOCKET": path})
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            return process, time.monotonic() - begin
        except BaseException:
            process.kill()
            raise


class Daemon:
    """with Daemon(build, file) as d: …"""

    def __init__(self, build, model, config=""):
        self.folder = tempfile.TemporaryDirectory(prefix="moed-bench-")
        os.chmod(self.folder.name, 0o755)
        socket, path = (os.path.join(self.folder.name, name) for name in ("moed.sock", "moed.conf"))
        with open(path, "w") as f:
            f.write(config)
        self.build = build
        self.moectl = os.path.join(build, "client/moectl/moectl")
        self.log_path = os.path.join(self.folder.name, "log")
        self.command = [os.path.join(build, "daemon/service/moed"), "--config", path, "--socket", socket, "--model", model]
        self.env = {**os.environ, "MOED_SOCKET": socket}

    def __enter__(self):
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        while "serves on" not in self.log():
            if self.process.poll() is not None:
                sys.exit("the daemon did not start:\n" + self.log())
            time.sleep(0.01)
        return self

    def __exit__(self, kind, value, traceback):
        self.process.send_signal(signal.SIGINT)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.folder.cleanup()

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def start(self, program, *args, **kwargs):
        return subprocess.Popen([program, *map(str, args)], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, **kwargs)

    def finish(self, process, **kwargs):
        """What it prints, as JSON."""
        out, err = process.communicate(**kwargs)
        if process.returncode != 0:
            sys.exit("%s: exit status %d: %s" % (" ".join(process.args), process.returncode, err))
        return json.loads(out)

    def json(self, *args, input=None):
        """What `moectl --json ARGS` prints."""
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        return self.finish(self.start(self.moectl, "--json", *args, stdin=stdin), input=input)
