"""Makes the expected values of this folder that are computed, with implementations that share nothing with ours: mel
columns with NumPy in float64, voice probabilities with onnxruntime, speech intervals with Silero's own Python.

  make_vectors.py DIR SILERO    (NumPy, onnxruntime)

Reads the clips in DIR (this folder) and the package silero_vad 6.2.3, unpacked in SILERO, and writes into DIR."""
import ast
import sys
import typing
import numpy as np
import onnxruntime


def filters(count):
    to_mel = lambda f: f / (200 / 3) if f < 1000 else 15 + np.log(f / 1000) / (np.log(6.4) / 27)
    to_hz = lambda m: m * 200 / 3 if m < 15 else 1000 * np.exp((m - 15) * np.log(6.4) / 27)
    f = [to_hz(m) for m in np.linspace(0, to_mel(8000), count + 2)]
    bins = np.arange(201) * 40.0
    return np.array([
        np.maximum(0, np.minimum((bins - f[i]) / (f[i + 1] - f[i]), (f[i + 2] - bins) / (f[i + 2] - f[i + 1])))
        * 2 / (f[i + 2] - f[i]) for i in range(count)])


def features(signal, content, bands=80, frames=1024):
    """openai/whisper audio.py on a signal with silence to its right; columns beyond `content` are 0.0."""
    silence = max(0, content * 160 + 400 - len(signal))
    x = np.pad(np.pad(signal / 32768.0, (0, silence)), (200, 0), mode='reflect')
    x = np.lib.stride_tricks.sliding_window_view(x, 400)[::160][:content]
    power = np.abs(np.fft.rfft(x * 0.5 * (1 - np.cos(2 * np.pi * np.arange(400) / 400)))) ** 2
    mel = np.log10(np.maximum(filters(bands) @ power.T, 1e-10))
    out = np.zeros((bands, frames), np.float32)
    out[:, :content] = (np.maximum(mel, mel.max() - 8) + 4) / 4
    return out


def make_mel(folder):
    for name, clip, samples, content, bands in (
            ('jfk_8.00s', 'jfk', 128000, 800, 80),
            ('jfk_10.24s', 'jfk', 163840, 1024, 80),
            ('jfk_8.00s_128', 'jfk', 128000, 800, 128),
            ('libri_1272-128104-0000_floor', 'libri_1272-128104-0000', None, 1024, 80)):
        mel = features(np.load(f'{folder}/{clip}.npy')[:samples], content, bands)
        columns = np.unique(np.r_[0:8, 0:1024:16, content - 8:min(content + 8, 1024)]).astype(np.int32)
        np.save(f'{folder}/{name}_mel.npy', np.ascontiguousarray(mel[:, columns]))
        np.save(f'{folder}/{name}_columns.npy', columns)


def white_noise(samples):
    """-29 dBFS, from the generator of Numerical Recipes, so that the test can make it again."""
    x, out = 1, []
    for _ in range(samples):
        x = (x * 1664525 + 1013904223) % 2**32
        out.append(((x >> 16) - 32768) >> 4)
    return np.array(out, np.int16)


def probabilities(network, clip):
    x = np.pad(clip / np.float32(32768), (64, -len(clip) % 512)).astype(np.float32)
    state = np.zeros((2, 1, 128), np.float32)
    out = []
    for at in range(0, len(x) - 64, 512):
        p, state = network.run(None, {'input': x[None, at:at + 576], 'state': state, 'sr': np.array(16000)})
        out.append(p[0, 0])
    return np.array(out, np.float32)


def make_voice(folder, package):
    network = onnxruntime.InferenceSession(f'{package}/data/silero_vad.onnx', providers=['CPUExecutionProvider'])
    clips = {name: np.load(f'{folder}/{name}.npy') for name in ('jfk', 'libri_1272-128104-0000', 'vibe_ace', 'robin')}
    clips['noise'] = white_noise(80000)
    clips['silence'] = np.zeros(32000, np.int16)
    for name, clip in clips.items():
        np.save(f'{folder}/{name}_voice.npy', probabilities(network, clip))


def make_segments(folder, package):
    source = open(f'{package}/utils_vad.py').read()
    function = next(node for node in ast.parse(source).body
                    if getattr(node, 'name', '') == 'get_speech_timestamps_from_probs')
    names = vars(typing).copy()
    exec(ast.get_source_segment(source, function), names)

    random = np.random.default_rng(1)
    scripts, rules, intervals = [], [], []
    for case in range(60):
        # Runs of loud, quiet and doubtful hops, some of them a single hop.
        p = np.concatenate([random.uniform(*random.choice([(0, .4), (.3, .6), (.45, 1)]), random.integers(1, 18))
                            for _ in range(40)])[:160].astype(np.float32)
        threshold, negative = random.choice([(500, 350), (600, 450), (500, 500)])
        speech_ms, silence_ms, pad_ms = (250, 100, 30) if case < 10 else (
            random.choice([0, 32, 250]), random.choice([0, 32, 100, 400]), random.choice([0, 30, 32, 80, 200]))
        samples = len(p) * 512 - random.integers(0, 512)
        found = names['get_speech_timestamps_from_probs'](
            [float(x) for x in p], threshold=threshold / 1000, neg_threshold=negative / 1000,
            min_speech_duration_ms=int(speech_ms), min_silence_duration_ms=int(silence_ms), speech_pad_ms=int(pad_ms),
            audio_length_samples=int(samples))
        scripts.append(p)
        rules.append((threshold, negative, speech_ms * 16, silence_ms * 16, pad_ms * 16, samples))
        intervals += [(case, s['start'], s['end']) for s in found]
    np.save(f'{folder}/segmenter_probabilities.npy', np.array(scripts))
    np.save(f'{folder}/segmenter_rules.npy', np.array(rules, np.int32))
    np.save(f'{folder}/segmenter_intervals.npy', np.array(intervals, np.int32))


folder, package = sys.argv[1:]
make_mel(folder)
make_voice(folder, package)
make_segments(folder, package)
