# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Debian packages: they are built, lintian finds no error, and each file of an installation is in one of them."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from example import ROOT

TOOLS = ('dpkg-buildpackage', 'dh', 'lintian')


class Packages(unittest.TestCase):
    def test_build_and_lintian(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        source = folder / 'whisperxdna2'
        # Build folders have many names.
        shutil.copytree(ROOT, source, ignore=lambda place, names: [
            name for name in names if Path(place) == ROOT and name.startswith(('.git', 'build'))])
        npu = subprocess.run(['dpkg-query', '-W', 'libxrt-dev'], capture_output=True).returncode == 0
        built = subprocess.run(['dpkg-buildpackage', '-us', '-uc', '-b'], cwd=source, capture_output=True, text=True,
                               env={**os.environ, 'DEB_BUILD_PROFILES': 'pkg.whisperxdna2.npu' if npu else '',
                                    'DEB_BUILD_OPTIONS': 'parallel=2'})
        self.assertEqual(built.returncode, 0, (built.stdout + built.stderr)[-3000:])
        checked = subprocess.run(['lintian', '--fail-on', 'error', *folder.glob('*.changes')], capture_output=True,
                                 text=True)
        self.assertEqual(checked.returncode, 0, checked.stdout)
        packed = ''.join(subprocess.run(['dpkg-deb', '--contents', path], check=True, capture_output=True,
                                        text=True).stdout
                         for path in folder.glob('*.deb'))
        for name in ('libgstwhisperxdna2.so', 'whisperxdna2-subtitles', 'whisperxdna2-subtitles.1.gz',
                     'examples/burn-in', 'GstWhisperXdna2Enc.prs',
                     *(['libwhisperxdna2-npu.so', 'whisperxdna2-check-npu'] if npu else [])):
            self.assertIn(f'/{name}\n', packed)


if __name__ == '__main__':
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        print(f'skipped: {", ".join(missing)} not installed')
        sys.exit(77)  # for Meson
    unittest.main()
