#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""P7: who asks is told by the kernel, about the process that connected and no other."""

import ctypes
import os
import signal
import socket

from moedtest import Daemon, skip, wait_until


def connect(d):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(10)
    s.connect(d.socket)
    return s


def connected_by_one_that_ended(d):
    """A socket whose connecting process has ended before the daemon could look at it, and the pid that it had."""
    parent, child = socket.socketpair()
    os.kill(d.process.pid, signal.SIGSTOP)
    pid = os.fork()
    if pid == 0:
        s = connect(d)
        socket.send_fds(child, [b"x"], [s.fileno()])
        os._exit(0)
    _, fds, _, _ = socket.recv_fds(parent, 1, 1)
    os.waitpid(pid, 0)
    s = socket.socket(fileno=fds[0])
    s.settimeout(10)
    return s, pid


def the_way_of(s):
    """What the daemon sends of its own account before it closes."""
    message = s.recv(65536)
    assert b"closed" in message and s.recv(65536) == b""
    return message


def one_that_ended_has_no_identity_to_leave_behind(d):
    refused = d.stats()["connections_refused"]
    s, pid = connected_by_one_that_ended(d)
    os.kill(d.process.pid, signal.SIGCONT)
    assert b"process %d, which connected, has ended" % pid in the_way_of(s)
    wait_until(lambda: d.stats()["connections_refused"] == refused + 1, "it is counted")


def clone_with_pid(pid):
    """A child with this pid, which sleeps; None where that is not allowed."""
    class Arguments(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid", "set_tid_size",
            "cgroup")]

    tids = (ctypes.c_int * 1)(pid)
    arguments = Arguments(exit_signal=signal.SIGCHLD, set_tid=ctypes.addressof(tids), set_tid_size=1)
    libc = ctypes.CDLL(None, use_errno=True)
    got = libc.syscall(435, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if got == 0:
        signal.pause()
        os._exit(0)
    return got if got > 0 else None


def its_number_given_to_another_changes_nothing(d):
    s, pid = connected_by_one_that_ended(d)
    other = clone_with_pid(pid)
    os.kill(d.process.pid, signal.SIGCONT)
    if other is None:
        skip("no process may be given a pid here")
    assert other == pid
    assert b"process %d, which connected, has ended" % pid in the_way_of(s)
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)


def main():
    with Daemon() as d:
        one_that_ended_has_no_identity_to_leave_behind(d)
        its_number_given_to_another_changes_nothing(d)


main()
