# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of the examples share."""
import os
import re
import subprocess
import unittest
from pathlib import Path

ROOT = Path(os.environ['ROOT'])
BUILD = Path(os.environ['BUILD'])
AUDIO = ROOT / 'tests' / 'data' / 'audio'
JFK = AUDIO / 'jfk.wav'
KENNEDY = 'and so my fellow americans ask not what your country can do for you ask what you can do for your country'
MODELS = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'whisperxdna2' / 'models'
TINY = f'model-path={MODELS / "tiny.en"}'


def example(name):
    return ROOT / 'pipelines' / name


def run(name, *arguments, **options):
    """Runs an example to its end; what it wrote is in .stdout and .stderr."""
    return subprocess.run([str(example(name)), *map(str, arguments)], capture_output=True, text=True, timeout=100,
                          **options)


def words(text):
    return ' '.join(re.findall(r"[a-z']+", text.lower()))


class ExampleTest(unittest.TestCase):
    def succeed(self, name, *arguments, **options):
        ran = run(name, *arguments, **options)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran
