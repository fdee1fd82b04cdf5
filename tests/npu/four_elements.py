#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prints how many windows each of four elements gets through in the same seconds on the emulated NPU, of which a window
takes 36 ms, so that it is what they compete for:

    four_elements.py SECONDS
"""
import ctypes
import sys

import gi
gi.require_version('Gst', '1.0')
from gi.repository import GLib, Gst

COUNT = 4


def main(seconds):
    Gst.init(None)
    pipeline = Gst.parse_launch(' '.join(
        f'audiotestsrc wave=white-noise ! audio/x-raw,format=S16LE,rate=16000,channels=1 ! '
        f'whisperxdna2enc backend=npu precision=int8 ! application/x-whisper-features ! '
        f'fakesink name=sink{i} sync=false' for i in range(COUNT)))
    windows = [0] * COUNT
    loop = GLib.MainLoop()
    started = []  # what each had when all had begun

    def arrived(_pad, _info, i):
        windows[i] += 1
        if not started and all(windows):
            ctypes.CDLL(None).emulated_npu_control(b'mode=delay cost=2000')
            started.extend(windows)
            GLib.timeout_add(int(seconds * 1000), loop.quit)
        return Gst.PadProbeReturn.OK

    for i in range(COUNT):
        pipeline.get_by_name(f'sink{i}').get_static_pad('sink').add_probe(Gst.PadProbeType.BUFFER, arrived, i)
    bus = pipeline.get_bus()
    bus.add_signal_watch()
    errors = []
    bus.connect('message::error', lambda _, message: (errors.append(message.parse_error()), loop.quit()))
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    counts = [now - before for now, before in zip(windows, started)]
    pipeline.set_state(Gst.State.NULL)
    if errors:
        sys.exit(str(errors[0]))
    print(*counts)


main(float(sys.argv[1]))
