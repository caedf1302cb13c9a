# SPDX-License-Identifier: MIT
"""Writes the held-out evaluation files, whose formats README.md gives.

evalset.py WORK FOLDER: FOLDER/eval-text.txt and FOLDER/eval-tasks.jsonl.
"""
import json
import random
import sys
from pathlib import Path

from tasks import Tasks
from tokens import Encoder

BYTES = {'wordnet': 23000, 'bible': 19000, 'jargon': 14000, 'devil': 6000}
LONGEST = 400
COMPUTED, RECALLED = 15, 12


def shorten(encoder, text):
    """The lines of text that fit LONGEST tokens; None where not even the first does."""
    lines = []
    for line in text.split('\n'):
        if len(encoder.ids('\n'.join(lines + [line]))) > LONGEST:
            break
        lines.append(line)
    return '\n'.join(lines) or None


def texts(work):
    encoder, r = Encoder(work), random.Random(3)
    held = [d for d in map(json.loads, open(work / 'text.jsonl')) if d['held']]
    r.shuffle(held)
    left = dict(BYTES)
    for d in held:
        text = shorten(encoder, d['text'])
        size = len(text.encode()) if text else 0
        if 150 < size <= left[d['source']]:
            left[d['source']] -= size
            yield text


def tasks(work):
    t, r = Tasks(json.load(open(work / 'facts.json'))), random.Random(4)
    for group, names, each in (('computed', t.computed, COMPUTED), ('recalled', t.recalled, RECALLED)):
        for name in names:
            seen = {}
            while len(seen) < each:
                _, prompt, answer = t.held(name, r)
                seen[prompt] = answer
            for prompt, answer in seen.items():
                yield {'task': name, 'group': group, 'prompt': prompt, 'answer': answer}


def main():
    work, folder = Path(sys.argv[1]), Path(sys.argv[2])
    (folder / 'eval-text.txt').write_text('\n%%\n'.join(texts(work)) + '\n', encoding='utf-8')
    with open(folder / 'eval-tasks.jsonl', 'w', encoding='utf-8') as out:
        for line in tasks(work):
            out.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
