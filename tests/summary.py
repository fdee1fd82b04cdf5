#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Counts what Meson's test logs report:   summary.py [broken=WHAT]... [LABEL=build/meson-logs/testlog.json]...

A Check program or a unittest script says itself how many checks it made; anything else is one. A program that ended
badly, whatever it printed, has at least one failure, and so has each thing named as broken. The last line is the total,
and the exit code is 1 when something failed or nothing was run.
"""
import json
import re
import sys

CHECK = re.compile(r'^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)', re.M)
UNITTEST = re.compile(r'^Ran (\d+) tests? in ', re.M)
UNITTEST_BAD = re.compile(r'\b(failures|errors|unexpected successes)=(\d+)')
UNITTEST_SKIPPED = re.compile(r'^(?:OK|FAILED) \(.*?\bskipped=(\d+)', re.M)
GOOD = ('OK', 'EXPECTEDFAIL')


def counts(entry):
    """(passed, failed, left out) of one program."""
    text = entry.get('stdout', '') + '\n' + entry.get('stderr', '')
    if entry['result'] == 'SKIP':
        return 0, 0, 1
    passed = failed = skipped = 0
    for checks, failures, errors in CHECK.findall(text):
        failed += int(failures) + int(errors)
        passed += int(checks) - int(failures) - int(errors)
    for ran in UNITTEST.findall(text):
        bad = sum(int(n) for _, n in UNITTEST_BAD.findall(text))
        skipped = sum(int(n) for n in UNITTEST_SKIPPED.findall(text))
        failed += bad
        passed += int(ran) - bad - skipped
    if entry['result'] in GOOD:
        if not passed + failed + skipped:
            passed = 1
    elif not failed:
        failed = 1
    return passed, failed, skipped


def main():
    suites, bad, left_out = {}, [], []
    for argument in sys.argv[1:]:
        label, path = argument.split('=', 1)
        if label == 'broken':
            suites.setdefault('broken', [0, 0, 0.0])[1] += 1
            bad.append(path)
            continue
        with open(path, encoding='utf-8') as log:
            for line in log:
                entry = json.loads(line)
                suite, _, name = entry['name'].rpartition(' / ')
                suite = suite.partition(':')[2].split('+')[0].split('/')[0] or suite
                key = f'{label}{suite}'
                passed, failed, skipped = counts(entry)
                row = suites.setdefault(key, [0, 0, 0.0])
                row[0] += passed
                row[1] += failed
                row[2] += entry['duration']
                if failed:
                    bad.append(f'{key} / {name}: {entry["result"]}, {failed} of {passed + failed}')
                if skipped:
                    left_out.append(f'{key} / {name}: {skipped}')
    for key, (passed, failed, seconds) in suites.items():
        print(f'{key:24} {passed:5} passed {failed:4} failed {seconds:7.1f} s')
    for line in bad:
        print(f'FAILED  {line}')
    for line in left_out:
        print(f'left out by the test itself  {line}')
    passed, failed = (sum(row[i] for row in suites.values()) for i in (0, 1))
    print(f'{passed} passed, {failed} failed')
    return 1 if failed or not passed else 0


if __name__ == '__main__':
    sys.exit(main())
