#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""moectl top: in a pipe, on a terminal with its keys, after a change of size, without a terminal that can be drawn on; and
nothing that a program is called reaches the terminal as more than text."""

import os
import re
import subprocess
import sys

from moedtest import HELPERS, MOECTL, Daemon, finish, other_user, wait_until
from terminal import Terminal

DOWN, ESC = "\x1bOB", "\x1b"
HOSTILE = "evil\u009b2J\u202eexe"
WITHOUT_NCURSES = 69


def stalled(d, count=1, **kwargs):
    """Clients whose generations wait for them to read, so that they are there for as long as the test wants them."""
    clients = [d.helper("stall", 900, stdin=subprocess.PIPE, **kwargs) for _ in range(count)]
    wait_until(lambda: sum(r["state"] == "stalled" for peer in d.json("ps")["peers"] for r in peer["requests"]) >= count,
               "all of them wait")
    return clients


def numbers(d):
    return [r["number"] for peer in d.json("ps")["peers"] for r in peer["requests"]]


def top(d, *args, **kwargs):
    return Terminal([MOECTL, "top", *map(str, args)], d.env, **kwargs)


def batch_prints_rates_as_often_as_it_is_told(d):
    d.moectl("budget", "set", "default", "ExpertsMax=2", "Adaptive=no")
    (waiting,) = stalled(d)
    client = d.helper("load", "-n", 100, "-d", 3, "-r", 2)
    wait_until(lambda: d.stats()["streams_running"] == 3, "it runs")
    out = d.moectl("top", "--batch", "--times", 2, "--delay", 0.4).stdout
    assert out.count("moed 0.") == 2 and "\x1b" not in out
    rates = re.findall(r"^([0-9.]+(?: k)?) tokens/s generated", out, re.M)
    assert len(rates) == 2 and all(rate != "0.0" for rate in rates), out
    rows = re.findall(r"^uid:\d+ +3 +[123] +0 +([0-9.]+) +2\.00 +100 +100\.0%", out, re.M)
    assert rows == ["2.00", "2.00"], "two experts a token, all of the machine:\n" + out
    assert len(re.findall(r"^ +\d+  uid:\d+ +stall +tiny +stalled +3 +\d+ +0\.0 +2\.00 +2\.00 +1$", out, re.M)) == 2, out
    finish(client)
    finish(waiting)
    d.moectl("budget", "reset", "default")


def mistakes_are_told(d):
    for args in (("x",), ("--times", 1), ("--delay", 0), ("--json",), ("--batch", "--times", 0)):
        assert d.moectl("top", *args, check=False).returncode == 64, args
    for term in ("dumb", "no-such-terminal"):
        with top(d, term=term) as t:
            assert t.end() == WITHOUT_NCURSES and "--batch" in t.text(), t.text()
    p = d.moectl("top", check=False)
    assert p.returncode == WITHOUT_NCURSES and p.stdout == "" and "--batch" in p.stderr, p


def keys_select_sort_and_leave(d):
    clients = stalled(d, 3)
    order = sorted(numbers(d))
    with top(d, "--delay", 0.2) as t:
        t.wait(r"^uid:\d+ +4 +3 +0 ")
        t.wait(r"(?s)^ +%d  uid.* %d  uid.* %d  uid" % tuple(order))
        t.type("\tr")
        t.wait(r"^NUMBER- ")
        t.wait(r"(?s)^ +%d  uid.* %d  uid.* %d  uid" % tuple(reversed(order)))
        t.type(">")
        t.wait("PRINCIPAL- ")
        t.type("h")
        t.wait("any key")
        t.type("q")
        t.wait("q quit")
        t.resize(12, 50)
        t.wait(r"\A.*\n(.*\n){9}.*\n Tab table .{1,39}\Z")
        t.resize(2, 5)
        t.wait(r"\A.*\n Tab\Z")
        t.resize(40, 150)
        t.wait(r"\A.*\n(.*\n){38} Tab table .* q quit\Z")
        t.type("q")
        assert t.end() == 0 and t.strange == [], t.strange
    for c in clients:
        finish(c)


def an_administrator_cancels_and_caps(d):
    clients = stalled(d, 2)
    first, second = sorted(numbers(d))
    with top(d, "--delay", 0.2) as t:
        t.wait(r"^ +%d  uid" % second)
        t.type("x")
        t.wait("Tab leads to them")
        t.type("\t" + DOWN + "x")
        t.wait("Cancel request %d\\?" % second)
        t.type("n")
        t.wait("q quit")
        assert sorted(numbers(d)) == [first, second]
        t.type("x")
        t.wait("Cancel request %d\\?" % second)
        t.type("y")
        t.wait("Request %d was cancelled" % second)
        wait_until(lambda: all(r["state"] == "ended" for peer in d.json("ps")["peers"] for r in peer["requests"]
                               if r["number"] == second), "it ended")
        t.type("c")
        t.wait("Budget of uid:")
        t.wait("^ExpertsMax=$")
        t.type("2.5 Weight=7\r")
        t.wait("The budget of uid:\\d+ was set")
        t.wait(r"^uid:\d+ +3 .* 2\.50 +7 ")
        t.type("c\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7fColour=red\r")
        t.wait("Colour.* cannot be set")
        t.type("c" + "1" + ESC)
        t.wait("q quit")
        t.type("u")
        t.wait("was reset")
        t.wait(r"^uid:\d+ +3 .* - +100 ")
        t.type("d0.3\r")
        t.type("\x03")
        assert t.end() == 0 and t.strange == [], t.strange
    for c in clients:
        finish(c)


def others_change_nothing(d, uid):
    clients = stalled(d)
    with top(d, "--delay", 0.2) as t:  # root's
        t.wait("stall")
        t.type("q")
        t.end()
    with Terminal([sys.executable, "-c", "import os, sys; os.setgid(%d); os.setuid(%d); os.execv(sys.argv[1], sys.argv[1:])"
                   % (uid, uid), MOECTL, "top"], d.env) as t:
        t.wait("nothing is asked")
        t.wait(r"^uid:%d " % uid)
        t.type("c2\r")
        t.wait("only root|moed-admin")
        t.type("q")
        assert t.end() == 0
    for c in clients:
        finish(c)


def names_are_text(d):
    client = subprocess.Popen([HOSTILE, "900"], executable=os.path.join(HELPERS, "stall"), env=d.env, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    with top(d, "--delay", 0.1, columns=200) as t:
        t.wait(r"evil\\u009b2J\\u202eexe")
        t.type("q")
        assert t.end() == 0 and t.strange == [], t.strange
    client.communicate()


def the_daemon_may_come_back(d):
    with top(d, "--delay", 0.2) as t:
        t.wait("q quit")
        d.process.terminate()
        d.process.wait()
        t.wait("No answer, looking again")
        d.start()
        t.wait("The daemon is there again")
        t.type("q")
        assert t.end() == 0


def main():
    with Daemon(config="[Limits]\nConnectionsMax=32\n") as d:
        batch_prints_rates_as_often_as_it_is_told(d)
        mistakes_are_told(d)
        if "built without ncurses" in d.moectl("top", check=False).stderr:
            return
        keys_select_sort_and_leave(d)
        an_administrator_cancels_and_caps(d)
        names_are_text(d)
        uid = other_user()
        if uid is not None:
            others_change_nothing(d, uid)
        the_daemon_may_come_back(d)


main()
