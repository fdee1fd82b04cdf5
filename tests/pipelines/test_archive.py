# SPDX-License-Identifier: LGPL-2.1-or-later
"""Task: what archive does with one recording. Cluster: archive on two nodes; fetches Ray into $RAY_ENVIRONMENT."""
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import venv
from pathlib import Path

from example import AUDIO, JFK, KENNEDY, TINY, ExampleTest, example, words

RAY = 'ray==2.40.0'


def heard(path):
    return words(' '.join(segment['text'] for segment in json.loads(path.read_text())['segments']))


class Task(ExampleTest):
    @classmethod
    def setUpClass(cls):
        cls.program = runpy.run_path(str(example('archive')))

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.source, self.target = self.folder / 'in', self.folder / 'out'
        (self.source / 'a').mkdir(parents=True)

    def recognize(self, path):
        return self.program['recognize'](str(path), str(self.source), str(self.target), [TINY], 60)

    def test_once(self):
        recording = shutil.copy(JFK, self.source / 'a' / 'talk.wav')
        self.assertIsNone(self.recognize(recording))
        made = sorted(self.target.rglob('*.*'))
        self.assertEqual([str(path.relative_to(self.target)) for path in made],
                         ['a/talk.wav.json', 'a/talk.wav.srt', 'a/talk.wav.vtt'])
        self.assertEqual(heard(made[0]), KENNEDY)
        times = [path.stat().st_mtime_ns for path in made]
        self.assertIsNone(self.recognize(recording))
        self.assertEqual([path.stat().st_mtime_ns for path in made], times)
        made[1].unlink()  # a part is missing: all are made anew, and are the same
        before = made[0].read_text()
        self.assertIsNone(self.recognize(recording))
        self.assertTrue(made[1].exists())
        self.assertEqual(made[0].read_text(), before)

    def test_what_is_no_recording(self):
        text = self.source / 'notes.txt'
        text.write_text('no recording')
        self.assertIn('notes.txt', self.recognize(text))
        self.assertEqual(list(self.target.rglob('*.*')), [])


class Cluster(ExampleTest):
    """Two nodes of one processor each on this machine."""

    @classmethod
    def setUpClass(cls):
        place = Path(os.environ['RAY_ENVIRONMENT'])
        cls.python = place / 'bin' / 'python'
        if not cls.python.exists():
            venv.create(place, system_site_packages=True, with_pip=True)
        subprocess.run([cls.python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', RAY], check=True)
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        cls.environment = {**os.environ, 'RAY_USAGE_STATS_ENABLED': '0', 'RAY_TMPDIR': str(cls.folder / 'ray')}
        cls.nodes = []
        cls.addClassCleanup(lambda: [cls.lose(node) for node in cls.nodes])
        cls.port = 20000 + os.getpid() % 20000
        cls.head = cls.node('--head', f'--port={cls.port}', '--include-dashboard=false')
        cls.environment['RAY_ADDRESS'] = f'127.0.0.1:{cls.port}'
        cls.other = cls.node(f'--address=127.0.0.1:{cls.port}')

    @classmethod
    def node(cls, *arguments):
        """A node as a group of processes of its own."""
        process = subprocess.Popen([cls.python.with_name('ray'), 'start', '--block', '--num-cpus=1',
                                    '--node-ip-address=127.0.0.1', '--object-store-memory=80000000', *arguments],
                                   env=cls.environment, start_new_session=True, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        cls.nodes.append(process)
        for _ in range(120):
            status = subprocess.run([cls.python, '-c', 'import ray; ray.init("auto"); '
                                     'print(len([n for n in ray.nodes() if n["Alive"]]))'],
                                    env={**cls.environment, 'RAY_ADDRESS': f'127.0.0.1:{cls.port}'},
                                    capture_output=True, text=True)
            if status.stdout.strip() == str(len(cls.nodes)):
                return process
            time.sleep(0.5)
        raise RuntimeError(status.stderr)

    @staticmethod
    def lose(node):
        """As a machine is lost: at once."""
        try:
            os.killpg(node.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        node.wait()

    def archive(self, source, target):
        return subprocess.Popen([self.python, example('archive'), source, target, '-p', TINY], env=self.environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def test_a_lost_machine_loses_nothing(self):
        source, target = self.folder / 'in', self.folder / 'out'
        source.mkdir()
        clips = sorted(AUDIO.glob('ls_*.flac'))
        for i in range(12):
            shutil.copy(clips[i % len(clips)], source / f'{i:02}.flac')
        (source / 'notes.txt').write_text('no recording')
        run = self.archive(source, target)
        shown = [run.stdout.readline() for _ in range(3)]  # both are at work
        self.assertTrue(all(shown), shown)
        self.lose(self.other)
        out, error = run.communicate(timeout=300)
        self.assertIn('12 recordings', error)
        self.assertIn('1 failed', error)
        self.assertIn('notes.txt', error)
        self.assertEqual(run.returncode, 1)
        for i in range(12):
            self.assertEqual(heard(target / f'{i:02}.flac.json'), heard(target / f'{i % len(clips):02}.flac.json'))
        self.assertEqual(list(target.rglob('*.part')), [])

        # Again: nothing is to be done but what failed, and the text file is no recording still.
        times = {path: path.stat().st_mtime_ns for path in target.iterdir()}
        (source / 'notes.txt').unlink()
        run = self.archive(source, target)
        out, error = run.communicate(timeout=120)
        self.assertEqual((run.returncode, out), (0, ''), error)
        self.assertEqual({path: path.stat().st_mtime_ns for path in target.iterdir()}, times)


if __name__ == '__main__':
    unittest.main()
