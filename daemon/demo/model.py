# SPDX-License-Identifier: MIT
"""The demo model as it is trained: a qwen3moe transformer whose tokens use 1..8 of 16 experts.

Shapes: T tokens a step, d the width, E experts of width f, C slots per expert. The experts are
batched matrix products over a fixed number of slots, so that every step has the same shapes and
oneDNN compiles its kernels once; gradients are written out by hand to keep slices (whose gradients
are full-size zero fills) and scatters out of the graph.
"""
from dataclasses import dataclass, asdict

import torch
import torch.nn as nn
import torch.nn.functional as F

BF16 = torch.bfloat16


@dataclass
class Shape:
    """Everything that decides the tensors' sizes; stored in checkpoints."""
    vocab: int = 4096
    width: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 16
    expert_width: int = 128
    experts_max: int = 8
    context: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-6
    capacity: float = 1.25

    def dict(self):
        return asdict(self)


class _Linear(torch.autograd.Function):
    """y = x w^T in bf16 with f32 master weights; x [T, n], w [m, n]."""

    @staticmethod
    def forward(ctx, x, w):
        w = w.to(BF16)
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dy = dy.to(BF16)
        return dy @ w, (dy.t() @ x).float()


class _Experts(torch.autograd.Function):
    """The experts' feed-forward, y[t] = sum_j weight[t, j] * expert[t, j](x[t]).

    x [T, d] bf16; weight [T, 8], zero where a choice is unused; slot_of [T, 8] the row of each
    choice in the slots; token_of [E * C] the token of each slot; gate, up [E, d, f]; down [E, f, d].
    Both directions are gathers: a token sums over its slots, a slot copies from its token.
    """

    @staticmethod
    def forward(ctx, x, weight, slot_of, token_of, gate, up, down):
        E, d, _ = gate.shape
        gate, up, down = gate.to(BF16), up.to(BF16), down.to(BF16)
        xs = x.index_select(0, token_of).view(E, -1, d)
        g, u = torch.bmm(xs, gate), torch.bmm(xs, up)
        h = F.silu(g) * u
        o = torch.bmm(h, down).view(-1, d)
        ctx.save_for_backward(weight, slot_of, token_of, gate, up, down, xs, g, u, h, o)
        return F.embedding_bag(slot_of, o, per_sample_weights=weight.to(BF16), mode='sum')

    @staticmethod
    def backward(ctx, dy):
        weight, slot_of, token_of, gate, up, down, xs, g, u, h, o = ctx.saved_tensors
        E, C, d = xs.shape
        used = weight > 0
        flat = slot_of[used]
        slot_weight = torch.zeros(E * C).index_copy_(0, flat, weight[used])
        dys = dy.to(BF16).index_select(0, token_of)
        dots = (dys * o).sum(-1, dtype=torch.float32)
        dweight = dots.index_select(0, slot_of.view(-1)).view_as(weight) * used
        do = (dys * slot_weight.to(BF16)[:, None]).view(E, C, d)
        dh = torch.bmm(do, down.transpose(1, 2))
        ddown = torch.bmm(h.transpose(1, 2), do)
        sg = torch.sigmoid(g)
        a = g * sg
        dg = dh * u * (sg + a * (1 - sg))
        du = dh * a
        xt = xs.transpose(1, 2)
        dxs = torch.bmm(dg, gate.transpose(1, 2)) + torch.bmm(du, up.transpose(1, 2))
        dx = F.embedding_bag(slot_of, dxs.view(-1, d), per_sample_weights=used.to(BF16), mode='sum')
        return (dx, dweight, None, None, torch.bmm(xt, dg).float(), torch.bmm(xt, du).float(),
                ddown.float())


def rope_tables(shape, length):
    """cos and sin, [length, head_dim], halves repeated (the 'neox' pairing i, i + head_dim / 2)."""
    freq = shape.rope_base ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angle = torch.outer(torch.arange(length).float(), freq)
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim

        def matrix(*dims, scale=1.0):
            return nn.Parameter(torch.randn(*dims) * (scale / s.width ** 0.5))

        self.shape = s
        self.attn_norm = nn.Parameter(torch.ones(s.width))
        self.attn_q = matrix(q, s.width)
        self.attn_k = matrix(kv, s.width)
        self.attn_v = matrix(kv, s.width)
        self.attn_output = matrix(s.width, q, scale=0.1)
        self.attn_q_norm = nn.Parameter(torch.ones(s.head_dim))
        self.attn_k_norm = nn.Parameter(torch.ones(s.head_dim))
        self.ffn_norm = nn.Parameter(torch.ones(s.width))
        self.ffn_gate_inp = matrix(s.experts, s.width, scale=0.5)
        self.ffn_gate_exps = matrix(s.experts, s.width, s.expert_width)
        self.ffn_up_exps = matrix(s.experts, s.width, s.expert_width)
        self.ffn_down_exps = matrix(s.experts, s.expert_width, s.width, scale=0.15)

    def attend(self, x, blocks):
        """x [T, d] bf16; blocks: (rows, length, cos, sin), which cut the T tokens into sequences."""
        s = self.shape
        q = _Linear.apply(x, self.attn_q).view(-1, s.heads, s.head_dim).float()
        k = _Linear.apply(x, self.attn_k).view(-1, s.kv_heads, s.head_dim).float()
        v = _Linear.apply(x, self.attn_v).view(-1, s.kv_heads, s.head_dim)
        q = F.rms_norm(q, (s.head_dim,), self.attn_q_norm, s.eps)
        k = F.rms_norm(k, (s.head_dim,), self.attn_k_norm, s.eps)
        sizes = [rows * length for rows, length, _, _ in blocks]
        out = []
        for (rows, length, cos, sin), q, k, v in zip(blocks, q.split(sizes), k.split(sizes), v.split(sizes)):
            q, k, v = (t.view(rows, length, -1, s.head_dim).transpose(1, 2) for t in (q, k, v))
            q, k = rope(q, cos, sin).to(BF16), rope(k, cos, sin).to(BF16)
            q = q.reshape(rows * s.kv_heads, -1, s.head_dim)   # heads that share k, v: one matrix
            k, v = k.flatten(0, 1), v.flatten(0, 1)
            mask = torch.full((length, length), float('-inf')).triu(1).repeat(s.heads // s.kv_heads, 1)
            scores = (q @ k.mT).float() * s.head_dim ** -0.5 + mask
            o = (scores.softmax(-1).to(BF16) @ v).view(rows, s.heads, length, s.head_dim)
            out.append(o.transpose(1, 2).reshape(rows * length, -1))
        return _Linear.apply(torch.cat(out), self.attn_output)

    def route(self, x, count, slots):
        """Chooses experts and slots. count [T]: experts each token may use; slots: C.

        Returns weight, slot_of, token_of as _Experts takes them, the balance loss and the share of
        choices dropped because an expert's slots were taken."""
        s = self.shape
        T = x.shape[0]
        logits = F.linear(x, self.ffn_gate_inp)
        probs = logits.softmax(-1)
        top, choice = probs.topk(s.experts_max, -1)
        used = torch.arange(s.experts_max) < count[:, None]
        weight = top * used
        weight = weight / weight.sum(-1, keepdim=True)
        with torch.no_grad():
            # first choices of all tokens take slots before second choices do
            expert = torch.where(used, choice, s.experts).t().reshape(-1)
            hot = F.one_hot(expert, s.experts + 1).t()
            place = hot.cumsum(1, dtype=torch.int32).gather(0, expert[None]).view(-1) - 1
            kept = (place < slots) & (expert < s.experts)
            slot = torch.where(kept, expert * slots + place, 0)
            token_of = torch.zeros(s.experts * slots, dtype=torch.long)
            token = torch.arange(T).repeat(s.experts_max)
            token_of.index_copy_(0, slot[kept], token[kept])
            slot_of = slot.view(-1, T).t().contiguous()
            kept = kept.view(-1, T).t()
            share = hot[:s.experts].sum(1).float() / used.sum()
            dropped = 1 - kept.sum() / used.sum()
        balance = s.experts * (share * probs.mean(0)).sum()
        return weight * kept, slot_of, token_of, balance, dropped

    def forward(self, x, blocks, count, slots):
        s = self.shape
        h = F.rms_norm(x, (s.width,), self.attn_norm, s.eps).to(BF16)
        x = x + self.attend(h, blocks)
        h = F.rms_norm(x, (s.width,), self.ffn_norm, s.eps)
        weight, slot_of, token_of, balance, dropped = self.route(h, count, slots)
        y = _Experts.apply(h.to(BF16), weight, slot_of, token_of, self.ffn_gate_exps,
                           self.ffn_up_exps, self.ffn_down_exps)
        return x + y, balance, dropped


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Parameter(torch.randn(shape.vocab, shape.width) * 0.5)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.Parameter(torch.ones(shape.width))
        self.output = nn.Parameter(torch.randn(shape.vocab, shape.width) * 0.02)

    def forward(self, tokens, rows, count, slots=None):
        """tokens [T]; rows: list of (number, length) of the sequences in it, in order; count [T].

        Returns logits [T, vocab] bf16, the mean balance loss and the mean share dropped. Without
        slots an expert has room for every token, and nothing is ever dropped."""
        blocks = [(n, length, *rope_tables(self.shape, length)) for n, length in rows]
        x = F.embedding(tokens, self.token_embd)
        balance = dropped = 0
        for layer in self.blk:
            x, b, lost = layer(x, blocks, count, slots or tokens.numel())
            balance, dropped = balance + b, dropped + lost
        x = F.rms_norm(x, (self.shape.width,), self.output_norm, self.shape.eps).to(BF16)
        n = len(self.blk)
        return _Linear.apply(x, self.output), balance / n, dropped / n
