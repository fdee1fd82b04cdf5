# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/bench beside engines that only say what they are told to; once with our own."""
import argparse
import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
import wave
import xml.etree.ElementTree
from pathlib import Path
from unittest import mock

ROOT = Path(os.environ['ROOT'])
BUILD = os.environ['BUILD']
JFK = ROOT / 'tests' / 'data' / 'audio' / 'jfk.wav'


def load_program():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader('bench', str(ROOT / 'tools' / 'bench'))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader('bench', loader))
    loader.exec_module(module)
    return module


bench = load_program()

# An engine. Its answers: {beginning of a line: answer, or several in turn}, or such a table for each first argument.
# "END WORDS": it says WORDS on standard error and ends; "SLEEP": it says nothing more.
FAKE = r'''#!PYTHON
import json, os, sys, time
with open(ANSWERS) as file:
    answers = json.load(file)
if len(sys.argv) > 1:
    answers = answers.get(os.path.basename(sys.argv[1]), answers)
def say(answer):
    if answer.startswith('END'):
        print(answer[4:], file=sys.stderr)
        sys.exit(3)
    while answer == 'SLEEP':
        time.sleep(60)
    print(answer.replace('ISA', os.environ.get('WHISPERXDNA2_ISA', 'best')), flush=True)
say(answers.get('about', 'fake 1.0'))
for line in sys.stdin:
    begin = next((b for b in answers if line.startswith(b)), None)
    if line.startswith('features '):
        with open(line.split()[2], 'wb') as file:
            file.write(bytes(answers['features']))
        say('written')
    elif begin is None:
        say('-')
    elif isinstance(answers[begin], list):
        say(answers[begin].pop(0))
    else:
        say(answers[begin])
'''


class Bench(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def program(self, path, answers):
        """A fake engine at `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        table = path.with_name(path.name + '.json')
        table.write_text(json.dumps(answers))
        path.write_text(FAKE.replace('PYTHON', sys.executable).replace('ANSWERS', repr(str(table))))
        path.chmod(0o755)
        return path

    def engine(self, name, answers, limit=20):
        engine = bench.Engine(name, [self.program(self.folder / name.replace(' ', '_'), answers)], limit)
        self.addCleanup(engine.close)
        return engine

    def options(self, **changed):
        values = {'threads': 2, 'runs': 3, 'wav': JFK, 'model': Path('/models/base'), 'build': self.folder / 'build',
                  'peers': self.folder / 'peers', 'limit': 20, 'isa': None, 'compare': True, 'peer': None,
                  'beam_size': 5, 'results': None, 'folder': self.folder, 'precision': None, 'plot': None}
        return argparse.Namespace(**{**values, **changed})

    def printed(self, function, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            function(*arguments)
        return out.getvalue()


class Engines(Bench):
    def test_answers(self):
        e = self.engine('peer', {'encode': ['1.5', '2.5'], 'windows': ['a\n\nb\n.']})
        self.assertEqual((e.about, e.missing, e.failed), ('fake 1.0', None, None))
        self.assertEqual([e.ask('encode'), e.ask('encode')], ['1.5', '2.5'])
        self.assertEqual(e.ask('windows x', more=True), ['a', '', 'b'])
        self.assertIsNone(e.ask('token'))
        self.assertIsNone(e.failed)

    def test_it_is_stopped_while_it_is_not_its_turn(self):
        e = self.engine('peer', {'encode': '1'})
        e.ask('encode')
        for _ in range(100):
            state = Path(f'/proc/{e.process.pid}/stat').read_text().rpartition(') ')[2][0]
            if state == 'T':
                break
            time.sleep(0.02)
        self.assertEqual(state, 'T')

    def test_one_that_ends_is_named_with_its_last_words_and_not_asked_again(self):
        e = self.engine('peer', {'encode': ['1', 'END no memory'], 'token': '2'})
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            self.assertEqual([e.ask('encode'), e.ask('encode'), e.ask('token')], ['1', None, None])
        self.assertEqual(e.failed, 'no memory at "encode"')
        self.assertEqual(err.getvalue(), 'bench: peer failed: no memory at "encode"\n')

    def test_one_that_ends_silently(self):
        e = self.engine('peer', {'encode': 'END'})
        with contextlib.redirect_stderr(io.StringIO()):
            e.ask('encode')
        self.assertEqual(e.failed, 'exit status 3 at "encode"')

    def test_one_that_takes_too_long(self):
        e = self.engine('peer', {'encode': 'SLEEP'})
        e.limit = 1
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertIsNone(e.ask('encode'))
        self.assertEqual(e.failed, 'more than 1 s at "encode"')
        self.assertIsNotNone(e.process.poll())

    def test_nothing_waits_for_the_limit_after_an_interruption(self):
        e = self.engine('peer', {'encode': 'SLEEP'})
        before = threading.active_count()
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with self.assertRaises(KeyboardInterrupt):
            e.ask('encode')
        e.process.kill()
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join(5)
        self.assertLessEqual(threading.active_count(), before)

    def test_without_ours_there_is_nothing_to_measure(self):
        e = self.engine(bench.OURS, {'encode': 'END too bad'})
        with self.assertRaises(SystemExit) as ended:
            e.ask('encode int8')
        self.assertEqual(ended.exception.code, 'bench: whisperxdna2 failed: too bad at "encode int8"')

    def test_those_that_cannot_start_are_missing(self):
        self.assertIn('/nowhere', bench.Engine('peer', ['/nowhere/engine'], 5).missing)
        self.assertEqual(self.engine('peer', {'about': 'END No module named x'}).missing,
                         'No module named x at "its start"')
        self.assertEqual(self.engine('peer', {'about': 'SLEEP'}, limit=1).missing, 'more than 1 s at "its start"')


class Peers(Bench):
    def reasons(self, **changed):
        found = {kind: e for kind, e in bench.peers(self.options(**changed), bench.PEERS)}
        for e in found.values():
            e.close()
        self.assertEqual(list(found), list(bench.PEERS))
        return {kind: e.missing or '' for kind, e in found.items()}

    def test_each_says_why_it_is_missing(self):
        missing = self.reasons()
        self.assertTrue(all('--prepare' in reason for reason in missing.values()), missing)
        python = self.folder / 'peers' / 'venv' / 'bin' / 'python'
        self.program(python, {'about': 'END no such module'})
        missing = self.reasons()
        self.assertIn('encoder-nncf.xml', missing['openvino-int8'])
        self.assertEqual(missing['ct2-int8'], 'no such module at "its start"')
        self.assertIn('--whisper-cpp', missing['whisper.cpp-f16'])

    def test_those_that_are_there(self):
        peers = self.folder / 'peers'
        self.program(peers / 'venv' / 'bin' / 'python', {})
        self.program(peers / 'whisper.cpp' / 'bench', {})
        (peers / 'whisper.cpp' / 'bench.cpp').write_text(bench.WHISPER_CPP)
        for _, needs in bench.PEERS.values():
            if needs:
                (peers / needs).touch()
        self.assertEqual(set(self.reasons().values()), {''})
        # One that was built by another version of the program would answer another language.
        (peers / 'whisper.cpp' / 'bench.cpp').write_text('older')
        self.assertIn('--prepare', self.reasons()['whisper.cpp-q8_0'])
        limited = self.reasons(isa='avx2')
        self.assertEqual(limited['onnx-int8'], 'cannot be kept to avx2')
        self.assertIn('whisper.cpp-avx2', limited['whisper.cpp-f16'])

    def test_only_those_that_have_the_part(self):
        self.assertEqual(bench.peers_of(['encoder', 'mel']), list(bench.PEERS))
        self.assertEqual(bench.peers_of(['mel']), ['whisper.cpp-f16'])
        self.assertEqual(bench.peers_of(['job']), ['ct2-float32', 'ct2-int8', 'whisper.cpp-f16', 'whisper.cpp-q8_0'])

    def test_whisper_cpp_is_built_for_the_instruction_set(self):
        ran = []

        def run(command, **_):
            ran.append([str(c) for c in command])
            (self.folder / 'peers' / 'whisper.cpp-avx2' / 'build').mkdir(parents=True, exist_ok=True)

        (self.folder / 'peers' / 'venv' / 'bin').mkdir(parents=True)
        for file in ('venv/bin/python', 'encoder-nncf.xml'):
            (self.folder / 'peers' / file).touch()
        with mock.patch.object(bench.subprocess, 'run', run):
            bench.prepare(self.options(isa='avx2', whisper_cpp=self.folder, ggml=None))
        self.assertIn('-DGGML_AVX2=ON', ran[0])
        self.assertIn('-DGGML_NATIVE=OFF', ran[0])
        self.assertEqual(ran[2][-1], str(self.folder / 'peers' / 'whisper.cpp-avx2' / 'bench'))


class Worker(Bench):
    """The process behind an engine with a Python interface."""

    def ask(self, kind, modules, *lines):
        values = types.SimpleNamespace(reshape=lambda *shape: 'mel')
        numpy = types.SimpleNamespace(fromfile=lambda *_: values, float32='f4', array=lambda x: x)
        answers = io.StringIO()
        with mock.patch.dict(sys.modules, {'numpy': numpy, **modules}), mock.patch.dict(os.environ, BENCH_MEL='x'), \
                mock.patch.object(sys, 'stdin', io.StringIO(''.join(line + '\n' for line in lines))), \
                contextlib.redirect_stdout(answers):
            bench.worker(kind, 'model', str(JFK), '2')
        return answers.getvalue().splitlines()

    def test_encoder_only(self):
        inputs = []
        session = types.SimpleNamespace(run=lambda _, feed: inputs.append(feed) or ['features'])
        options = types.SimpleNamespace()
        onnx = types.SimpleNamespace(__version__='9.9', SessionOptions=lambda: options,
                                     InferenceSession=lambda model, settings, providers: session)
        about, encode, token, transcribe, memory = self.ask(
            'onnx-f32', {'onnxruntime': onnx}, 'encode -', 'token', 'transcribe int8 5 en x.wav', 'memory')
        self.assertEqual((about, token, transcribe, inputs), ('9.9', '-', '-', [{'mel': 'mel'}]))
        self.assertEqual(options.intra_op_num_threads, 2)
        self.assertGreaterEqual(float(encode), 0)
        self.assertGreater(float(memory), 1)

    def test_transcription(self):
        asked = []

        def transcribe(path, **settings):
            asked.append((path, settings))
            return [types.SimpleNamespace(text=' Ask\nnot'), types.SimpleNamespace(text=' what')], None

        whisper = types.SimpleNamespace(model=types.SimpleNamespace(encode=lambda *_, **__: 'features'),
                                        transcribe=transcribe)
        modules = {'ctranslate2': types.SimpleNamespace(__version__='4', StorageView=mock.Mock()),
                   'faster_whisper': types.SimpleNamespace(WhisperModel=lambda *_, **__: whisper)}
        about, answer = self.ask('ct2-int8', modules, 'transcribe int8 5 en x.wav')
        self.assertRegex(answer, r'^[\d.e-]+  Ask not what$')
        self.assertEqual(asked, [('x.wav', {'language': 'en', 'beam_size': 5})])


class Tables(Bench):
    def test_medians_without_the_first_answer_of_each_turn(self):
        a = self.engine('a', {'encode int8': ['90', '1', '90', '3', '90', '2']})
        b = self.engine('b', {'encode -': ['90', '10', '90', '30', 'END full']})
        c = self.engine('c', {})
        with contextlib.redirect_stderr(io.StringIO()):
            found = bench.turns([a, b, c], 'encode', 3, lambda name: ' int8' if name == 'a' else ' -')
        self.assertEqual(found, {'a': 2, 'b': 20})
        self.assertEqual(b.failed, 'full at "encode -"')

    def test_ratios_and_targets(self):
        rows = {'ours': 20.0, 'one': 40.0, 'two': 10.0}
        lines = self.printed(bench.table, 'what', 'ms', 'ours', rows, [('one', 0.5), ('two', 1.9), ('three', 1)],
                             {'one': 'a note'}).splitlines()
        self.assertEqual([line.split() for line in lines], [
            [], ['what'], ['ours', '20.000', 'ms'], ['one', '40.000', 'ms', '0.50', 'x', 'a', 'note'],
            ['two', '10.000', 'ms', '2.00', 'x'], ['met', 'at', 'most', '0.5', 'x', 'one'],
            ['NOT', 'MET', 'at', 'most', '1.9', 'x', 'two'], ['unknown', 'at', 'most', '1', 'x', 'three']])

    def test_limits(self):
        self.assertIn('1.500 s    met      at most 2 s', self.printed(bench.limit, 'it', 1.5, 2, 's'))
        self.assertIn('NOT MET', self.printed(bench.limit, 'it', 2.5, 2, 's'))


class WholeJob(Bench):
    """Of two clips of three words."""

    def setUp(self):
        super().setUp()
        clips = [{'id': name, 'wav': JFK.name, 'language': 'en', 'reference': 'one two three'} for name in ('a', 'b')]

        def grade(_, clip, text):
            wrong = sum(x != y for x, y in zip(clip['reference'].split(), text.split()))
            return {'substituted': wrong, 'missing': 0, 'added': 0, 'units': 3}

        score = types.SimpleNamespace(grade=grade)
        for name, value in (('clips_of', lambda _: (score, None, clips)), ('to_wav', lambda path, _: path)):
            patch = mock.patch.object(bench, name, value)
            patch.start()
            self.addCleanup(patch.stop)

    def job(self, ours, *others, **options):
        mine = self.engine(bench.OURS, {'transcribe int8 5 en': ours})
        peers = {f'ct2-{i}': self.engine(f'peer {i}', {'transcribe': answers}) for i, answers in enumerate(others)}
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                bench.whole_job(self.options(**options), mine, peers, self.folder)
        except SystemExit as ended:
            print(ended.code, file=out)
        return [' '.join(line.split()) for line in out.getvalue().splitlines()]

    def test_table(self):
        lines = self.job(['1 one two three', '2 one two four'], ['4 one two three', '6 one no four'],
                         ['3 one two three', '2 one two three'])
        self.assertEqual(lines[2:], [
            'whisperxdna2 3.000 s 16.67 % of 6 words wrong, 2 of 2 clips',
            'peer 0 10.000 s 0.30 x 33.33 % of 6 words wrong, 2 of 2 clips',
            'peer 1 5.000 s 0.60 x 0.00 % of 6 words wrong, 2 of 2 clips',
            'NOT MET at most 0.5 x peer 1, the quickest',
            'NOT MET no more words wrong than the others: fewer with peer 1'])

    def test_one_that_fails_is_compared_on_what_it_did(self):
        lines = self.job(['1 one two four', '2 one two three'], ['4 one no four', 'END'], ['END', '1 never asked'])
        self.assertEqual(lines[2:], [
            'whisperxdna2 3.000 s 16.67 % of 6 words wrong, 2 of 2 clips',
            'peer 0 4.000 s 0.25 x 66.67 % of 3 words wrong, 1 of 2 clips, 33.33 % here', 'peer 1 no clip',
            'met at most 0.5 x peer 0, the quickest', 'met no more words wrong than the others'])

    def test_the_next_run_goes_on_where_one_was_interrupted(self):
        kept = self.folder / 'kept.tsv'
        real = bench.Engine.ask

        def ask(engine, line):
            answer = real(engine, line)
            if answer == '9':
                raise KeyboardInterrupt
            return answer

        with mock.patch.object(bench.Engine, 'ask', ask):
            lines = self.job(['1 one two three', '9'], ['4 one two three'], results=kept)
        self.assertEqual(lines[2:], ['whisperxdna2 1.000 s 0.00 % of 3 words wrong, 1 of 2 clips',
                                     'peer 0 4.000 s 0.25 x 0.00 % of 3 words wrong, 1 of 2 clips, 0.00 % here',
                                     'met at most 0.5 x peer 0, the quickest',
                                     'met no more words wrong than the others',
                                     'bench: interrupted: the table is of what was done'])
        lines = self.job(['2 one two three'], ['6 one two three'], results=kept)
        self.assertEqual(lines[2:4], ['whisperxdna2 3.000 s 0.00 % of 6 words wrong, 2 of 2 clips',
                                      'peer 0 10.000 s 0.30 x 0.00 % of 6 words wrong, 2 of 2 clips'])
        self.assertEqual(len(kept.read_text().splitlines()), 5)
        # With other settings everything is measured anew.
        lines = self.job(['1 one two three', '1 one two three'], ['2 x', '2 x'], results=kept, threads=1)
        self.assertIn('whisperxdna2 2.000 s 0.00 % of 6 words wrong, 2 of 2 clips', lines)


class Reports(Bench):
    def ours(self, answers):
        self.program(self.folder / 'build' / 'tools' / 'whisperxdna2-bench-worker', answers)

    def test_profile(self):
        rows = ['-1\tstem\t1\t4.0\t8000000', '0\tqkv\t1\t1.0\t2000000', '0\tfc1, GELU\t1\t2.0\t0',
                '1\tqkv\t1\t3.0\t2000000', '.']
        self.ours({'profile int8 3': '\n'.join(rows)})
        out = self.printed(bench.profile, self.options(precision=['int8'], plot=self.folder / 'p.svg'))
        self.assertRegex(out, r'2 threads, int8, 512 positions: 10\.0 ms')
        self.assertRegex(out, r'(?m)^ +layer 0  layer 1  outside +ms +GOP/s +share$')
        self.assertRegex(out, r'(?m)^qkv +1\.00 +3\.00 +4\.00 +1\.0 +40\.0%$')
        self.assertRegex(out, r'(?m)^stem +4\.00 +4\.00 +2\.0 +40\.0%$')
        self.assertRegex(out, r'attention of a layer, ms +2\.00')
        self.assertRegex(out, r'feed-forward of a layer, ms +1\.00')
        drawn = xml.etree.ElementTree.parse(self.folder / 'p-int8.svg').getroot()
        titles = [t.text for t in drawn.iter('{http://www.w3.org/2000/svg}title')]
        self.assertEqual(titles, ['qkv: 1.00 ms', 'fc1, GELU: 2.00 ms', 'qkv: 3.00 ms', 'stem: 4.00 ms'])

    def test_accuracy(self):
        self.ours({'windows ': '0\t24.5\tone\tone\n163840\t21.5\ttwo\tother\n.'})
        out = self.printed(bench.accuracy, self.options(accuracy=[JFK], folder=None))
        self.assertIn('2 windows: mean 23.00 dB, least 21.50 dB, 1 below 23 dB; 50 % of the texts are the same', out)
        self.assertRegex(out, r'21\.50 dB  other +jfk\.wav from 10\.24 s')

    def test_competing(self):
        self.ours({'encode int8': ['9', '10', '9', '30']})
        out = self.printed(bench.competing, self.options(compare=False, runs=1))
        self.assertRegex(out, r'(?m)^  whisperxdna2 +10\.0 ms +30\.0 ms +3\.00 x$')

    def test_competing_with_engines_that_fail_or_are_missing(self):
        self.ours({'mel-file': 'written', 'encode int8': ['9', '10', '9', '30']})
        cpp = self.folder / 'peers' / 'whisper.cpp'
        self.program(cpp / 'bench', {'encode': ['9', '20', 'END full']})
        (cpp / 'bench.cpp').write_text(bench.WHISPER_CPP)
        (self.folder / 'peers' / 'ggml-f16.bin').touch()
        out = self.printed(bench.competing, self.options(runs=1, peer=['ct2-int8', 'whisper.cpp-f16']))
        self.assertRegex(out, r'(?m)^CTranslate2 int8 MISSING: ')
        self.assertRegex(out, r'(?m)^  whisper\.cpp f16 +FAILED: full at "encode int8"$')
        self.assertRegex(out, r'(?m)^  whisperxdna2 +10\.0 ms +30\.0 ms +3\.00 x$')

    def test_recordings_become_what_the_workers_read(self):
        self.assertEqual(bench.to_wav(JFK, self.folder), JFK)
        flac = JFK.with_name('ls_1272-128104-0000.flac')
        with wave.open(str(bench.to_wav(flac, self.folder))) as file:
            self.assertEqual((file.getframerate(), file.getnchannels(), file.getsampwidth()), (16000, 1, 2))
            self.assertAlmostEqual(file.getnframes() / 16000, 5.855, delta=0.05)


class Program(Bench):
    def run_program(self, *arguments):
        return subprocess.run([sys.executable, ROOT / 'tools' / 'bench', '--wav', JFK, '--runs', '2', *arguments],
                              capture_output=True, text=True,
                              env={**os.environ, 'PATH': f'{self.folder}/bin:{os.environ["PATH"]}'})

    def fakes(self):
        ours = {'about': 'Processor (ISA)', 'mel-file': 'written', 'encode int8': '40', 'encode f32': '80',
                'token': '1', 'mel': '0.5', 'memory': '100', 'features': [0, 0, 128, 63, 0, 0, 0, 64]}  # 1, 2
        self.program(self.folder / 'build' / 'tools' / 'whisperxdna2-bench-worker', ours)
        cpp = self.folder / 'peers' / 'whisper.cpp-avx2'
        f16 = {'about': 'whisper.cpp', 'encode': '160', 'token': '4', 'mel': '4', 'memory': '200',
               'features': [0, 0, 128, 63, 0, 0, 0, 0]}  # 1, 0
        self.program(cpp / 'bench', {'ggml-f16.bin': f16, 'ggml-q8_0.bin': {**f16, 'token': ['4', 'END broken']}})
        (cpp / 'bench.cpp').write_text(bench.WHISPER_CPP)
        for name in ('ggml-f16.bin', 'ggml-q8_0.bin'):
            (self.folder / 'peers' / name).touch()
        launch = self.folder / 'bin' / 'gst-launch-1.0'
        launch.parent.mkdir()
        launch.write_text('#!/bin/sh\necho text\n')
        launch.chmod(0o755)
        return '--build', self.folder / 'build', '--peers', self.folder / 'peers'

    def test_comparison(self):
        ran = self.run_program('--compare', '--isa', 'avx2', *self.fakes())
        self.assertEqual(ran.returncode, 0, ran.stderr)
        lines = [' '.join(line.split()) for line in ran.stdout.splitlines()]
        self.assertEqual(lines[0], 'Processor (avx2), 2 threads, medians of 2, jfk.wav, base')
        self.assertEqual(sum('MISSING: ' in line for line in lines), 7)
        for line in ('whisperxdna2 int8 40.000 ms the same', 'whisper.cpp f16 160.000 ms 0.25 x 1.0 dB',
                     'met at most 0.4 x whisper.cpp f16', 'met at most 0.55 x whisper.cpp f16',
                     'unknown at most 0.6 x whisper.cpp q8_0', 'whisper.cpp q8_0 FAILED: broken at "token"',
                     'log-mel of 10.24 s 0.500 ms met at most 2 ms', 'whisper.cpp f16 200 MB'):
            self.assertIn(line, lines)
        self.assertRegex(ran.stdout, r'first text after start, warm cache +\d\.\d{3} s    met')

    def test_one_peer(self):
        ran = self.run_program('--compare', '--part', 'decoder', '--peer', 'whisper.cpp-q8_0', *self.fakes())
        self.assertRegex(ran.stdout, r'(?m)^  whisper\.cpp q8_0 +MISSING: ')
        self.assertNotRegex(ran.stdout, r'whisper\.cpp f16 +MISSING|CTranslate2')

    def test_parts(self):
        ran = self.run_program('--part', 'decoder', '--part', 'mel', *self.fakes())
        self.assertEqual(re.findall(r'(?m)^\S.*', ran.stdout)[1:], ['decode, each token', 'log-mel of 10.24 s'])
        self.assertNotIn('met      at most 0.6', ran.stdout)

    def test_errors(self):
        ran = self.run_program('--build', '/nowhere')
        self.assertEqual(ran.returncode, 1)
        self.assertIn('no whisperxdna2-bench-worker in /nowhere', ran.stderr)
        ran = self.run_program('--folder', '/nowhere', '--peers', '/nowhere')
        self.assertIn('--folder needs what --prepare installs', ran.stderr)

    def test_our_own_engine(self):
        ran = self.run_program('--build', BUILD)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        for row in ('whisperxdna2 int8', 'whisperxdna2 f32', 'peak resident set, one instance'):
            self.assertRegex(ran.stdout, rf'(?m)^  {row} +\d+\.\d{{3}} ')
        for title in ('decode, each token', 'log-mel of 10.24 s'):
            self.assertRegex(ran.stdout, rf'(?m)^{title}\n  whisperxdna2 +\d+\.\d{{3}} ms')


if __name__ == '__main__':
    unittest.main()
