#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Start, reload, stop: what is wrong is refused with a sentence, what runs is not disturbed, what was begun is ended."""

import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from moedtest import HELPERS, MODEL, MOECTL, MOED, Daemon, finish, greedy, prompts, slowed, wait_until


def refused(*args, words, config=None, status=None, **kwargs):
    d = Daemon(*args, config=config or "", **kwargs)
    p = subprocess.run(d.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20, env=d.env)
    d.folder.cleanup()
    assert p.returncode == status if status else p.returncode != 0, (p.returncode, p.stdout)
    for word in words:
        assert word in p.stdout, (word, p.stdout)


def bad_starts_say_why():
    refused(words=["moed.conf:2", "KvMemory"], config="[Daemon]\nKvMemory=plenty\n", status=78)
    refused("--check-config", words=["moed.conf:2", "KvMemory"], config="[Daemon]\nKvMemory=plenty\n", status=78)
    refused("--threads", "0", words=["--threads=0"], status=64)
    refused("--nonsense", words=["nonsense"], status=64)
    refused(words=["/nowhere.gguf", "No such file"], model="/nowhere.gguf", status=65)
    with open(MODEL, "rb") as f:
        whole = f.read()
    for name, data in (("empty", b""), ("not", b"no model at all" * 100), ("cut", whole[:len(whole) // 2])):
        path = "/tmp/moed-%d-%s.gguf" % (os.getpid(), name)
        with open(path, "wb") as f:
            f.write(data)
        try:
            refused(words=["model tiny", os.path.basename(path)], model=path, status=65)
        finally:
            os.unlink(path)


def without_a_model_the_demo_model_serves():
    """In a build tree of its own, without and with that model."""
    with tempfile.TemporaryDirectory(prefix="moed-tree-") as tree:
        program = os.path.join(tree, "daemon/service/moed")
        os.makedirs(os.path.dirname(program))
        os.makedirs(os.path.join(tree, "daemon/demo"))
        shutil.copy(MOED, program)
        if not glob.glob("/usr/*/moed/demo.gguf") + glob.glob("/usr/local/*/moed/demo.gguf"):
            refused(words=["no model to serve"], model=None, status=78, program=program)
        shutil.copy(MODEL, os.path.join(tree, "daemon/demo/demo.gguf"))
        with Daemon(model=None, program=program) as d:
            assert [m["name"] for m in d.json("models")["models"]] == ["demo"]
            assert "serving the demo model, %s/daemon/demo/demo.gguf" % tree in d.log(), d.log()
            assert d.run(prompts()[0], "--max-tokens", 24, "--ignore-eog")["tokens"] == greedy()[0]
        # One that is named is the only one.
        with Daemon(program=program) as d:
            assert [m["name"] for m in d.json("models")["models"]] == ["tiny"]


def a_good_configuration_passes_the_check():
    d = Daemon("--check-config", config="[Budget default]\nExpertsMax=2\n")
    p = subprocess.run(d.command, stdout=subprocess.PIPE, text=True, timeout=20)
    d.folder.cleanup()
    assert p.returncode == 0 and "valid" in p.stdout, p.stdout


def one_daemon_per_socket(d):
    p = subprocess.run(d.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    assert p.returncode != 0 and "another daemon listens" in p.stdout, p.stdout
    d.run(prompts()[0], "--max-tokens", 1)


def weights_come_into_memory_by_themselves():
    def absent(pid):
        """KiB of the file that are not mapped yet."""
        inside, sizes = False, {"Size:": 0, "Rss:": 0}
        with open("/proc/%d/smaps" % pid) as f:
            for line in f:
                words = line.split()
                if not words[0].endswith(":"):
                    inside = line.rstrip().endswith("/large.gguf")
                elif inside and words[0] in sizes:
                    sizes[words[0]] += int(words[1])
        assert sizes["Size:"] > 0
        return sizes["Size:"] - sizes["Rss:"]

    with tempfile.TemporaryDirectory(prefix="moed-large-") as folder:
        path = os.path.join(folder, "large.gguf")
        shutil.copy(MODEL, path)
        os.truncate(path, os.path.getsize(path) + (20 << 20))  # more than is fetched at a time
        with Daemon(model=path) as d:
            wait_until(lambda: absent(d.process.pid) == 0, "all of the file is there, though nobody asked for anything")
            assert d.run(prompts()[0], "--max-tokens", 24, "--ignore-eog")["tokens"] == greedy()[0]
        # What does not fit is left alone.
        os.truncate(path, 1 << 42)
        with Daemon(model=path) as d:
            wait_until(lambda: "memory is short" in d.log(), "it is told that the file does not fit")
            assert absent(d.process.pid) > 1 << 30
            assert d.run(prompts()[0], "--max-tokens", 24, "--ignore-eog")["tokens"] == greedy()[0]


def weights_move_to_huge_pages_by_themselves():
    """On tmpfs, where it goes without a disk; the kernel tells how pages lie from Linux 6.7 on."""
    try:
        with open("/sys/kernel/mm/transparent_hugepage/shmem_enabled") as f:
            can = "[deny]" not in f.read() and tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 7)
    except OSError:
        can = False
    if not can or not os.path.ismount("/dev/shm"):
        print("not tested, needs Linux 6.7 with huge pages for tmpfs: weights in huge pages")
        return
    with tempfile.TemporaryDirectory(prefix="moed-huge-", dir="/dev/shm") as folder:
        path = os.path.join(folder, "large.gguf")
        shutil.copy(MODEL, path)
        with open(path, "ab", buffering=0) as f:
            for _ in range(2048):
                f.write(bytes(4096))
        with Daemon(model=path) as d:
            wait_until(lambda: "4 times 2 MiB were cached in small pages" in d.log(), "they lie in huge ones")
            assert d.run(prompts()[0], "--max-tokens", 24, "--ignore-eog")["tokens"] == greedy()[0]


def a_dead_daemons_socket_is_replaced():
    with Daemon() as d:
        d.process.kill()
        d.process.wait()
        assert os.path.exists(d.socket)
        d.start()
        d.run(prompts()[0], "--max-tokens", 1)
    assert not os.path.exists(d.socket)


def a_reload_changes_budgets_of_what_runs(d):
    client = d.start_run(prompts()[0], "--ignore-eog", "--max-tokens", 900)
    d.write_config("[Budget default]\nExpertsMax=1\n")
    d.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "configuration reloaded" in d.log(), "it has reloaded")
    finish(client)
    assert d.run(prompts()[0], "--max-tokens", 5, "--ignore-eog")["cap"] == 1
    d.write_config("[Budget default]\nExpertsMax=many\n")
    d.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the old one stays" in d.log(), "it has refused")
    assert d.run(prompts()[0], "--max-tokens", 5, "--ignore-eog")["cap"] == 1


def nobody_waits_for_names_but_the_reload():
    """Of a user whom a directory in the network knows, and that takes its time."""
    with tempfile.TemporaryDirectory(prefix="moed-names-") as folder:
        asked = os.path.join(folder, "asked")
        options = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        with Daemon(env={"LD_PRELOAD": os.path.join(HELPERS, "slow-names.so"), "MOED_TEST_ASKED": asked,
                         "ASAN_OPTIONS": options}) as d:
            d.write_config("[Budget uid:somebody]\nWeight=70\n")
            reload = d.spawn([MOECTL, "reload"])
            wait_until(lambda: os.path.exists(asked), "it asks for names")
            # Also what is saved meanwhile stays in force, though the reload has read what was there before.
            save = d.spawn([MOECTL, "budget", "set", "default", "Weight=50", "--save"])
            wait_until(lambda: weights(d).get("default") == "50", "it is in force")
            assert d.run(prompts()[0], "--max-tokens", 24, "--ignore-eog")["tokens"] == greedy()[0]
            assert reload.poll() is None
            os.rmdir(asked)
            finish(reload)
            finish(save)
            assert weights(d) == {"uid:somebody": "70", "default": "50"}, weights(d)


def weights(d):
    return {rule["principal"]: key["value"] for rule in d.json("budget")["rules"] for key in rule["keys"]}


def termination_drains(d):
    with slowed(d.process):
        client = d.helper("load", "-n", 900, "-r", 8)
        wait_until(lambda: d.stats()["streams_running"] == 8, "all run")
        d.process.send_signal(signal.SIGTERM)
    got = finish(client)
    assert got["requests"] == 8 and got["tokens"] == 8 * 900, got
    assert d.process.wait(10) == 0


def a_client_that_does_not_read_does_not_hold_up_the_end():
    with Daemon() as d:
        client = d.helper("stall", 900, stdin=-1)
        wait_until(lambda: d.stats()["stalls"] > 0, "its ring is full")
        begin = time.monotonic()
        d.process.send_signal(signal.SIGTERM)
        assert d.process.wait(10) == 0
        assert time.monotonic() - begin < 8
        client.kill()
        client.communicate()


def a_second_signal_ends_at_once():
    with Daemon() as d:
        client = d.helper("load", "-n", 900, "-r", 4, "-d", 60)
        wait_until(lambda: d.stats()["streams_running"] > 0, "they run")
        d.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping when" in d.log(), "it drains")
        begin = time.monotonic()
        d.process.send_signal(signal.SIGTERM)
        assert d.process.wait(10) == 0
        assert time.monotonic() - begin < 5
        out, err = client.communicate(timeout=10)
        assert client.returncode != 0 and "stop" in err, err


def other_versions_are_refused(d):
    """A hello of version 999, byte by byte: a map of verb, id and version."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(d.socket)
        s.settimeout(5)
        s.send(b"\x83\xa4verb\xa5hello\xa2id\x01\xa7version\xcd\x03\xe7")
        reply = s.recv(65536)
    assert b"error" in reply and b"speaks version 999" in reply and b"version 1" in reply, reply


def hello_comes_first(d):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(d.socket)
        s.settimeout(5)
        s.send(b"\x82\xa4verb\xa5stats\xa2id\x01")
        assert b"first message must be hello" in s.recv(65536)


def main():
    bad_starts_say_why()
    without_a_model_the_demo_model_serves()
    a_good_configuration_passes_the_check()
    weights_come_into_memory_by_themselves()
    weights_move_to_huge_pages_by_themselves()
    a_dead_daemons_socket_is_replaced()
    with Daemon() as d:
        one_daemon_per_socket(d)
        other_versions_are_refused(d)
        hello_comes_first(d)
        a_reload_changes_budgets_of_what_runs(d)
        termination_drains(d)
    a_client_that_does_not_read_does_not_hold_up_the_end()
    a_second_signal_ends_at_once()
    nobody_waits_for_names_but_the_reload()


main()
