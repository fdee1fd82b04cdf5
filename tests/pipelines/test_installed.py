# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `ninja install` puts in place works there, without the source tree."""
import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from example import BUILD, JFK, TINY, words


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        subprocess.run(['meson', 'install', '--no-rebuild', '--quiet', '-C', BUILD, '--destdir', cls.folder],
                       check=True, stdout=subprocess.DEVNULL)
        options = json.loads((BUILD / 'meson-info' / 'intro-buildoptions.json').read_text())
        values = {option['name']: option['value'] for option in options}
        cls.prefix = cls.folder / values['prefix'].lstrip('/')
        libraries = cls.prefix / values['libdir']
        cls.environment = {**os.environ, 'GST_PLUGIN_PATH_1_0': str(libraries / 'gstreamer-1.0'),
                           'GST_REGISTRY_1_0': str(cls.folder / 'registry.bin'),
                           'LD_LIBRARY_PATH': str(libraries / 'whisperxdna2')}  # the prefix is not where it will be

    def call(self, tool, *arguments):
        ran = subprocess.run([self.prefix / 'bin' / tool, *map(str, arguments)], env=self.environment, cwd=self.folder,
                             capture_output=True, text=True, timeout=120)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran.stdout

    def test_every_tool_says_what_it_does(self):
        tools = sorted(path.name for path in (self.prefix / 'bin').iterdir())
        self.assertGreaterEqual(len(tools), 6)
        for tool in tools:
            self.assertIn(f'sage: {tool}', self.call(tool, '--help'))

    def test_subtitles(self):
        self.assertIn('ask not what your', words(self.call('whisperxdna2-subtitles', JFK, '-p', TINY)))

    def test_measuring(self):
        model = TINY.partition('=')[2]
        shown = self.call('whisperxdna2-bench', '--profile', '--precision', 'int8', '--runs', 1, '--wav', JFK,
                          '--model', model, '--plot', self.folder / 'profile.svg')
        self.assertRegex(shown, r'(?m)^attention +\d')
        self.assertIn('</svg>', (self.folder / 'profile-int8.svg').read_text())

    def test_a_model_is_inspected(self):
        self.assertIn('4+4 layers of width 384', self.call('whisperxdna2-inspect-model', TINY.partition('=')[2]))


if __name__ == '__main__':
    unittest.main()
