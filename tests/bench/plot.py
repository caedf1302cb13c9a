#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""plot.py FILE [--out DIR]: pictures of what `./dev bench --json FILE` has found: roofline.png, each row's share of its limit,
and latency.png, time between tokens and tokens per second against the number of clients. Needs matplotlib (Debian:
python3-matplotlib)."""

import argparse
import json
import os

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
REACHED, SHORT, MUST = "#2a7f62", "#c46a2b", "#222222"


def roofline(found, path):
    rows = [row for row in found["rows"] if row.get("share") and not row["most"]][::-1]
    fig, ax = plt.subplots(figsize=(9, 0.8 + 0.24 * len(rows)))
    for y, row in enumerate(rows):
        ax.barh(y, 100 * row["number"], height=0.7, color=REACHED if row["reached"] else SHORT)
        ax.plot([100 * row["must"]] * 2, [y - 0.42, y + 0.42], color=MUST, linewidth=1.6)
        ax.text(max(100 * row["number"], 100 * row["must"]) + 1, y, row["text"], va="center", fontsize=6.5)
    ax.set_yticks(range(len(rows)), ["%s: %s" % (row["heading"], row["what"]) for row in rows], fontsize=6.5)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlim(0, 140)
    ax.set_xlabel("% of the limit measured in the same run; the line is what must be reached", fontsize=7.5)
    ax.tick_params(axis="x", labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)
    save(fig, path)


def latency(found, path):
    points = sorted(found["latency"], key=lambda p: p["clients"])
    clients = [p["clients"] for p in points]
    fig, ax = plt.subplots(figsize=(6, 3.2))
    for part, style in (("p50", "-"), ("p95", "--")):
        ax.plot(clients, [p["inter_token_ms_" + part] for p in points], style, marker="o", markersize=3, color=REACHED,
                label="between tokens, " + part)
    ax.set_xlabel("client processes", fontsize=8)
    ax.set_ylabel("ms", fontsize=8)
    ax.set_xticks(clients)
    ax.set_ylim(bottom=0)
    right = ax.twinx()
    right.plot(clients, [p["tokens_per_second"] for p in points], marker="s", markersize=3, color=SHORT,
               label="tokens/s, all together")
    right.set_ylabel("tokens/s", fontsize=8)
    right.set_ylim(bottom=0)
    lines = ax.get_lines() + right.get_lines()
    ax.legend(lines, [line.get_label() for line in lines], fontsize=7, frameon=False, loc="lower right")
    for each in (ax, right):
        each.tick_params(labelsize=7)
        each.spines["top"].set_visible(False)
    save(fig, path)


def save(fig, path):
    fig.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--out", metavar="DIR", default=os.path.join(HERE, "plots"), help="default: %(default)s")
    args = parser.parse_args()
    with open(args.file) as f:
        found = json.load(f)
    os.makedirs(args.out, exist_ok=True)
    roofline(found, os.path.join(args.out, "roofline.png"))
    if found["latency"]:
        latency(found, os.path.join(args.out, "latency.png"))


if __name__ == "__main__":
    main()
