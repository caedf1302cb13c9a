#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Models come, are replaced and go while the daemon runs; what runs is not disturbed."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from moedtest import MODEL, MODEL_DIR, Daemon, finish, greedy, other_user, prompts, wait_until

OTHER = os.path.join(os.path.dirname(MODEL_DIR), "mixtral", "model.gguf")


def models(d):
    return {m["name"]: m for m in d.json("models")["models"]}


def handles(d):
    return {name: m["handle"] for name, m in models(d).items()}


def names(d):
    return [m["name"] for m in d.json("models")["models"]]


def run_known(d, *args):
    """The first prompt's continuation on the tiny model is the fixture's."""
    got = d.run(prompts()[0], "--max-tokens", 24, "--ignore-eog", *args)
    assert got["tokens"] == greedy()[0], got


def hold(d):
    """A generation on the default model that has begun and stands still until release()."""
    before = d.stats()["stalls"]
    client = d.helper("stall", 400, stdin=-1)
    wait_until(lambda: d.stats()["stalls"] > before, "its ring is full")
    return client


def release(client):
    client.stdin.close()
    client.stdin = None
    return [int(t) for t in finish(client).strip().strip(",").split(",")]


def a_model_is_loaded_while_others_generate(d):
    whole = d.run([5, 6, 7], "--ignore-eog", "--max-tokens", 400)["tokens"]
    client = hold(d)
    reply = d.json("load", "second=" + MODEL)
    assert reply["name"] == "second" and reply["state"] == "ready", reply
    run_known(d, "--model", "second")
    assert release(client) == whole
    assert names(d) == ["tiny", "second"]
    return whole


def what_is_replaced_ends_as_it_would_have(d, whole):
    old = models(d)["tiny"]["handle"]
    client = hold(d)
    reply = d.json("load", "tiny=" + OTHER)
    assert reply["architecture"] == "llama" and reply["handle"] > old, reply
    assert models(d)["tiny"]["handle"] == reply["handle"]
    assert names(d)[0] == "tiny", "it stays the default"
    assert d.run(prompts()[0], "--max-tokens", 24, "--ignore-eog")["tokens"] != greedy()[0]
    assert release(client) == whole
    wait_until(lambda: d.stats()["kv_pages"] == sum(m["kv_pages"] for m in models(d).values()), "the old one is freed")
    d.moectl("load", "tiny=" + MODEL)
    run_known(d)


def an_unloaded_model_ends_what_it_has(d, whole):
    d.moectl("load", "--default", "second=" + MODEL)
    assert names(d) == ["second", "tiny"]
    client = hold(d)
    d.moectl("unload", "second")
    assert names(d) == ["tiny"]
    p = d.moectl("run", "--model", "second", "x", check=False)
    assert p.returncode != 0 and "second" in p.stderr, p.stderr
    assert release(client) == whole
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
    before = handles(d)
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
    assert handles(d) == before
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
        before = handles(d)
        with open(drop_in, "w") as f:
            f.write("[Model three]\nFile=%s\n" % MODEL)
        d.moectl("reload")
        assert names(d) == ["one", "two", "three"]
        assert handles(d)["one"] == before["one"], "what did not change was not touched"
        run_known(d, "--model", "three")
        whole = d.run([5, 6, 7], "--ignore-eog", "--max-tokens", 400)["tokens"]
        client = hold(d)
        with open(drop_in, "w") as f:
            f.write("[Model one]\nFile=%s\n[Model two]\nFile=%s\nDefault=yes\n" % (OTHER, MODEL))
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: names(d) == ["two", "one"], "it has reloaded")
        assert handles(d)["two"] > before["two"] and handles(d)["one"] > before["one"]
        run_known(d)
        assert release(client) == whole
        # All or nothing.
        before = handles(d)
        with open(drop_in, "w") as f:
            f.write("[Model two]\nFile=%s\n[Model four]\nFile=/nowhere.gguf\n[Budget default]\nExpertsMax=1\n" % OTHER)
        p = d.moectl("reload", check=False)
        assert p.returncode != 0 and "model four" in p.stderr and "/nowhere.gguf" in p.stderr, p.stderr
        assert handles(d) == before and names(d)[0] == "two"
        assert d.run(prompts()[0], "--max-tokens", 5, "--ignore-eog")["cap"] == 4
        run_known(d)
        # What was loaded by hand is not the configuration's to take away.
        os.unlink(drop_in)
        d.moectl("reload")
        assert names(d)[0] == "one"
        run_known(d)
        d.moectl("load", "five=" + MODEL)
        d.moectl("unload", "one")
        d.moectl("reload")
        assert set(names(d)) == {"two", "five"}, names(d)


def what_is_set_for_models_is_that_of_their_loading():
    with Daemon(config="[Daemon]\nKvMemory=64M\n") as d:
        d.write_config("[Daemon]\nKvMemory=64M\nKvType=bf16\n")
        d.moectl("reload")
        assert "KvMemory=" not in d.log(), "--kv-type is what counts"
        d.write_config("[Daemon]\nKvMemory=32M\nThreads=1\n")
        d.moectl("reload")
        for words in ("Threads= and RowsMax= take effect at the next start", "of models that are loaded from now on"):
            assert words in d.log(), d.log()
        d.moectl("load", "two=" + MODEL)
        assert models(d)["tiny"]["kv_pages"] == 2 * models(d)["two"]["kv_pages"], models(d)


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


def idle(d, name):
    return models(d)[name]["state"] == "idle"


def an_idle_model_gives_its_memory_back_and_wakes():
    config = ("[Daemon]\nIdleUnloadSec=200ms\n[Model tiny]\nFile=%s\nDefault=yes\n"
              "[Model other]\nFile=%s\nIdleUnloadSec=0\n" % (MODEL, OTHER))
    with Daemon(model=None, config=config) as d:
        run_known(d)
        assert d.stats()["kv_pages"] == sum(m["kv_pages"] for m in models(d).values())
        wait_until(lambda: idle(d, "tiny"), "it is idle")
        assert not idle(d, "other")
        assert d.stats()["kv_pages"] == models(d)["other"]["kv_pages"]
        resident = rss(d.pid(), MODEL)
        assert resident == 0, "%d kB of an idle model's file are still mapped in" % resident
        # Its tokenizer is there all the same, and another model's generation does not notice.
        other = d.start_run(prompts()[0], "--model", "other", "--ignore-eog", "--max-tokens", 900)
        assert d.json("tokenize", "--model", "tiny", "x")["tokens"]
        for _ in range(3):
            run_known(d, "--model", "tiny")
            assert not idle(d, "tiny")
            wait_until(lambda: idle(d, "tiny"), "it is idle again")
        assert len(finish(other)["tokens"]) == 900
        # A generation in work keeps it awake; many may wait for it at once.
        clients = [d.start_run(prompts()[0], "--ignore-eog", "--max-tokens", 24) for _ in range(4)]
        assert all(finish(c)["tokens"] == greedy()[0] for c in clients)
        client = hold(d)
        time.sleep(0.5)
        assert models(d)["tiny"]["state"] == "ready" and models(d)["tiny"]["streams"] == 1
        assert len(release(client)) == 400
        # An idle one can be replaced and removed.
        wait_until(lambda: idle(d, "tiny"), "it is idle once more")
        d.moectl("load", "tiny=" + MODEL)
        run_known(d, "--model", "tiny")
        wait_until(lambda: idle(d, "tiny"), "the new one is idle too")
        d.moectl("unload", "tiny")
        d.write_config(config.replace("200ms", "0"))
        d.moectl("load", "tiny=" + MODEL)
        d.moectl("reload")
        run_known(d, "--model", "tiny")
        assert not idle(d, "tiny")


def what_is_cut_while_it_is_idle_is_told():
    with Daemon(config="[Daemon]\nIdleUnloadSec=200ms\n") as d:
        path = os.path.join(d.folder.name, "cut.gguf")
        shutil.copy(MODEL, path)
        d.moectl("load", "cut=" + path)
        wait_until(lambda: idle(d, "cut"), "it is idle")
        os.truncate(path, os.path.getsize(path) - 65536)
        p = d.moectl("run", "--model", "cut", "--tokens", "5,6,7", check=False)
        assert p.returncode != 0 and "cannot be loaded again" in p.stderr, p.stderr
        # To compare another one to it is no harm either.
        d.moectl("load", "copy=" + OTHER, "--default")
        d.moectl("load", "copy=" + MODEL)
        wait_until(lambda: models(d)["copy"]["shared"], "it was compared")
        run_known(d, "--model", "tiny")


def overwrite(path, data):
    with open(path, "r+b") as f:
        f.write(data)
        f.truncate()


def fails_once(d, *args):
    """A request is told, and the model is opened anew by then or soon after."""
    p = d.moectl("run", "--tokens", "5,6,7", *args, check=False)
    assert p.returncode != 0 and "written to or cut short" in p.stderr, p.stderr


def what_is_written_into_a_file_in_use_ends_its_own_requests_only():
    with open(MODEL, "rb") as f:
        whole = f.read()
    with open(OTHER, "rb") as f:
        other = f.read()
    with Daemon() as d:
        path = os.path.join(d.folder.name, "own.gguf")
        shutil.copy(MODEL, path)
        d.moectl("load", "--default", "own=" + path)
        # Its pages vanish under a generation; another model's goes on.
        client = hold(d)
        neighbour = d.start_run(prompts()[0], "--model", "tiny", "--ignore-eog", "--max-tokens", 900)
        os.truncate(path, 8192)
        assert models(d)["own"]["state"] == "stale"
        out, err = client.communicate(timeout=60)
        assert client.returncode == 1 and "written to or cut short" in err, (out, err)
        assert len(finish(neighbour)["tokens"]) == 900
        # What is there now is refused, each time with the reason in the log, until it is whole again.
        refused = "not loaded: model own: own.gguf: the tensor"
        wait_until(lambda: d.log().count(refused) == 1, "the log tells why")
        fails_once(d)
        wait_until(lambda: d.log().count(refused) == 2, "it was tried again")
        run_known(d, "--model", "tiny")
        overwrite(path, whole)
        fails_once(d)
        wait_until(lambda: models(d)["own"]["state"] == "ready", "it is opened anew")
        assert names(d) == ["own", "tiny"]
        run_known(d)
        # Another content of another size, while nobody uses it; the first request notices.
        overwrite(path, other)
        fails_once(d)
        wait_until(lambda: models(d)["own"]["architecture"] == "llama", "it is opened anew")
        assert d.run([5, 6, 7], "--max-tokens", 4, "--ignore-eog")["tokens"]
        # To load it again does it, too.
        overwrite(path, whole)
        d.moectl("load", "own=" + path)
        run_known(d)


def pages_of_a_file_that_others_share_vanish():
    with tempfile.TemporaryDirectory(prefix="moed-") as folder, \
            Daemon(model=shutil.copy(MODEL, os.path.join(folder, "first.gguf"))) as d:
        d.moectl("load", "second=" + MODEL)
        wait_until(lambda: models(d)["second"]["shared"], "they share")
        os.truncate(os.path.join(folder, "first.gguf"), 8192)
        fails_once(d, "--model", "second")
        wait_until(lambda: models(d)["second"]["state"] == "ready", "it is opened anew, and is its own")
        run_known(d, "--model", "second")


def mappings(pid):
    """Of files: (address, resident kB, inode and offset, path)."""
    out = []
    with open("/proc/%d/smaps" % pid) as f:
        for line in f:
            words = line.split()
            if "-" in words[0] and len(words) >= 5 and not words[0].endswith(":"):
                out.append([words[0], 0, (words[3], words[4], words[2]), " ".join(words[5:])])
            elif words[0] == "Rss:":
                out[-1][1] = int(words[1])
    return out


def rss(pid, path):
    return sum(m[1] for m in mappings(pid) if m[3] == path)


def two_names_of_one_file_share_it():
    with Daemon() as d:
        link = os.path.join(d.folder.name, "link.gguf")
        os.symlink(MODEL, link)
        d.moectl("load", "twin=" + link)
        run_known(d, "--model", "twin")
        run_known(d, "--model", "tiny")
        m = models(d)
        assert m["twin"]["file"] == link
        assert m["twin"]["shared"] == [{"model": "tiny", "bytes": m["tiny"]["shared"][0]["bytes"]}], m
        assert m["twin"]["shared"][0]["bytes"] > 0.5 * m["twin"]["size"], m
        assert len([x for x in mappings(d.pid()) if x[3] == MODEL]) == 1, "one mapping serves both"
        d.moectl("unload", "tiny")
        run_known(d, "--model", "twin")
        assert models(d)["twin"]["shared"] == []


def equal_tensors_of_two_files_share_pages():
    with open(MODEL, "rb") as f:
        data = bytearray(f.read())
    with Daemon() as d:
        path = os.path.join(d.folder.name, "tuned.gguf")
        data[-100] ^= 1  # somewhere in the last tensor
        with open(path, "wb") as f:
            f.write(data)
        alone = d.run(prompts()[1], "--ignore-eog", "--max-tokens", 900)["tokens"]
        client = d.start_run(prompts()[1], "--ignore-eog", "--max-tokens", 900)
        d.moectl("load", "tuned=" + path)
        shared = wait_until(lambda: models(d)["tuned"]["shared"], "what they share is found")
        assert shared[0]["model"] == "tiny" and models(d)["tiny"]["shared"][0]["bytes"] == shared[0]["bytes"]
        assert 0.5 * len(data) < shared[0]["bytes"] < len(data), shared
        assert "with tiny" in d.moectl("models").stdout
        own = d.run(prompts()[1], "--model", "tuned", "--ignore-eog", "--max-tokens", 900)["tokens"]
        assert finish(client)["tokens"] == alone
        # The first file's pages are where the second one's were.
        size = sum(int(b, 16) - int(a, 16) for a, b in
                   (m[0].split("-") for m in mappings(d.pid()) if m[3] == MODEL))
        assert size >= os.path.getsize(MODEL) + shared[0]["bytes"], (size, shared)
        # It lives on when the first one goes, and a third one finds the same pages.
        d.moectl("load", "third=" + path)
        d.moectl("unload", "tiny")
        assert d.run(prompts()[1], "--model", "tuned", "--ignore-eog", "--max-tokens", 900)["tokens"] == own
        d.moectl("load", "tiny=" + MODEL)
        wait_until(lambda: {s["model"] for s in models(d)["tiny"]["shared"]} == {"tuned", "third"}, "they share")
        run_known(d, "--model", "tiny")


def main():
    with Daemon() as d:
        whole = a_model_is_loaded_while_others_generate(d)
        what_is_replaced_ends_as_it_would_have(d, whole)
        an_unloaded_model_ends_what_it_has(d, whole)
        connections_go_on_when_the_default_is_replaced(d)
        the_last_one_may_go(d)
        a_bad_file_changes_nothing(d)
        others_may_not(d)
    drop_ins_and_reload()
    what_is_set_for_models_is_that_of_their_loading()
    a_file_that_was_replaced_is_seen_by_a_reload()
    an_idle_model_gives_its_memory_back_and_wakes()
    what_is_cut_while_it_is_idle_is_told()
    what_is_written_into_a_file_in_use_ends_its_own_requests_only()
    pages_of_a_file_that_others_share_vanish()
    two_names_of_one_file_share_it()
    equal_tensors_of_two_files_share_pages()


main()
