#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""P3: a client that writes garbage loses its own connection, gets a reason, and nobody else notices."""

from moedtest import Daemon, finish, prompts, wait_until

# What each kind must lead to, with words of the reason; None: either is right, the daemon only has to live.
KINDS = (
    ("tail", "closed", "submission ring"),
    ("head", "closed", "completion ring"),
    ("operation", "closed", "unknown operation"),
    ("reserved", "closed", "not zero"),
    ("offset", "closed", "outside its arena"),
    ("length", "closed", "outside its arena"),
    ("control", "closed", ""),
    ("deaf", "closed", ""),
    ("fields", "alive", None),
    ("stops", "alive", None),
    ("descriptors", "alive", None),
    ("noise", None, None),
    ("race", None, None),
)


def main():
    prompt, args = prompts()[1], ("--max-tokens", 300, "--ignore-eog")
    with Daemon() as d:
        expected = d.run(prompt, *args)
        first = d.stats()
        for kind, state, words in KINDS:
            for seed in range(1, 4 if kind not in ("deaf", "head") else 2):
                client = d.helper("garbage", kind, seed)
                got = d.run(prompt, *args)
                assert got["tokens"] == expected["tokens"] and got["logprobs"] == expected["logprobs"], kind
                end = finish(client)
                assert state is None or end["state"] == state, (kind, seed, end)
                if end["state"] == "closed" and kind != "deaf":  # who does not read cannot be told
                    assert end["reason"], (kind, "no reason was given")
                assert words is None or words in end["reason"], (kind, end)
        wait_until(lambda: d.stats()["peers"] == 1 and d.stats()["streams"] == 0, "they are gone")
        last = d.stats()
        for key in ("descriptors", "kv_pages_free", "streams", "users"):
            assert last[key] == first[key], (key, first[key], last[key])
        print("dropped:", last["connections_dropped"], "refused:", last["requests_refused"])


main()
