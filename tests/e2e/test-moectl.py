#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What moectl(1) promises to people and to scripts: exit codes, one JSON object, Ctrl-C, pipes that close."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time

from moedtest import MOECTL, SOURCE, Daemon, finish, greedy, join, prompts, wait_until

USAGE, DATAERR, UNAVAILABLE, IOERR, TEMPFAIL, NOPERM = 64, 65, 69, 74, 75, 77
VERBS = ("run", "chat", "score", "models", "load", "unload", "ps", "cancel", "stats", "top", "budget", "explain", "tokenize",
         "bench", "inspect", "calibrate", "convert", "doctor", "reload")


def alone(*args, **kwargs):
    """moectl without a daemon."""
    env = {**os.environ, "MOED_SOCKET": "/nonexistent/moed.sock"}
    return subprocess.run([MOECTL, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, **kwargs)


def help_is_everywhere_and_needs_no_daemon():
    p = alone("--help")
    assert p.returncode == 0 and p.stderr == ""
    for verb in VERBS:
        assert verb in p.stdout
        p2 = alone(verb, "--help")
        assert p2.returncode == 0 and p2.stdout.startswith("usage: moectl %s" % verb) and p2.stderr == "", verb
    p = alone("--version")
    assert p.returncode == 0 and p.stdout.startswith("moectl ")


def manual_has_every_option_and_no_other():
    with open(os.path.join(SOURCE, "man/moectl.1")) as f:
        manual = set(re.findall(r"Fl (?:\w , )?-([a-z][a-z-]+)", f.read()))
    program = set()
    for args in (("--help",), *((verb, "--help") for verb in VERBS)):
        program |= set(re.findall(r"^ .{5}--([a-z-]+)", alone(*args).stdout, re.M))
    assert manual == program, manual ^ program


def mistakes_are_exit_code_64():
    for args in ((), ("nope",), ("run",), ("run", "--nope", "x"), ("run", "--temp", "hot", "x"), ("run", "--temp", "nan", "x"),
                 ("run", "--max-tokens", "-1", "x"), ("run", "--tokens", "1,,2"), ("run", "--tokens", "1", "x"), ("run", "--tokens", "1", "--chat"), ("score",), ("score", "--tokens", "1,2", "x"),
                 ("run", "--experts", "-1", "x"), ("run", "--seed"), ("models", "x"), ("budget", "set"), ("budget", "sing"),
                 ("budget", "set", "uid:0", "Weight"), ("budget", "set", "uid:0", "=1"), ("budget", "reset"),
                 ("budget", "show", "uid:0", "x"), ("tokenize",), ("tokenize", "--decode", "1", "x"),
                 ("bench", "--clients", "0"), ("cancel",), ("cancel", "x"), ("cancel", "1", "-2")):
        p = alone(*args)
        assert p.returncode == USAGE and p.stdout == "" and "--help" in p.stderr, (args, p.returncode, p.stderr)


def no_daemon_is_exit_code_69():
    for args in (("run", "x"), ("chat",), ("score", "x"), ("models",), ("ps",), ("cancel", "1"), ("stats",), ("budget",), ("tokenize", "x"), ("bench",)):
        p = alone(*args)
        assert p.returncode == UNAVAILABLE and p.stdout == "", (args, p.returncode)
        assert "/nonexistent/moed.sock" in p.stderr and "doctor" in p.stderr, p.stderr
    p = alone("doctor")
    assert p.returncode == 1 and "missing  daemon" in p.stdout, p.stdout
    p = alone("doctor", "--json")
    assert p.returncode == 1
    report = json.loads(p.stdout)
    assert not report["healthy"]
    daemon = [c for c in report["checks"] if c["name"] == "daemon"][0]
    assert daemon["status"] == "missing" and daemon["remedy"]


def run_json_is_one_object_with_every_figure(d):
    p = d.moectl("run", "--json", "--tokens", join(prompts()[0]), "--max-tokens", 24, "--ignore-eog")
    assert p.stdout.count("\n") == 1
    got = json.loads(p.stdout)
    assert got["tokens"] == greedy()[0]
    n = len(got["tokens"])
    assert len(got["experts"]) == n and len(got["logprobs"]) == n
    model = d.json("models")["models"][0]
    assert got["experts"] == [model["experts_used"]] * n
    rows = n + len(prompts()[0]) - 1  # the last token is never put in
    assert got["activations"] == rows * model["moe_layers"] * model["experts_used"]
    assert all(x <= 0 for x in got["logprobs"])
    assert got["cap"] == model["experts_used"] and got["prompt_tokens"] == len(prompts()[0])
    assert got["ttft_ms"] > 0 and got["tokens_per_second"] > 0 and got["model"] == model["name"]
    assert isinstance(got["text"], str) and got["finish"] == "length"


def cap_shows_in_the_figures(d):
    got = d.run(prompts()[0], "--max-tokens", 8, "--experts", 1, "--ignore-eog")
    assert got["cap"] == 1 and got["experts"] == [1] * 8


def text_is_the_same_with_and_without_json(d):
    for args in (("--max-tokens", 12, "once"), ("--max-tokens", 30, "--ignore-eog", "--temp", 2, "--seed", 3, "a b c")):
        text = d.json("run", *args)["text"]
        p = subprocess.run([MOECTL, "run", *map(str, args)], env=d.env, stdout=subprocess.PIPE)
        assert p.returncode == 0 and p.stdout.decode(errors="replace") == text, (p.stdout, text)


def prompt_comes_from_operands_or_standard_input(d):
    words = d.json("run", "--max-tokens", 5, "one", "two")
    assert words["prompt_tokens"] == d.json("run", "--max-tokens", 5, "one two")["prompt_tokens"]
    assert d.json("run", "--max-tokens", 5, "-", input="one two")["tokens"] == words["tokens"]
    p = d.moectl("run", "--json", "--max-tokens", 5, "--", "one two")
    assert json.loads(p.stdout)["tokens"] == words["tokens"]


def wrong_model_name_is_told_with_the_right_ones(d):
    p = d.moectl("run", "-m", "gpt", "x", check=False)
    assert p.returncode == USAGE and "gpt" in p.stderr and "tiny" in p.stderr and p.stdout == "", p.stderr


def too_long_is_exit_code_65(d):
    context = d.json("models")["models"][0]["context"]
    p = d.moectl("run", "--tokens", join([5] * (context + 1)), check=False)
    assert p.returncode == DATAERR and str(context) in p.stderr, (p.returncode, p.stderr)
    # Longer than the arena that a connection has by default.
    p = d.moectl("run", "-", check=False, input="a " * 1500000)
    assert p.returncode == DATAERR and p.stdout == "", (p.returncode, p.stderr)


def tokenize_and_back(d):
    text = "Hello, world!  \u00e4\u20ac\n"
    ids = d.json("tokenize", "--no-bos", "-", input=text)["tokens"]
    assert d.json("tokenize", "--decode", join(ids))["text"] == text
    assert d.moectl("tokenize", "--decode", join(ids)).stdout == text
    assert d.moectl("tokenize", "--no-bos", "-", input=text).stdout == join(ids) + "\n"
    assert len(d.moectl("tokenize", "--no-bos", "-p", "-", input=text).stdout.splitlines()) == len(ids)


def tables_and_json_agree(d):
    for verb in ("models", "ps", "stats", "budget"):
        reply = d.json(verb)
        lines = d.moectl(verb).stdout.splitlines()
        rows = len(reply) if verb == "stats" else len(list(reply.values())[0])
        assert len(lines) == rows + 1, (verb, lines, reply)


def doctor_is_content_with_a_daemon(d):
    p = d.moectl("doctor", check=False)
    assert "ok       daemon" in p.stdout and "default tiny" in p.stdout, p.stdout


def bench_measures_each_client(d):
    got = d.json("bench", "--clients", 3, "--max-tokens", 16, "--prompt-tokens", 9)
    assert got["clients"] == 3 and got["tokens"] == 48
    assert got["ttft_ms_p95"] >= got["ttft_ms_p50"] > 0 and got["inter_token_ms_p95"] >= got["inter_token_ms_p50"] > 0
    assert 1 <= got["rows_per_batch"] <= 27 and got["tokens_per_second"] > 0
    assert d.moectl("bench", "-c", 1, "-n", 4).returncode == 0


def a_speed_is_told_of_answers_that_have_one(d):
    for n, told in ((1, False), (2, False), (7, False), (8, True)):
        p = d.moectl("run", "--tokens", "1,2,3", "--ignore-eog", "--max-tokens", n, "--stats", errors="replace")
        assert " %d tokens" % n in p.stderr and ("tokens/s" in p.stderr) == told, p.stderr


def budgets_are_set_and_reset(d):
    me = "uid:%d" % os.getuid()
    d.moectl("budget", "set", me, "ExpertsMax=1.5", "weight=300")
    rules = [b for b in d.json("budget")["budgets"] if b["principal"] == me]
    assert rules and rules[0]["experts_max_milli"] == 1500 and rules[0]["weight"] == 300, rules
    assert d.run(prompts()[0], "--max-tokens", 4)["cap"] == 1.5
    # A request may ask for less and never gets more.
    assert d.run(prompts()[0], "--max-tokens", 4, "--experts", 1)["cap"] == 1
    assert d.run(prompts()[0], "--max-tokens", 4, "--experts", 2)["cap"] == 1.5
    d.moectl("budget", "reset", me)
    assert d.run(prompts()[0], "--max-tokens", 4)["cap"] > 1.5
    # Names are this side's affair.
    for name, number in (("uid:root", "uid:0"), ("gid:root", "gid:0")):
        d.moectl("budget", "set", name, "Weight=200")
        assert [r["principal"] for r in d.json("budget", "show", name)["rules"]] == [number]
        d.moectl("budget", "reset", name)
    for what in (("uid:no-such-user-here", "Weight=1"), ("gid:no-such-group-here", "Weight=1"), ("nobody", "Weight=1"),
                 (me, "Weight=x"), (me, "Weight=1.5"), (me, "Weight=2", "Colour=red"), (me, "Class=best"),
                 (me, "Weight=" + 99 * "1")):
        p = d.moectl("budget", "set", *what, check=False)
        assert p.returncode == USAGE and p.stderr, (what, p.returncode, p.stderr)
    assert "known are ExpertsMax, ExpertsMin, " in d.moectl("budget", "set", me, "Colour=red", check=False).stderr
    assert not d.json("budget")["rules"]


def every_key_of_a_budget_is_shown_with_its_rule(d):
    me = "uid:%d" % os.getuid()
    values = {"ExpertsMax": "1.500", "ExpertsMin": "1", "Weight": "300", "Class": "batch", "LatencyTarget": "80ms",
              "ActivationRate": "1000000", "ActivationBurst": "5000000", "OnEmpty": "wait", "Adaptive": "no",
              "KvMax": "64M", "QueueMax": "7", "SessionMax": "1G"}
    defaults = {key["key"]: key["value"] for key in d.json("budget", "show", me)["budgets"][0]["keys"]}
    assert set(defaults) == set(values) and defaults["ExpertsMax"] == "infinity" and defaults["Adaptive"] == "yes"
    d.moectl("budget", "set", me, *("%s=%s" % pair for pair in values.items()))
    budget, = d.json("budget", "show", me)["budgets"]
    assert {key["key"]: key["value"] for key in budget["keys"]} == values
    assert {(key["rule"], key["source"]) for key in budget["keys"]} == {(me, "moectl budget set")}
    assert "budget of %s: SessionMax=1G: without effect, " % me in d.log()
    assert budget["kv_max"] == 64 << 20 and budget["latency_target_nsec"] == 80000000 and budget["adaptive"] == 0
    shown = d.moectl("budget", "show", me).stdout
    for key, value in values.items():
        assert re.search(r"%s +%s +%s +moectl budget set" % (key, re.escape(value), me), shown), shown
    d.moectl("budget", "reset", me)
    assert {key["key"]: key["value"] for key in d.json("budget", "show", me)["budgets"][0]["keys"]} == defaults


def endless(d, **kwargs):
    """A run of as many tokens as the context has room for, which has begun."""
    return subprocess.Popen([MOECTL, "run", "--ignore-eog", "--temp", "1.5", "--tokens", "5"], env=d.env,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


def interrupt(d, number, status):
    """Whether the signal came before the run's own end."""
    p = endless(d)
    assert p.stdout.read(1)
    p.send_signal(number)
    out, err = p.communicate(timeout=20)
    assert p.returncode in (status, 0), (p.returncode, err)
    assert err == b"", err
    return p.returncode == status


def ctrl_c_cancels_the_request_and_not_the_daemon(d):
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        cancelled = d.stats()["requests_cancelled"]
        assert any(interrupt(d, number, status) for _ in range(20))
        wait_until(lambda: d.stats()["requests_cancelled"] > cancelled, "the daemon counts it")
    assert d.process.poll() is None
    wait_until(lambda: d.stats()["streams"] == 0, "no stream is left")


def ctrl_c_with_json_prints_what_there_was(d):
    # With neighbours it takes long enough to be interrupted.
    requests = d.stats()["requests"]
    neighbours = [endless(d) for _ in range(8)]
    wait_until(lambda: d.stats()["requests"] == requests + 8, "the neighbours' requests")
    p = d.spawn([MOECTL, "run", "--json", "--ignore-eog", "--temp", "1.5", "--tokens", join(prompts()[3])])
    wait_until(lambda: d.stats()["requests"] == requests + 9, "the request")
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=20)
    assert p.returncode in (0, 130) and err == "", (p.returncode, err)
    got = json.loads(out)
    assert got["finish"] == ("cancelled" if p.returncode == 130 else "length")
    for n in neighbours:
        n.kill()
        n.communicate()
    wait_until(lambda: d.stats()["streams"] == 0, "no stream is left")


def reader_that_leaves_ends_the_run_quietly(d):
    p = endless(d)
    assert p.stdout.read(1)
    p.stdout.close()
    assert p.wait(20) in (-signal.SIGPIPE, 0)
    assert p.stderr.read() == b""
    wait_until(lambda: d.stats()["streams"] == 0, "no stream is left")


def full_disk_is_exit_code_74(d):
    with open("/dev/full", "w") as full:
        for args in (("run", "--max-tokens", "4", "x"), ("run", "--json", "--max-tokens", "4", "x"), ("models",), ("--help",),
                     ("stats", "--json"), ("tokenize", "x"), ("doctor",)):
            p = subprocess.run([MOECTL, *args], env=d.env, stdout=full, stderr=subprocess.PIPE, text=True)
            assert p.returncode == IOERR and "standard output" in p.stderr, (args, p.returncode, p.stderr)


def run_chat_asks_as_chat_does(d):
    (asked,) = map(json.loads, d.moectl("chat", "--json", "--max-tokens", 4, "--system", "be", input="one\n").stdout.splitlines())
    got = d.json("run", "--max-tokens", 4, "--system", "be", "one")
    assert (got["tokens"], got["prompt_tokens"]) == (asked["tokens"], asked["prompt_tokens"])
    assert d.json("run", "--chat", "--max-tokens", 4, "one")["prompt_tokens"] < got["prompt_tokens"]
    # The test's model has no template.
    p = d.moectl("run", "--chat", "--max-tokens", 1, "one")
    assert "no chat template" in p.stderr and "no chat template" not in d.moectl("run", "--max-tokens", 1, "one").stderr


def chat_remembers_and_forgets(d):
    p = d.moectl("chat", "--json", "--max-tokens", 4, input="one\ntwo\n/reset\none\n/quit\nnot read\n")
    first, second, again = map(json.loads, p.stdout.splitlines())
    assert second["prompt_tokens"] > first["prompt_tokens"] + 4
    assert again["prompt_tokens"] == first["prompt_tokens"] and again["tokens"] == first["tokens"]


def on_terminal(d, *args):
    """moectl with a terminal for all three."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(MOECTL, [MOECTL, *map(str, args)], {**d.env, "TERM": "xterm"})
    return pid, fd


def read_until(fd, words, seconds=20):
    data, end = b"", time.monotonic() + seconds
    while words not in data:
        assert time.monotonic() < end, "no %r in %r" % (words, data)
        if select.select([fd], [], [], 0.1)[0]:
            try:
                part = os.read(fd, 4096)
            except OSError:
                part = b""
            assert part, "ended without %r: %r" % (words, data)
            data += part
    return data


def exit_status(pid):
    ended = []

    def look():
        ended[:] = os.waitpid(pid, os.WNOHANG)
        return ended[0] == pid

    try:
        wait_until(look, "moectl ends")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return os.waitstatus_to_exitcode(ended[1])


def chat_on_a_terminal_leaves_at_the_second_ctrl_c(d):
    pid, fd = on_terminal(d, "chat", "--max-tokens", 3)
    read_until(fd, b"> ")
    os.write(fd, b"hello\n")
    read_until(fd, b"> ")
    os.write(fd, b"\x03")
    read_until(fd, b"Once more")
    os.write(fd, b"\x03")
    assert exit_status(pid) == 130
    os.close(fd)


def text_on_a_terminal_ends_its_line(d):
    pid, fd = on_terminal(d, "run", "--max-tokens", 3, "--ignore-eog", "x")
    data = b""
    while True:
        try:
            part = os.read(fd, 4096)
        except OSError:
            break
        if not part:
            break
        data += part
    assert exit_status(pid) == 0 and data.endswith(b"\n"), data
    os.close(fd)


def daemon_that_dies_is_exit_code_75():
    with Daemon() as d:
        p = d.spawn([MOECTL, "chat"], stdin=subprocess.PIPE, errors="replace")
        p.stdin.write("one\n")
        p.stdin.flush()
        wait_until(lambda: d.stats()["requests_done"] > 0, "the first answer")
        d.process.kill()
        d.process.wait()
        d.process = None
        out, err = p.communicate("two\n", timeout=20)
        assert p.returncode == TEMPFAIL and "moed is gone" in err, (p.returncode, err)


help_is_everywhere_and_needs_no_daemon()
manual_has_every_option_and_no_other()
mistakes_are_exit_code_64()
no_daemon_is_exit_code_69()
with Daemon() as daemon:
    for test in (run_json_is_one_object_with_every_figure, cap_shows_in_the_figures, text_is_the_same_with_and_without_json,
                 prompt_comes_from_operands_or_standard_input, wrong_model_name_is_told_with_the_right_ones,
                 too_long_is_exit_code_65, tokenize_and_back, tables_and_json_agree, doctor_is_content_with_a_daemon,
                 bench_measures_each_client, a_speed_is_told_of_answers_that_have_one, budgets_are_set_and_reset,
                 every_key_of_a_budget_is_shown_with_its_rule, ctrl_c_cancels_the_request_and_not_the_daemon,
                 ctrl_c_with_json_prints_what_there_was, reader_that_leaves_ends_the_run_quietly, full_disk_is_exit_code_74,
                 run_chat_asks_as_chat_does, chat_remembers_and_forgets, chat_on_a_terminal_leaves_at_the_second_ctrl_c,
                 text_on_a_terminal_ends_its_line):
        test(daemon)
        print("ok", test.__name__)
daemon_that_dies_is_exit_code_75()
print("ok daemon_that_dies_is_exit_code_75")
