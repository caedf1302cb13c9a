#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shares and waiting under contention, with real processes under different uids (so it needs root): two users, weights of one to
three, eight users with one to eight clients each, and a short request every two seconds beside sixteen long ones."""

import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import daemon  # noqa: E402

UID = 61000  # and those above; they need no entry in the user database
LONG, ANSWER, SHORT = 500, 64, 64  # tokens
FLOOD, PAUSE = 16, 2.0


class Bench:
    def __init__(self, d, options):
        self.d = d
        self.load_program = os.path.join(options.build, "tests/e2e/load")

    def load(self, user, *args):
        return self.d.start(self.load_program, *args, user=UID + user)

    def served(self):
        """Seconds of service of each user so far, by the daemon's cost model."""
        found = {b["principal"]: b["served_nsec"] / 1e9 for b in self.d.json("budget")["budgets"]}
        return [found.get("uid:%d" % (UID + i), 0.0) for i in range(8)]

    def weigh(self, user, weight):
        self.d.json("budget", "set", "uid:%d" % (UID + user), "Weight=%d" % weight)

    def stop(self, clients):
        for client in clients:
            client.kill()
            client.communicate()
        while self.d.json("stats")["streams"] > 0:
            time.sleep(0.05)

    def shares(self, clients, seconds):
        """[(client arguments, user)] run so long: what each user was served, and how far the first two were apart at most."""
        running = [self.load(user, "-r", n, "-p", prompt, "-n", answer, "-d", 3600) for user, n, prompt, answer in clients]
        time.sleep(3)
        before = now = self.served()
        end, apart = time.monotonic() + seconds, []
        while time.monotonic() < end:
            time.sleep(0.2)
            now = self.served()
            apart.append((now[0] - before[0]) - (now[1] - before[1]))
        self.stop(running)
        return [b - a for a, b in zip(before, now)], max(apart) - min(apart)

    def ask(self, user, seconds):
        """A short request every two seconds, whether or not those before are done: whoever is served late asks for as much."""
        asked, begin = [], time.monotonic()
        while len(asked) * PAUSE < seconds:
            asked.append(self.load(user, "-p", SHORT, "-n", 4))
            time.sleep(max(0.0, begin + len(asked) * PAUSE - time.monotonic()))
        return asked

    def waited(self, asked):
        """Milliseconds to their first tokens, sorted."""
        return sorted(self.d.finish(client)["first_p50"] / 1000 for client in asked)

    def firsts(self, user, seconds):
        return self.waited(self.ask(user, seconds))

    def tokens(self):
        s = self.d.json("stats")
        return s["tokens_prompt"] + 5 * s["tokens_generated"], s["uptime_msec"] / 1000

    def beside(self, user, flood, prompt, answer, seconds):
        """The same beside a flood; and tokens/s of all, a generated one for five of a prompt."""
        client = self.load(flood, "-r", FLOOD, "-p", prompt, "-n", answer, "-d", 3600)
        time.sleep(4)
        a, begin = self.tokens()
        asked = self.ask(user, seconds)
        b, end = self.tokens()
        found = self.waited(asked)
        self.stop([client])
        return found, (b - a) / (end - begin)


def p95(values):
    return values[min(len(values) - 1, int(0.95 * len(values)))]


def measure(d, seconds, rounds):
    bench = Bench(d, options)
    rows = []
    bench.firsts(0, 3)  # pages in
    served, apart = bench.shares([(0, 8, LONG, ANSWER), (1, 8, 100, 200)], seconds)
    rows.append(("two users of equal weight, one prompts, one generates: share of the first", "%.1f %%",
                 100 * served[0] / (served[0] + served[1])))
    rows.append(("    furthest apart", "%.2f s", apart))
    bench.weigh(1, 300)
    served, _ = bench.shares([(0, 8, LONG, ANSWER), (1, 8, LONG, ANSWER)], seconds)
    rows.append(("weights 1:3: share of the heavier", "%.1f %%", 100 * served[1] / (served[0] + served[1])))
    bench.weigh(1, 100)
    served, _ = bench.shares([(i, i + 1, LONG - 50 * i, 20 + 10 * i) for i in range(8)], 2 * seconds)
    rows.append(("eight users with 1 to 8 clients: Jain's index", "%.4f", sum(served) ** 2 / (8 * sum(s * s for s in served))))
    alone = bench.firsts(0, seconds)
    rows.append(("a short request every 2 s, to its first token, p95: alone", "%.0f ms", p95(alone)))
    for name, prompt, answer in (("prompts of %d" % LONG, LONG, ANSWER), ("answers", 32, 400)):
        # One user's requests are served as they come. In turns, for the machine's own pace changes from minute to minute.
        waited, found, plain, shared = [], [], 0, 0
        for _ in range(rounds):
            first, speed = bench.beside(1, 1, prompt, answer, seconds)
            waited, plain = waited + first, plain + speed
            first, speed = bench.beside(0, 1, prompt, answer, seconds)
            found, shared = found + first, shared + speed
        rows.append(("    beside %d %s of another user" % (FLOOD, name), "%.0f ms", p95(sorted(found))))
        rows.append(("        beside those of its own user", "%.0f ms", p95(sorted(waited))))
        rows.append(("        tokens/s of all, of what they are as one user's", "%.0f %%", 100 * shared / plain))
    cost = d.json("stats", "--cost")["cost"][0]
    rows.append(("forecasts of passes are off by, in the median", "%.1f %%", 100 * cost["error"]))
    return rows


def main():
    model = daemon.find_model(options)
    if os.geteuid() != 0:
        print("fair: only root can start clients of several users", file=sys.stderr)
        sys.exit(77)
    daemon.read_all(model)
    with daemon.Daemon(os.path.abspath(options.build), "bench=" + model) as d:
        time.sleep(2 if options.quick else 10)  # it measures what passes cost
        rows = measure(d, *((5, 1) if options.quick else (20, 3)))
    if options.json:
        print(json.dumps({name.strip(): value for name, _, value in rows}))
        return
    for name, form, value in rows:
        print("%-84s %s" % (name, form % value))


parser = argparse.ArgumentParser(description=__doc__)
daemon.add_arguments(parser)
options = parser.parse_args()
main()
