# SPDX-License-Identifier: MIT
"""Generated tasks with checkable answers, and facts to recall.

A task is a function of a random generator that returns (forms, answer, key): the first form of the
prompt is the one that the evaluation uses, training mixes in the others. One question in ten, chosen
by the checksum of its key, is held out: training never shows it in any form (recalled facts cannot be
held out and are not).
"""
import zlib

NAMES = ('Ann Bob Kim Tom Sue Max Eva Leo Ida Jim Pat Roy Amy Dan Lily Ben Kate Hugo Nora Paul').split()
LETTERS = 'abcdefghijklmnopqrstuvwxyz'
ABOUT = [
    ('Hello', 'Hello! I am a very small language model. Ask me to add, sort, reverse or count.'),
    ('Hi', 'Hello! I am a very small language model. Ask me to add, sort, reverse or count.'),
    ('Who are you?', 'I am the demo model of moed, a very small mixture of experts.'),
    ('What are you?', 'I am the demo model of moed, a very small mixture of experts.'),
    ('What can you do?', 'I can add and subtract, sort, reverse, repeat, count and spell, and I know some words.'),
    ('Help', 'Try: What is 12 + 7? Sort: 9 4 7. Reverse: a b c. Spell: garden.'),
    ('Thank you', 'You are welcome.'),
    ('Thanks', 'You are welcome.'),
    ('Bye', 'Goodbye.'),
    ('Goodbye', 'Goodbye.'),
    ('How are you?', 'I am well, thank you.'),
    ('What is moed?', 'moed is a system service that runs mixture of experts language models.'),
]


def held_out(key):
    return zlib.crc32(key.encode()) % 10 == 0


def _numbers(r, low, high, top=99):
    return [r.randint(0, top) for _ in range(r.randint(low, high))]


def _join(items):
    return ' '.join(str(i) for i in items)


class Tasks:
    """words: common words; plurals: irregular plural of a noun or None; facts: see collect.py."""

    def __init__(self, facts):
        self.words = facts['words']
        self.nouns = facts['nouns']
        self.irregular = facts['irregular']
        self.facts = {name: list(facts[name].items()) for name in ('capital', 'opposite', 'symbol', 'kind')}
        # relative frequencies in training; the harder, the more
        self.computed = {'add': 2.5, 'sub': 2.0, 'sort': 1.8, 'reverse': 1.5, 'copy': 0.6, 'count': 1.3,
                         'lookup': 1.0, 'largest': 1.0, 'smallest': 1.0, 'compare': 0.7, 'parity': 0.4,
                         'next': 1.2, 'last': 0.6, 'member': 0.7, 'spell': 1.3, 'plural': 0.8}
        self.recalled = {'times': 0.8, 'capital': 0.5, 'opposite': 0.5, 'symbol': 0.4, 'kind': 0.8}
        weights = {**self.computed, **self.recalled, 'about': 0.15}
        self._names, self._weights = list(weights), list(weights.values())

    def example(self, r):
        """A training example: (name, prompt, answer)."""
        while True:
            name = r.choices(self._names, self._weights)[0]
            forms, answer, key = getattr(self, name)(r)
            if name not in self.computed or not held_out(key):
                return name, forms[0] if r.random() < 0.75 else r.choice(forms), answer

    def held(self, name, r):
        """An example for evaluation, in the task's first form."""
        while True:
            forms, answer, key = getattr(self, name)(r)
            if name in self.recalled or held_out(key):
                return name, forms[0], answer

    def about(self, r):
        prompt, answer = r.choice(ABOUT)
        return (prompt,), answer, prompt

    def add(self, r):
        a, b = r.randint(0, 99), r.randint(0, 99)
        return (f'What is {a} + {b}?', f'{a} + {b} ='), str(a + b), f'{min(a, b)} + {max(a, b)}'

    def sub(self, r):
        b, a = sorted((r.randint(0, 99), r.randint(0, 99)))
        return (f'What is {a} - {b}?', f'{a} - {b} ='), str(a - b), f'{a} - {b}'

    def times(self, r):
        a, b = r.randint(0, 10), r.randint(0, 10)
        return (f'What is {a} x {b}?', f'{a} x {b} ='), str(a * b), f'{a} x {b}'

    def sort(self, r):
        n = _numbers(r, 3, 6)
        return (f'Sort: {_join(n)}', f'Put in order: {_join(n)}'), _join(sorted(n)), _join(n)

    def reverse(self, r):
        if r.random() < 0.5:
            n = [r.choice(LETTERS) for _ in range(r.randint(3, 8))]
        else:
            n = [r.choice(self.words) for _ in range(r.randint(3, 5))]
        return (f'Reverse: {_join(n)}', f'Backwards: {_join(n)}'), _join(n[::-1]), _join(n)

    def copy(self, r):
        n = [r.choice(self.words) for _ in range(r.randint(3, 6))]
        return (f'Repeat: {_join(n)}', f'Say: {_join(n)}'), _join(n), _join(n)

    def count(self, r):
        some = r.sample(LETTERS, 3)
        n = [r.choice(some) for _ in range(r.randint(3, 9))]
        c = r.choice(some)
        first = f'How many {c} in: {_join(n)}?'
        return (first, f'Count {c}: {_join(n)}'), str(n.count(c)), first

    def lookup(self, r):
        who = r.sample(NAMES, r.randint(2, 4))
        what = [str(r.randint(0, 99)) for _ in who]
        i = r.randrange(len(who))
        text = ', '.join(f'{a} has {b}' for a, b in zip(who, what)) + '.'
        return (f'{text} What does {who[i]} have?', f'{text} {who[i]}?'), what[i], text

    def largest(self, r):
        n = _numbers(r, 3, 6)
        return (f'Largest: {_join(n)}', f'Maximum: {_join(n)}'), str(max(n)), _join(n)

    def smallest(self, r):
        n = _numbers(r, 3, 6)
        return (f'Smallest: {_join(n)}', f'Minimum: {_join(n)}'), str(min(n)), _join(n)

    def compare(self, r):
        a, b = r.sample(range(100), 2)
        word, answer = r.choice((('larger', max(a, b)), ('smaller', min(a, b))))
        return (f'Which is {word}, {a} or {b}?',), str(answer), f'{a} {b}'

    def parity(self, r):
        n = r.randint(0, 999)
        return (f'Is {n} even or odd?',), 'odd' if n % 2 else 'even', str(n)

    def next(self, r):
        step, start = r.randint(1, 10), r.randint(0, 50)
        n = [start + step * i for i in range(5)]
        if r.random() < 0.25:
            n.reverse()
        seen = _join(n[:4])
        return (f'What comes next: {seen}?', f'Go on: {seen}'), str(n[4]), seen

    def last(self, r):
        n = [r.choice(self.words) for _ in range(r.randint(3, 6))]
        which, i = r.choice((('first', 0), ('second', 1), ('last', -1)))
        return (f'The {which} word of: {_join(n)}',), n[i], _join(n)

    def member(self, r):
        n = _numbers(r, 3, 6)
        x = r.choice(n) if r.random() < 0.5 else r.randint(0, 99)
        return (f'Is {x} in: {_join(n)}?',), 'yes' if x in n else 'no', f'{x}: {_join(n)}'

    def spell(self, r):
        w = r.choice(self.words)
        return (f'Spell: {w}', f'Letters of {w}'), _join(w), w

    def plural(self, r):
        w = r.choice(self.nouns)
        p = self.irregular.get(w)
        if not p:
            if w.endswith(('s', 'x', 'z', 'ch', 'sh')):
                p = w + 'es'
            elif w.endswith('y') and w[-2] not in 'aeiou':
                p = w[:-1] + 'ies'
            else:
                p = w + 's'
        return (f'What is the plural of {w}?', f'Plural of {w}'), p, w

    def _fact(self, name, r, *forms):
        a, b = r.choice(self.facts[name])
        return [f.format(a) for f in forms], b, a

    def capital(self, r):
        return self._fact('capital', r, 'What is the capital of {}?', 'Capital of {}')

    def opposite(self, r):
        return self._fact('opposite', r, 'What is the opposite of {}?', 'Opposite of {}')

    def symbol(self, r):
        return self._fact('symbol', r, 'What is the chemical symbol of {}?', 'Symbol of {}')

    def kind(self, r):
        return self._fact('kind', r, 'What kind of thing is {}?', 'Kind of {}')
