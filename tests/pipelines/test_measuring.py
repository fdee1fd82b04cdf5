# SPDX-License-Identifier: LGPL-2.1-or-later
"""features, many-streams and compare-backends."""
import os
import re
import subprocess
import unittest

from example import AUDIO, BUILD, JFK, KENNEDY, TINY, ExampleTest, example, run


class Features(ExampleTest):
    def test_the_nearest_stretch_is_of_the_same_speaker(self):
        out = self.succeed('features', AUDIO / 'librivox_sonnet1_en.flac', AUDIO / 'ls_2033-164914-0006.flac',
                           AUDIO / 'ls_1688-142285-0001.flac', JFK).stdout
        rows = re.findall(r'^\S+/(\S+) (\d+) s is like \S+/(\S+) (\d+) s \((-?\d\.\d\d)\)$', out, re.M)
        self.assertEqual(len(rows), len(out.splitlines()))
        sonnet = [row for row in rows if row[0] == 'librivox_sonnet1_en.flac' and int(row[1]) < 50]  # its end is short
        self.assertEqual(len(sonnet), 5)
        self.assertEqual({row[2] for row in sonnet}, {'librivox_sonnet1_en.flac'})
        self.assertTrue(all(row[:2] != row[2:4] for row in rows))

    def test_errors(self):
        ran = run('features', '/nowhere.wav')
        self.assertEqual(ran.returncode, 1)
        self.assertIn('/nowhere.wav', ran.stderr)


class ManyStreams(ExampleTest):
    def test_eight(self):
        out = self.succeed('many-streams', AUDIO / 'ls_1272-128104-0000.flac', AUDIO / 'ls_3853-163249-0037.flac',
                           '--streams', 8, '-p', TINY).stdout
        rows = re.findall(r'^(ls_\S+) +([\d.]+) +(\d+) +([\d.]+) s$', out, re.M)
        self.assertEqual(len(rows), 8)
        self.assertEqual(len({row[:3] for row in rows}), 2)  # each recording has the same words in every stream
        seconds, took, speed = map(float, re.search(r'(\d+) s of sound in ([\d.]+) s: ([\d.]+) times', out).groups())
        self.assertAlmostEqual(seconds, 4 * (5.855 + 6.665), delta=1)
        self.assertAlmostEqual(took, seconds / speed, delta=0.06)  # one decimal is printed
        before, loaded, most = map(int, re.search(r'memory: (\d+) MB before, (\d+) MB .*, (\d+) MB at most',
                                                  out).groups())
        # Eight models of 75 MB would be more.
        self.assertLess(most - loaded, 4 * (loaded - before))

    def test_a_model_that_is_not_there(self):
        ran = run('many-streams', JFK, '-p', 'model-path=/nowhere')
        self.assertEqual(ran.returncode, 1)
        self.assertIn('/nowhere', ran.stderr)


class CompareBackends(ExampleTest):
    def test_rows(self):
        out = self.succeed('compare-backends', JFK, '-p', TINY).stdout
        rows = re.findall(r'^cpu +(f32|bf16|int8) +([\d.]+) +([\d.]+) +([\d.]+) +(\d+) +(\d+)  \S', out, re.M)
        self.assertEqual([row[0] for row in rows], ['f32', 'bf16', 'int8'])
        for _, encode, decode, share, count, differ in rows:
            self.assertGreater(float(encode), 0)
            self.assertGreater(float(decode), 0)
            self.assertGreater(float(share), 0)
            self.assertEqual(int(count), len(KENNEDY.split()))
            self.assertLessEqual(int(differ), 4)  # punctuation
        self.assertRegex(out, r'(?m)^npu +int8 +(not here: .*NPU|\d)')

    DEVICE = BUILD / 'tests' / 'device'

    @unittest.skipUnless((DEVICE / 'gemm8.xclbin').exists(), 'no emulated NPU here: it needs the XRT headers')
    def test_npu_beside_cpu(self):
        """On the emulated NPU, whose numbers are the CPU's in int8."""
        ran = subprocess.run([self.DEVICE / 'emulated-npu', 'mode=fast', '--', example('compare-backends'), JFK,
                              '-p', TINY],
                             env={**os.environ, 'WHISPERXDNA2_OVERLAY': str(self.DEVICE / 'gemm8.xclbin'),
                                  'WHISPERXDNA2_NPU_MODULE': str(BUILD / 'npu' / 'libwhisperxdna2-npu.so')},
                             capture_output=True, text=True, timeout=200)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        rows = re.findall(r'^(cpu|npu) +int8 .* (\d+) +(\d+)  \S', ran.stdout, re.M)
        self.assertEqual([row[0] for row in rows], ['cpu', 'npu'], ran.stdout)
        self.assertEqual(rows[0][1:], rows[1][1:])


if __name__ == '__main__':
    unittest.main()
