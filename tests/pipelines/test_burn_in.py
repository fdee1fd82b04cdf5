# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which words are in the picture is told by drawing them again and comparing."""
import json
import runpy
import subprocess
import tempfile
import unittest
from pathlib import Path

import gi
gi.require_version('Gst', '1.0')
from gi.repository import Gst
import numpy

from example import AUDIO, JFK, TINY, ExampleTest, example, run

Gst.init(None)
WIDTH, HEIGHT, RATE = 320, 180, 5


def launch(*arguments):
    subprocess.run(['gst-launch-1.0', '-q', *' '.join(map(str, arguments)).split()], check=True, timeout=60)


def pull(description):
    """[(seconds, bytes)] of all buffers at an appsink."""
    pipeline = Gst.parse_launch(f'{description} ! appsink name=sink sync=false')
    pipeline.set_state(Gst.State.PLAYING)
    found = []
    while sample := pipeline.get_by_name('sink').emit('pull-sample'):
        buffer = sample.get_buffer()
        found.append((buffer.pts / Gst.SECOND, buffer.extract_dup(0, buffer.get_size())))
    pipeline.set_state(Gst.State.NULL)
    return found


def picture(data):
    return numpy.frombuffer(data, numpy.uint8).astype(float).reshape(HEIGHT, WIDTH)


def drawn(text):
    """A black frame with this text where burn-in puts it."""
    overlay = runpy.run_path(str(example('burn-in')))['OVERLAY']
    return picture(pull(f'videotestsrc num-buffers=1 pattern=black ! video/x-raw,width={WIDTH},height={HEIGHT} ! '
                        f'{overlay} text="{text}" ! videoconvert ! video/x-raw,format=GRAY8')[0][1])


class BurnIn(ExampleTest):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.video, cls.burned = cls.folder / 'talk.mkv', cls.folder / 'burned.mkv'
        launch(f'videotestsrc pattern=black num-buffers={11 * RATE} ! video/x-raw,width={WIDTH},height={HEIGHT},'
               f'framerate={RATE}/1 ! vp8enc ! queue max-size-time=0 max-size-buffers=0 ! matroskamux name=mux !',
               'filesink location=', cls.video, f'filesrc location={JFK} ! wavparse ! queue max-size-time=0 ! mux.')
        for ran in (run('burn-in', cls.video, '-o', cls.burned, '-p', TINY),
                    run('file-to-subtitles', cls.video, '-o', cls.folder / 'talk.json', '-p', TINY)):
            if ran.returncode:
                raise RuntimeError(ran.stderr)
        cls.captions = json.loads((cls.folder / 'talk.json').read_text())['segments']
        cls.frames = [(at, picture(data)) for at, data in pull(
            f'filesrc location={cls.burned} ! matroskademux ! vp8dec ! videoconvert ! video/x-raw,format=GRAY8')]

    def test_every_frame_is_there(self):
        self.assertEqual(len(self.frames), 11 * RATE)

    def test_the_right_words_at_the_right_moment(self):
        texts = [caption['text'] for caption in self.captions]
        self.assertGreaterEqual(len(set(texts)), 2)
        candidates = [drawn(text) for text in texts] + [picture(bytes([16]) * (WIDTH * HEIGHT))]
        checked = set()
        for at, frame in self.frames:
            # textoverlay draws a text on each frame of which it is a part.
            shown = [i for i, caption in enumerate(self.captions)
                     if caption['start'] < at + 1 / RATE and at < caption['end']]
            due = shown[0] if shown else len(texts)
            apart = [abs(frame - candidate).mean() for candidate in candidates]
            self.assertEqual(apart.index(min(apart)), due, (at, apart))
            checked.add(due)
        self.assertEqual(checked, set(range(len(candidates))))

    def test_above_the_text_nothing_changes(self):
        for at, frame in self.frames:
            self.assertLess(abs(frame[:HEIGHT // 3] - 16).max(), 12, at)

    def test_the_sound_is_as_it_was(self):
        sound = [b''.join(data for _, data in pull(
            f'filesrc location={path} ! matroskademux name=demux demux.audio_0 ! audioconvert ! '
            'audio/x-raw,format=S16LE'))
            for path in (self.video, self.burned)]
        self.assertGreater(len(sound[0]), 10 * 16000 * 2)
        self.assertEqual(sound[0], sound[1])


class Pattern(ExampleTest):
    def test_sound_alone_gets_a_picture(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / 'out.mkv'
            self.succeed('burn-in', AUDIO / 'ls_1272-128104-0000.flac', '-o', out, '-p', TINY)
            frames = pull(f'filesrc location={out} ! matroskademux ! vp8dec')
        self.assertEqual(len(frames), int(5.855 * 25))

    def test_what_has_no_sound_is_refused(self):
        ran = run('burn-in', example('burn-in'), '-p', TINY)
        self.assertEqual(ran.returncode, 1)
        self.assertNotIn('Traceback', ran.stderr)
        ran = run('burn-in', '/nowhere.mp4')
        self.assertIn('/nowhere.mp4', ran.stderr)

    def test_nothing_is_left_of_a_failure(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / 'out.mkv'
            ran = run('burn-in', JFK, '-o', out, '-p', 'model-path=/nowhere')
            self.assertEqual(ran.returncode, 1)
            self.assertIn('/nowhere', ran.stderr)
            self.assertFalse(out.exists())


if __name__ == '__main__':
    unittest.main()
