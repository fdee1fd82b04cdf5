#!/usr/bin/env python3
"""Writes seed inputs for the fuzz targets: DIRECTORY/{ct2,ggml,hugging_face,directory,tokenizer}/*.
Usage: make_corpus.py DIRECTORY

Model files are those of tests/whisper/make_models.py with zero weights, in the form that fuzz_model.cpp expands: pieces
of u16 length, bytes, u24 number of zeros. So a complete model is a seed of a few kilobytes."""
import json
import os
import shutil
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "whisper"))
import make_models  # noqa: E402

FEWEST_ZEROS = 64


def pieces(data):
    out, at = bytearray(), 0

    def emit(literal, zeros):
        while len(literal) > 65535 or zeros > 0xffffff:
            part, literal = literal[:65535], literal[65535:]
            now = min(zeros, 0xffffff) if not literal else 0
            zeros -= now
            out.extend(struct.pack("<H", len(part)) + part + now.to_bytes(3, "little"))
        out.extend(struct.pack("<H", len(literal)) + literal + zeros.to_bytes(3, "little"))

    while at < len(data):
        begin = data.find(bytes(FEWEST_ZEROS), at)
        if begin < 0:
            emit(data[at:], 0)
            break
        end = begin
        while data[end:end + 4096] == bytes(4096):
            end += 4096
        while end < len(data) and data[end] == 0:
            end += 1
        emit(data[at:begin], end - begin)
        at = end
    return bytes(out)


def main():
    out = sys.argv[1]
    weights = {name: bytes(2 * make_models.product(shape)) for name, shape in make_models.shapes().items()}
    seeds = {"ct2": {}, "ggml": {}, "hugging_face": {}, "directory": {}, "tokenizer": {}}
    # Blocks of zeros, whatever their format; the tests have the others.
    sizes = {"q8_0": 34, "q5_0": 22, "q5_1": 24, "q4_0": 18, "q4_1": 20}
    make_models.block_quantize = lambda values, kind: (bytes(len(values) // 32 * sizes[kind]), None)
    make_models.tokens = lambda: [b"a", b"\xff\x00", b""]
    with tempfile.TemporaryDirectory() as work:
        for kind in ("f16", "f32"):
            make_models.ct2(f"{work}/ct2-{kind}", weights, kind, aliased=kind == "f32")
            seeds["ct2"][kind] = open(f"{work}/ct2-{kind}/model.bin", "rb").read()
        for kind in ("f16", *sizes):
            make_models.ggml(f"{work}/{kind}.bin", weights, kind)
            seeds["ggml"][kind] = open(f"{work}/{kind}.bin", "rb").read()
        for dtype in ("F16", "BF16"):
            make_models.hugging_face(f"{work}/hf-{dtype}", weights, dtype)
            seeds["hugging_face"][dtype] = open(f"{work}/hf-{dtype}/model.safetensors", "rb").read()
    for target in ("ct2", "ggml", "hugging_face"):
        whole = {name: pieces(data) for name, data in seeds[target].items()}
        # Their beginnings as well: a complete model takes a hundred times as long to load.
        seeds[target] = {**whole, **{name + "-head": data[:1500] for name, data in whole.items()}}

    # The first byte chooses the file's name (fuzz_directory.cpp).
    seeds["directory"] = {
        "txt": b"\0!\n\"\n\xc4\xa0the\n\n<|endoftext|>\n",
        "list": b"\1" + json.dumps(["!", "\u0120the", "<|endoftext|>"]).encode(),
        "tokenizer": b"\2" + json.dumps({"added_tokens": [{"id": 2, "content": "<|en|>"}],
                                         "model": {"vocab": {"!": 0, "\u0120a": 1}, "merges": ["a b"]}}).encode(),
        "map": b"\3" + json.dumps({"!": 0, "\u0120a": 1}).encode(),
        "config": b"\4" + json.dumps({**make_models.configuration(), "dtype": "float16"}).encode(),
        "overflow": b'\4{"d_model": 1e999}',
        "generation": b"\5" + json.dumps({"alignment_heads": [[0, 0]], "no_timestamps_token_id": 50363}).encode(),
        "index": b"\6" + json.dumps({"metadata": {"total_size": 8}, "weight_map": {
            f"model.encoder.{name}.bias": "model-00001-of-00001.safetensors" for name in ("conv1", "conv2")}}).encode(),
    }
    seeds["tokenizer"] = {
        "english": b" it's 42 o'clock,  isn't it?\n",
        "mixed": "\u751f\u6d3b caf\u00e9 \u0e40\u0e1b\u0e47\u0e19 \u2167\u00bd\u00a0\u3000 "
                 "\U0001f468\u200d\U0001f469".encode(),
        "broken": b"\xff\xc3 \xe2\x82z\xf4\x90\x80\x80\xed\xa0\x80",
    }
    shutil.rmtree(out, ignore_errors=True)
    for target, files in seeds.items():
        for name, data in files.items():
            make_models.write(f"{out}/{target}/{name}", data)


main()
