# SPDX-License-Identifier: LGPL-2.1-or-later
"""A PulseAudio server of its own, with one sink that plays nowhere."""
import os
import pty
import re
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from difflib import SequenceMatcher
from pathlib import Path

from example import JFK, KENNEDY, TINY, ExampleTest, example, run, words


class Terminal:
    """A program on a terminal of 100 columns, and what it shows."""

    def __init__(self, command, environment):
        self.main, terminal = pty.openpty()
        os.system(f'stty -F {os.ttyname(terminal)} columns 100 rows 24')
        self.process = subprocess.Popen(command, stdout=terminal, stderr=subprocess.PIPE, text=True, env=environment)
        os.close(terminal)
        self.shown = ''
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        try:
            while data := os.read(self.main, 4096):
                self.shown += data.decode(errors='replace')
        except OSError:  # how a terminal says that its other end is closed
            pass

    def stop(self):
        """Ctrl-C; (exit code, standard error)"""
        self.process.send_signal(signal.SIGINT)
        error = self.process.communicate(timeout=60)[1]
        self.reader.join()
        os.close(self.main)
        return self.process.returncode, error


class LiveCaptions(ExampleTest):
    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory())
        socket = f'{self.folder}/native'
        self.environment = {**os.environ, 'HOME': self.folder, 'XDG_RUNTIME_DIR': self.folder,
                            'PULSE_COOKIE': f'{self.folder}/cookie', 'PULSE_SERVER': f'unix:{socket}'}
        # Without the cache's usual place the model's quantized form would be made again.
        self.environment.setdefault('XDG_CACHE_HOME', str(Path.home() / '.cache'))
        server = subprocess.Popen(
            ['pulseaudio', '-n', '--daemonize=no', '--use-pid-file=no', '--exit-idle-time=-1', '--log-target=stderr',
             '-L', 'module-null-sink sink_name=nowhere', '-L',
             f'module-native-protocol-unix auth-anonymous=1 socket={socket}'],
            env={**self.environment, 'PULSE_SERVER': ''}, stderr=subprocess.PIPE, text=True)
        self.addCleanup(server.communicate)
        self.addCleanup(server.terminate)
        for _ in range(100):
            if Path(socket).exists():
                return
            time.sleep(0.1)
        self.fail('pulseaudio did not start')

    def test_what_the_computer_plays(self):
        terminal = Terminal([example('live-captions'), '--computer', '-p', TINY], self.environment)
        time.sleep(1)
        subprocess.run(['paplay', '--device=nowhere', JFK], env=self.environment, check=True, timeout=60)
        code, error = terminal.stop()
        self.assertEqual(code, 0, error)
        # Each time: white, grey, erase the rest.
        shown = re.findall('\r\33\\[97m(.*?)\33\\[90m(.*?)\33\\[0m\33\\[K(\r\n)?', terminal.shown)
        # Live, the smallest model mistakes a word now and then.
        said = words(' '.join(white for white, _, newline in shown if newline))
        self.assertGreater(SequenceMatcher(None, said.split(), KENNEDY.split()).ratio(), 0.7, said)
        partials = [words(grey) for _, grey, _ in shown if grey.strip()]
        self.assertGreaterEqual(len(partials), 3, terminal.shown)
        self.assertTrue(any(partial in KENNEDY for partial in partials), partials)
        self.assertTrue(all(len(white) + len(grey) < 100 for white, grey, _ in shown))
        # White is never taken back.
        line = ''
        for white, _, newline in shown:
            self.assertTrue(white.startswith(line), (line, white))
            line = '' if newline else white
        # Words came while the speaker was speaking.
        self.assertGreater(len({white for white, _, _ in shown}), 5)

    def test_a_server_that_is_not_there(self):
        ran = run('live-captions', '-p', TINY, env={**self.environment, 'PULSE_SERVER': 'unix:/nowhere'})
        self.assertEqual(ran.returncode, 1)
        self.assertIn('onnect', ran.stderr)
        self.assertNotIn('Traceback', ran.stderr)


class Plain(ExampleTest):
    def test_a_sentence_a_line_without_terminal(self):
        source = f'filesrc location={JFK} ! wavparse'
        out = self.succeed('live-captions', '--source', source, '-p', TINY).stdout
        self.assertEqual(words(out), KENNEDY)
        self.assertNotIn('\33', out)
        self.assertTrue(all(line.endswith('.') for line in out.splitlines()), out)

    def test_a_source_that_does_not_exist(self):
        ran = run('live-captions', '--source', 'nosuchsrc')
        self.assertEqual(ran.returncode, 1)
        self.assertIn('nosuchsrc', ran.stderr)


if __name__ == '__main__':
    unittest.main()
