#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plugin from Python, by introspection, with the real weights of tiny.en."""
import os
import threading
import unittest

import gi
gi.require_version('Gst', '1.0')
from gi.repository import GLib, Gst  # noqa: E402

Gst.init(None)
DATA = os.environ['WHISPERXDNA2_TEST_DATA']
MODEL = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'),
                     'whisperxdna2', 'models', 'tiny.en')


def pipeline(settings, output='fakesink name=sink signal-handoffs=true sync=false'):
    return Gst.parse_launch(f'filesrc location="{DATA}/audio/jfk.wav" ! wavparse ! audioconvert ! '
                            f'whisperxdna2enc name=enc model-path="{MODEL}" {settings} ! {output}')


def play(pipe):
    """Element messages until the end, as (name, structure)."""
    messages = []
    pipe.set_state(Gst.State.PLAYING)
    try:
        while True:
            message = pipe.get_bus().timed_pop_filtered(
                100 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR | Gst.MessageType.ELEMENT)
            if message is None:
                raise TimeoutError
            if message.type == Gst.MessageType.ERROR:
                raise message.parse_error()[0]
            if message.type == Gst.MessageType.EOS:
                return messages
            messages.append((message.get_structure().get_name(), message.get_structure()))
    finally:
        pipe.set_state(Gst.State.NULL)


class Embedding(unittest.TestCase):
    def test_buffers_times_and_meta(self):
        pipe = pipeline('output-unit=word')
        words = []

        def handoff(_sink, buffer, _pad):
            item = buffer.get_custom_meta('GstWhisperItemMeta').get_structure()
            words.append((buffer.pts, buffer.duration, buffer.extract_dup(0, buffer.get_size()).decode(),
                          item.get_string('language-code'), item.get_double('confidence')[1]))

        pipe.get_by_name('sink').connect('handoff', handoff)
        play(pipe)
        self.assertEqual([w[2] for w in words][:5], ['And', 'so', 'my', 'fellow', 'Americans'])
        self.assertEqual({w[3] for w in words}, {'en'})
        self.assertTrue(all(0 < w[4] <= 1 for w in words))
        ends = [pts + duration for pts, duration, *_ in words]
        self.assertTrue(all(end <= pts for end, (pts, *_) in zip(ends, words[1:])))

    def test_messages(self):
        messages = play(pipeline(''))
        texts = [s.get_string('text') for name, s in messages if name == 'whisperxdna2enc/segment']
        self.assertTrue(' '.join(texts).startswith('And so my fellow Americans'), texts)

    def test_error_has_a_domain(self):
        pipe = pipeline('')
        pipe.get_by_name('enc').set_property('model-path', '/nowhere')
        with self.assertRaises(GLib.Error) as caught:
            play(pipe)
        self.assertTrue(caught.exception.matches(Gst.ResourceError.quark(), Gst.ResourceError.NOT_FOUND))

    def test_presets(self):
        enc = Gst.ElementFactory.make('whisperxdna2enc')
        self.assertEqual(sorted(enc.get_preset_names()), ['file-accuracy', 'live-captions'])
        self.assertTrue(enc.load_preset('file-accuracy'))
        self.assertEqual(enc.get_property('audio-context'), 1500)

    def test_properties_from_threads_while_it_runs(self):
        pipe = pipeline('')
        enc = pipe.get_by_name('enc')
        done, failures = threading.Event(), []

        def work():
            try:
                while not done.wait(0.002):
                    enc.set_property('latency', 700)
                    enc.set_property('language-code', 'en')
                    stats = enc.get_property('stats')
                    stats.get_uint64('late')
                    enc.get_property('active-backend')
                    enc.get_property('max-observed-delay')
            except Exception as error:  # told by the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        play(pipe)
        done.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])


if __name__ == '__main__':
    unittest.main()
