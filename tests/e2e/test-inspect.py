#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What `moectl inspect`, `doctor MODEL` and `convert` promise: a file is described without a daemon, a bad one is refused in one
sentence, what is forecast is what the daemon then takes, and what is converted is complete or not there."""

import json
import os
import struct
import subprocess
import sys
import tempfile

from moedtest import MOECTL, MODEL, MOED, SOURCE, Daemon, finish, join, prompts

USAGE, DATAERR, NOINPUT, UNAVAILABLE, CANTCREAT = 64, 65, 66, 69, 73
MAKE_MODEL = os.path.join(SOURCE, "tests/lib/make-model.py")


def moectl(*args, status=0, **env):
    p = subprocess.run([MOECTL, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60,
                       env={**os.environ, "MOED_DAEMON": MOED, "MOED_SOCKET": "/nonexistent/moed.sock", **env})
    assert p.returncode == status, (args, p.returncode, p.stderr)
    return p


def inspect(path, *args, **env):
    return json.loads(moectl("inspect", path, "--json", *args, **env).stdout)


def file_is_described():
    got = inspect(MODEL)
    with open(MODEL, "rb") as f:
        assert got["file_bytes"] == len(f.read())
    assert got["architecture"] == "olmoe" and got["supported"] and got["why_not"] == ""
    assert got["experts"] > got["experts_used"] > 0 and got["layers"] > 0 and got["tokenizer"] == "gpt2"
    assert sum(t["parameters"] for t in got["types"]) == got["parameters"]
    assert sum(t["bytes"] for t in got["types"]) == got["weight_bytes"] < got["file_bytes"]
    assert got["machine"]["fits"] == "yes" and got["machine"]["bytes_per_second"] > 1e8
    text = moectl("inspect", MODEL).stdout
    for word in ("olmoe", "supported      yes", "per 1,000 tokens", "estimate", "chat template"):
        assert word in text, text


def options_reach_the_forecast():
    f16, f32 = (inspect(MODEL, "--kv-type", kind, "--context", 64)["forecast"] for kind in ("f16", "f32"))
    budgets = 1000 * 8 * inspect(MODEL)["layers"]  # what a layer with experts keeps of a token beside its keys and values
    assert f32["kv_per_1000_tokens"] - budgets == 2 * (f16["kv_per_1000_tokens"] - budgets) and f32["context"] == 64
    assert f32["kv"] * 1000 == f32["kv_per_1000_tokens"] * 64
    assert f16["kv_type"] == "F16" and f32["kv_type"] == "F32"


def type_of_keys_and_values_is_told_by_its_name():
    auto, bf16 = inspect(MODEL)["forecast"], inspect(MODEL, "--kv-type", "bf16")["forecast"]
    assert auto["kv_type"] in ("F16", "BF16") and bf16["kv_type"] == "BF16" and auto["kv"] == bf16["kv"]
    assert inspect(MODEL, "--kv-type", "auto")["forecast"]["kv_type"] == auto["kv_type"]
    assert inspect(MODEL, MOED_ISA="c")["forecast"]["kv_type"] == "F16"
    assert "per 1,000 tokens as " + auto["kv_type"] in moectl("inspect", MODEL).stdout
    p = moectl("inspect", MODEL, "--kv-type", "q8", status=USAGE)
    assert "--kv-type=q8: auto, f16, bf16 or f32 is allowed" in p.stderr, p.stderr


def changed(at, old, new):
    """The model's bytes with one stretch replaced."""
    with open(MODEL, "rb") as f:
        data = f.read()
    at = data.index(old) if at is None else at
    return data[:at] + new + data[at + len(old):]


def hostile_files_are_refused_in_one_sentence(folder):
    path = os.path.join(folder, "bad\x1b[2J.gguf")
    with open(MODEL, "rb") as f:
        whole = f.read()
    for data in (b"", b"GGUF", b"hello", whole[:1000], whole[:-1], changed(8, whole[8:16], b"\xff" * 8),
                 changed(16, whole[16:24], b"\xff" * 8)):
        with open(path, "wb") as f:
            f.write(data)
        for verb in ("inspect", "doctor"):
            p = moectl(verb, path, status=DATAERR)
            assert p.stdout == "" and p.stderr.count("\n") == 1 and "\x1b" not in p.stderr, p.stderr
    moectl("inspect", folder, status=DATAERR)
    moectl("inspect", "/nonexistent", status=NOINPUT)
    moectl("inspect", status=USAGE)
    moectl("inspect", MODEL, MODEL, status=USAGE)


def unsupported_is_named(folder):
    path = os.path.join(folder, "unknown.gguf")
    with open(path, "wb") as f:
        f.write(changed(None, b"olmoe", b"\x1b[31m"))
    got = inspect(path)
    assert not got["supported"] and "unknown architecture" in got["why_not"] and "known are" in got["why_not"]
    p = moectl("inspect", path)
    assert "supported      no: " in p.stdout and "\x1b" not in p.stdout
    assert "missing  model" in moectl("doctor", path, status=1).stdout


def daemon_that_is_missing_is_named():
    p = moectl("inspect", MODEL, status=UNAVAILABLE, MOED_DAEMON="/nonexistent/moed")
    assert "/nonexistent/moed" in p.stderr and "MOED_DAEMON" in p.stderr
    moectl("doctor", MODEL, status=UNAVAILABLE, MOED_DAEMON="/nonexistent/moed")


def converted_model_serves(folder):
    path = os.path.join(folder, "q8.gguf")
    moectl("convert", "--type", "q8_0", MODEL, path)
    got = inspect(path)
    assert got["supported"] and "Q8_0" in [t["type"] for t in got["types"]] and got["file_bytes"] < os.path.getsize(MODEL)
    with Daemon(model=path) as d:
        assert len(d.run([5, 6, 7], "--max-tokens", 8, "--ignore-eog")["tokens"]) == 8
    p = moectl("convert", "--type", "F32", MODEL, path, status=CANTCREAT)
    assert "--force" in p.stderr and inspect(path)["file_bytes"] == got["file_bytes"]
    moectl("convert", "--force", "-t", "F32", MODEL, path)
    with open(path, "rb") as a, open(MODEL, "rb") as b:
        assert a.read() == b.read()
    assert os.listdir(folder).count("q8.gguf") == 1 and not [x for x in os.listdir(folder) if x.startswith("q8.gguf.")]


def with_capacity(path, factor, window):
    """The model, and a capacity of its experts. So much more metadata leaves what comes behind aligned."""
    def pair(key, kind, value):
        return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value

    more = (pair(b"olmoe.expert_capacity_factor", 6, struct.pack("<f", factor)) +
            pair(b"olmoe.expert_capacity_window", 4, struct.pack("<I", window)) + pair(b"x" * 27, 7, b"\1"))
    assert len(more) == 128
    with open(MODEL, "rb") as model, open(path, "wb") as out:
        head, n, rest = model.read(16), struct.unpack("<Q", model.read(8))[0], model.read()
        out.write(head + struct.pack("<Q", n + 3) + more + rest)
    return path


def capacity_is_told_and_kept_whatever_the_company(folder):
    path, args = os.path.join(folder, "capacity.gguf"), ("--max-tokens", 40, "--ignore-eog")
    got = inspect(with_capacity(path, float("nan"), 24))
    assert not got["supported"] and "expert_capacity_factor is not a finite number" in got["why_not"], got["why_not"]
    got = inspect(with_capacity(path, 1.25, 24))
    assert got["supported"] and got["expert_capacity_factor"] == 1.25 and got["expert_capacity_window"] == 24
    assert "1.25 times its share of each 24 tokens" in moectl("inspect", path).stdout
    assert inspect(MODEL)["expert_capacity_window"] == 0
    with Daemon() as d:
        free = d.run(prompts()[2], *args)
    with Daemon(model=path) as d:
        alone = d.run(prompts()[2], *args)
        crowd = [d.start_run(p, *args) for p in [prompts()[1], *prompts()[2:]] * 2]
        beside = [finish(p) for p in crowd][1]
        rider = d.run(prompts()[2], *args, "--piggyback", 1)
    assert alone["logprobs"] != free["logprobs"]
    assert beside["tokens"] == alone["tokens"] and beside["logprobs"] == alone["logprobs"]
    assert rider["piggyback_tokens"] == 0 and rider["logprobs"] == alone["logprobs"]


def mistakes_in_a_conversion_are_told(folder):
    new = os.path.join(folder, "new.gguf")
    p = moectl("convert", "--type", "Q4_K", MODEL, new, status=USAGE)
    assert "Q8_0" in p.stderr
    moectl("convert", MODEL, new, status=USAGE)
    moectl("convert", "--type", "F16", MODEL, status=USAGE)
    moectl("convert", "--type", "F16", "/nonexistent", new, status=NOINPUT)
    moectl("convert", "--type", "F16", __file__, new, status=DATAERR)
    moectl("convert", "--type", "F16", MODEL, "/nonexistent/new.gguf", status=NOINPUT)
    assert not os.path.exists(new)


def resident(pid):
    with open("/proc/%d/smaps_rollup" % pid) as f:
        return sum(int(line.split()[1]) * 1024 for line in f if line.startswith("Rss:"))


def forecast_is_what_the_daemon_takes(folder):
    path = os.path.join(folder, "small.gguf")
    subprocess.run([sys.executable, MAKE_MODEL, "small", path], check=True)
    # Meson has the allocator fill what it hands out, also what the daemon would never touch.
    env = {"MOED_DAEMON": MOED, "MALLOC_PERTURB_": "0"}
    forecast = inspect(path, "--context", 1024)["forecast"]
    assert forecast["context"] == 1024
    # Pages for one context, as is forecast; what is kept of earlier prompts has no more. And on no machine are prompts of a
    # thousand tokens so quick that they need no long passes.
    config = "[Daemon]\nKvMemory=%d\nPromptRowsMax=64\n" % forecast["kv"]
    with Daemon("--context", 1024, model=path, kv_type="auto", config=config, env=env) as d:
        # A prompt for each of the long passes, which take turns, and several for short ones.
        for factor in (7919, 6229, 4801, 3557):
            d.run([i * factor % 8000 for i in range(1000)], "--max-tokens", 24, "--ignore-eog", timeout=110)
        for p in [d.start_run([(i * 6007 + n) % 8000 for i in range(60)], "--max-tokens", 24) for n in range(4)]:
            finish(p)
        real = resident(d.pid())
        assert abs(real / forecast["total"] - 1) < 0.05, (real, forecast)
        print("resident %d, forecast %d: %.2f %%" % (real, forecast["total"], 100 * real / forecast["total"]))
        # By the daemon's name for it; this forecast is for the model's own context.
        report = json.loads(d.moectl("doctor", "tiny", "--json", check=False).stdout)
        assert report["model"] == path and report["forecast"]["weights"] == forecast["weights"]
        assert report["forecast"]["kv"] == 4 * forecast["kv"]
        assert "KV" in [c["name"] for c in report["checks"]]


file_is_described()
options_reach_the_forecast()
type_of_keys_and_values_is_told_by_its_name()
daemon_that_is_missing_is_named()
with tempfile.TemporaryDirectory(prefix="moed-") as temporary:
    hostile_files_are_refused_in_one_sentence(temporary)
    unsupported_is_named(temporary)
    converted_model_serves(temporary)
    mistakes_in_a_conversion_are_told(temporary)
    capacity_is_told_and_kept_whatever_the_company(temporary)
    if not os.environ.get("MOED_TEST_SANITIZED"):
        forecast_is_what_the_daemon_takes(temporary)
