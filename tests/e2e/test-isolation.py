#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""P7: a user who times prompts with beginnings that they guess, and reads every counter that they can see, learns nothing of
what another has asked. The same probe finds the cache hit of one's own uid, or it would find nothing at all."""

import random
import statistics

from moedtest import Daemon, finish, other_user, prompts, skip, slowed, wait_until

LENGTH = 800
PAIRS = 24
ANSWER = ("--max-tokens", 1, "--ignore-eog")
# What differs from one moment to the next, whoever asks: how a prompt is cut follows what passes took lately.
CLOCKS = {"uptime_msec", "busy_nsec", "step_nsec", "served_nsec", "resident_bytes", "sleeps", "wakeups", "descriptors",
          "iterations", "rows_max", "mean_rows"}


def secret(seed):
    """What the victim asks, which the attacker guesses but for its end."""
    generator = random.Random(seed)
    return [generator.randrange(3, 250) for _ in range(LENGTH)]


def numbers(value, name=""):
    """Every number of a reply, by its path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in numbers(item, name + "/" + key).items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in numbers(item, "%s/%d" % (name, i)).items()}
    if isinstance(value, (int, float)) and name.split("/")[-1] not in CLOCKS | {"pid", "number"}:
        return {name: value}
    return {}


def counters(d, user):
    seen = {}
    for verb in ("stats", "ps", "budget", "models"):
        seen.update(numbers(d.json(verb, user=user), verb))
    return seen


class Probe:
    """A prompt as `user`, with all that they can see of it: what it used, the time, and how every counter has changed."""

    def __init__(self, d, ids, user):
        before = counters(d, user)
        got = d.run(ids, *ANSWER, "--logprobs", user=user)
        after = counters(d, user)
        self.msec = got.pop("ttft_ms")
        self.cached = got["cached_tokens"]
        got.pop("tokens_per_second")
        self.used = got
        self.changes = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}


def tells_apart(right, wrong):
    """Whether right guesses take another time than wrong ones. Only which of a pair was faster counts, so one slow moment
    of the machine does no harm; a coin that is thrown 24 times shows one side 22 times or more once in 28,000."""
    wins = sum(r < w for r, w in zip(right, wrong))
    return wins >= PAIRS - 2 or wins <= 2


def probe_pairs(d, user, victim):
    """The victim asks; then the attacker a prompt that begins as the victim's, and one that does not, in random order."""
    pairs = []
    generator = random.Random(7)
    for i in range(PAIRS):
        known, unknown = secret(2 * i), secret(2 * i + 1)
        end = [251, 252]
        d.run(known, *ANSWER, user=victim)
        order = [known + end, unknown + end]
        swap = generator.random() < 0.5
        probes = [Probe(d, ids, user) for ids in (reversed(order) if swap else order)]
        pairs.append(tuple(reversed(probes)) if swap else tuple(probes))
    return pairs


def report(who, pairs):
    right, wrong = [p[0].msec for p in pairs], [p[1].msec for p in pairs]
    print("%s: %.2f ms after a right guess, %.2f ms after a wrong one (medians of %d)" %
          (who, statistics.median(right), statistics.median(wrong), len(pairs)))
    return tells_apart(right, wrong)


def one_uid_finds_its_own(d, uid):
    pairs = probe_pairs(d, uid, uid)
    assert all(right.cached == LENGTH // 32 * 32 and wrong.cached == 0 for right, wrong in pairs)
    assert report("own prompts", pairs), "the probe sees no hit even where there is one"


def another_uid_finds_nothing(d, uid):
    pairs = probe_pairs(d, uid, None)
    for right, wrong in pairs:
        assert right.cached == wrong.cached == 0
        # Same number of tokens, so the same costs; the texts differ, and with them what is answered.
        assert right.used["activations"] == wrong.used["activations"]
        assert set(right.changes) == set(wrong.changes), set(right.changes) ^ set(wrong.changes)
        for key, change in right.changes.items():
            assert change == wrong.changes[key], (key, change, wrong.changes[key])
    assert not report("another's prompts", pairs), "times tell"
    hidden = "prefix", "expert_uses", "stats/tokens_", "stats/activations"
    assert not any(word in key for key in counters(d, uid) for word in hidden)


def outputs_do_not_depend_on_who_else_is_there(d, uid):
    """Whether the victim works on the very same text, on another, or on nothing: the attacker's bits are the same."""
    ids = prompts()[3]
    args = ("--max-tokens", 30, "--ignore-eog", "--logprobs", "--temp", 1, "--seed", 3)
    alone = d.run(ids, *args, user=uid)
    for theirs in (ids, secret(99)):
        with slowed(d.process):
            victims = [d.start_run(theirs, "--max-tokens", 200, "--ignore-eog") for _ in range(4)]
            wait_until(lambda: d.stats()["streams_running"] > 0, "the victim works")
            got = d.run(ids, *args, user=uid)
        for key in ("tokens", "logprobs", "experts", "text"):
            assert got[key] == alone[key], key
        for p in victims:
            finish(p)


def what_is_of_all_is_not_shown(d, uid):
    p = d.moectl("stats", "--experts", user=uid, check=False)
    assert p.returncode != 0 and not p.stdout, p.stdout
    assert all(peer["uid"] == uid for peer in d.json("ps", user=uid)["peers"])


def main():
    uid = other_user()
    if uid is None:
        skip("needs another user")
    with Daemon("--threads", 1) as d:
        one_uid_finds_its_own(d, uid)
    with Daemon("--threads", 1) as d:
        another_uid_finds_nothing(d, uid)
        outputs_do_not_depend_on_who_else_is_there(d, uid)
        what_is_of_all_is_not_shown(d, uid)


main()
