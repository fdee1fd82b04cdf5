# SPDX-License-Identifier: LGPL-2.1-or-later
"""embed-c and embed-python do the same."""
import os
import re
import signal
import subprocess
import time
import unittest
import wave

from example import BUILD, JFK, KENNEDY, TINY, ExampleTest, example, words

with wave.open(str(JFK)) as file:
    SAMPLES = file.readframes(file.getnframes())


class Embedded:
    def start(self, *properties, **options):
        return subprocess.Popen([self.program, *properties], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **options)

    def test_text_and_counters(self):
        out, error = self.start(TINY, 'language-code=en').communicate(SAMPLES, timeout=60)
        self.assertEqual(words(re.sub(rb'\d+ %', b'', out).decode()), KENNEDY)
        self.assertRegex(out.decode(), r'^ +\d+\.\d\d')
        self.assertRegex(error.decode(), r'[1-9]\d* windows on .+: \d+ ms encoding, \d+ ms decoding')

    def test_a_model_that_is_not_there(self):
        """Fails in spite of input that does not end, at once and with the reason."""
        process = self.start('model-path=/nowhere')
        try:
            for _ in range(100):
                process.stdin.write(SAMPLES)
                process.stdin.flush()
        except BrokenPipeError:
            pass
        self.assertEqual(process.wait(timeout=30), 1)
        self.assertIn('/nowhere', process.stderr.read().decode())
        with self.assertRaises(BrokenPipeError):
            process.stdin.write(SAMPLES)
            process.stdin.flush()
        process.stdout.close()
        process.stderr.close()
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass


class EmbedC(Embedded, ExampleTest):
    program = BUILD / 'pipelines' / 'embed-c'

    def test_a_signal_ends_the_input(self):
        process = self.start(TINY)
        process.stdin.write(SAMPLES)
        process.stdin.flush()
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0)
        self.assertIn('Americans', out.decode())

    def test_an_odd_byte_at_the_end(self):
        out, error = self.start(TINY).communicate(SAMPLES[:64001], timeout=60)
        self.assertIn(b'windows on', error)


class EmbedPython(Embedded, ExampleTest):
    program = example('embed-python')


if __name__ == '__main__':
    unittest.main()
