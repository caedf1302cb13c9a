# SPDX-License-Identifier: MIT
"""Writes the text that the demo model is calibrated on: of what it was trained on, in the same shares and forms, nothing of
what it is measured on.

calibset.py WORK [BYTES]: to standard output, about so many (200,000).
"""
import json
import random
import sys
from pathlib import Path

from tasks import Tasks

END_TEXT, START, END = '<|endoftext|>', '<|im_start|>', '<|im_end|>'


def chat(turns):
    return ''.join(f'{START}user\n{prompt}{END}\n{START}assistant\n{answer}{END}\n' for prompt, answer in turns)


def conversation(tasks, questions, r):
    return chat(r.choice(questions) if r.random() < 0.2 else tasks.example(r)[1:] for _ in range(r.randint(2, 7)))


def main():
    work, size = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200000
    r, tasks = random.Random(5), Tasks(json.load(open(work / 'facts.json')))
    known = [d for d in map(json.loads, open(work / 'text.jsonl')) if not d['held']]
    texts = [d['text'] for d in known if 'text' in d]
    questions = [(d['question'], d['answer']) for d in known if 'question' in d]
    while size > 0:
        part = (r.choice(texts)[:1500] if r.random() < 0.3 else conversation(tasks, questions, r)) + END_TEXT
        size -= len(part.encode())
        sys.stdout.write(part)


if __name__ == '__main__':
    main()
