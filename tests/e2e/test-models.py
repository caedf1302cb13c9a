#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Models come, are replaced and go while the daemon runs; what runs is not disturbed."""

import json
import os
import shutil
import signal
import subprocess

from moedtest import MODEL, MODEL_DIR, Daemon, finish, greedy, other_user, prompts, wait_until

OTHER = os.path.join(os.path.dirname(MODEL_DIR), "mixtral", "model.gguf")


def models(d):
    return {m["name"]: m for m in d.json("models")["models"]}


def names(d):
    return [m["name"] for m in d.json("models")["models"]]


def run_known(d, *args):
    """The first prompt's continuation on the tiny model is the fixture's."""
    got = d.run(prompts()[0], "--max-tokens", 24, "--ignore-eog", *args)
    assert got["tokens"] == greedy()[0], got


def start_long(d, *args, n=900):
    """A generation that has begun and takes some seconds."""
    before = d.stats()["requests"]
    client = d.start_run(prompts()[0], "--ignore-eog", "--max-tokens", n, *args)
    wait_until(lambda: d.stats()["requests"] > before and d.stats()["streams_running"] > 0, "it runs")
    return client


def a_model_is_loaded_while_others_generate(d):
    alone = d.run(prompts()[0], "--ignore-eog", "--max-tokens", 900)["tokens"]
    client = start_long(d)
    reply = d.json("load", "second=" + MODEL)
    assert reply["name"] == "second" and reply["state"] == "ready", reply
    run_known(d, "--model", "second")
    assert finish(client)["tokens"] == alone
    assert names(d) == ["tiny", "second"]
    return alone


def what_is_replaced_ends_as_it_would_have(d, alone):
    old = models(d)["tiny"]["handle"]
    client = start_long(d)
    reply = d.json("load", "tiny=" + OTHER)
    assert reply["architecture"] == "llama" and reply["handle"] > old, reply
    assert models(d)["tiny"]["handle"] == reply["handle"]
    assert names(d)[0] == "tiny", "it stays the default"
    assert d.run(prompts()[0], "--max-tokens", 24, "--ignore-eog")["tokens"] != greedy()[0]
    assert client.poll() is None, "the old one's generation is over too early for this test"
    assert finish(client)["tokens"] == alone
    d.moectl("load", "tiny=" + MODEL)
    run_known(d)


def an_unloaded_model_ends_what_it_has(d, alone):
    client = start_long(d, "--model", "second")
    d.moectl("unload", "second")
    assert names(d) == ["tiny"]
    p = d.moectl("run", "--model", "second", "x", check=False)
    assert p.returncode != 0 and "second" in p.stderr, p.stderr
    assert finish(client)["tokens"] == alone
    p = d.moectl("unload", "second", check=False)
    assert p.returncode != 0 and 'no model "second"' in p.stderr, p.stderr


def connections_go_on_when_the_default_is_replaced(d):
    """One that names no model gets the new one with its next request; a conversation goes on."""
    chat = d.spawn([os.environ["MOECTL"], "chat", "--json", "--max-tokens", "4"], stdin=subprocess.PIPE)
    chat.stdin.write("hello\n")
    chat.stdin.flush()
    first = json.loads(chat.stdout.readline())
    load = d.helper("load", "-n", 20, "-r", 4, "-d", 8)
    wait_until(lambda: d.stats()["streams_running"] > 0, "they run")
    before = d.stats()["requests_done"]
    d.moectl("load", "tiny=" + MODEL)
    wait_until(lambda: d.stats()["requests_done"] > before + 8, "new requests are taken")
    got = finish(load)
    assert got["requests"] > 8, got
    out, err = chat.communicate("hello\n", timeout=60)
    assert chat.returncode == 0 and len(first["tokens"]) == len(json.loads(out)["tokens"]) == 4, (out, err)


def the_last_one_may_go(d):
    d.moectl("unload", "tiny")
    assert names(d) == []
    p = d.moectl("run", "x", check=False)
    assert p.returncode != 0 and "no model" in p.stderr, p.stderr
    d.moectl("load", MODEL.replace("model.gguf", "./model.gguf"))
    assert names(d) == ["model"]
    d.moectl("load", "--default", "tiny=" + os.path.relpath(MODEL))
    assert names(d) == ["tiny", "model"]
    d.moectl("unload", "model")
    run_known(d)


def a_bad_file_changes_nothing(d):
    before = models(d)
    with open(MODEL, "rb") as f:
        whole = f.read()
    bad = os.path.join(d.folder.name, "bad.gguf")
    for data, words in ((b"", "empty"), (b"no model at all" * 99, "bad.gguf"), (whole[:len(whole) // 2], "incomplete")):
        with open(bad, "wb") as f:
            f.write(data)
        p = d.moectl("load", "tiny=" + bad, check=False)
        assert p.returncode != 0 and words in p.stderr and "model tiny" in p.stderr, p.stderr
    for operand, words in (("tiny=/nowhere.gguf", "No such file"), ("tiny=/dev/zero", "not a regular file"),
                           ("a name=" + MODEL, "name has")):
        p = d.moectl("load", operand, check=False)
        assert p.returncode != 0 and words in p.stderr, p.stderr
    assert models(d) == before
    run_known(d)


def others_may_not(d):
    uid = other_user()
    if uid is None:
        return
    for args in (("load", "tiny=" + MODEL), ("unload", "tiny")):
        p = d.moectl(*args, check=False, user=uid)
        assert p.returncode != 0 and "only root may do this" in p.stderr, p.stderr
    assert names(d) == ["tiny"]


def drop_ins_and_reload():
    with Daemon(model=None, config="[Model one]\nFile=%s\n[Model two]\nFile=%s\n" % (MODEL, OTHER)) as d:
        os.mkdir(d.config_path + ".d")
        drop_in = os.path.join(d.config_path + ".d", "three.conf")
        before = models(d)
        with open(drop_in, "w") as f:
            f.write("[Model three]\nFile=%s\n" % MODEL)
        d.moectl("reload")
        assert names(d) == ["one", "two", "three"]
        assert models(d)["one"] == before["one"], "what did not change was not touched"
        run_known(d, "--model", "three")
        client = start_long(d, "--model", "three")
        with open(drop_in, "w") as f:
            f.write("[Model two]\nFile=%s\nDefault=yes\n" % MODEL)
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: names(d) == ["two", "one"], "it has reloaded")
        assert models(d)["two"]["handle"] > before["two"]["handle"]
        run_known(d)
        assert len(finish(client)["tokens"]) == 900
        # All or nothing.
        before = models(d)
        with open(drop_in, "w") as f:
            f.write("[Model two]\nFile=%s\n[Model four]\nFile=/nowhere.gguf\n[Budget default]\nExpertsMax=1\n" % OTHER)
        p = d.moectl("reload", check=False)
        assert p.returncode != 0 and "model four" in p.stderr and "/nowhere.gguf" in p.stderr, p.stderr
        assert models(d) == before
        run_known(d)
        # What was loaded by hand is not the configuration's to take away.
        os.unlink(drop_in)
        d.moectl("load", "five=" + MODEL)
        d.moectl("unload", "one")
        d.moectl("reload")
        assert set(names(d)) == {"two", "five"}, names(d)


def a_file_that_was_replaced_is_seen_by_a_reload():
    d = Daemon(model=None)
    path = os.path.join(d.folder.name, "model.gguf")
    shutil.copy(OTHER, path)
    d.write_config("[Model one]\nFile=%s\n" % path)
    with d:
        handle = models(d)["one"]["handle"]
        d.moectl("reload")
        assert models(d)["one"]["handle"] == handle
        shutil.copy(MODEL, path + "~")
        os.rename(path + "~", path)
        d.moectl("reload")
        assert models(d)["one"]["handle"] > handle
        run_known(d)


def main():
    with Daemon() as d:
        alone = a_model_is_loaded_while_others_generate(d)
        what_is_replaced_ends_as_it_would_have(d, alone)
        an_unloaded_model_ends_what_it_has(d, alone)
        connections_go_on_when_the_default_is_replaced(d)
        the_last_one_may_go(d)
        a_bad_file_changes_nothing(d)
        others_may_not(d)
    drop_ins_and_reload()
    a_file_that_was_replaced_is_seen_by_a_reload()


main()
