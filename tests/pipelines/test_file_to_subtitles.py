# SPDX-License-Identifier: LGPL-2.1-or-later
import json
import os
import pty
import re
import shutil
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from example import AUDIO, BUILD, JFK, KENNEDY, ROOT, TINY, ExampleTest, example, run, words

STAMP = r'\d\d:\d\d:\d\d[,.]\d\d\d'


class FileToSubtitles(ExampleTest):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def test_standard_output_is_webvtt(self):
        out = self.succeed('file-to-subtitles', JFK, '-p', TINY).stdout
        self.assertRegex(out, f'^WEBVTT\n\n({STAMP} --> {STAMP}\n[^\n]+\n\n)+$')
        self.assertEqual(words(re.sub(f'WEBVTT|{STAMP}', '', out)), KENNEDY)

    def test_the_readme_command(self):
        # In its own build folder; elsewhere it would build another.
        if BUILD != ROOT / 'build':
            self.skipTest('not in build/')
        ran = subprocess.run([ROOT / 'captions.sh'], capture_output=True, text=True, timeout=240)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertEqual(words(re.sub(f'WEBVTT|{STAMP}', '', ran.stdout)), KENNEDY)

    def test_three_formats_say_the_same(self):
        outputs = [self.folder / f'out.{suffix}' for suffix in ('srt', 'vtt', 'json')]
        self.succeed('file-to-subtitles', JFK, '-p', TINY, *(x for path in outputs for x in ('-o', path)))
        srt, vtt, result = (path.read_text(encoding='utf-8') for path in outputs)
        result = json.loads(result)
        self.assertEqual(result['seconds'], 11)
        self.assertEqual(words(' '.join(s['text'] for s in result['segments'])), KENNEDY)
        cues = re.findall(f'({STAMP}) --> ({STAMP})\n(.+)\n', vtt)
        self.assertEqual(cues, [(a.replace(',', '.'), b.replace(',', '.'), text)
                                for a, b, text in re.findall(f'({STAMP}) --> ({STAMP})\n(.+)\n', srt)])
        self.assertEqual([text for _, _, text in cues], [s['text'] for s in result['segments']])
        self.assertEqual([re.sub(r'\D', '', a) for a, _, _ in cues],
                         [time.strftime('%H%M%S', time.gmtime(int(s['start']))) + f'{round(s["start"] % 1 * 1000):03}'
                          for s in result['segments']])
        self.assertEqual(re.findall(r'^\d+$', srt, re.M), [str(i + 1) for i in range(len(cues))])

    def test_words_have_time_and_confidence(self):
        self.succeed('file-to-subtitles', JFK, '-p', TINY, '-o', self.folder / 'out.json')
        end = 0
        for segment in json.loads((self.folder / 'out.json').read_text())['segments']:
            self.assertEqual(segment['language'], 'en')
            self.assertEqual(' '.join(word['text'] for word in segment['words']), segment['text'])
            self.assertEqual(segment['start'], segment['words'][0]['start'])
            for word in segment['words']:
                self.assertGreaterEqual(word['start'], end)
                self.assertGreater(word['end'], word['start'])
                self.assertTrue(0 < word['confidence'] <= 1)
                end = word['end']
            self.assertLessEqual(end, segment['end'])
        self.assertLess(end, 11.1)

    def test_folder_with_two_streams(self):
        recordings = self.folder / 'in'
        (recordings / 'deeper').mkdir(parents=True)
        shutil.copy(JFK, recordings / 'speech.wav')
        shutil.copy(AUDIO / 'ls_1272-128104-0000.flac', recordings / 'speech.flac')
        shutil.copy(AUDIO / 'ls_3853-163249-0037.flac', recordings / 'deeper' / 'soul.flac')
        (recordings / 'notes.txt').write_text('no recording')
        arguments = [recordings, '-o', self.folder / 'out', '--streams', 2, '--formats', 'srt,json', '-p', TINY]
        ran = self.succeed('file-to-subtitles', *arguments)
        out = self.folder / 'out'
        self.assertEqual(sorted(str(p.relative_to(out)) for p in out.rglob('*') if p.is_file()), [
            'deeper/soul.json', 'deeper/soul.srt', 'speech.flac.json', 'speech.flac.srt', 'speech.wav.json',
            'speech.wav.srt'])
        segments = json.loads((out / 'speech.wav.json').read_text())['segments']
        self.assertEqual(words(' '.join(s['text'] for s in segments)), KENNEDY)
        self.assertIn('gospel', (out / 'speech.flac.srt').read_text())
        self.assertIn('burden', (out / 'deeper' / 'soul.srt').read_text())
        self.assertEqual(ran.stderr.count(' captions'), 3)
        # What is there is not made again; what is older than its recording is.
        os.utime(recordings / 'speech.wav', (time.time() + 60,) * 2)
        ran = self.succeed('file-to-subtitles', *arguments)
        self.assertEqual(ran.stderr.count(' captions'), 1)
        self.assertIn('speech.wav', ran.stderr)

    def test_progress_and_time_left_on_a_terminal(self):
        main, terminal = pty.openpty()
        with subprocess.Popen([example('file-to-subtitles'), AUDIO / 'librivox_sonnet1_en.flac', '-p', TINY],
                              stdout=subprocess.DEVNULL, stderr=terminal) as process:
            os.close(terminal)
            shown = b''
            try:
                while data := os.read(main, 4096):
                    shown += data
            except OSError:  # how a terminal says that its other end is closed
                pass
        os.close(main)
        self.assertEqual(process.returncode, 0, shown)
        found = [(int(a), int(b) * 60 + int(c))
                 for a, b, c in re.findall(r'(\d+) %, (\d+):(\d\d) left', shown.decode())]
        self.assertGreaterEqual(len(set(found)), 2, shown)
        self.assertEqual([percent for percent, _ in found], sorted(percent for percent, _ in found))
        self.assertTrue(all(0 < percent <= 100 for percent, _ in found))
        self.assertLessEqual(found[-1][1], found[0][1])

    def test_markup_in_text_is_escaped(self):
        program = {'__name__': 'file-to-subtitles'}
        exec(compile(example('file-to-subtitles').read_text(), 'file-to-subtitles', 'exec'), program)
        segments = [{'start': 1, 'end': 3723.5, 'text': 'a --> b <i>&'}]
        self.assertEqual(program['vtt']({'segments': segments}),
                         'WEBVTT\n\n00:00:01.000 --> 01:02:03.500\na --&gt; b &lt;i&gt;&amp;\n\n')
        self.assertEqual(program['srt']({'segments': segments}),
                         '1\n00:00:01,000 --> 01:02:03,500\na --> b <i>&\n\n')

    def test_what_cannot_be_recognized_is_named(self):
        text = self.folder / 'notes.txt'
        text.write_text('no recording')
        for arguments, why in (([self.folder / 'missing.wav'], 'missing.wav'), ([text], 'notes.txt'),
                               ([JFK, '-p', 'model-path=/nowhere'], '/nowhere')):
            ran = run('file-to-subtitles', *arguments)
            self.assertEqual(ran.returncode, 1)
            self.assertIn(why, ran.stderr)
            self.assertNotIn('Traceback', ran.stderr)


if __name__ == '__main__':
    unittest.main()
