#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""make-model.py SHAPE OUT.gguf [--type NAME] [--layers N] [--seed N] [--size]: a GGUF file with the shape and vocabulary
size of a well-known model, and random weights: for measuring what large files cost without downloading one. It generates
nonsense at the true speed.

Weights are of the type (default: Q4_K), or of one with smaller blocks where rows are no multiple of 256; routers and norms F32.
Shapes are those of the models' config.json. Only Python's own library is needed; weights are cut from a pool of random blocks,
so writing is as fast as the disk."""

import argparse
import math
import os
import random
import struct

SHAPES = {
    "olmoe-1b-7b": dict(arch="olmoe", layers=16, hidden=2048, heads=16, kv_heads=16, head=128, experts=64, used=8, ffn=1024,
                        vocab=50304, context=4096, pre="olmo", base=10000.0, qk_norm="row"),
    # The same matrices under an architecture that other programs know as well.
    "olmoe-q": dict(arch="qwen3moe", layers=16, hidden=2048, heads=16, kv_heads=16, head=128, experts=64, used=8, ffn=1024,
                    vocab=50304, context=4096, pre="olmo", base=10000.0, qk_norm="head"),
    "deepseek-v2-lite": dict(arch="deepseek2", layers=27, hidden=2048, heads=16, kv_heads=16, head=192, experts=64, used=6,
                             ffn=1408, vocab=102400, context=163840, pre="deepseek-llm", base=10000.0, dense_ffn=10944,
                             dense=1, shared=2, kv_lora=512, rope=64, value=128),
    "qwen3-30b-a3b": dict(arch="qwen3moe", layers=48, hidden=2048, heads=32, kv_heads=4, head=128, experts=128, used=8, ffn=768,
                          vocab=151936, context=40960, pre="qwen2", base=1000000.0, qk_norm="head"),
    # For tests: as large as must be for its weights to outweigh the program.
    "small": dict(arch="olmoe", layers=4, hidden=1024, heads=8, kv_heads=8, head=128, experts=32, used=4, ffn=512, vocab=8192,
                  context=4096, pre="olmo", base=10000.0, qk_norm="row"),
}

U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5
TYPE_F32, TYPE_Q4_0, TYPE_Q5_0, TYPE_Q8_0, TYPE_Q4_K, TYPE_Q6_K = 0, 2, 6, 8, 12, 14
TYPE_IQ4_XS, TYPE_BF16, TYPE_MXFP4 = 23, 30, 39
BLOCKS = {TYPE_F32: (1, 4), TYPE_Q4_0: (32, 18), TYPE_Q5_0: (32, 22), TYPE_Q8_0: (32, 34), TYPE_Q4_K: (256, 144),
          TYPE_Q6_K: (256, 210), TYPE_IQ4_XS: (256, 136), TYPE_BF16: (1, 2), TYPE_MXFP4: (32, 17)}
TYPES = {"q4_0": TYPE_Q4_0, "q8_0": TYPE_Q8_0, "q4_k": TYPE_Q4_K, "q6_k": TYPE_Q6_K, "iq4_xs": TYPE_IQ4_XS, "bf16": TYPE_BF16,
         "mxfp4": TYPE_MXFP4}
# For rows that are no multiple of 256.
SMALLER = {TYPE_Q4_K: TYPE_Q5_0, TYPE_Q6_K: TYPE_Q8_0, TYPE_IQ4_XS: TYPE_Q4_0}
ALIGNMENT, POOL_BYTES = 32, 32 << 20


def byte_letters():
    """The letter by which byte-level vocabularies spell each byte: itself where it prints, else one from U+0100 on."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in prints]
    return {**{b: chr(b) for b in prints}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def vocabulary(n, rng):
    """All bytes, then merges of two earlier tokens, then two control tokens."""
    tokens = list(byte_letters().values())
    known, merges = set(tokens), []
    while len(tokens) < n - 2:
        a, b = rng.choice(tokens), rng.choice(tokens)
        if len(a) + len(b) <= 12 and a + b not in known:
            tokens.append(a + b)
            known.add(a + b)
            merges.append(a + " " + b)
    return tokens + ["<|begin|>", "<|end|>"], merges


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


class Writer:
    def __init__(self, seed, kind):
        self.rng = random.Random(seed)
        self.kind = kind
        self.pairs, self.tensors, self.pools = [], [], {}
        self.offset = 0

    def u32(self, key, value):
        self.pairs.append(string(key) + struct.pack("<II", U32, value))

    def f32(self, key, value):
        self.pairs.append(string(key) + struct.pack("<If", F32, value))

    def text(self, key, value):
        self.pairs.append(string(key) + struct.pack("<I", STRING) + string(value))

    def texts(self, key, values):
        self.pairs.append(string(key) + struct.pack("<IIQ", ARRAY, STRING, len(values)) + b"".join(map(string, values)))

    def i32s(self, key, values):
        self.pairs.append(string(key) + struct.pack("<IIQ%di" % len(values), ARRAY, I32, len(values), *values))

    def tensor(self, name, *dims, kind=None):
        if kind is None:
            kind = TYPE_F32 if len(dims) == 1 else self.kind if dims[0] % 256 == 0 else SMALLER.get(self.kind, self.kind)
        values = 1
        for d in dims:
            values *= d
        size = values // BLOCKS[kind][0] * BLOCKS[kind][1]
        # A product keeps the length of its vector; but what layers add is small beside the embedding, or all tokens would
        # come to look alike and choose the same few experts.
        scale = 1.0 if name == "token_embd.weight" else dims[0] ** -0.5 * (0.25 if "_output." in name or "_down" in name else 1)
        self.tensors.append((name, dims, kind, self.offset, size, len(dims) == 1, scale))
        self.offset += -(-size // ALIGNMENT) * ALIGNMENT

    def block(self, kind, scale):
        """A block whose values have mean 0 and a deviation of about `scale`."""
        half = lambda x: struct.pack("<e", x)
        bits = self.rng.randbytes
        if kind == TYPE_Q4_K:
            # Eight sub-blocks with scale and min 32: (q - 7.5) * 32 d.
            return half(scale / 147) + half(scale / 147 * 7.5) + bytes([32] * 8 + [0] * 4) + bits(128)
        if kind in (TYPE_Q4_0, TYPE_Q5_0, TYPE_Q8_0):
            return half(scale / {TYPE_Q4_0: 4.6, TYPE_Q5_0: 9.2, TYPE_Q8_0: 73.9}[kind]) + bits(BLOCKS[kind][1] - 2)
        if kind == TYPE_Q6_K:
            return bits(208) + half(scale / 1366)
        if kind == TYPE_IQ4_XS:
            return half(scale / 1247) + bits(134)
        if kind == TYPE_MXFP4:
            return struct.pack("B", 127 + round(math.log2(scale / 2.93))) + bits(16)
        if kind == TYPE_BF16:
            return struct.pack("<f", self.rng.gauss(0, scale))[2:]
        return struct.pack("<f", self.rng.gauss(0, scale))

    def pool(self, kind, scale):
        """Some MiB of blocks of that deviation."""
        if (kind, scale) not in self.pools:
            size = BLOCKS[kind][1]
            few = [self.block(kind, scale) for _ in range(4096)]
            blocks = [self.rng.choice(few) for _ in range(POOL_BYTES // size // 16)]
            if kind == TYPE_Q4_K:
                blocks = [b[:16] + self.rng.randbytes(128) for b in blocks]
            self.pools[kind, scale] = b"".join(blocks)
        return self.pools[kind, scale]

    def write_tensor(self, out, kind, size, norm, scale):
        if norm:
            out.write(struct.pack("<f", 1.0) * (size // 4))
        elif kind == TYPE_F32:
            out.write(b"".join(self.block(kind, scale) for _ in range(size // 4)))
        else:
            pool, block = self.pool(kind, scale), BLOCKS[kind][1]
            left = size
            while left > 0:
                begin = self.rng.randrange(len(pool) // block // 2) * block
                part = memoryview(pool)[begin:begin + min(left, len(pool) // 2 // block * block)]
                out.write(part)
                left -= len(part)
        out.write(bytes(-size % ALIGNMENT))

    def write(self, path):
        with open(path, "wb", buffering=1 << 22) as out:
            out.write(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.pairs)) + b"".join(self.pairs))
            for name, dims, kind, offset, *_ in self.tensors:
                out.write(string(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, kind, offset))
            out.write(bytes(-out.tell() % ALIGNMENT))
            for _, _, kind, _, size, norm, scale in self.tensors:
                self.write_tensor(out, kind, size, norm, scale)


def metadata(w, shape, name):
    a = shape["arch"] + "."
    w.text("general.architecture", shape["arch"])
    w.text("general.name", name + ", random weights")
    for key, value in (("block_count", "layers"), ("context_length", "context"), ("embedding_length", "hidden"),
                       ("attention.head_count", "heads"), ("attention.head_count_kv", "kv_heads"),
                       ("attention.key_length", "head"), ("expert_count", "experts"), ("expert_used_count", "used"),
                       ("expert_feed_forward_length", "ffn"), ("leading_dense_block_count", "dense"),
                       ("expert_shared_count", "shared"), ("attention.kv_lora_rank", "kv_lora"),
                       ("rope.dimension_count", "rope")):
        if value in shape:
            w.u32(a + key, shape[value])
    w.u32(a + "attention.value_length", shape.get("value", shape["head"]))
    w.u32(a + "feed_forward_length", shape.get("dense_ffn", shape["ffn"]))
    w.f32(a + "attention.layer_norm_rms_epsilon", 1e-5)
    w.f32(a + "rope.freq_base", shape["base"])
    tokens, merges = vocabulary(shape["vocab"], w.rng)
    w.text("tokenizer.ggml.model", "gpt2")
    w.text("tokenizer.ggml.pre", shape["pre"])
    w.texts("tokenizer.ggml.tokens", tokens)
    w.i32s("tokenizer.ggml.token_type", [1] * (len(tokens) - 2) + [3, 3])
    w.texts("tokenizer.ggml.merges", merges)
    w.u32("tokenizer.ggml.bos_token_id", len(tokens) - 2)
    w.u32("tokenizer.ggml.eos_token_id", len(tokens) - 1)


def attention(w, b, shape):
    hidden, heads, head = shape["hidden"], shape["heads"], shape["head"]
    w.tensor(b + "attn_norm.weight", hidden)
    w.tensor(b + "attn_q.weight", hidden, heads * head)
    if "kv_lora" in shape:
        w.tensor(b + "attn_kv_a_mqa.weight", hidden, shape["kv_lora"] + shape["rope"])
        w.tensor(b + "attn_kv_a_norm.weight", shape["kv_lora"])
        w.tensor(b + "attn_kv_b.weight", shape["kv_lora"], heads * (head - shape["rope"] + shape["value"]))
        w.tensor(b + "attn_output.weight", heads * shape["value"], hidden)
        return
    w.tensor(b + "attn_k.weight", hidden, shape["kv_heads"] * head)
    w.tensor(b + "attn_v.weight", hidden, shape["kv_heads"] * head)
    for x, n in (("q", heads), ("k", shape["kv_heads"])):
        w.tensor(b + "attn_%s_norm.weight" % x, head * (n if shape["qk_norm"] == "row" else 1))
    w.tensor(b + "attn_output.weight", heads * head, hidden)


def feed_forward(w, b, shape, layer):
    hidden, ffn, experts = shape["hidden"], shape["ffn"], shape["experts"]
    w.tensor(b + "ffn_norm.weight", hidden)
    if layer < shape.get("dense", 0):
        kinds = [("", shape["dense_ffn"], ())]
    else:
        w.tensor(b + "ffn_gate_inp.weight", hidden, experts, kind=TYPE_F32)
        kinds = [("_exps", ffn, (experts,))]
        if "shared" in shape:
            kinds.append(("_shexp", ffn * shape["shared"], ()))
    for suffix, n, stack in kinds:
        w.tensor(b + "ffn_gate%s.weight" % suffix, hidden, n, *stack)
        w.tensor(b + "ffn_up%s.weight" % suffix, hidden, n, *stack)
        w.tensor(b + "ffn_down%s.weight" % suffix, n, hidden, *stack)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("out")
    parser.add_argument("--type", choices=sorted(TYPES), default="q4_k")
    parser.add_argument("--layers", type=int, metavar="N", help="instead of the model's own number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", action="store_true", help="write nothing; print how many bytes the tensors take")
    args = parser.parse_args()
    shape, w = dict(SHAPES[args.shape]), Writer(args.seed, TYPES[args.type])
    shape["layers"] = args.layers or shape["layers"]
    metadata(w, shape, args.shape)
    w.tensor("token_embd.weight", shape["hidden"], shape["vocab"])
    for layer in range(shape["layers"]):
        attention(w, "blk.%d." % layer, shape)
        feed_forward(w, "blk.%d." % layer, shape, layer)
    w.tensor("output_norm.weight", shape["hidden"])
    w.tensor("output.weight", shape["hidden"], shape["vocab"])
    if args.size:
        print(w.offset)
        return
    try:
        w.write(args.out)
    except BaseException:
        if os.path.exists(args.out):
            os.unlink(args.out)
        raise


if __name__ == "__main__":
    main()
