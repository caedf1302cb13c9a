#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The table of benchmarks runs here, counts what it should, and understands what other programs print."""

import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from daemon import cached_share  # noqa: E402
from programs import TOP, PeerServer, read_peer  # noqa: E402

TABLE = os.path.join(TOP, "tests/bench/table.py")
MAKE_MODEL = os.path.join(TOP, "tests/lib/make-model.py")
BUILD = os.environ["MOED_BUILD"]

LLAMA_BENCH = """
| model                 |  size | params | backend | threads | rtr |          test |              t/s |
| --------------------- | ----: | -----: | ------- | ------: | --: | ------------: | ---------------: |
| qwen3moe ?B Q4_K      | 3.6 GiB | 6.9 B | CPU     |       2 |   1 |         pp512 |    134.02 ± 0.71 |
| qwen3moe ?B Q4_K      | 3.6 GiB | 6.9 B | CPU     |       2 |   1 |         tg128 |     23.20 ± 0.21 |

build: 8337e4cd (1)
"""
BATCHED_BENCH = """
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|    32 |     64 |    8 |    768 |    1.950 |   131.28 |    6.750 |    75.85 |    8.700 |    88.27 |
"""
PEER = 'import json; print(json.dumps([{"n_prompt": 0, "n_gen": 8, "avg_ts": 12.5}]))'


def peers_are_understood():
    assert read_peer(LLAMA_BENCH) == {"prefill-512": 134.02, "decode-1": 23.2}
    both = [{"n_prompt": 512, "n_gen": 0, "avg_ts": 7.5}, {"n_prompt": 512, "n_gen": 8, "avg_ts": 1.0}]
    assert read_peer(json.dumps(both)) == {"prefill-512": 7.5}
    assert read_peer(BATCHED_BENCH) == {"decode-8": 75.85}
    assert read_peer("error: no such model\n") == {}
    served = PeerServer("serve").read("tag=x gen_tok_s=24.4 ttft_p50_ms=8300 ttft_p95_ms=8.7e+03\n")
    assert served == {"tokens_per_second": 24.4, "ttft_p95": 8.7}
    assert PeerServer("serve").read("gen_tok_s=24.4") is None


def table(*args):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "found.json")
        subprocess.run([sys.executable, TABLE, "--build", BUILD, "--quick", "--rounds", "1", "--json", path, *args], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(path) as f:
            return json.load(f)


def bytes_are_those_of_the_weights(folder):
    """A token touches the experts that it chose of each layer, and all else but the embeddings."""
    path = os.path.join(folder, "small-q4_k.gguf")
    command = [os.path.join(BUILD, "tests/bench/engine/bench-engine"), "--json", path]
    p = subprocess.run(command, input="decode-1\ndecode-1/1\ndecode-2\nprefill-64\ndecode-0\n", stdout=subprocess.PIPE,
                       check=True, text=True)
    one, fewer, two, prompt, none = map(json.loads, p.stdout.splitlines())
    block = 144 / 256
    expert = 3 * 1024 * 512 * block
    always = 4 * (4 * 1024 * 1024 * block + 32 * 1024 * 4 + 4 * 1024 * 4) + 1024 * 4 + 8192 * 1024 * block + 1024 * block
    assert one["bytes"] == one["tokens"] * (always + 4 * 4 * expert), (one, always, expert)
    assert fewer["bytes"] == fewer["tokens"] * (always + 4 * 1 * expert), fewer
    assert one["bytes"] < two["bytes"] < 2 * one["bytes"], (one, two)
    assert prompt["products"] == 64 * 4 * (4 * 1024 * 1024 + 32 * 1024 + 4 * 3 * 1024 * 512), prompt
    assert "error" in none


def rows_are_measured(folder):
    found = table("--models", folder, "--rows", "decode, 1 stream, Q4_K", "--peer", "%s -c '%s' {model}" % (sys.executable, PEER))
    row, = found["rows"]
    assert row["number"] > 0 and row["peer"] == 12.5 and row["times_peer"] > 0, row
    assert found["limits"]["read_all"] > 1e8, found["limits"]


def a_start_says_how_much_of_the_file_was_cached(folder):
    assert cached_share(os.path.join(folder, "small-q4_k.gguf")) == 1
    ready, token = table("--models", folder, "--rows", "start, file in the page cache")["rows"]
    assert 0 < ready["number"] < token["number"] and token["text"].startswith("100.0% of the file cached"), (ready, token)


def what_cannot_be_measured_says_why(folder):
    """No row is left out, whatever is missing."""
    os.truncate(os.path.join(folder, "small-q4_k.gguf"), 4096)
    row, = table("--models", folder, "--rows", "decode, 1 stream, Q4_K")["rows"]
    assert "ended" in row["missing"], row


with tempfile.TemporaryDirectory() as models:
    peers_are_understood()
    subprocess.run([sys.executable, MAKE_MODEL, "small", os.path.join(models, "small-q4_k.gguf")], check=True)
    bytes_are_those_of_the_weights(models)
    rows_are_measured(models)
    a_start_says_how_much_of_the_file_was_cached(models)
    what_cannot_be_measured_says_why(models)
print("5 passed")
