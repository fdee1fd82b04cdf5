# SPDX-License-Identifier: LGPL-2.1-or-later
"""Links lead somewhere, what is shown exists, and every tool has its manual page. Addresses elsewhere are not
visited."""
import json
import os
import re
import subprocess
import unittest
from pathlib import Path

from example import BUILD, ROOT

PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
LINK = re.compile(r'!?\[[^]]*\]\(([^)\s]+)\)')


def prose(page):
    """Without blocks of code."""
    return re.sub(r'^(    |```).*\n', '\n', page.read_text(encoding='utf-8'), flags=re.M)


def anchors(page):
    """As GitHub makes them of headings."""
    headings = re.findall(r'^#+ (.+)$', prose(page), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def constant_parts(code):
    """What is always the same in a message: of its C++ literals what no number, name, colon or parenthesis
    interrupts."""
    joined = re.sub(r'(?<!\\)"\s*\+?\s*"', '', code)
    literals = re.findall(r'"((?:[^"\\]|\\.)*)"', joined)
    parts = [part.strip(' ."') for literal in literals
             for part in re.split(r'%[-.\d]*[a-z]?|[:;()]', literal.replace('\\"', '"'))]
    return [part for part in parts if len(part) >= 12]


class Docs(unittest.TestCase):
    def test_links(self):
        checked = 0
        for page in PAGES:
            for link in LINK.findall(prose(page)):
                if re.match(r'https?://', link):
                    continue
                path, _, anchor = link.partition('#')
                target = page.parent / path if path else page
                self.assertTrue(target.exists(), f'{page.name}: {link}')
                if anchor:
                    self.assertIn(anchor, anchors(target), f'{page.name}: {link}')
                checked += 1
        self.assertGreater(checked, 20)

    def test_lines_are_short(self):
        """A row of a table cannot be broken."""
        for page in [*PAGES, *(ROOT / 'pipelines').iterdir()]:
            for number, line in enumerate(page.read_text(encoding='utf-8').splitlines(), 1):
                self.assertTrue(len(line) <= 120 or line.startswith('|'), f'{page.name}:{number}')

    def test_every_page_is_reached_from_the_readme(self):
        seen, open_pages = set(), [PAGES[0]]
        while open_pages:
            page = open_pages.pop()
            seen.add(page)
            for link in LINK.findall(prose(page)):
                target = (page.parent / link.partition('#')[0]).resolve()
                if target.suffix == '.md' and target.exists() and target not in seen:
                    open_pages.append(target)
        self.assertLessEqual({page.resolve() for page in PAGES}, {page.resolve() for page in seen})

    def test_programs_that_are_named_exist(self):
        for page in PAGES:
            text = page.read_text(encoding='utf-8')
            for name in re.findall(r'pipelines/run ([a-z][a-z-]*)', text):
                self.assertTrue(any((ROOT / 'pipelines' / f'{name}{suffix}').exists() for suffix in ('', '.c')),
                                f'{page.name}: {name}')
            for name in re.findall(r'(?<![\w/])tools/([a-z][\w-]*)', text):
                self.assertTrue((ROOT / 'tools' / name).exists() or list((ROOT / 'tools').glob(f'{name}.*')),
                                f'{page.name}: {name}')

    def test_every_example_is_in_the_docs(self):
        text = ''.join(page.read_text(encoding='utf-8') for page in PAGES)
        for path in (ROOT / 'pipelines').iterdir():
            if path.suffix == '.c' or os.access(path, os.X_OK) and path.is_file():
                self.assertIn(f'pipelines/{path.name}', text)

    def test_properties_that_are_named_exist(self):
        described = subprocess.run(['gst-inspect-1.0', 'whisperxdna2enc'], capture_output=True, text=True,
                                   check=True).stdout
        properties = set(re.findall(r'^  ([a-z-]+) +: ', described, re.M))
        for page in PAGES:
            for name in re.findall(r'-p ([a-z-]+)=', page.read_text(encoding='utf-8')):
                self.assertIn(name, properties, page.name)

    def test_every_property_is_in_the_readme(self):
        described = subprocess.run(['gst-inspect-1.0', 'whisperxdna2enc'], capture_output=True, text=True,
                                   check=True).stdout
        readme = PAGES[0].read_text(encoding='utf-8')
        for name in set(re.findall(r'^  ([a-z-]+) +: ', described, re.M)) - {'name', 'parent'}:
            self.assertIn(f'`{name}`', readme)

    def test_every_message_is_explained(self):
        """By a part that is always the same. Damaged files have an entry together."""
        said = ' '.join((ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8').split())
        checked = 0
        for path in sorted(path for room in ('gst', 'whisper', 'npu') for path in (ROOT / room).glob('*.cpp')):
            # Elsewhere than in the engine kInvalidUse is a programmer's error.
            kinds = 'kNotFound|kUnsupported|kNoResource|kDevice' + ('|kInvalidUse' if path.name == 'engine.cpp' else '')
            for call in re.findall(rf'(?:GST_ELEMENT_(?:ERROR|WARNING)|ErrorCode::(?:{kinds})\b)'
                                   r'(?:[^;"]|"(?:[^"\\]|\\.)*")*;', path.read_text(encoding='utf-8')):
                if parts := constant_parts(call):
                    checked += 1
                    with self.subTest(file=path.name):
                        self.assertTrue(any(part in said for part in parts), parts)
        self.assertGreater(checked, 45)

    def test_manual_pages(self):
        installed = json.loads(subprocess.run(['meson', 'introspect', '--installed', BUILD], capture_output=True,
                                              check=True).stdout)
        tools = [Path(path).name for path in installed.values() if '/bin/' in path]
        self.assertGreaterEqual(len(tools), 5)
        for tool in tools:
            page = ROOT / 'docs' / 'man' / f'{tool}.1'
            self.assertTrue(page.exists(), tool)
            said = subprocess.run(['man', '--warnings', '-l', page], capture_output=True, text=True,
                                  env={**os.environ, 'MANWIDTH': '200'})
            self.assertEqual((said.returncode, said.stderr), (0, ''))
        subtitles = (ROOT / 'docs' / 'man' / 'whisperxdna2-subtitles.1').read_text().replace('\\', '')
        options = subprocess.run([ROOT / 'pipelines' / 'file-to-subtitles', '--help'], capture_output=True,
                                 text=True).stdout
        for option in re.findall(r'--[a-z]+', options):
            self.assertIn(option, subtitles)

    def test_versions_agree(self):
        version = re.search(r"version: '([\d.]+)'", (ROOT / 'meson.build').read_text()).group(1)
        self.assertTrue((ROOT / 'debian' / 'changelog').read_text().startswith(f'whisperxdna2 ({version}) '))
        for page in (ROOT / 'docs' / 'man').iterdir():
            self.assertIn(f'"whisperxdna2 {version}"', page.read_text().splitlines()[0])


if __name__ == '__main__':
    unittest.main()
