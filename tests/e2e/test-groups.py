#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Clients of one user in different groups: what holds for the user as a whole does not depend on who came last."""

import os
import socket

from moedtest import Daemon, other_user, prompts, skip, wait_until

# Groups need no name.
STAFF, STUDENTS = 61001, 61002
CONFIG = """
[Budget gid:%d]
Weight=300
[Budget gid:%d]
Weight=50
Class=batch
ExpertsMax=1.5
""" % (STAFF, STUDENTS)
INTERACTIVE, BATCH = 0, 1


class Client:
    """A connection of `uid` as a member of these groups, held by a process of its own."""

    def __init__(self, d, uid, *groups):
        self.ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect(d.socket)
            theirs.send(b"x")
            theirs.recv(1)
            os._exit(0)
        assert self.ours.recv(1) == b"x"

    def close(self):
        self.ours.send(b"x")
        os.waitpid(self.pid, 0)


def connected(d, uid):
    return sum(peer["uid"] == uid for peer in d.json("ps")["peers"])


def of_user(d, uid):
    got = [b for b in d.json("budget")["budgets"] if b["principal"] == "uid:%d" % uid]
    return (got[0]["weight"], got[0]["class"])


def whoever_came_last(d, uid):
    for order in ((STAFF, STUDENTS), (STUDENTS, STAFF)):
        clients = {}
        for group in order:
            clients[group] = Client(d, uid, group)
        wait_until(lambda: connected(d, uid) == 2, "both are connected")
        assert of_user(d, uid) == (300, BATCH), of_user(d, uid)
        clients[STAFF].close()
        wait_until(lambda: connected(d, uid) == 1, "one is left")
        assert of_user(d, uid) == (50, BATCH), of_user(d, uid)
        other = Client(d, uid, STAFF)
        clients[STUDENTS].close()
        wait_until(lambda: connected(d, uid) == 1, "the other one is left")
        assert of_user(d, uid) == (300, INTERACTIVE), of_user(d, uid)
        other.close()
        wait_until(lambda: connected(d, uid) == 0, "none is left")
        # Until the next one comes it is what it was.
        assert of_user(d, uid) == (300, INTERACTIVE), of_user(d, uid)


def experts_are_each_client_s_own(d, uid):
    student = Client(d, uid, STUDENTS)
    wait_until(lambda: connected(d, uid) == 1, "it is connected")
    args = dict(user=uid, group=uid)
    most = d.json("models")["models"][0]["experts_used"]
    got = [d.run(prompts()[0], "--max-tokens", 3, extra_groups=groups, **args)["cap"] for groups in ([], [STUDENTS], [STAFF])]
    student.close()
    assert got == [most, 1.5, most], got


def a_change_of_the_rules_reaches_all(d, uid):
    clients = [Client(d, uid, group) for group in (STUDENTS, STAFF)]
    wait_until(lambda: connected(d, uid) == 2, "both are connected")
    d.moectl("budget", "set", "gid:%d" % STUDENTS, "Weight=70", "Class=idle")
    assert of_user(d, uid) == (300, 2), of_user(d, uid)
    d.moectl("budget", "set", "uid:%d" % uid, "Weight=20")
    assert of_user(d, uid) == (20, 2), of_user(d, uid)
    d.moectl("budget", "reset", "uid:%d" % uid)
    d.moectl("budget", "reset", "gid:%d" % STUDENTS)
    assert of_user(d, uid) == (300, BATCH), of_user(d, uid)
    for client in clients:
        client.close()


def main():
    uid = other_user()
    if uid is None:
        skip("needs another user")
    with Daemon(config=CONFIG) as d:
        whoever_came_last(d, uid)
        experts_are_each_client_s_own(d, uid)
        a_change_of_the_rules_reaches_all(d, uid)


main()
