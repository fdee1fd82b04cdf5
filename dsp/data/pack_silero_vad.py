"""Packs the weights of Silero VAD's 16 kHz network for dsp/voice_activity.cpp.

  pack_silero_vad.py silero_vad_16k_op15.onnx silero_vad_16k.f32    (NumPy, onnx)

Little-endian float32 in the order of `struct Weights` there. Matrices are stored transposed and in blocks of 16
outputs, [outputs / 16][inputs][16], so that the forward pass reads them from the first byte to the last. Left out: the
short-time Fourier basis (a Hann window times cosines and sines, exactly), and convolution taps that only ever meet
padding."""
import sys
import numpy as np
import onnx
from onnx import numpy_helper


def tensors(graph):
    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField('t'):
                yield node.output[0], numpy_helper.to_array(attribute.t)
            if attribute.HasField('g'):
                yield from tensors(attribute.g)


def blocked(matrix):
    """[outputs][inputs] -> [outputs / 16][inputs][16]"""
    return matrix.reshape(-1, 16, matrix.shape[1]).transpose(0, 2, 1)


def main(source, target):
    w = {name.removeprefix('model.'): value for name, value in tensors(onnx.load(source).graph)}
    parts = []
    for layer, taps in enumerate(((0, 1, 2), (0, 1, 2), (1, 2), (1,))):
        conv = f'encoder.{layer}.reparam_conv'
        parts += [w[conv + '.bias']] + [blocked(w[conv + '.weight'][:, :, tap]) for tap in taps]
    rnn = 'decoder.rnn'
    parts += [w[rnn + '.bias_ih'] + w[rnn + '.bias_hh'],
              blocked(np.concatenate([w[rnn + '.weight_ih'], w[rnn + '.weight_hh']], 1)),
              w['decoder.decoder.2.weight'], w['decoder.decoder.2.bias']]
    np.concatenate([part.astype('<f4').ravel() for part in parts]).tofile(target)


main(*sys.argv[1:])
