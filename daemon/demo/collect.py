# SPDX-License-Identifier: MIT
"""Collects the text and facts that the demo model learns from, out of Debian packages.

collect.py WORK: downloads the packages named below with apt-get (nothing is installed), unpacks them
in WORK/debs and writes
    WORK/text.jsonl       {"source", "held", "text"} for each document, or "question" and "answer"
    WORK/facts.json       word lists and facts for the tasks
Everything is sorted and chosen by checksums, so that the same packages give the same files.
"""
import gzip
import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

PACKAGES = 'wordnet-base bible-kjv bible-kjv-text jargon-text dict-devil dict-elements miscfiles'.split()
KINDS = {5: 'animal', 6: 'object', 8: 'body part', 13: 'food', 15: 'place', 18: 'person', 20: 'plant',
         27: 'substance', 28: 'time', 12: 'feeling'}
PLAIN = str.maketrans({'“': '"', '”': '"', '‘': "'", '’': "'", '—': '-', '–': '-', '·': '.', '…': '...'})


def held(key, share=40):
    return zlib.crc32(key.encode()) % share == 0


def download(debs):
    debs.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        if (debs / name).exists():
            continue
        subprocess.run(['apt-get', '-q', '-o', 'APT::Sandbox::User=root', 'download', name], cwd=debs, check=True)
        file, = debs.glob(f'{name}_*.deb')
        subprocess.run(['dpkg-deb', '-x', file, debs / name], check=True)


def read_zipped(path):
    return gzip.open(path, 'rt', encoding='utf-8', errors='replace').read().translate(PLAIN)


class WordNet:
    """Synsets in file order, with the words' frequencies. Formats: wndb(5WN), cntlist(5WN)."""

    def __init__(self, base):
        self.synsets, self.count = [], {}
        for line in open(base / 'cntlist.rev'):
            key, number, times = line.split()
            word, rest = key.split('%')
            k = (word, rest.split(':')[0].replace('5', '3'))
            self.count[k] = self.count.get(k, 0) + int(times)
        for letter, file in zip('nvar', ('noun', 'verb', 'adj', 'adv')):
            for line in open(base / f'data.{file}', encoding='latin-1'):
                if not line.startswith('  '):
                    self.synsets.append(self.synset(letter, line))
        self.senses = {}
        for letter, file in zip('nvar', ('noun', 'verb', 'adj', 'adv')):
            for line in open(base / f'index.{file}'):
                field = line.split()
                if not line.startswith('  '):
                    self.senses[letter, field[0]] = letter + field[-int(field[2])]
        self.irregular = {}
        for line in open(base / 'noun.exc'):
            many, one = line.split()[:2]
            self.irregular[one] = many

    def first_sense(self, word, key):
        """Whether the synset is what the word means most often, of all parts of speech."""
        w = word.lower()
        counts = [(self.count.get((w, n), 0), letter) for n, letter in zip('1234', 'nvar')]
        most, letter = max(counts)
        return most > 0 and '_' not in word and self.senses.get((letter, w)) == key

    @staticmethod
    def synset(letter, line):
        head, gloss = line.split('|', 1)
        field = head.split()
        n = int(field[3], 16)
        words = [re.sub(r'\(.*\)', '', w) for w in field[4:4 + 2 * n:2]]
        pointers = field[5 + 2 * n:]
        opposite = [(pointers[i + 1], pointers[i + 3]) for i in range(0, len(pointers) - 3, 4) if pointers[i] == '!']
        return {'letter': letter, 'offset': field[0], 'lexicon': int(field[1]), 'words': words,
                'gloss': ' '.join(gloss.split()), 'opposite': opposite, 'key': letter + field[0]}


def article(word):
    return ('an ' if word[0].lower() in 'aeiou' else 'a ') + word


def wordnet_texts(net):
    """Entries of about 1,200 characters' worth of neighbouring synsets, where a quarter of them are of
    words that WordNet has counted in running text, and questions on such words."""
    number = {'n': '1', 'v': '2', 'a': '3', 'r': '4'}
    name = {'n': 'noun', 'v': 'verb', 'a': 'adjective', 'r': 'adverb'}
    group, keys, size, kept, common = [], [], 0, set(), 0
    for s in net.synsets:
        words = [w.replace('_', ' ') for w in s['words']]
        group.append(f"{', '.join(words)} ({name[s['letter']]}): {s['gloss']}.")
        keys.append(s['key'])
        size += len(group[-1])
        common += any((w.lower(), number[s['letter']]) in net.count for w in s['words'])
        if size > 1200:
            if common * 4 >= len(group):
                yield {'source': 'wordnet', 'text': '\n'.join(group), 'held': held(group[0])}
            if not held(group[0]):
                kept.update(keys)
            group, keys, size, common = [], [], 0, 0
    for s in net.synsets:
        meaning = re.sub(r'\([^)]*\) ?', '', s['gloss'].split(';')[0]).strip()
        words = [w for w in s['words'] if net.first_sense(w, s['key'])]
        if not words or not 3 < len(meaning) <= 90 or s['key'] not in kept:
            continue
        w = words[0]
        if s['letter'] == 'n' and w.islower() and meaning.split()[0] in ('a', 'an'):
            question, answer = f'What is {article(w)}?', f'{article(w)} is {meaning}.'
        else:
            question, answer = f'What does {w} mean?', f'{meaning}.'
        yield {'source': 'wordnet', 'held': False, 'question': question,
               'answer': answer[0].upper() + answer[1:]}


def bible_texts(debs):
    """A document for each chapter: its name, then a line for each verse."""
    program, data = debs / 'bible-kjv/usr/bin/bible', debs / 'bible-kjv-text/usr/lib'
    text = subprocess.run([program, '-l9999', '-p', data, 'Gen1:1-Rev22:21'], check=True,
                          capture_output=True, text=True).stdout
    for chapter in re.split(r'\n\n(?=\S)', text.strip()):
        lines = [line.strip() for line in chapter.splitlines() if line.strip()]
        yield {'source': 'bible', 'text': '\n'.join(lines), 'held': held(lines[0])}


def unfold(block):
    """Paragraphs whose lines are joined."""
    return '\n'.join(' '.join(p.split()) for p in re.split(r'\n\s*\n', block) if p.strip())


def other_texts(debs):
    jargon = read_zipped(debs / 'jargon-text/usr/share/doc/jargon-text/jargon.txt.gz')
    for entry in re.split(r'\n   :(?=[^\n]{1,80}:)', jargon)[1:]:
        text = unfold(re.sub(r'\{([^}]*)\}', r'\1', entry))
        yield {'source': 'jargon', 'text': text, 'held': held(text[:60], 20)}
    devil = read_zipped(debs / 'dict-devil/usr/share/dictd/devil.dict.dz')
    for entry in re.split(r'\n\n(?=[A-Z][A-Z\'-]+, )', devil)[1:]:
        text = unfold(entry)
        yield {'source': 'devil', 'text': text, 'held': held(text[:60], 20)}
    for entry in elements(debs):
        yield {'source': 'elements', 'text': unfold(entry), 'held': False}
    for name in ('constitution', 'declaration'):
        text = unfold(read_zipped(debs / f'miscfiles/usr/share/state/us-{name}.gz'))
        yield {'source': 'us', 'text': text, 'held': False}


def elements(debs):
    text = read_zipped(debs / 'dict-elements/usr/share/dictd/elements.dict.dz')
    return re.findall(r'\n\n(\w+\nSymbol: .*?)(?=\n\n|$)', text, re.S)


def facts(net, debs):
    """Word lists and facts; only words that WordNet has counted in running text."""
    count = {}
    for (word, number), n in net.count.items():
        count[word] = count.get(word, 0) + n
    plain = sorted(w for w in count if re.fullmatch('[a-z]{3,7}', w) and count[w] >= 4)
    nouns = [w for w in plain if net.count.get((w, '1'), 0) >= 4 and net.count[(w, '1')] * 2 > count[w]
             and ('n', w) in net.senses and not w.endswith('s')]
    found = {'words': plain, 'nouns': nouns, 'irregular': net.irregular,
             'capital': {}, 'opposite': {}, 'symbol': {}, 'kind': {}}
    by_key = {s['key']: s for s in net.synsets}
    for s in net.synsets:
        for w in s['words']:
            m = re.fullmatch('capital_of_(?!the_)(.*)', w)
            if m and s['letter'] == 'n':
                found['capital'].setdefault(m[1].replace('_', ' '), s['words'][0].replace('_', ' '))
        if s['letter'] == 'a':
            for offset, which in s['opposite']:
                other = by_key['a' + offset]['words']
                a, b = s['words'][int(which[:2], 16) - 1], other[int(which[2:], 16) - 1]
                if count.get(a, 0) >= 4 and count.get(b, 0) >= 1 and a.isalpha() and b.isalpha():
                    found['opposite'].setdefault(a, b)
    for entry in elements(debs):
        name, symbol = re.match(r'(\w+)\nSymbol: (\w+)', entry).groups()
        if len(symbol) < 3:
            found['symbol'].setdefault(name, symbol)
    for w in nouns:
        s = by_key[net.senses['n', w]]
        if s['lexicon'] in KINDS and count[w] >= 6:
            found['kind'][w] = KINDS[s['lexicon']]
    return found


def main():
    work = Path(sys.argv[1])
    debs = work / 'debs'
    download(debs)
    net = WordNet(debs / 'wordnet-base/usr/share/wordnet')
    total = {}
    with open(work / 'text.jsonl', 'w') as out:
        for part in (wordnet_texts(net), bible_texts(debs), other_texts(debs)):
            for doc in part:
                out.write(json.dumps(doc) + '\n')
                size = len(doc.get('text') or doc['question'] + doc['answer'])
                key = doc['source'], 'held' if doc['held'] else 'question' if 'question' in doc else 'text'
                n, chars = total.get(key, (0, 0))
                total[key] = n + 1, chars + size
    found = facts(net, debs)
    json.dump(found, open(work / 'facts.json', 'w'))
    for key, (n, chars) in sorted(total.items()):
        print(*key, n, 'documents', chars, 'characters')
    for name, items in found.items():
        print(name, len(items), str(list(items.items() if isinstance(items, dict) else items)[::max(1, len(items) // 12)])[:300])


if __name__ == '__main__':
    main()
