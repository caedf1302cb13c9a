#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Picks the reference fixtures that are committed: pick.py FIXTURES tests/reference/data

Each architecture and each tensor format once, in at most 12 MB. Most are copied as they are. Of some models only the
first layer is kept, whose expected output is known as well; of blocks, tokenizer pairs and sampler cases a part.
"""
import argparse
import json
import os
import shutil
import struct
import sys

LIMIT = 12_000_000
MODELS = ['models/llama_rope3', 'models/mixtral', 'models/olmoe', 'models/qwen2', 'models/qwen3',
          'quant-models/llama-F16', 'quant-models/qwen3_moe_256-Q4_K']
FIRST_LAYER = ['quant-models/qwen3_moe-BF16', 'quant-models/qwen3_moe_256-Q8_0', 'quant-models/qwen3_moe_256-Q4_0',
               'quant-models/qwen3_moe_256-Q6_K']
TYPES = ['F16', 'BF16', 'Q4_0', 'Q8_0', 'Q4_K', 'Q6_K']
BLOCK_VALUES = 8192
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


def first_layer(data):
    """The GGUF file with block_count 1 and without the tensors of other layers."""
    r = Reader(data)
    r.at = 8
    n_tensors, n_pairs = r.number('Q'), r.number('Q')
    pairs = b''
    for _ in range(n_pairs):
        start, key, kind = r.at, r.string(), r.number('I')
        if key.endswith('.block_count'):
            r.skip_value(kind)
            pairs += data[start:r.at - 4] + struct.pack('<I', 1)
            continue
        r.skip_value(kind)
        pairs += data[start:r.at]
    tensors = []
    for _ in range(n_tensors):
        name, dims = r.string(), [r.number('Q') for _ in range(r.number('I'))]
        tensors.append((name, dims, r.number('I'), r.number('Q')))
    base = (r.at + 31) // 32 * 32
    ends = sorted(offset for _, _, _, offset in tensors) + [len(data) - base]
    infos, body = b'', b''
    kept = [t for t in tensors if not t[0].startswith('blk.') or t[0].startswith('blk.0.')]
    for name, dims, kind, offset in kept:
        infos += struct.pack('<Q', len(name)) + name.encode() + struct.pack(f'<I{len(dims)}Q', len(dims), *dims)
        infos += struct.pack('<IQ', kind, len(body))
        body += data[base + offset:base + min(e for e in ends if e > offset)]
        body += bytes(-len(body) % 32)
    head = data[:8] + struct.pack('<QQ', len(kept), n_pairs) + pairs + infos
    return head + bytes(-len(head) % 32) + body


def pick_first_layer(source, target):
    with open(f'{source}/expect.json', encoding='utf-8') as f:
        expect = json.load(f)
    rows, layers = expect['prompt_lengths'][0], expect['layers']
    expect['layers'], expect['moe_layers'] = 1, expect['moe_layers'][:1]
    for key in ('greedy', 'greedy_min_margin', 'measured', 'noise_gain', 'prompts'):
        expect.pop(key, None)
    write(f'{target}/model.gguf', first_layer(read(f'{source}/model.gguf')))
    write(f'{target}/expect.json', json.dumps(expect, indent=1).encode())
    for name in ('prompts.i32', f'embed_{rows}.f32'):
        write(f'{target}/{name}', read(f'{source}/{name}'))
    for name in (f'layers_{rows}.f32', f'router_ids_{rows}.i32', f'router_w_{rows}.f32'):
        data = read(f'{source}/{name}')
        write(f'{target}/{name}', data[:len(data) // layers])


def pick_blocks(source, target):
    with open(f'{source}/index.json', encoding='utf-8') as f:
        index = json.load(f)
    for name in TYPES:
        entry = index[name]
        entry['blocks'] = min(entry['blocks'], BLOCK_VALUES // entry['block_values'])
        write(f'{target}/{name}.bin', read(f'{source}/{name}.bin')[:entry['blocks'] * entry['block_bytes']])
        write(f'{target}/{name}.f32', read(f'{source}/{name}.f32')[:entry['blocks'] * entry['block_values'] * 4])
        for suffix in ('bin', 'f32'):
            write(f'{target}/dot/{name}.{suffix}', read(f'{source}/dot/{name}.{suffix}'))
    write(f'{target}/dot/activations.f32', read(f'{source}/dot/activations.f32'))
    write(f'{target}/index.json', json.dumps({name: index[name] for name in TYPES}, indent=1).encode())


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
    for name in FIRST_LAYER:
        pick_first_layer(f'{args.source}/{name}', f'{args.target}/{name}')
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
