#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Adds up what meson's test logs say: summary.py [--failed-builds N] STAGE=testlog.json ...

A test program that prints 'N passed, N failed[, N skipped]' counts for so many; any other counts for one. Prints the
output of what failed and, last, 'N passed, N failed, N skipped'. Exits 1 when anything failed or nothing passed.
"""
import argparse
import json
import re
import sys

CLOSING = re.compile(r'^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$', re.M)


def count(test):
    """(passed, failed, skipped) of one record of meson's log."""
    closing = CLOSING.findall(test.get('stdout') or '')
    if test['result'] in ('SKIP',):
        return 0, 0, max(1, int(closing[-1][2] or 0) if closing else 1)
    good = test['result'] in ('OK', 'EXPECTEDFAIL')
    if not closing:
        return (1, 0, 0) if good else (0, 1, 0)
    passed, failed, skipped = (int(n or 0) for n in closing[-1])
    if not good and failed == 0:
        failed = 1  # crashed after the closing line, or a leak was found at exit
    return passed, failed, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--failed-builds', type=int, default=0)
    parser.add_argument('logs', nargs='*', metavar='STAGE=FILE')
    args = parser.parse_args()
    total = [0, args.failed_builds, 0]
    for spec in args.logs:
        stage, path = spec.split('=', 1)
        try:
            with open(path, encoding='utf-8', errors='replace') as log:
                records = [json.loads(line) for line in log]
        except OSError as error:
            print(f'{stage}: no test log: {error}')
            total[1] += 1
            continue
        for test in records:
            counts = count(test)
            total = [a + b for a, b in zip(total, counts)]
            if counts[1]:
                print(f'\n=== {stage}: {test["name"]} ({test["result"]})')
                print((test.get('stdout') or '')[-6000:])
                print((test.get('stderr') or '')[-6000:])
    print(f'{total[0]} passed, {total[1]} failed, {total[2]} skipped')
    return 1 if total[1] or not total[0] else 0


if __name__ == '__main__':
    sys.exit(main())
