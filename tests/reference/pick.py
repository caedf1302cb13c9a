#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Picks the reference fixtures that are committed: pick.py FIXTURES tests/reference/data

Each architecture and each tensor format once, in at most 12 MB. Some models are copied as they are. Of the others the
first layers are kept, whose expected outputs are known as well, and mostly the embeddings of the tokens that are fed; of
blocks, tokenizer pairs and sampler cases a part.
"""
import argparse
import json
import os
import shutil
import struct
import sys

LIMIT = 12_000_000
MODELS = ['models/gemma3', 'models/olmoe', 'quant-models/deepseek_v4-MXFP4', 'quant-models/gpt_oss-MXFP4']
# How many of the first layers.
LAYERS = {
    'models/deepseek_v2': 1, 'models/deepseek_v2_lite': 2, 'models/deepseek_v3': 2, 'models/deepseek_v32': 1,
    'models/glm_moe_dsa': 1, 'models/gpt_oss': 1, 'models/granite_moe': 1, 'models/llama_rope3': 1, 'models/mixtral': 1,
    'models/qwen2': 1, 'models/qwen2_moe': 1, 'models/qwen3': 1, 'quant-models/llama-F16': 1,
    'quant-models/qwen3_moe_256-Q4_K': 1,
}
TEXT = 'models/mixtral'  # keeps its vocabulary: the end-to-end tests talk to it
BLOCK_VALUES = 2048
TOKENIZERS = ['gpt-2', 'llama-bpe', 'qwen2']
PAIRS_BYTES = 60_000
SAMPLER_VOCAB_MAX = 320

SCALARS = {0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q', 11: 'q', 12: 'd'}
STRING, ARRAY = 8, 9
ABSENT = 0xffffffff


class Reader:
    """Walks the bytes of a GGUF file."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, form):
        value, = struct.unpack_from('<' + form, self.data, self.at)
        self.at += struct.calcsize('<' + form)
        return value

    def string(self):
        size = self.number('Q')
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def skip_value(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            element, count = self.number('I'), self.number('Q')
            for _ in range(count):
                self.skip_value(element)
        else:
            self.number(SCALARS[kind])


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as f:
        f.write(data)


class Model:
    """A GGUF file in parts: its keys as bytes, and its tensors."""

    def __init__(self, data):
        r = Reader(data)
        self.head, r.at = data[:8], 8
        n_tensors, n_pairs = r.number('Q'), r.number('Q')
        self.pairs = {}
        for _ in range(n_pairs):
            start, key, kind = r.at, r.string(), r.number('I')
            r.skip_value(kind)
            self.pairs[key] = data[start:r.at]
        infos = []
        for _ in range(n_tensors):
            name, dims = r.string(), [r.number('Q') for _ in range(r.number('I'))]
            infos.append((name, dims, r.number('I'), r.number('Q')))
        base = (r.at + 31) // 32 * 32
        ends = sorted(offset for *_, offset in infos) + [len(data) - base]
        self.tensors = {name: (dims, kind, data[base + offset:base + min(e for e in ends if e > offset)])
                        for name, dims, kind, offset in infos}

    def keep_layers(self, n):
        def kept(name):
            return not name.startswith('blk.') or int(name.split('.')[1]) < n

        self.tensors = {name: t for name, t in self.tensors.items() if kept(name) and name != 'output.weight'}
        self.pairs = {key: pair[:-4] + struct.pack('<I', n) if key.endswith('.block_count') else pair
                      for key, pair in self.pairs.items()}

    def keep_tokens(self, tokens):
        self.pairs = {key: pair for key, pair in self.pairs.items() if not key.startswith('tokenizer.')}
        (cols, rows), kind, data = self.tensors['token_embd.weight']
        size = len(data) // rows
        data = b''.join(data[t * size:(t + 1) * size] for t in tokens)
        self.tensors['token_embd.weight'] = [cols, len(tokens)], kind, data

    def bytes(self):
        infos, body = b'', b''
        for name, (dims, kind, data) in self.tensors.items():
            infos += struct.pack('<Q', len(name)) + name.encode()
            infos += struct.pack(f'<I{len(dims)}QIQ', len(dims), *dims, kind, len(body))
            body += data + bytes(-len(data) % 32)
        head = self.head + struct.pack('<QQ', len(self.tensors), len(self.pairs)) + b''.join(self.pairs.values()) + infos
        return head + bytes(-len(head) % 32) + body


def pick_layers(source, target, n):
    with open(f'{source}/expect.json', encoding='utf-8') as f:
        expect = json.load(f)
    model = Model(read(f'{source}/model.gguf'))
    indexers = [int(name.split('.')[1]) for name in model.tensors if name.endswith('indexer.proj.weight')]
    rows, layers, moe_layers = expect['prompt_lengths'][0], expect['layers'], expect.get('moe_layers') or []
    lengths = expect['prompt_lengths'][:3 if indexers else 1]
    prompts = struct.unpack(f'<{sum(lengths)}i', read(f'{source}/prompts.i32')[:4 * sum(lengths)])
    model.keep_layers(n)
    if not source.endswith(TEXT):
        tokens = sorted(set(prompts))
        model.keep_tokens(tokens)
        prompts = [tokens.index(t) for t in prompts]
    kept = [layer for layer in moe_layers if layer < n]
    expect.update(layers=n, moe_layers=kept, prompt_lengths=lengths)
    expect['layers_7'][0] = n
    for key in ('greedy', 'greedy_min_margin', 'measured', 'noise_gain', 'prompts', 'router_7'):
        expect.pop(key, None)
    write(f'{target}/model.gguf', model.bytes())
    write(f'{target}/expect.json', json.dumps(expect, indent=1).encode())
    write(f'{target}/prompts.i32', struct.pack(f'<{len(prompts)}i', *prompts))
    write(f'{target}/embed_{rows}.f32', read(f'{source}/embed_{rows}.f32'))
    parts = {f'layers_{rows}.f32': (n, layers)}
    if kept:
        parts |= {f'router_{name}': (len(kept), len(moe_layers)) for name in (f'ids_{rows}.i32', f'w_{rows}.f32')}
    if indexers:
        parts[f'indexer_{lengths[2]}.i32'] = sum(layer < n for layer in indexers), len(indexers)
    for name, (part, whole) in parts.items():
        data = read(f'{source}/{name}')
        write(f'{target}/{name}', data[:len(data) // whole * part])


def pick_blocks(source, target):
    with open(f'{source}/index.json', encoding='utf-8') as f:
        index = json.load(f)
    for name, entry in index.items():
        entry['blocks'] = min(entry['blocks'], BLOCK_VALUES // entry['block_values'])
        write(f'{target}/{name}.bin', read(f'{source}/{name}.bin')[:entry['blocks'] * entry['block_bytes']])
        write(f'{target}/{name}.f32', read(f'{source}/{name}.f32')[:entry['blocks'] * entry['block_values'] * 4])
        for suffix in ('bin', 'f32') if os.path.exists(f'{source}/dot/{name}.bin') else ():
            write(f'{target}/dot/{name}.{suffix}', read(f'{source}/dot/{name}.{suffix}'))
    write(f'{target}/dot/activations.f32', read(f'{source}/dot/activations.f32'))
    write(f'{target}/index.json', json.dumps(index, indent=1).encode())


def pick_pairs(data):
    """Records spread over the file until PAIRS_BYTES are full."""
    r, records = Reader(data), []
    while r.at < len(data):
        start = r.at
        for size in (1, 4, 4, 1):
            count = r.number('I')
            r.at += 0 if count == ABSENT else count * size
        records.append(data[start:r.at])
    step = max(1, -(-len(data) // PAIRS_BYTES))
    return b''.join(records[::step])


def pick_tokenizer(source, target):
    write(f'{target}/vocab.gguf', read(f'{source}/vocab.gguf'))
    for name in ('pairs.bin', 'pairs-nfc.bin', 'pairs-tied.bin'):
        if os.path.exists(f'{source}/{name}'):
            write(f'{target}/{name}', pick_pairs(read(f'{source}/{name}')))


def pick_samplers(source, target):
    logits, probs, history = (read(f'{source}/{name}') for name in ('logits.f32', 'probs.f32', 'history.i32'))
    out, lines = [b'', b'', b''], ''
    with open(f'{source}/cases.jsonl', encoding='utf-8') as f:
        for line in f:
            case = json.loads(line)
            if case['vocab'] > SAMPLER_VOCAB_MAX:
                continue
            spans = [(case['logits'], case['vocab']), (case['probs'], case['vocab']),
                     (case['history'], case['history_len'])]
            case['logits'], case['probs'], case['history'] = (len(o) // 4 for o in out)
            for i, (array, (start, n)) in enumerate(zip((logits, probs, history), spans)):
                out[i] += array[start * 4:(start + n) * 4]
            lines += json.dumps(case) + '\n'
    write(f'{target}/cases.jsonl', lines.encode())
    for name, data in zip(('logits.f32', 'probs.f32', 'history.i32'), out):
        write(f'{target}/{name}', data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('source', metavar='FIXTURES')
    parser.add_argument('target', metavar='DATA', help='is replaced')
    args = parser.parse_args()
    shutil.rmtree(args.target, ignore_errors=True)
    for name in MODELS:
        for file in sorted(os.listdir(f'{args.source}/{name}')):
            write(f'{args.target}/{name}/{file}', read(f'{args.source}/{name}/{file}'))
    for name, n in LAYERS.items():
        pick_layers(f'{args.source}/{name}', f'{args.target}/{name}', n)
    pick_blocks(f'{args.source}/blocks', f'{args.target}/blocks')
    for name in TOKENIZERS:
        pick_tokenizer(f'{args.source}/tokenizers/{name}', f'{args.target}/tokenizers/{name}')
    pick_samplers(f'{args.source}/samplers', f'{args.target}/samplers')
    size = sum(os.path.getsize(os.path.join(folder, file)) for folder, _, files in os.walk(args.target)
               for file in files)
    print(f'{args.target}: {size} bytes of at most {LIMIT}')
    return 0 if size <= LIMIT else 1


if __name__ == '__main__':
    sys.exit(main())
