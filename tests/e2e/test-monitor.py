#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is seen of the daemon: its counters, what each expert is used for, by root alone; and that no name reaches a
terminal as anything but text."""

import os
import re
import subprocess
import tempfile

from moedtest import MODEL, MOECTL, Daemon, finish, other_user, prompts, wait_until

# U+009B begins an escape sequence, U+202E turns the line around; ESC is replaced by the daemon itself.
HOSTILE = "evil\x1b[31m\u009b2J\u202eexe"


def every_choice_is_counted_in_its_layer(d):
    model = d.json("models")["models"][0]
    before = d.json("stats", "--experts")
    assert before["model"] == model["name"] and before["experts"] == model["experts"]
    assert before["experts_used"] == model["experts_used"] and len(before["layers"]) == model["moe_layers"]
    assert all(len(layer) == model["experts"] and sum(layer) == 0 for layer in before["layers"])
    used = sum(d.run(p, "--max-tokens", 20, "--ignore-eog", "--experts", e)["activations"]
               for p, e in zip(prompts(), (1, 2, 1.5, 4)))
    layers = d.json("stats", "--experts", "--model", model["name"])["layers"]
    assert sum(map(sum, layers)) == used == d.stats()["activations"], (layers, used)
    # Every layer has its own choices, and the same number of them where the cap is whole.
    assert layers[0] != layers[1]


def a_drawing_has_a_row_a_layer_and_fits_the_terminal(d):
    model = d.json("models")["models"][0]
    for locale, marks in (("C.UTF-8", "▁▂▃▄▅▆▇█ "), ("C", ".:-=+*%# ")):
        for columns in (60, 200):
            d.env.update(LC_ALL=locale, COLUMNS=str(columns))
            out = d.moectl("stats", "--experts").stdout.split("\n")
            at = [i for i, line in enumerate(out) if line.startswith("LAYER")][0]
            rows = out[at + 1:at + 1 + model["moe_layers"]]
            assert [row.split()[0] for row in rows] == [str(i) for i in range(model["moe_layers"])], out
            begin, end = out[at].index("EXPERTS"), out[at].index("USES")
            assert all(set(row[begin:begin + model["experts"]]) <= set(marks) for row in rows), rows
            assert all(len(row) <= columns for row in rows), rows
    lines = d.moectl("stats", "--experts", "--layer", 1).stdout.strip().split("\n")
    assert len(lines) == 1 + model["experts"] and sum("#" * 40 in line for line in lines) >= 1
    layer = d.json("stats", "--experts")["layers"][1]
    assert [int(line.split()[1]) for line in lines[1:]] == layer
    p = d.moectl("stats", "--experts", "--layer", model["moe_layers"], check=False)
    assert p.returncode == 64 and "counted from 0" in p.stderr
    p = d.moectl("stats", "--experts", "--model", "nope", check=False)
    assert p.returncode == 64 and "It serves: tiny" in p.stderr, p.stderr
    p = d.moectl("stats", "--layer", 0, check=False)
    assert p.returncode == 64 and "--experts" in p.stderr, p.stderr


def samples_of(text):
    """What a strict reader of the text format makes of it: {(name, labels): value}, and the type of each name."""
    types, samples, at = {}, {}, None
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        head = re.fullmatch(r"# (HELP|TYPE) (moed_[a-z0-9_]+) (.+)", line)
        if head and head.group(1) == "HELP":
            at = head.group(2)
            assert at not in types, "%s comes in two places" % at
            types[at] = None
        elif head:
            assert head.group(2) == at and head.group(3) in ("counter", "gauge", "untyped"), line
            assert (head.group(3) == "counter") == at.endswith("_total"), line
            types[at] = head.group(3)
        else:
            sample = re.fullmatch(r'(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? ([0-9.e+-]+)', line)
            assert sample and sample.group(1) == at and types[at], line
            key = (at, tuple(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample.group(2) or "")))
            assert key not in samples, line
            samples[key] = float(sample.group(3))
    return samples, types


def prometheus_is_told_every_number(d):
    samples, types = samples_of(d.moectl("stats", "--prometheus").stdout)
    stats = d.stats()
    # All that stats has, beside what is no measure, or a quotient of others.
    numbers = {key for key, value in stats.items() if isinstance(value, (int, float))} - {"pid", "mean_rows"}
    assert sum(name.count("moed_model_") + name.count("moed_principal_") == 0 for name in types) == len(numbers) + 1, types
    assert samples["moed_activations_total", ()] == stats["activations"] > 0
    assert samples["moed_rows_total", ()] == stats["rows"] and samples["moed_models", ()] == 1
    assert abs(samples["moed_busy_seconds_total", ()] * 1e9 - stats["busy_nsec"]) < 10
    (principal,) = [labels for name, labels in samples if name == "moed_principal_activations_total"]
    assert principal[0][0] == "principal" and samples["moed_principal_activations_total", principal] == stats["activations"]
    assert samples["moed_model_experts", (("model", "tiny"),)] == d.json("models")["models"][0]["experts"]
    assert not any(name.startswith("moed_expert_") for name in types)


def prometheus_is_told_the_experts_on_demand(d):
    samples, _ = samples_of(d.moectl("stats", "--prometheus", "--experts").stdout)
    layers = d.json("stats", "--experts")["layers"]
    for l, layer in enumerate(layers):
        for e, count in enumerate(layer):
            assert samples["moed_expert_rows_total", (("model", "tiny"), ("layer", str(l)), ("expert", str(e)))] == count
    for wrong in (("--json",), ("--model", "tiny"), ("--layer", 0)):
        assert d.moectl("stats", "--prometheus", *wrong, check=False).returncode == 64


def costs_are_told_of_every_model(d):
    (cost,) = d.json("stats", "--cost")["cost"]
    assert cost["model"] == "tiny" and cost["passes"] > 0, cost
    assert set(cost["nsec"]) >= {"pass", "row_prompt", "row_generated", "expert"} and all(
        value >= 0 for value in cost["nsec"].values()), cost
    shown = d.moectl("stats", "--cost").stdout
    assert shown.startswith("tiny: ") and "forecast / actual is" in shown
    assert len(re.findall(r"^[a-z_]+ +[0-9.]+ [num]s$", shown, re.M)) == len(cost["nsec"]), shown
    assert d.moectl("stats", "--cost", "--experts", check=False).returncode == 64


def a_name_cannot_end_its_label(folder):
    path = os.path.join(folder, 'a"b\\c\nd\x1b[31m\u202e.gguf')
    os.symlink(MODEL, path)
    with Daemon(model=path) as d:
        out = d.moectl("stats", "--prometheus").stdout
        samples, _ = samples_of(out)
        assert not set(out) & set("\x1b\u202e")
        (labels,) = [dict(labels) for name, labels in samples if name == "moed_model_info"]
        assert labels["file"].endswith(r'a\"b\\c\\x0ad\\x1b[31m\\u202e.gguf'), labels


def stalled(d, **kwargs):
    """A client whose generation waits for it to read; and the request."""
    client = d.helper("stall", 900, stdin=subprocess.PIPE, **kwargs)

    def look():
        return [r for peer in d.json("ps")["peers"] if peer["pid"] == client.pid for r in peer["requests"]
                if r["state"] == "stalled"]

    return client, wait_until(look, "its client does not read")[0]


def a_request_has_a_number_by_which_it_is_cancelled(d, uid):
    (one, request), (other, kept) = stalled(d), stalled(d)
    assert request["prompt"] == request["prompt_done"] == 3 and 0 < request["generated"] < 100, request
    assert request["model"] == "tiny" and request["kv_pages"] > 0 and request["cap_milli"] == 4000, request
    assert request["experts_milli"] == 4000 and request["activations"] == (2 + request["generated"]) * 8, request
    if uid is not None:
        assert d.json("ps", user=uid)["peers"] != [] and all(p["requests"] == [] for p in d.json("ps", user=uid)["peers"])
        p = d.moectl("cancel", request["number"], user=uid, check=False)
        assert p.returncode == 64 and "that you may cancel" in p.stderr, p.stderr
    assert d.stats()["streams"] == 2, "somebody else ended it"
    d.moectl("cancel", request["number"])
    assert "request %d of pid %d is cancelled" % (request["number"], one.pid) in d.log()
    assert d.moectl("cancel", request["number"], check=False).returncode == 64, "a number was used again"
    assert finish(one).count(",") < 100 and finish(other).count(",") == 900
    assert kept["number"] != request["number"]


def one_may_cancel_ones_own_by_number(d, uid):
    client, request = stalled(d, user=uid)
    d.moectl("cancel", request["number"], user=uid)
    assert finish(client).count(",") < 100


def the_use_of_experts_is_for_root_alone(d, uid):
    p = d.moectl("stats", "--experts", user=uid, check=False)
    assert p.returncode == 77 and p.stdout == "" and "only root" in p.stderr, p.stderr
    assert d.moectl("stats", "--cost", user=uid, check=False).returncode == 77
    p = d.moectl("stats", "--prometheus", "--experts", user=uid, check=False)
    assert p.returncode == 77 and p.stdout == "", p.stdout
    assert not any("expert" in key for key in d.json("stats", user=uid)), "a counter of experts is shown to everyone"


def names_of_programs_are_text_on_a_terminal(d):
    client = subprocess.Popen([HOSTILE, "run", "--tokens", "1,2,3", "--ignore-eog", "--max-tokens", "8000"], executable=MOECTL,
                              env=d.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        name = wait_until(lambda: [p["name"] for p in d.json("ps")["peers"] if p["name"].startswith("evil")], "it is seen")[0]
        assert "\u009b" in name and "\u202e" in name
        shown = d.moectl("ps").stdout
        assert "\\u009b2J\\u202eexe" in shown, shown
        assert not set(shown) & set("\x1b\u009b\u202e"), shown
        p = d.moectl("stats", "--experts", "--model", name, check=False)
        assert "\\u009b2J" in p.stderr and not set(p.stderr) & set("\x1b\u009b\u202e"), p.stderr
    finally:
        client.terminate()
        client.wait()


def main():
    with Daemon() as d:
        every_choice_is_counted_in_its_layer(d)
        a_drawing_has_a_row_a_layer_and_fits_the_terminal(d)
        prometheus_is_told_every_number(d)
        prometheus_is_told_the_experts_on_demand(d)
        costs_are_told_of_every_model(d)
        names_of_programs_are_text_on_a_terminal(d)
        uid = other_user()
        a_request_has_a_number_by_which_it_is_cancelled(d, uid)
        if uid is not None:
            one_may_cancel_ones_own_by_number(d, uid)
            the_use_of_experts_is_for_root_alone(d, uid)
    with tempfile.TemporaryDirectory() as folder:
        a_name_cannot_end_its_label(folder)


main()
