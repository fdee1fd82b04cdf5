# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is muxed is read back by GStreamer's demuxers and its discoverer."""
import json
import subprocess
import tempfile
import unittest
from pathlib import Path

import gi
gi.require_version('Gst', '1.0')
gi.require_version('GstPbutils', '1.0')
from gi.repository import Gst, GstPbutils

from example import JFK, TINY, ExampleTest, run

Gst.init(None)
DEMUXERS = {'.mkv': 'matroskademux', '.mp4': 'qtdemux'}


def pull(path, stream, decoder='identity'):
    """[(milliseconds, milliseconds, bytes)] of a stream of a file."""
    pipeline = Gst.parse_launch(f'filesrc location={path} ! {DEMUXERS[path.suffix]} name=demux '
                                f'demux.{stream} ! queue ! {decoder} ! appsink name=sink sync=false')
    pipeline.set_state(Gst.State.PLAYING)
    found = []
    while sample := pipeline.get_by_name('sink').emit('pull-sample'):
        buffer, segment = sample.get_buffer(), sample.get_segment()
        found.append((segment.to_stream_time(Gst.Format.TIME, buffer.pts) // Gst.MSECOND,
                      buffer.duration // Gst.MSECOND, buffer.extract_dup(0, buffer.get_size())))
    pipeline.set_state(Gst.State.NULL)
    return found


class MuxSubtitles(ExampleTest):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.talk = cls.folder / 'talk.mp4'
        subprocess.run(
            ['gst-launch-1.0', '-q', *(
                'videotestsrc num-buffers=55 ! video/x-raw,width=160,height=96,framerate=5/1 ! openh264enc ! '
                f'h264parse ! queue max-size-time=0 max-size-buffers=0 ! mp4mux name=mux ! '
                f'filesink location={cls.talk} '
                f'filesrc location={JFK} ! wavparse ! audioconvert ! lamemp3enc ! mpegaudioparse ! '
                'queue max-size-time=0 max-size-buffers=0 ! mux.').split()], check=True, timeout=60)
        for arguments in (['mux-subtitles', cls.talk, cls.folder / 'out.mkv'],
                          ['mux-subtitles', cls.talk, cls.folder / 'out.mp4'],
                          ['file-to-subtitles', cls.talk, '-o', cls.folder / 'talk.json']):
            ran = run(*arguments, '-p', TINY)
            if ran.returncode:
                raise RuntimeError(ran.stderr)
        cls.captions = [(round(s['start'] * 1000), round((s['end'] - s['start']) * 1000), s['text'])
                        for s in json.loads((cls.folder / 'talk.json').read_text())['segments']]

    def check(self, name):
        path = self.folder / name
        info = GstPbutils.Discoverer.new(10 * Gst.SECOND).discover_uri(path.as_uri())
        self.assertEqual([len(streams) for streams in (info.get_video_streams(), info.get_audio_streams(),
                                                       info.get_subtitle_streams())], [1, 1, 1])
        # qtdemux hands out samples without text for the time between captions.
        found = [(start, length, data.decode('utf-8').rstrip('\0')) for start, length, data in pull(path, 'subtitle_0')]
        found = [caption for caption in found if caption[2].strip()]
        self.assertEqual([text for _, _, text in found], [text for _, _, text in self.captions])
        for (start, length, _), (due, long, _) in zip(found, self.captions):
            self.assertAlmostEqual(start, due, delta=30)
            self.assertAlmostEqual(length, long, delta=30)
        # H.264 may have its parameters beside its pictures or with them.
        for stream in (('video_0', 'avdec_h264'), ('audio_0',)):
            self.assertTrue([data for _, _, data in pull(path, *stream)] ==
                            [data for _, _, data in pull(self.talk, *stream)])
        return info

    def test_matroska(self):
        info = self.check('out.mkv')
        self.assertEqual(info.get_subtitle_streams()[0].get_language(), 'en')

    def test_mp4(self):
        self.check('out.mp4')

    def test_what_the_container_does_not_take_is_named(self):
        ran = run('mux-subtitles', JFK, self.folder / 'raw.mp4', '-p', TINY)
        self.assertEqual(ran.returncode, 1)
        self.assertIn('audio/x-raw', ran.stderr)
        self.assertFalse((self.folder / 'raw.mp4').exists())

    def test_other_containers_are_refused(self):
        ran = run('mux-subtitles', JFK, self.folder / 'out.avi')
        self.assertEqual(ran.returncode, 2)
        self.assertIn('.mkv', ran.stderr)


if __name__ == '__main__':
    unittest.main()
