# SPDX-License-Identifier: MIT
"""Trains the demo model for a given time; see README.md.

A step is 4,096 tokens: half of them text in rows of 256 or 512, half generated tasks in rows of 64.
Each row draws how many experts its tokens use, 1 to 8; the draws are stratified, so that every step
has as many choices of experts as the last and its shapes never change. Learning rates fall linearly
to zero over the last part of the time that was given, whatever the throughput turns out to be.
"""
import argparse
import json
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import tokens
from export import export
from model import Model, Shape
from optim import Muon
from tasks import Tasks

STEP_TOKENS = 4096
TASK_ROWS, TASK_LENGTH = 32, 64
TEXT_TOKENS = STEP_TOKENS - TASK_ROWS * TASK_LENGTH
MEAN_EXPERTS = 4.5
COOLDOWN = 0.4
RATES = {'matrix': 5e-3, 'token_embd': 5e-3, 'other': 2e-3}


class TextRows:
    """Rows of text in an order drawn anew for each pass over it."""

    def __init__(self, work, r):
        self.ids, self.classes, self.r = np.load(work / 'text.npy'), np.load(work / 'weight.npy'), r
        self.starts = []

    def batch(self, length):
        ids, targets, classes = [], [], []
        for _ in range(TEXT_TOKENS // 512):
            if not self.starts:
                self.starts = list(range(self.r.randrange(512), len(self.ids) - 513, 512))
                self.r.shuffle(self.starts)
            at = self.starts.pop()
            ids.append(self.ids[at:at + 512])
            targets.append(self.ids[at + 1:at + 513])
            classes.append(self.classes[at + 1:at + 513])
        return [np.concatenate(part).astype(np.int64) for part in (ids, targets, classes)]


class TaskRows:
    """Rows of whole task examples, the first at the row's start, padded with the end of text."""

    def __init__(self, encoder, tasks, r):
        self.encoder, self.tasks, self.r = encoder, tasks, r
        self.pool = []

    def example(self):
        name, prompt, answer = self.tasks.example(self.r)
        if self.r.random() < 0.2:
            return self.encoder.plain(prompt, answer)
        return self.encoder.chat([(prompt, answer)])

    def batch(self):
        while len(self.pool) < 150:
            example = self.example()
            if len(example[0]) <= TASK_LENGTH + 1:
                self.pool.append(example)
        ids = np.full((TASK_ROWS, TASK_LENGTH + 1), self.encoder.end_text)
        classes = np.zeros((TASK_ROWS, TASK_LENGTH + 1), np.int64)
        for row in range(TASK_ROWS):
            at, i = 0, 0
            while i < len(self.pool):
                part, cls = self.pool[i]
                if at + len(part) <= TASK_LENGTH + 1:
                    ids[row, at:at + len(part)] = part
                    classes[row, at:at + len(part)] = cls
                    at += len(part)
                    del self.pool[i]
                else:
                    i += 1
        return ids[:, :-1].reshape(-1), ids[:, 1:].reshape(-1), classes[:, 1:].reshape(-1)


def expert_counts(r, rows):
    """For each row 1..8, with a mean of 4.5 over the rows, whose number is even."""
    counts = []
    while len(counts) < rows:
        low = [1, 2, 3, 4]
        r.shuffle(low)
        counts += [n for k in low for n in (k, 9 - k)]
    counts = counts[:rows]
    r.shuffle(counts)
    return counts


def held_out_tasks(encoder, tasks, each):
    r = random.Random(99)
    return [(n, encoder.turn(*tasks.held(n, r)[1:])) for n in (*tasks.computed, *tasks.recalled)
            for _ in range(each)]


@torch.no_grad()
def accuracy(model, examples, experts):
    """Share of answers right, by task. Every token of the answer is the most likely one after those
    before it exactly when greedy generation writes the answer."""
    right = {}
    for name, (ids, classes) in examples:
        x = torch.tensor(ids[:-1])
        logits, _, _ = model(x, [(1, len(x))], torch.full((len(x),), experts))
        answer = torch.tensor(classes[1:]) == tokens.ANSWER
        hit = bool((logits.argmax(-1) == torch.tensor(ids[1:]))[answer].all())
        right.setdefault(name, []).append(hit)
    return {name: sum(hits) / len(hits) for name, hits in right.items()}


class Trainer:
    def __init__(self, args):
        self.args, self.work = args, Path(args.work)
        torch.manual_seed(args.seed)
        self.r = random.Random(args.seed)
        self.model = Model(Shape())
        named = list(self.model.named_parameters())
        matrices = [p for n, p in named if n.startswith('blk') and p.dim() > 1 and 'gate_inp' not in n]
        chosen = {id(p) for p in matrices}
        groups = [{'params': [p for n, p in named if n == 'token_embd'], 'rate': RATES['token_embd']},
                  {'params': [p for n, p in named if n != 'token_embd' and id(p) not in chosen],
                   'rate': RATES['other']}]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.muon = Muon(matrices, lr=0.0, decay=0.05)
        self.muon.param_groups[0]['rate'] = RATES['matrix']
        self.step, self.elapsed = 0, 0.0
        self.encoder = tokens.Encoder(self.work)
        self.tasks = Tasks(json.load(open(self.work / 'facts.json')))
        self.text = TextRows(self.work, self.r)
        self.rows = TaskRows(self.encoder, self.tasks, self.r)
        self.held = held_out_tasks(self.encoder, self.tasks, 12)
        self.weights = torch.tensor(tokens.WEIGHTS)
        self.slots = int(STEP_TOKENS * MEAN_EXPERTS / self.model.shape.experts
                         * self.model.shape.capacity) // 16 * 16

    def save(self):
        path = self.work / 'checkpoint.pt'
        torch.save({'shape': self.model.shape.dict(), 'model': self.model.state_dict(), 'step': self.step,
                    'elapsed': self.elapsed, 'adam': self.adam.state_dict(), 'muon': self.muon.state_dict(),
                    'random': self.r.getstate(), 'starts': self.text.starts}, f'{path}.new')
        os.replace(f'{path}.new', path)
        if self.args.gguf:
            export(path, self.work / 'tokenizer.json', self.args.gguf)

    def resume(self):
        path = self.work / 'checkpoint.pt'
        if not path.exists():
            return
        c = torch.load(path, weights_only=False)
        self.model.load_state_dict(c['model'])
        self.adam.load_state_dict(c['adam'])
        self.muon.load_state_dict(c['muon'])
        self.step, self.elapsed = c['step'], c['elapsed']
        self.r.setstate(c['random'])
        self.text.starts = c['starts']
        print(f'goes on from step {self.step}, after {self.elapsed:.0f} s', flush=True)

    def rate(self):
        part = min(1.0, self.elapsed / (self.args.minutes * 60))
        scale = min(1.0, (self.step + 1) / 60, (1 - part) / COOLDOWN)
        for group in (*self.adam.param_groups, *self.muon.param_groups):
            group['lr'] = group['rate'] * scale
        return scale

    def learn(self):
        """One step; returns (loss of text, loss of answers, balance, dropped)."""
        length = 512 if self.step % 4 == 3 else 256
        text_rows = TEXT_TOKENS // length
        parts = zip(self.text.batch(length), self.rows.batch())
        ids, targets, classes = (torch.from_numpy(np.concatenate(p)) for p in parts)
        count = torch.cat([torch.tensor(expert_counts(self.r, n)).repeat_interleave(m)
                           for n, m in ((text_rows, length), (TASK_ROWS, TASK_LENGTH))])
        logits, balance, dropped = self.model(
            ids, [(text_rows, length), (TASK_ROWS, TASK_LENGTH)], count, self.slots)
        loss = F.cross_entropy(logits.float(), targets, reduction='none')
        weight = self.weights[classes]
        ((loss * weight).sum() / weight.sum() + 0.01 * balance).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        for o in (self.adam, self.muon):
            o.step()
            o.zero_grad()
        loss = loss.detach()
        return [float(loss[classes == c].mean()) for c in (tokens.TEXT, tokens.ANSWER)] + \
            [float(balance.detach()), float(dropped)]

    def run(self):
        self.resume()
        seen, saved, tested = [], self.elapsed, self.elapsed
        last = time.monotonic()
        while self.elapsed < self.args.minutes * 60 and self.step < self.args.steps:
            scale = self.rate()
            seen.append(self.learn())
            self.step += 1
            now = time.monotonic()
            self.elapsed, last = self.elapsed + now - last, now
            if self.step % 10 == 0:
                text, answer, balance, dropped = np.mean(seen, 0)
                print(f'step {self.step} time {self.elapsed:.0f} rate {scale:.3f} text {text:.3f} '
                      f'answer {answer:.3f} balance {balance:.3f} dropped {dropped:.4f} '
                      f'tokens {self.step * STEP_TOKENS / 1e6:.2f} M '
                      f'{self.step * STEP_TOKENS / self.elapsed:.0f}/s', flush=True)
                seen = []
            if self.elapsed - tested > self.args.test_every * 60:
                tested = self.elapsed
                for experts in (8, 2):
                    found = accuracy(self.model, self.held, experts)
                    print(f'{experts} experts: mean {np.mean(list(found.values())):.3f}',
                          ' '.join(f'{n} {a:.2f}' for n, a in found.items()), flush=True)
            if self.elapsed - saved > self.args.save_every * 60:
                saved = self.elapsed
                self.save()
        self.save()
        print(f'done: {self.step} steps, {self.step * STEP_TOKENS} tokens, {self.elapsed:.0f} s', flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('work', help='folder with text.npy, facts.json, tokenizer.json; holds checkpoint.pt')
    p.add_argument('--minutes', type=float, default=170, help='time to train in all, over all resumptions')
    p.add_argument('--steps', type=int, default=10 ** 9, help='stop after so many steps')
    p.add_argument('--seed', type=int, default=1)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--save-every', type=float, default=10, metavar='MINUTES')
    p.add_argument('--test-every', type=float, default=20, metavar='MINUTES')
    p.add_argument('--gguf', help='write the model here with every checkpoint')
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    Trainer(args).run()


if __name__ == '__main__':
    main()
