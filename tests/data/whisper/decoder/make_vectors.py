"""Makes the vectors of test_decoder.cpp and test_word_timing.cpp: a plain NumPy f32 decoder with the rules of
openai/whisper (decoding.py, timing.py), over encoder rows that are given.

usage: make_vectors.py MODEL_DIRECTORY FEATURES_DIRECTORY
MODEL_DIRECTORY: Whisper base as a CTranslate2 directory. FEATURES_DIRECTORY: NAME/final.npy [512, 512] f32 for the
names below, and tail.npy [64, 512], the encoder's rows 512.. for 10.24 s of speech followed by silence. Needs numpy and
scipy.
"""
import json
import os
import struct
import sys

import numpy as np
from scipy.ndimage import median_filter
from scipy.special import erf, logsumexp

EOT, SOT, EN, TRANSCRIBE, NO_SPEECH, NO_TIMESTAMPS, TIMESTAMPS = 50257, 50258, 50259, 50359, 50362, 50363, 50364
HERE = os.path.dirname(os.path.abspath(__file__))


def read_weights(path):
    data, at, weights = open(path, 'rb').read(), 0, {}
    types = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

    def take(kind):
        nonlocal at
        value = struct.unpack_from('<' + kind, data, at)[0]
        at += struct.calcsize('<' + kind)
        return value

    def text():
        nonlocal at
        size = take('H')
        at += size
        return data[at - size:at].rstrip(b'\0').decode()

    take('I'), text(), take('I')
    for _ in range(take('I')):
        name = text()
        shape = [take('I') for _ in range(take('B'))]
        kind, size = np.dtype(types[take('B')]), take('I')
        weights[name] = np.frombuffer(data, kind, size // kind.itemsize, at).reshape(shape).astype(np.float32)
        at += size
    return weights


def norm(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    return (x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name + '/gamma'] + w[name + '/beta']).astype('f')


class Decoder:
    def __init__(self, directory):
        self.w = read_weights(os.path.join(directory, 'model.bin'))
        config = json.load(open(os.path.join(directory, 'config.json')))
        self.heads = config['alignment_heads']
        self.suppress = np.array(config['suppress_ids'])
        self.suppress_first = np.array(config['suppress_ids_begin'])

    def linear(self, x, name):
        return x @ self.w[name + '/weight'].T + self.w[name + '/bias']

    def features(self, rows):
        self.cross = [np.split(self.linear(rows, f'decoder/layer_{i}/attention/linear_1'), 2, 1) for i in range(6)]

    def attend(self, q, k, v, mask=0):
        q, k, v = (t.reshape(-1, 8, 64).transpose(1, 0, 2) for t in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) / 8 + mask
        e = np.exp(scores - scores.max(-1, keepdims=True))
        return (e / e.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(-1, 512), scores

    def run(self, ids):
        """Logits [n, vocabulary] and scores of the alignment heads [heads, n, positions], without a cache."""
        w, n = self.w, len(ids)
        x = w['decoder/embeddings/weight'][ids] + w['decoder/position_encodings/encodings'][:n]
        mask = np.triu(np.full((n, n), -np.inf, 'f'), 1)
        scores = {}
        for i in range(6):
            p = f'decoder/layer_{i}/'
            normed = norm(x, w, p + 'self_attention/layer_norm')
            q, k, v = np.split(self.linear(normed, p + 'self_attention/linear_0'), 3, 1)
            x = x + self.linear(self.attend(q, k, v, mask)[0], p + 'self_attention/linear_1')
            q = self.linear(norm(x, w, p + 'attention/layer_norm'), p + 'attention/linear_0')
            out, scores[i] = self.attend(q, *self.cross[i])
            x = x + self.linear(out, p + 'attention/linear_2')
            h = self.linear(norm(x, w, p + 'ffn/layer_norm'), p + 'ffn/linear_0')
            x = x + self.linear((h * (0.5 + 0.5 * erf(h / np.sqrt(2)))).astype('f'), p + 'ffn/linear_1')
        x = norm(x, w, 'decoder/layer_norm')
        return x @ w['decoder/embeddings/weight'].T, np.stack([scores[l][h] for l, h in self.heads])

    def greedy(self, timestamps=False, prefix=(), limit=224):
        """Sampled ids, log-probability of each and of the end, margin to the second choice, P(no speech), scores."""
        prompt = [SOT, EN, TRANSCRIBE] + ([] if timestamps else [NO_TIMESTAMPS]) + list(prefix)
        ids, log_probs, margins = [], [], []
        while True:
            all_logits, scores = self.run(prompt + ids)
            l = all_logits[-1].copy()
            l[self.suppress] = -np.inf
            if not ids:
                l[self.suppress_first] = -np.inf
            if timestamps:
                timestamp_rules(l, ids)
            else:
                l[TIMESTAMPS:] = -np.inf
            best, second = np.argsort(-l)[:2]
            log_probs.append(l[best] - logsumexp(l))
            margins.append(l[best] - l[second])
            if best == EOT or len(ids) == limit:
                break
            ids.append(int(best))
        no_speech = np.exp(all_logits[0, NO_SPEECH] - logsumexp(all_logits[0]))
        first = len(prompt) - len(prefix) - 1
        return ids, log_probs, margins, no_speech, scores[:, first:]


def timestamp_rules(l, ids):
    """openai/whisper decoding.py ApplyTimestampRules"""
    l[NO_TIMESTAMPS] = -np.inf
    last = len(ids) >= 1 and ids[-1] >= TIMESTAMPS
    penultimate = len(ids) < 2 or ids[-2] >= TIMESTAMPS
    if last:
        if penultimate:
            l[TIMESTAMPS:] = -np.inf
        else:
            l[:EOT] = -np.inf
    times = [t for t in ids if t >= TIMESTAMPS]
    if times:
        l[TIMESTAMPS:times[-1] + (0 if last and not penultimate else 1)] = -np.inf
    if not ids:
        l[:TIMESTAMPS] = -np.inf
        l[TIMESTAMPS + 51:] = -np.inf
    if logsumexp(l[TIMESTAMPS:]) > l[:TIMESTAMPS].max():
        l[:TIMESTAMPS] = -np.inf


def token_starts(scores):
    """openai/whisper timing.py find_alignment over [heads, rows, positions]: the first position of each row's path."""
    w = np.exp(scores - scores.max(-1, keepdims=True))
    w /= w.sum(-1, keepdims=True)
    w = (w - w.mean(-2, keepdims=True)) / w.std(-2, keepdims=True)
    w = median_filter(w, (1, 1, 7), mode='mirror')
    x = -w.mean(0)
    n, m = x.shape
    cost = np.full((n + 1, m + 1), np.inf)
    cost[0, 0] = 0
    trace = np.zeros((n + 1, m + 1), int)
    for j in range(1, m + 1):
        for i in range(1, n + 1):
            steps = cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]
            trace[i, j] = np.argmin(steps)
            cost[i, j] = x[i - 1, j - 1] + min(steps)
    i, j, starts = n, m, [0] * n
    while i > 0:
        starts[i - 1] = j - 1
        step = 2 if i == 1 and j > 1 else trace[i, j]
        if i == 1 and j == 1:
            break
        i, j = i - (step != 2), j - (step != 1)
    return starts


def save(name, value, kind):
    np.save(os.path.join(HERE, name + '.npy'), np.ascontiguousarray(value, kind))


def half(rows):
    return rows.astype(np.float16)


def language_probabilities(decoder, rows):
    """Shares of the whole vocabulary, for each language."""
    decoder.features(rows.astype('f'))
    logits = decoder.run([SOT])[0][0]
    return np.exp(logits - logsumexp(logits))[EN:EN + 99]


def main():
    decoder = Decoder(sys.argv[1])
    tail = half(np.load(os.path.join(sys.argv[2], 'tail.npy')))
    save('tail', tail.view(np.int16), np.int16)
    clips = {'jfk_8.00s': ('jfk_8.00s_zeros', 400), 'jfk_10.24s': ('jfk_10.24s_floor', 512),
             'libri': ('ls_1272-128104-0000_floor', 293)}
    rows = {}
    for name, (source, _) in clips.items():
        rows[name] = half(np.load(os.path.join(sys.argv[2], source, 'final.npy')))
        save(name + '_features', rows[name].view(np.int16), np.int16)
    cases = [('libri', 'libri', False, {}),
             ('jfk_10.24s_loop', 'jfk_10.24s', False, {'limit': 60}), ('jfk_10.24s_tail', 'jfk_10.24s', True, {}),
             ('libri_timestamps', 'libri', False, {'timestamps': True}),
             ('jfk_8.00s_prefix', 'jfk_8.00s', True, {'prefix': [400, 370, 452, 7177, 6280]})]
    for name, clip, with_tail, options in cases:
        decoder.features(np.concatenate([rows[clip], tail] if with_tail else [rows[clip]]).astype('f'))
        ids, log_probs, margins, no_speech, scores = decoder.greedy(**options)
        save(name + '_ids', ids, np.int32)
        # One row each: log-probabilities, margins; the last entry is the end's. Then P(no speech).
        save(name + '_scores', np.concatenate([log_probs, margins, [no_speech]]), np.float32)
        content = clips[clip][1]
        save(name + '_starts', token_starts(scores[:, :, :content]), np.int32)
        if name == 'libri':
            save(name + '_alignment', scores[:, ::4, :content], np.float32)
        print(name, len(ids), 'smallest margin', min(margins), 'no speech', no_speech, ids[:12])
    save('libri_language', language_probabilities(decoder, rows['libri']), np.float32)

main()
