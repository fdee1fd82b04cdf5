#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole programs on the emulated NPU: pipelines with the element, and whisperxdna2-check-npu."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).parent
BUILD = pathlib.Path(os.environ['BUILD'])
AUDIO = pathlib.Path(os.environ['ROOT']) / 'tests/data/audio'
DEVICE = BUILD / 'tests/device'


class Commands(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.env = dict(
            os.environ,
            EMULATED_NPU_LIBRARY=str(DEVICE / 'libemulated-npu.so'),
            GST_PLUGIN_PATH_1_0=str(BUILD / 'gst'),
            GST_REGISTRY_1_0=str(BUILD / 'tests/npu/registry.bin'),
            WHISPERXDNA2_NPU_MODULE=str(BUILD / 'npu/libwhisperxdna2-npu.so'),
            WHISPERXDNA2_OVERLAY=str(DEVICE / 'gemm8.xclbin'),
        )

    def run_on_npu(self, words, *command, **env):
        return subprocess.run([DEVICE / 'emulated-npu', 'mode=fast', *words, '--', *command], env=self.env | env,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)

    def branch(self, clip, output, properties):
        return (f'filesrc location={AUDIO / clip} ! decodebin ! audioconvert ! audioresample ! '
                f'whisperxdna2enc {properties} language-code=en precision=int8 n-threads=2 ! '
                f'webvttenc ! filesink location={output} ').split()

    def launch(self, clip, properties, *words):
        """Returns the program's result and its captions."""
        output = self.directory / f'{len(list(self.directory.iterdir()))}.vtt'
        result = self.run_on_npu(words, 'gst-launch-1.0', *self.branch(clip, output, properties))
        return result, output.read_text()

    def captions(self, clip, properties, *words):
        result, text = self.launch(clip, properties, *words)
        self.assertEqual(result.returncode, 0, result.stdout)
        return text


class Pipelines(Commands):
    def test_captions_are_those_of_the_cpu(self):
        clip = 'ls_1688-142285-0001.flac'
        expected = self.captions(clip, 'backend=cpu')
        self.assertIn('-->', expected)
        trace = self.directory / 'trace'
        self.assertEqual(self.captions(clip, 'backend=npu', f'trace={trace}'), expected)
        self.assertGreater(len(trace.read_text().splitlines()), 18)

    def test_faults_change_nothing_but_the_executor(self):
        clip = 'ls_1688-142285-0001.flac'
        expected = self.captions(clip, 'backend=cpu')
        for fault, says in (('error', 'ended a command with error'), ('hang', 'with time-out'),
                            ('unplug', 'was removed')):
            with self.subTest(fault=fault):
                result, text = self.launch(clip, 'backend=auto', f'fault={fault}@10', 'watchdog_ms=100')
                self.assertEqual((result.returncode, text), (0, expected), result.stdout)
                self.assertRegex(result.stdout, f'WARNING: .*{says}')

    def test_fault_without_the_cpu_is_an_error(self):
        result, _ = self.launch('jfk.wav', 'backend=npu', 'fault=error@10')
        self.assertNotEqual(result.returncode, 0)
        self.assertRegex(result.stdout, 'ERROR: .*ended a command with error')

    def test_four_elements_share_the_device(self):
        clip = 'jfk.wav'
        expected = self.captions(clip, 'backend=cpu')
        outputs = [self.directory / f'of{i}' for i in range(4)]
        log, trace = self.directory / 'log', self.directory / 'trace'
        branches = [word for output in outputs for word in self.branch(clip, output, 'backend=npu')]
        result = self.run_on_npu(['log=1', f'logfile={log}', f'trace={trace}'], 'gst-launch-1.0', '-q', *branches)
        self.assertEqual(result.returncode, 0, result.stdout)
        for output in outputs:
            self.assertEqual(output.read_text(), expected)
        self.assertEqual(len(re.findall('CREATE_HWCTX', log.read_text())), 1)
        # Each slot of each element has an input buffer of its own; the self-test's comes once.
        commands = [line.split()[-1] for line in trace.read_text().splitlines()]
        self.assertGreaterEqual(len({buffer for buffer in commands if commands.count(buffer) >= 18}), 4)

    def test_four_elements_get_equal_shares(self):
        result = self.run_on_npu([], sys.executable, HERE / 'four_elements.py', '4')
        self.assertEqual(result.returncode, 0, result.stdout)
        windows = [int(count) for count in result.stdout.splitlines()[-1].split()]
        self.assertEqual(len(windows), 4)
        self.assertGreaterEqual(min(windows) * 10, max(windows) * 8, windows)


class CheckNpu(Commands):
    def check(self, words, *arguments, **env):
        return self.run_on_npu(words, BUILD / 'tools/whisperxdna2-check-npu', *arguments, **env)

    def test_sound_npu_and_then_one_wrong_product(self):
        trace = self.directory / 'trace'
        result = self.check([f'trace={trace}'])
        self.assertEqual(result.returncode, 0, result.stdout)
        for part in ('NPU       NPU Strix Halo', 'XRT       2.25', 'power     mode default', 'its self-test passed',
                     'chained       18 dispatches', '<- fastest', ' 0 of 1310720 differ',
                     'us per MMAC (the plan assumes 120 and'):
            self.assertIn(part, result.stdout)
        # The emulated driver suspends the device after 5 s, and waking it costs 130 ms.
        slow, fast = map(float, re.search(r'wake +([\d.]+) ms .* without one, (\d+) us', result.stdout).groups())
        self.assertGreaterEqual(slow, 130)
        self.assertLess(fast, 50000)
        for product in ('qkv   512 x  512 x 1536', 'out   512 x  512 x  512', 'fc1   512 x  512 x 2048',
                        'fc2   512 x 2048 x  512'):
            self.assertIn(f'{product}      0 ', result.stdout)
        first = len(trace.read_text().splitlines()) - 4 * 21  # the products come last, each 21 times
        result = self.check([f'fault=skip@{first}'])
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertIn(' 0 of 1310720 differ', result.stdout)
        self.assertRegex(result.stdout, r'qkv .* x 1536 +[1-9]\d* ')

    def test_wrong_numbers(self):
        result = self.check(['fault=skip@9'])
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertNotIn(' 0 of 1310720 differ', result.stdout)

    def test_plan_needs_no_npu(self):
        result = self.check(['unplug'], '--plan')
        self.assertEqual(result.returncode, 0, result.stdout)
        for part in 'gemm8, 512 rows', 'gemm1, 512 rows', 'prototype     72 dispatches', 'whole, chained with fc2':
            self.assertIn(part, result.stdout)

    def test_what_is_missing_is_named(self):
        for words, says in (
            (['unplug'], 'there is no NPU at /dev/accel/accel0: an XDNA2 processor and the amdxdna driver'),
            (['omit=device_type'], 'XRT does not find the NPU at /dev/accel/accel0: install its driver for XRT'),
            (['deny=1'], 'add the user to the group of /dev/accel/accel0'),
            (['memlock=1'], 'ulimit -l unlimited'),
            (['contexts=0'], 'close other programs that use it'),
            (['flushless=1'], 'remove force_driver_sync'),
        ):
            with self.subTest(words=words):
                result = self.check(words)
                self.assertEqual(result.returncode, 2, result.stdout)
                self.assertIn(says, result.stdout)
        result = self.check([], WHISPERXDNA2_OVERLAY=str(self.directory / 'none.xclbin'))
        self.assertEqual(result.returncode, 2, result.stdout)
        self.assertIn('none.xclbin is missing: install it', result.stdout)


if __name__ == '__main__':
    unittest.main()
