# SPDX-License-Identifier: MIT
"""Measures a demo model file on the held-out sets, for several numbers of experts per token.

evaluate.py MODEL.gguf [--text FILE] [--tasks FILE] [--experts 1,2,...] [--against CHECKPOINT]

Shares nothing with the training: the tokenizer is built from the GGUF's own tables, and the forward
pass is NumPy in f32 over the dequantised weights, an expert at a time. --against prints how far its
logits are from those of the training code with the checkpoint's own weights.
"""
import argparse
import json
import math
import os
from pathlib import Path

import gguf
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

HERE = Path(__file__).parent
QWEN2 = (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class File:
    """A qwen3moe GGUF: its keys, tokenizer and a forward pass."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.key = {k: f.contents() for k, f in reader.fields.items() if not k.startswith('GGUF')}
        self.tensor = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(
            tuple(int(n) for n in t.shape[::-1])) for t in reader.tensors}
        self.tokenizer = self.make_tokenizer()
        self.end_text = self.key['tokenizer.ggml.bos_token_id']
        self.end = self.key['tokenizer.ggml.eos_token_id']

    def make_tokenizer(self):
        text = self.key['tokenizer.ggml.tokens']
        merges = [tuple(m.split(' ')) for m in self.key['tokenizer.ggml.merges']]
        tok = Tokenizer(models.BPE({t: i for i, t in enumerate(text)}, merges))
        assert self.key['tokenizer.ggml.pre'] == 'qwen2'
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(QWEN2), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        tok.decoder = decoders.ByteLevel()
        control = [t for t, kind in zip(text, self.key['tokenizer.ggml.token_type']) if kind == 3]
        tok.add_special_tokens([AddedToken(t, special=True) for t in control])
        return tok

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def shape(self, name):
        return self.key['qwen3moe.' + name]

    def norm(self, x, name):
        scale = (x * x).mean(-1, keepdims=True) + self.shape('attention.layer_norm_rms_epsilon')
        return x / np.sqrt(scale) * self.tensor[name + '.weight']

    def rope(self, x):
        """x [T, heads, dim], rotated in pairs (i, i + dim / 2)."""
        half = x.shape[-1] // 2
        freq = self.shape('rope.freq_base') ** (-np.arange(half) / half)
        angle = np.outer(np.arange(len(x)), freq)[:, None, :]
        a, b = x[..., :half], x[..., half:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate((a * cos - b * sin, b * cos + a * sin), -1).astype(np.float32)

    def attention(self, x, blk):
        heads, kv, dim = (self.shape('attention.' + n) for n in ('head_count', 'head_count_kv', 'key_length'))
        q, k, v = (x @ self.tensor[f'{blk}.attn_{n}.weight'].T for n in 'qkv')
        q = self.rope(self.norm(q.reshape(-1, heads, dim), blk + '.attn_q_norm'))
        k = self.rope(self.norm(k.reshape(-1, kv, dim), blk + '.attn_k_norm'))
        v = v.reshape(-1, kv, dim)
        later = np.triu(np.full((len(x), len(x)), -np.inf, np.float32), 1)
        out = np.empty((len(x), heads, dim), np.float32)
        for h in range(heads):
            g = h // (heads // kv)
            out[:, h] = softmax(q[:, h] @ k[:, g].T / math.sqrt(dim) + later) @ v[:, g]
        return out.reshape(len(x), -1) @ self.tensor[blk + '.attn_output.weight'].T

    def experts(self, x, blk, count):
        probs = softmax(x @ self.tensor[blk + '.ffn_gate_inp.weight'].T)
        choice = np.argsort(-probs, -1, kind='stable')[:, :count]
        weight = np.take_along_axis(probs, choice, -1)
        weight /= weight.sum(-1, keepdims=True)
        gate, up, down = (self.tensor[f'{blk}.ffn_{n}_exps.weight'] for n in ('gate', 'up', 'down'))
        y = np.zeros_like(x)
        for e in range(len(gate)):
            row, place = np.nonzero(choice == e)
            g = x[row] @ gate[e].T
            h = g / (1 + np.exp(-g)) * (x[row] @ up[e].T)
            y[row] += weight[row, place, None] * (h @ down[e].T)
        return y

    def logits(self, ids, count):
        """[T, vocab] for the token after each of ids, with count experts per token."""
        x = self.tensor['token_embd.weight'][ids]
        for i in range(self.shape('block_count')):
            blk = f'blk.{i}'
            x = x + self.attention(self.norm(x, blk + '.attn_norm'), blk)
            x = x + self.experts(self.norm(x, blk + '.ffn_norm'), blk, count)
        return self.norm(x, 'output_norm') @ self.tensor['output.weight'].T


def bits_per_byte(model, text, count):
    bits = size = 0
    for doc in text.removesuffix('\n').split('\n%%\n'):
        ids = model.ids(doc)
        p = softmax(model.logits([model.end_text] + ids[:-1], count).astype(np.float64))
        bits -= np.log2(p[np.arange(len(ids)), ids]).sum()
        size += len(doc.encode())
    return bits / size


def accuracy(model, tasks, count):
    """Share of right answers by task: every token of the answer and its end is the most likely after
    those before it, which is when greedy generation writes exactly the answer."""
    right = {}
    for t in tasks:
        prompt = model.ids(f"<|im_start|>user\n{t['prompt']}<|im_end|>\n<|im_start|>assistant\n")
        answer = model.ids(t['answer']) + [model.end]
        best = model.logits(prompt + answer[:-1], count)[len(prompt) - 1:].argmax(-1)
        right.setdefault(t['task'], []).append(best.tolist() == answer)
    return {name: sum(hits) / len(hits) for name, hits in right.items()}


def compare(model, checkpoint, text):
    """Largest and mean difference of logits from the training code's, on a document."""
    import torch
    from model import Model, Shape
    c = torch.load(checkpoint, weights_only=False)
    trained = Model(Shape(**c['shape']))
    trained.load_state_dict(c['model'])
    ids = [model.end_text] + model.ids(text.split('\n%%\n')[0])
    for count in (1, 8):
        with torch.no_grad():
            a = trained(torch.tensor(ids), [(1, len(ids))], torch.full((len(ids),), count))[0].float().numpy()
        b = model.logits(ids, count)
        print(f'{count} experts: logits differ by at most {abs(a - b).max():.3f}, {abs(a - b).mean():.4f} in '
              f'the mean (spread {b.std():.2f}); the most likely token is the same for '
              f'{(a.argmax(-1) == b.argmax(-1)).mean():.3f} of {len(ids)} positions')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model')
    p.add_argument('--text', default=HERE / 'eval-text.txt')
    p.add_argument('--tasks', default=HERE / 'eval-tasks.jsonl')
    p.add_argument('--experts', default='1,2,3,4,6,8')
    p.add_argument('--against', metavar='CHECKPOINT')
    args = p.parse_args()
    model = File(args.model)
    text = Path(args.text).read_text(encoding='utf-8')
    tasks = [json.loads(line) for line in open(args.tasks, encoding='utf-8')]
    if args.against:
        compare(model, args.against, text)
    counts = [int(n) for n in args.experts.split(',')]
    found = [accuracy(model, tasks, n) for n in counts]
    groups = {t['task']: t['group'] for t in tasks}

    def row(name, values):
        print(f'| {name} |', ' | '.join(values), '|')

    row('experts per token', map(str, counts))
    print('| --- |' + ' ---: |' * len(counts))
    row('bits per byte', (f'{bits_per_byte(model, text, n):.3f}' for n in counts))
    for group in ('computed', 'recalled'):
        names = [n for n, g in groups.items() if g == group]
        row(f'**{group}, mean**', (f'{100 * np.mean([f[n] for n in names]):.1f} %' for f in found))
        for name in names:
            row(name, (f'{100 * f[name]:.0f} %' for f in found))
    row('**all tasks, mean**', (f'{100 * np.mean(list(f.values())):.1f} %' for f in found))


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '2')
    main()
