#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Who may see and set budgets, and that what is saved outlives the daemon."""

import os
import subprocess

from moedtest import MOECTL, Daemon, other_user, skip

ADMIN = 64321  # of the group moed-admin, in the daemon's view of /etc/group


def shown(d, who):
    return {key["key"]: (key["value"], key["source"]) for key in d.json("budget", "show", who)["rules"][0]["keys"]}


def saved(d):
    with open(d.config_path + ".saved") as f:
        return f.read()


def what_is_saved_outlives_the_daemon(d):
    d.moectl("budget", "set", "uid:12345", "Weight=3", "Class=idle")
    d.moectl("budget", "set", "--save", "uid:12345", "Weight=5")
    d.moectl("budget", "set", "--save", "default", "ExpertsMax=1.5")
    assert shown(d, "uid:12345") == {"Weight": ("5", "moectl budget set --save"), "Class": ("idle", "moectl budget set")}
    d.restart()
    assert shown(d, "uid:12345") == {"Weight": ("5", d.config_path + ".saved:5")}, shown(d, "uid:12345")
    assert shown(d, "default")["ExpertsMax"][0] == "1.500"
    # The run time goes over it; a reload leaves both.
    d.moectl("budget", "set", "uid:12345", "Weight=6")
    d.moectl("reload")
    assert shown(d, "uid:12345")["Weight"] == ("6", "moectl budget set")
    d.moectl("budget", "reset", "uid:12345")
    assert shown(d, "uid:12345")["Weight"][0] == "5"
    p = d.moectl("budget", "reset", "uid:12345", check=False)
    assert p.returncode != 0 and "--save" in p.stderr, p.stderr
    d.moectl("budget", "reset", "--save", "uid:12345")
    assert not d.json("budget", "show", "uid:12345")["rules"] and "12345" not in saved(d)
    d.moectl("budget", "reset", "--save", "default")
    d.restart()
    assert not d.json("budget")["rules"]


def it_goes_over_the_files_of_the_administrator(d):
    d.write_config("[Budget uid:12345]\nWeight=50\nQueueMax=5\n")
    d.moectl("budget", "set", "--save", "uid:12345", "Weight=5")
    d.restart()
    assert shown(d, "uid:12345") == {"Weight": ("5", d.config_path + ".saved:5"), "QueueMax": ("5", d.config_path + ":3")}
    d.write_config("")
    d.moectl("reload")
    assert shown(d, "uid:12345") == {"Weight": ("5", d.config_path + ".saved:5")}
    d.moectl("budget", "reset", "--save", "uid:12345")


def what_cannot_be_saved_is_told_and_holds_till_the_end(d):
    os.rename(d.config_path + ".saved", d.config_path + ".old")
    os.mkdir(d.config_path + ".saved")
    p = d.moectl("budget", "set", "--save", "uid:12345", "Weight=7", check=False)
    assert p.returncode != 0 and "in force, but not saved" in p.stderr and ".saved" in p.stderr, p.stderr
    assert shown(d, "uid:12345")["Weight"][0] == "7"
    os.rmdir(d.config_path + ".saved")
    # The next one that can be written has both.
    d.moectl("budget", "set", "--save", "default", "Weight=8")
    assert "Weight=7" in saved(d) and "Weight=8" in saved(d)
    d.moectl("budget", "reset", "--save", "default")
    d.moectl("budget", "reset", "--save", "uid:12345")


def many_saves_at_once_lose_none(d):
    clients = [d.spawn([MOECTL, "budget", "set", "--save", "uid:%d" % (20000 + i), "Weight=%d" % (i + 1)])
               for i in range(16)]
    for p in clients:
        assert p.wait(20) == 0, p.stderr.read()
        p.communicate()
    for i in range(16):
        assert "[Budget uid:%d]\nWeight=%d\n" % (20000 + i, i + 1) in saved(d)


def members_of_the_group_are_admins_and_nobody_else(d, uid):
    d.stats()  # as root, who then is one of those that are seen
    stranger, admin = {"user": uid, "group": uid, "extra_groups": []}, {"user": uid, "group": uid, "extra_groups": [ADMIN]}
    for who in (stranger, {"user": uid, "group": uid, "extra_groups": [ADMIN + 1]}):
        for what in (("budget", "set", "default", "Weight=1"), ("budget", "set", "none at all", "Weight=1"),
                     ("budget", "set", "--save", "uid:%d" % uid, "Weight=1"),
                     ("budget", "reset", "default"), ("budget", "show", "uid:0")):
            p = d.moectl(*what, check=False, **who)
            assert p.returncode == 77 and "moed-admin" in p.stderr, (what, p.returncode, p.stderr)
        reply = d.json("budget", **who)
        assert [b["principal"] for b in reply["budgets"]] == ["uid:%d" % uid] and "rules" not in reply, reply
        assert d.json("budget", "show", "uid:%d" % uid, **who)["budgets"][0]["weight"] == 100
    d.moectl("budget", "set", "uid:0", "Weight=77", **admin)
    d.moectl("budget", "set", "--save", "uid:12345", "Weight=78", **admin)
    reply = d.json("budget", **admin)
    assert {r["principal"] for r in reply["rules"]} == {"uid:0", "uid:12345"}, reply
    assert "uid:0" in {b["principal"] for b in reply["budgets"]}
    d.moectl("budget", "reset", "--save", "uid:12345", **admin)
    # As the primary group, too. It is no root: models are not its affair.
    d.moectl("budget", "reset", "uid:0", user=uid, group=ADMIN, extra_groups=[])
    for what in (("reload",), ("unload", "tiny")):
        p = d.moectl(*what, check=False, **admin)
        assert p.returncode == 77 and "only root" in p.stderr, p.stderr


def in_a_view_with_the_group():
    """A prefix for a command that finds the group in /etc/group, or None where that can't be made."""
    wrap = ["unshare", "-m", "sh", "-c", 'f=$(mktemp) && cat /etc/group >$f && echo moed-admin:x:%d: >>$f && chmod 644 $f &&'
            ' mount --bind $f /etc/group && rm $f && exec "$@"' % ADMIN, "sh"]
    seen = subprocess.run(wrap + ["getent", "group", "moed-admin"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return wrap if seen.stdout == b"moed-admin:x:%d:\n" % ADMIN else None


def main():
    with Daemon() as d:
        what_is_saved_outlives_the_daemon(d)
        it_goes_over_the_files_of_the_administrator(d)
        what_cannot_be_saved_is_told_and_holds_till_the_end(d)
        many_saves_at_once_lose_none(d)
    uid = other_user()
    wrap = in_a_view_with_the_group() if uid is not None else None
    if not wrap:
        skip("the group moed-admin was not tested: needs root, another user and a mount namespace")
    with Daemon(wrap=wrap) as d:
        members_of_the_group_are_admins_and_nobody_else(d, uid)


main()
