#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a service manager sees: readiness, status, watchdog, reload, stop; and the socket that it passes is used."""

import os
import signal
import socket

from moedtest import Daemon, prompts, skip, wait_until


class Manager:
    """The receiving end of sd_notify(3)."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.lines = []

    def heard(self, line):
        try:
            while True:
                self.lines += self.socket.recv(65536).decode().split("\n")
        except BlockingIOError:
            pass
        return any(said.startswith(line) for said in self.lines)


def notifications():
    d = Daemon(wrap=("sh", "-c", 'WATCHDOG_PID=$$ exec "$@"', "sh"), env={"WATCHDOG_USEC": "400000"})
    manager = Manager(d.folder.name)
    d.env["NOTIFY_SOCKET"] = manager.path
    with d:
        wait_until(lambda: manager.heard("READY=1"), "it is ready")
        assert manager.heard("STATUS=Serving on " + d.socket)
        wait_until(lambda: manager.heard("READY=1") and manager.lines.count("WATCHDOG=1") >= 3, "it lives")
        manager.lines.clear()
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: manager.heard("READY=1"), "it has reloaded")
        assert manager.heard("RELOADING=1") and manager.heard("MONOTONIC_USEC=")
        d.process.send_signal(signal.SIGTERM)
        assert d.process.wait(10) == 0
        assert manager.heard("STOPPING=1")


def activate(kind):
    """A daemon whose descriptor 3 is a listening socket of this kind."""
    d = Daemon(wrap=("sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0', "sh"))
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind(d.socket)
    s.listen(8)
    d.stdin = s
    return d


def a_passed_socket_is_used():
    d = activate(socket.SOCK_SEQPACKET)
    with d:
        assert "the service manager's socket" in d.log(), d.log()
        d.run(prompts()[0], "--max-tokens", 3)
        d.process.send_signal(signal.SIGTERM)
        assert d.process.wait(10) == 0
        # It is the manager's, who listens on.
        assert os.path.exists(d.socket)


def another_kind_of_socket_is_refused():
    d = activate(socket.SOCK_STREAM)
    p = d.spawn(d.command, stdin=d.stdin)
    out, err = p.communicate(timeout=10)
    assert p.returncode != 0 and "SOCK_SEQPACKET" in err, err
    d.folder.cleanup()


def main():
    if not os.environ.get("MOED_TEST_SYSTEMD"):
        skip("built without libsystemd")
    notifications()
    a_passed_socket_is_used()
    another_kind_of_socket_is_refused()


main()
