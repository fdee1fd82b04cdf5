#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live captions of what a real PulseAudio server's source hears, in real time, with the weights of tiny.en.

The server is this test's own: it has one sink that leads nowhere, into which a recording is played.
"""
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import gi
gi.require_version('Gst', '1.0')
from gi.repository import Gst  # noqa: E402

SKIP = 77  # for Meson
JFK = ('and so my fellow americans ask not what your country can do for you '
       'ask what you can do for your country')
DATA = os.environ['WHISPERXDNA2_TEST_DATA']
MODEL = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'),
                     'whisperxdna2', 'models', 'tiny.en')


def skip(reason):
    print('skipped:', reason, '(tools/install-deps pipelines)')
    sys.exit(SKIP)


def serve(directory):
    """A running server that hears what is played into its sink `null`."""
    socket = os.path.join(directory, 'socket')
    os.environ.update(PULSE_SERVER='unix:' + socket, PULSE_RUNTIME_PATH=directory, XDG_CONFIG_HOME=directory)
    server = subprocess.Popen(
        ['pulseaudio', '-n', '--daemonize=no', '--use-pid-file=no', '--exit-idle-time=-1', '--disable-shm=yes',
         '--load=module-null-sink sink_name=null',
         f'--load=module-native-protocol-unix auth-anonymous=1 socket={socket}'],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        if os.path.exists(socket):
            return server
        time.sleep(0.1)
    server.kill()
    raise RuntimeError('pulseaudio does not start')


def messages(pipe, kinds):
    while message := pipe.get_bus().pop_filtered(kinds):
        yield message


def captions():
    """Plays jfk.wav into the server; (text, seconds from its first sample to its last, what was said on the bus)."""
    hear = Gst.parse_launch(f'pulsesrc device=null.monitor ! audioconvert ! audioresample ! '
                            f'queue max-size-time=0 max-size-bytes=0 max-size-buffers=0 ! '
                            f'whisperxdna2enc name=enc output-unit=word model-path="{MODEL}" ! '
                            f'fakesink name=sink sync=true signal-handoffs=true')
    say = Gst.parse_launch(f'filesrc location="{DATA}/audio/jfk.wav" ! wavparse ! audioconvert ! audioresample ! '
                           f'pulsesink device=null')
    words = []
    hear.get_by_name('sink').connect(
        'handoff', lambda _sink, buffer, _pad: words.append(
            (time.monotonic(), buffer.extract_dup(0, buffer.get_size()).decode())))
    try:
        hear.set_state(Gst.State.PLAYING)
        while hear.get_by_name('enc').get_property('active-backend') is None:
            time.sleep(0.05)
        say.set_state(Gst.State.PLAYING)
        end = say.get_bus().timed_pop_filtered(60 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
        assert end and end.type == Gst.MessageType.EOS, 'the recording was not played'
        ended = time.monotonic()

        latency = Gst.Query.new_latency()
        assert hear.query(latency)
        live, least, most = latency.parse_latency()
        time.sleep(1)
        hear.send_event(Gst.Event.new_eos())
        end = hear.get_bus().timed_pop_filtered(200 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
        assert end and end.type == Gst.MessageType.EOS, end and end.parse_error()
        complaints = [m.parse_warning()[0].message for m in messages(hear, Gst.MessageType.WARNING)]
    finally:
        say.set_state(Gst.State.NULL)
        hear.set_state(Gst.State.NULL)
    return words, ended, (live, least, most), complaints


def main():
    Gst.init(None)
    if not shutil.which('pulseaudio'):
        skip('there is no pulseaudio')
    if not Gst.ElementFactory.find('pulsesrc'):
        skip('there is no pulsesrc')
    with tempfile.TemporaryDirectory() as directory:
        server = serve(directory)
        try:
            words, ended, (live, least, most), complaints = captions()
        finally:
            server.terminate()
            server.wait()
    text = re.sub('[^a-z ]', '', ' '.join(word for _, word in words).lower())
    print(f'{text}\nlatency {least / Gst.SECOND:.2f} s; first word {ended - words[0][0]:.1f} s before the end; '
          f'{complaints}')
    # A busy machine loses samples between the server and the source, which nobody downstream can help.
    matcher = difflib.SequenceMatcher(None, JFK.split(), text.split(), autojunk=False)
    right = sum(block.size for block in matcher.get_matching_blocks())
    assert right >= 12, f'{right} of 22 words'
    assert words[0][0] < ended, 'nothing came out while the recording was played'
    assert live and 5 * Gst.SECOND <= least <= most, (live, least, most)
    # The bin's own complaint where a source cannot hold what the latency asks for.
    assert not any('latency' in c.lower() and 'configure' in c.lower() for c in complaints), complaints


main()
