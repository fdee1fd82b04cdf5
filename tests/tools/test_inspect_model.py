# SPDX-License-Identifier: LGPL-2.1-or-later
"""whisperxdna2-inspect-model on the generated models, and on models of every published size.

Those are safetensors files of zeros with the published numbers of layers, mel bands and tokens, sparse on disk. By
default they are 64 channels wide; with the argument `real` they have the published width, up to large's 3 GB.
"""
import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
import unittest
from array import array
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'whisper'))
import make_models  # noqa: E402

PROGRAM, MODELS = os.environ['INSPECT_MODEL'], Path(os.environ['WHISPERXDNA2_TEST_MODELS'])
REAL = 'real' in sys.argv[1:]

# openai/whisper model-card.md and the published config.json files: width, layers of encoder and decoder, mel bands,
# tokens.
SIZES = {
    'tiny': (384, 4, 4, 80, 51865), 'tiny.en': (384, 4, 4, 80, 51864),
    'base': (512, 6, 6, 80, 51865), 'base.en': (512, 6, 6, 80, 51864),
    'small': (768, 12, 12, 80, 51865), 'small.en': (768, 12, 12, 80, 51864),
    'medium': (1024, 24, 24, 80, 51865), 'medium.en': (1024, 24, 24, 80, 51864),
    'large-v1 and v2': (1280, 32, 32, 80, 51865), 'large-v3': (1280, 32, 32, 128, 51866),
    'large-v3-turbo': (1280, 32, 4, 128, 51866), 'distil-large-v3': (1280, 32, 2, 128, 51866),
    'distil-small.en': (768, 12, 4, 80, 51864),
}
# Millions, of the same sources.
PARAMETERS = {'tiny': 38, 'base': 73, 'small': 242, 'medium': 764, 'large-v1 and v2': 1543, 'large-v3': 1543,
              'large-v3-turbo': 809, 'distil-large-v3': 756}


def tensors(width, encoder_layers, decoder_layers, mels, vocabulary):
    """transformers' names and shapes."""
    def linear(name, rows, columns, bias=True):
        yield f'{name}.weight', (rows, columns)
        if bias:
            yield f'{name}.bias', (rows,)

    def norm(name):
        yield f'{name}.weight', (width,)
        yield f'{name}.bias', (width,)
    for name, bands in (('conv1', mels), ('conv2', width)):
        yield f'model.encoder.{name}.weight', (width, bands, 3)
        yield f'model.encoder.{name}.bias', (width,)
    yield 'model.decoder.embed_tokens.weight', (vocabulary, width)
    for side, layers, positions in (('encoder', encoder_layers, 1500), ('decoder', decoder_layers, 448)):
        yield f'model.{side}.embed_positions.weight', (positions, width)
        yield from norm(f'model.{side}.layer_norm')
        for layer in range(layers):
            name = f'model.{side}.layers.{layer}.'
            for part in ('self_attn', 'encoder_attn')[:1 if side == 'encoder' else 2]:
                yield from norm(name + part + '_layer_norm')
                for projection in 'qkv':
                    yield from linear(f'{name}{part}.{projection}_proj', width, width, projection != 'k')
                yield from linear(f'{name}{part}.out_proj', width, width)
            yield from norm(name + 'final_layer_norm')
            yield from linear(name + 'fc1', 4 * width, width)
            yield from linear(name + 'fc2', width, 4 * width)


def write_model(directory, width, encoder_layers, decoder_layers, mels, vocabulary):
    header, at = {}, 0
    for name, shape in tensors(width, encoder_layers, decoder_layers, mels, vocabulary):
        size = 2 * math.prod(shape)
        header[name] = {'dtype': 'F16', 'shape': shape, 'data_offsets': [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(directory / 'model.safetensors', 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        file.truncate(8 + len(text) + at)
    make_models.use(vocabulary, 50257 if vocabulary >= 51865 else 50256, mels)
    make_models.write_json(str(directory / 'config.json'), {
        **make_models.configuration(), 'd_model': width,
        'encoder_layers': encoder_layers, 'encoder_attention_heads': width // 64,
        'decoder_layers': decoder_layers, 'decoder_attention_heads': width // 64})
    make_models.write_json(str(directory / 'vocab.json'), {t: i for i, t in enumerate(make_models.text_tokens())})


class InspectModel(unittest.TestCase):
    def inspect(self, *arguments):
        done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=600)
        self.assertEqual(done.returncode, 0, done.stderr)
        return dict(re.findall(r'^(\w+) +(.+)$', done.stdout, re.M)), done.stdout

    def expect_shape(self, report, width, encoder_layers, decoder_layers, mels, vocabulary):
        self.assertEqual(report['dimensions'],
                         f'{mels} mel bands, 1500 positions of audio, 448 of text, width {width}, {width // 64} heads')
        self.assertEqual(report['layers'], f'{encoder_layers} of the encoder, {decoder_layers} of the decoder')
        first = 50257 if vocabulary >= 51865 else 50256
        timestamps = vocabulary - 1501
        self.assertEqual(report['tokens'], f'{vocabulary}: text below {first}, end {first}, start {first + 1}, '
                         f'no timestamps {timestamps - 1}, 0.00 s {timestamps}')
        languages = {51864: 0, 51865: 99, 51866: 100}[vocabulary]
        self.assertEqual(report['languages'], ' '.join(make_models.LANGUAGES[:languages]) or 'English only')
        sizes = {'encoder': 0, 'decoder': 0}
        for name, shape in tensors(width, encoder_layers, decoder_layers, mels, vocabulary):
            small = len(shape) == 1 or 'embed_positions' in name  # kept as f32
            sizes[name.split('.')[1]] += (4 if small else 2) * math.prod(shape)
        memory = re.match(r'([\d.]+) MiB encoder, ([\d.]+) MiB decoder; peak of this process ([\d.]+) MiB',
                          report['memory'])
        for got, want in zip(memory.groups(), sizes.values()):
            self.assertAlmostEqual(float(got), want / 2**20, delta=0.11)
        self.assertLess(float(memory[3]), sum(sizes.values()) / 2**20 + 64)

    def test_every_size(self):
        for name, (width, *rest) in SIZES.items():
            with self.subTest(size=name), tempfile.TemporaryDirectory() as directory:
                shape = (width if REAL else 64, *rest)
                write_model(Path(directory), *shape)
                report, _ = self.inspect(directory)
                self.expect_shape(report, *shape)
                if REAL and name in PARAMETERS:
                    self.assertIn(f', {PARAMETERS[name]} million parameters, ', report['found'])

    @unittest.skipIf(REAL, 'has been tested')
    def test_every_format(self):
        found = {'ct2-f16': 'CTranslate2 f16', 'ct2-f32': 'CTranslate2 f32', 'ct2-int8': 'CTranslate2 int8',
                 'hf-bf16': 'Hugging Face bf16', 'hf-sharded': 'Hugging Face f16', 'ggml-q4_1.bin': 'ggml q4_1',
                 'ggml-f16.bin': 'ggml f16'}
        keys = {}
        for name, what in found.items():
            with self.subTest(model=name):
                report, _ = self.inspect(MODELS / name)
                self.assertTrue(report['found'].startswith(what + ', '), report['found'])
                keys[name] = report['content']
        self.assertEqual(len({keys[name] for name in ('ct2-f16', 'hf-sharded', 'ggml-f16.bin')}), 1)
        self.assertEqual(len(set(keys.values())), 5)

    @unittest.skipIf(REAL, 'has been tested')
    def test_tensors(self):
        _, text = self.inspect('--tensors', MODELS / 'hf-f32')
        rows = {line.split()[0]: line for line in text.splitlines() if re.match('(en|de)coder[.]', line)}
        self.assertEqual(len(rows), len(make_models.shapes()))
        values = array('f', (MODELS / 'expected-f16.f32').read_bytes())
        mean = sum(values) / len(values)
        rms = math.sqrt(sum(v * v for v in values) / len(values))
        name, kind, *shape, low, high, middle, spread = rows['encoder.blocks.0.mlp.0.weight'].split()
        self.assertEqual((kind, shape), ('f32', ['256', 'x', '64']))
        for got, want in ((low, min(values)), (high, max(values)), (middle, mean), (spread, rms)):
            self.assertAlmostEqual(float(got) / want, 1, delta=1e-3)

    @unittest.skipIf(REAL, 'has been tested')
    def test_what_is_no_model(self):
        done = subprocess.run([PROGRAM, '/nowhere'], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (1, ''))
        self.assertIn('inspect-model: There is no model at /nowhere', done.stderr)
        self.assertEqual(subprocess.run([PROGRAM, 'a', 'b'], capture_output=True, timeout=60).returncode, 2)


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1])
