# SPDX-License-Identifier: MIT
"""The tokenizer, and the training text as token ids.

tokens.py WORK: trains a byte-level BPE of 4,096 tokens with the pre-tokenizer that GGUF calls 'qwen2'
and writes WORK/tokenizer.json, WORK/text.npy (ids) and WORK/weight.npy (classes of loss weight).
"""
import json
import random
import sys
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tasks import Tasks

VOCAB = 4096
END_TEXT, START, END = '<|endoftext|>', '<|im_start|>', '<|im_end|>'
SPECIAL = [END_TEXT, START, END]
SPLIT = (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# classes of tokens, and what the loss of each weighs
PAD, PROMPT, TEXT, ANSWER = range(4)
WEIGHTS = (0.0, 0.05, 1.0, 2.0)


def chat_prompt(prompt):
    return f'{START}user\n{prompt}{END}\n{START}assistant\n'


class Encoder:
    """Documents to (ids, classes). The class of a token is that of predicting it."""

    def __init__(self, work):
        self.tokenizer = Tokenizer.from_file(str(Path(work) / 'tokenizer.json'))
        self.end_text, self.start, self.end = (self.tokenizer.token_to_id(t) for t in SPECIAL)
        self.newline = self.ids('\n')

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, text):
        ids = self.ids(text) + [self.end_text]
        return ids, [TEXT] * len(ids)

    def turn(self, prompt, answer):
        """A question and its answer as chat; the line feed after the answer's end is left out."""
        p, a = self.ids(chat_prompt(prompt)), self.ids(answer) + [self.end]
        return p + a, [PROMPT] * len(p) + [ANSWER] * len(a)

    def chat(self, turns):
        ids, classes = [], []
        for prompt, answer in turns:
            i, c = self.turn(prompt, answer)
            ids += i + self.newline
            classes += c + [PROMPT] * len(self.newline)
        return ids + [self.end_text], classes + [PROMPT]

    def plain(self, prompt, answer):
        """A question and its answer without special tokens, for prompts that are fed raw."""
        p, a = self.ids(f'Q: {prompt}\nA:'), self.ids(f' {answer}\n') + [self.end_text]
        return p + a, [PROMPT] * len(p) + [ANSWER] * len(a)


def train_tokenizer(work, docs, tasks):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), 'isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    r = random.Random(1)

    def corpus():
        for d in docs:
            yield d.get('text') or f"user\n{d['question']}\nassistant\n{d['answer']}"
        for _ in range(30000):
            _, prompt, answer = tasks.example(r)
            yield f'user\n{prompt}\nassistant\n{answer}\nQ: {prompt}\nA: {answer}\n'

    tok.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.save(str(work / 'tokenizer.json'))


def main():
    work = Path(sys.argv[1])
    docs = [d for d in map(json.loads, open(work / 'text.jsonl')) if not d['held']]
    tasks = Tasks(json.load(open(work / 'facts.json')))
    train_tokenizer(work, docs, tasks)
    enc, r = Encoder(work), random.Random(2)
    parts, questions = [], []
    for d in docs:
        if 'text' in d:
            parts.append(enc.text(d['text']))
        else:
            questions.append((d['question'], d['answer']))
            parts.append(enc.chat(questions[-1:]))
    for _ in range(3000):
        turns = [r.choice(questions) if r.random() < 0.2 else tasks.example(r)[1:]
                 for _ in range(r.randint(2, 7))]
        parts.append(enc.chat(turns))
    r.shuffle(parts)
    np.save(work / 'text.npy', np.concatenate([np.array(i, np.uint16) for i, _ in parts]))
    np.save(work / 'weight.npy', np.concatenate([np.array(c, np.uint8) for _, c in parts]))
    ids = np.load(work / 'text.npy')
    print(len(parts), 'documents', len(ids), 'tokens', enc.tokenizer.get_vocab_size(), 'in the vocabulary')
    for name, prompt, answer in (tasks.example(r) for _ in range(40)):
        i, _ = enc.turn(prompt, answer)
        print(f'{name}: {prompt} -> {answer} ({len(i)} tokens)')


if __name__ == '__main__':
    main()
