# SPDX-License-Identifier: LGPL-2.1-or-later
"""Features in NNStreamer's own elements. Debian does not have them: skipped, with the reason, where they are
missing."""
import sys
import unittest

import gi
gi.require_version('Gst', '1.0')
from gi.repository import Gst
import numpy

from example import JFK, TINY

Gst.init(None)


def features(consumer):
    """What arrives behind `consumer`: [(seconds, numbers)]."""
    pipeline = Gst.parse_launch(f'filesrc location={JFK} ! wavparse ! whisperxdna2enc {TINY} ! {consumer} ! '
                                'appsink name=out sync=false')
    pipeline.set_state(Gst.State.PLAYING)
    found = []
    while sample := pipeline.get_by_name('out').emit('pull-sample'):
        buffer = sample.get_buffer()
        data = buffer.extract_dup(0, buffer.get_size())
        found.append((buffer.pts / Gst.SECOND, numpy.frombuffer(data, numpy.float32)))
    message = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
    pipeline.set_state(Gst.State.NULL)
    if message:
        raise RuntimeError(message.parse_error()[0].message)
    return found


class NNStreamer(unittest.TestCase):
    def test_numbers_arrive_in_the_shape_that_the_caps_say(self):
        expected = [(at, numbers.reshape(512, 384)) for at, numbers in features('application/x-whisper-features')]
        self.assertGreaterEqual(len(expected), 2)
        got = features('tensor_transform mode=arithmetic option=mul:2.0 ! '
                       'tensor_transform mode=transpose option=1:0:2:3')
        self.assertEqual([at for at, _ in got], [at for at, _ in expected])
        for (_, numbers), (_, rows) in zip(got, expected):
            self.assertTrue((numbers.reshape(384, 512).T == 2 * rows).all())

    def test_elements_take_them(self):
        for consumer in ('tensor_mux', 'tensor_mux ! tensor_demux', 'tensor_rate framerate=25/256',
                         'tensor_transform mode=stand option=default',
                         'tensor_aggregator frames-in=1 frames-out=1 frames-flush=1 frames-dim=2'):
            with self.subTest(consumer):
                self.assertGreaterEqual(len(features(consumer)), 2)


if __name__ == '__main__':
    if not Gst.ElementFactory.find('tensor_transform'):
        print('skipped: NNStreamer is not installed')
        sys.exit(77)  # for Meson
    unittest.main()
