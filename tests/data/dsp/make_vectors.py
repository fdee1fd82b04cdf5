"""Makes the vectors of this folder that are computed, from independent implementations: mel columns with NumPy in float64.

  make_vectors.py DIR    (NumPy)

Reads the clips' .npy files in DIR (this folder) and writes *_mel.npy and *_columns.npy beside them."""
import sys
import numpy as np


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


def main(folder):
    for name, clip, samples, content, bands in (
            ('jfk_8.00s', 'jfk', 128000, 800, 80),
            ('jfk_10.24s', 'jfk', 163840, 1024, 80),
            ('jfk_8.00s_128', 'jfk', 128000, 800, 128),
            ('libri_1272-128104-0000_floor', 'libri_1272-128104-0000', None, 1024, 80)):
        mel = features(np.load(f'{folder}/{clip}.npy')[:samples], content, bands)
        columns = np.unique(np.r_[0:8, 0:1024:16, content - 8:min(content + 8, 1024)]).astype(np.int32)
        np.save(f'{folder}/{name}_mel.npy', np.ascontiguousarray(mel[:, columns]))
        np.save(f'{folder}/{name}_columns.npy', columns)


main(sys.argv[1])
