#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What `moectl calibrate` promises: a file beside the model that the daemon takes up, that keeps every budget, and that is
refused beside another model."""

import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time

from moedtest import MODEL, MODEL_DIR, MOECTL, MOED, Daemon, wait_until

OTHER = os.path.join(os.path.dirname(MODEL_DIR), "mixtral", "model.gguf")
USAGE, DATAERR, NOINPUT, CANTCREAT = 64, 65, 66, 73
TEXT = "".join("The %d brown foxes jump over %d lazy dogs, who sleep in row %d.\n" % (i, i * i, i % 7) for i in range(2, 200))


def start(*args):
    return subprocess.Popen([MOECTL, "calibrate", *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "MOED_DAEMON": MOED})


def calibrate(*args, status=0, text=None):
    p = start(*args)
    out, err = p.communicate(text, timeout=100)
    assert p.returncode == status, (args, p.returncode, err)
    assert status == 0 or out == "" and err.count("\n") >= 1, (out, err)
    return out


def copy_of(folder, name, model=MODEL):
    path = os.path.join(folder, name + ".gguf")
    shutil.copy(model, path)
    return path, os.path.join(folder, name + ".calibration.gguf")


def check_lines(got):
    lines, layers, used = got["shares"], got["moe_layers"], got["experts_used"]
    assert len(lines) == len(got["error"]) == 8 * (used - 1) + 1
    for i, (shares, errors) in enumerate(zip(lines, got["error"])):
        assert len(shares) == len(errors) == layers
        assert all(1 <= s <= used for s in shares) and sum(shares) == layers * (1 + i / 8), shares
        planned = sum(got["error"][round(8 * s) - 8][l] for l, s in enumerate(shares))
        assert planned <= sum(errors) * (1 + 1e-6) + 1e-12
    assert max(got["error"][-1]) < 1e-9 < min(got["error"][0])


def a_calibration_is_written_beside_the_model(folder, text):
    model, side_car = copy_of(folder, "first")
    got = json.loads(calibrate(model, "--text", text, "--tokens", 600, "--json"))
    check_lines(got)
    assert 256 <= got["tokens"] <= 600 and "predictor" not in got
    assert os.listdir(folder).count("first.calibration.gguf") == 1
    with open(side_car, "rb") as f:
        assert f.read(8) == b"GGUF" + struct.pack("<I", 3)
    before = os.stat(side_car)
    calibrate(model, "--text", text, status=CANTCREAT)
    assert os.stat(side_car).st_mtime_ns == before.st_mtime_ns
    again = json.loads(calibrate(model, "--text", "-", "--tokens", 600, "--force", "--json", text=TEXT))
    assert again["shares"] == got["shares"], "the same text gives the same plan"
    learnt = json.loads(calibrate(model, "--text", text, "--tokens", 600, "--predictor", "--force", "--json"))
    check_lines(learnt)
    assert learnt["predictor"]["explained"] <= 1
    shown = calibrate(model, "--text", text, "--tokens", 600, "--out", os.path.join(folder, "elsewhere"))
    for word in ("experts per token, mean", "layer with experts 0", "error, layers alike", "error, as planned"):
        assert word in shown, shown
    return model, side_car


def mistakes_are_told(folder, text):
    model, side_car = copy_of(folder, "mistaken")
    calibrate(model, status=USAGE)
    calibrate("--text", text, status=USAGE)
    calibrate(model, "--text", text, "--tokens", 0, status=USAGE)
    calibrate(model, "--text", "/nonexistent", status=NOINPUT)
    calibrate("/nonexistent", "--text", text, status=NOINPUT)
    calibrate(model, "--text", "-", status=DATAERR, text="too short")
    calibrate(text, "--text", text, status=DATAERR)
    assert not os.path.exists(side_car)


def an_interrupted_one_leaves_nothing(folder, text):
    for number in (signal.SIGINT, signal.SIGTERM):
        model, side_car = copy_of(folder, "interrupted")
        p = start(model, "--text", text, "--tokens", 100000, "--predictor", "--force")
        time.sleep(0.3)
        p.send_signal(number)
        p.communicate(timeout=60)
        # Stopped, done already, or not even begun.
        assert p.returncode in (128 + number, 0, -number), p.returncode
        assert os.path.exists(side_car) == (p.returncode == 0)
        assert p.returncode == 0 or not [f for f in os.listdir(folder) if f.startswith("interrupted.calibration")]
        if os.path.exists(side_car):
            os.unlink(side_car)


def calibration_of(d, name):
    return {m["name"]: m.get("calibration") for m in d.json("models")["models"]}[name]


def the_daemon_takes_it_up(folder, model, side_car):
    other, others = copy_of(folder, "other", OTHER)
    late, lates = copy_of(folder, "late")
    shutil.copy(side_car, others)
    with Daemon("--model", "calibrated=" + model, "--model", "other=" + other, model=None) as d:
        assert calibration_of(d, "calibrated") == "predictor" and calibration_of(d, "other") == "refused"
        assert "model other: served without the calibration beside it: other.calibration.gguf: " in d.log(), d.log()
        assert "model calibrated: calibrated" in d.log()
        assert "predictor" in d.moectl("models").stdout
        for name in ("calibrated", "other"):
            assert len(d.json("run", "--model", name, "--max-tokens", 8, "--ignore-eog", "--experts", 1, "Hello")["tokens"]) == 8
        # One that comes later is there when the model is loaded again; what is served does not change by itself.
        d.moectl("load", "late=" + late)
        assert calibration_of(d, "late") is None
        shutil.copy(side_car, lates)
        assert calibration_of(d, "late") is None
        d.moectl("load", "late=" + late)
        assert calibration_of(d, "late") == "predictor"
        os.unlink(lates)
        d.moectl("load", "late=" + late)
        wait_until(lambda: calibration_of(d, "late") is None, "the model is served without it")


def main():
    with tempfile.TemporaryDirectory(prefix="moed-calibrate-") as folder:
        text = os.path.join(folder, "text")
        with open(text, "w") as f:
            f.write(TEXT)
        model, side_car = a_calibration_is_written_beside_the_model(folder, text)
        mistakes_are_told(folder, text)
        an_interrupted_one_leaves_nothing(folder, text)
        the_daemon_takes_it_up(folder, model, side_car)


main()
