# SPDX-License-Identifier: LGPL-2.1-or-later
"""tests/summary.py on logs as Meson writes them."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

PROGRAM = os.environ['SUMMARY']


def summary(*entries, broken=()):
    with tempfile.NamedTemporaryFile('w', suffix='.json') as log:
        for name, result, stdout, stderr in entries:
            print(json.dumps({'name': 'whisperxdna2:' + name, 'result': result, 'duration': 1.0,
                              'stdout': stdout, 'stderr': stderr}), file=log)
        log.flush()
        ran = subprocess.run([sys.executable, PROGRAM, *(f'broken={b}' for b in broken), f'={log.name}'],
                             capture_output=True, text=True)
    return ran.returncode, ran.stdout.splitlines()


class Summary(unittest.TestCase):
    def test_check_program(self):
        code, lines = summary(('dsp / a', 'OK', 'Running suite(s): a\n100%: Checks: 20, Failures: 0, Errors: 0\n', ''),
                              ('dsp / b', 'OK', '100%: Checks: 3, Failures: 0, Errors: 0\n', ''))
        self.assertEqual((code, lines[-1]), (0, '23 passed, 0 failed'))
        self.assertIn('23 passed', lines[0])

    def test_check_failures_and_errors(self):
        code, lines = summary(('dsp / a', 'FAIL', '70%: Checks: 10, Failures: 2, Errors: 1\n', ''))
        self.assertEqual((code, lines[-1]), (1, '7 passed, 3 failed'))
        self.assertIn('FAILED  dsp / a: FAIL, 3 of 10', lines)

    def test_crash_after_good_checks(self):
        code, lines = summary(('dsp / a', 'FAIL', '100%: Checks: 5, Failures: 0, Errors: 0\n', ''))
        self.assertEqual((code, lines[-1]), (1, '5 passed, 1 failed'))

    def test_timeout_without_output(self):
        code, lines = summary(('dsp / a', 'TIMEOUT', '', ''))
        self.assertEqual((code, lines[-1]), (1, '0 passed, 1 failed'))

    def test_unittest_script(self):
        code, lines = summary(('tools / a', 'OK', '', '....\nRan 28 tests in 35.101s\n\nOK\n'))
        self.assertEqual((code, lines[-1]), (0, '28 passed, 0 failed'))

    def test_unittest_failures(self):
        code, lines = summary(('tools / a', 'FAIL', '', 'Ran 28 tests in 3s\n\n'
                               'FAILED (failures=2, errors=1, skipped=4)\n'))
        self.assertEqual((code, lines[-1]), (1, '21 passed, 3 failed'))
        self.assertIn('left out by the test itself  tools / a: 4', lines)

    def test_other_program_is_one(self):
        self.assertEqual(summary(('tools / a', 'OK', 'done', ''))[1][-1], '1 passed, 0 failed')

    def test_skipped_program_is_left_out(self):
        code, lines = summary(('npu / a', 'SKIP', '', ''), ('npu / b', 'OK', '', ''))
        self.assertEqual((code, lines[-1]), (0, '1 passed, 0 failed'))
        self.assertIn('left out by the test itself  npu / a: 1', lines)

    def test_what_could_not_be_built_has_failed(self):
        code, lines = summary(('npu / b', 'OK', '', ''), broken=['debian13: it could not be built'])
        self.assertEqual((code, lines[-1]), (1, '1 passed, 1 failed'))
        self.assertIn('FAILED  debian13: it could not be built', lines)

    def test_nothing_ran(self):
        self.assertEqual(summary(), (1, ['0 passed, 0 failed']))


if __name__ == '__main__':
    unittest.main()
