#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is seen of the daemon: what each expert is used for, by root alone; and that no program's name reaches a terminal
as anything but text."""

import subprocess

from moedtest import MOECTL, Daemon, other_user, prompts, wait_until

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


def the_use_of_experts_is_for_root_alone(d, uid):
    p = d.moectl("stats", "--experts", user=uid, check=False)
    assert p.returncode == 77 and p.stdout == "" and "only root" in p.stderr, p.stderr
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
    finally:
        client.terminate()
        client.wait()


def main():
    with Daemon() as d:
        every_choice_is_counted_in_its_layer(d)
        a_drawing_has_a_row_a_layer_and_fits_the_terminal(d)
        names_of_programs_are_text_on_a_terminal(d)
        uid = other_user()
        if uid is not None:
            the_use_of_experts_is_for_root_alone(d, uid)


main()
