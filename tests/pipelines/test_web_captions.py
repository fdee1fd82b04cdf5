# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page in a real browser, headless, driven over the Chrome DevTools protocol."""
import base64
import json
import os
import runpy
import select
import signal
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from gi.repository import GLib

from example import BUILD, JFK, KENNEDY, TINY, ExampleTest, example, words


class Browser:
    def __init__(self, folder):
        # https://chromedevtools.github.io/devtools-protocol/, as JSON with a NUL after each message.
        commands, self.to = os.pipe()
        self.answers, answers = os.pipe()
        self.process = subprocess.Popen(
            ['sh', '-c', f'exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage '
                         f'--no-first-run --user-data-dir={folder} --window-size=800,400 --remote-debugging-pipe '
                         f'about:blank 3<&{commands} 4>&{answers}'],
            pass_fds=(commands, answers), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.buffer, self.number = b'', 0

    def call(self, method, session=None, **parameters):
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': parameters}
        if session:
            message['sessionId'] = session
        os.write(self.to, json.dumps(message).encode() + b'\0')
        end = time.monotonic() + 60
        while time.monotonic() < end:
            head, found, rest = self.buffer.partition(b'\0')
            if not found:
                if select.select([self.answers], [], [], 1)[0]:
                    self.buffer += os.read(self.answers, 65536)
                continue
            self.buffer = rest
            answer = json.loads(head)
            if answer.get('id') == self.number:
                if 'error' in answer:
                    raise RuntimeError(answer['error'])
                return answer['result']
        raise TimeoutError(method)

    def open(self, url):
        target = self.call('Target.createTarget', url=url)['targetId']
        return Tab(self, self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId'])

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.answers)


class Tab:
    def __init__(self, browser, session):
        self.browser, self.session = browser, session

    def evaluate(self, expression):
        answer = self.browser.call('Runtime.evaluate', self.session, expression=expression, returnByValue=True)
        return answer['result'].get('value')

    def text(self):
        return self.evaluate('document.getElementById("captions").innerText')

    def wait(self, expression):
        for _ in range(300):
            if self.evaluate(expression):
                return True
            time.sleep(0.1)
        return False

    def wait_for(self, text):
        return self.wait(f'document.body.innerText.includes({json.dumps(text)})')


def setUpModule():
    global browser
    browser = Browser(unittest.enterModuleContext(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    unittest.addModuleCleanup(browser.close)


class WebCaptions(ExampleTest):
    def start(self, port=0):
        """web-captions on a recording; its address, and the process"""
        process = subprocess.Popen([example('web-captions'), '--port', str(port), '-p', TINY, '--source',
                                    f'filesrc location={JFK} ! wavparse'], stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process.stdout.readline().strip(), process

    def test_words_appear_for_every_viewer_and_again_after_a_restart(self):
        url, process = self.start()
        viewers = [browser.open(url) for _ in range(2)]
        for viewer in viewers:
            self.assertTrue(viewer.wait_for('your country.'), viewer.text())
            self.assertEqual(words(viewer.text()), KENNEDY)
        picture = browser.call('Page.captureScreenshot', viewers[-1].session, format='png')['data']
        (BUILD / 'tests' / 'pipelines' / 'web-captions.png').write_bytes(base64.b64decode(picture))
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=30), 0)
        for viewer in viewers:
            self.assertTrue(viewer.wait('!document.getElementById("lost").hidden'))
        self.start(port=int(url.rstrip('/').rpartition(':')[2]))
        for viewer in viewers:
            self.assertTrue(viewer.wait('document.getElementById("lost").hidden'))
            self.assertTrue(viewer.wait_for('your country.'))
            self.assertEqual(words(viewer.text()), KENNEDY)  # once


class Page(ExampleTest):
    """The server alone, with texts that Whisper does not write."""

    def setUp(self):
        self.server = runpy.run_path(str(example('web-captions')))['Server'](0)
        self.url = f'http://localhost:{self.server.port}/'
        # GLib's loop runs beside the test, which blocks in the browser's pipe.
        self.loop = GLib.MainLoop()
        thread = threading.Thread(target=self.loop.run)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.loop.quit)

    def say(self, method, *arguments):
        GLib.idle_add(lambda: method(*arguments) and False)

    def get(self, path='', **headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=10) as answer:
                return answer.status, dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, {}

    def test_markup_is_text(self):
        tab = browser.open(self.url)
        self.say(self.server.final, 'before')
        self.assertTrue(tab.wait_for('before'))
        attacks = ['<script>document.title="gone"</script>', '<img src=x onerror=document.title="gone">',
                   '"><svg onload=document.title="gone">',
                   '</p><iframe src="javascript:parent.document.title=1"></iframe>']
        for attack in attacks:
            self.say(self.server.partial, attack)
            self.assertTrue(tab.wait_for(attack), attack)
            self.say(self.server.final, attack)
        self.say(self.server.final, 'after.')
        self.assertTrue(tab.wait_for('after.'))
        later = browser.open(self.url)  # its text comes from what the server has kept
        self.assertTrue(later.wait_for('after.'))
        for page in (tab, later):
            self.assertEqual(page.text(), ' '.join(['before', *attacks, 'after.']))
            self.assertEqual(page.evaluate('document.title'), 'Captions')
            self.assertEqual(page.evaluate('document.querySelectorAll("#captions *:not(p), #partial *").length'), 0)

    def test_partial_text_gives_way_to_final(self):
        tab = browser.open(self.url)
        self.say(self.server.final, 'One')
        self.assertTrue(tab.wait_for('One'))  # partial text is only for those who are there
        self.say(self.server.partial, 'too')
        self.assertTrue(tab.wait_for('too'))
        self.say(self.server.final, 'two.')
        self.say(self.server.final, 'Three')
        self.assertTrue(tab.wait_for('Three'))
        self.assertEqual(tab.text().split(), 'One two. Three'.split())
        self.assertEqual(tab.evaluate('document.getElementById("partial").textContent'), '')
        self.assertEqual(tab.evaluate('document.querySelectorAll("#captions p").length'), 2)

    def test_headers(self):
        status, headers = self.get()
        self.assertEqual(status, 200)
        self.assertIn("default-src 'none'", headers['Content-Security-Policy'])
        self.assertNotIn("script-src 'unsafe-inline'", headers['Content-Security-Policy'])
        self.assertEqual(self.get('nothing')[0], 404)
        self.assertEqual(self.get('../etc/passwd')[0], 404)

    def test_only_for_this_machine(self):
        addresses = {uri.get_host() for uri in self.server.server.get_uris()}
        self.assertLessEqual(addresses, {'127.0.0.1', '::1'})
        self.assertEqual(self.get(Host='captions.example:80')[0], 403)

    def test_other_pages_may_not_listen(self):
        """A page from elsewhere opens a WebSocket to here, as any page can."""
        tab = browser.open(self.url)
        self.say(self.server.final, 'secret')
        self.assertTrue(tab.wait_for('secret'))
        stranger = browser.open('data:text/html,<body>')
        stranger.evaluate(f'''var heard = "", over = false;
                              var socket = new WebSocket("ws://localhost:{self.server.port}/captions");
                              socket.onmessage = e => heard += e.data; socket.onclose = () => over = true''')
        self.assertTrue(stranger.wait('over'))
        self.assertEqual(stranger.evaluate('heard'), '')


if __name__ == '__main__':
    unittest.main()
