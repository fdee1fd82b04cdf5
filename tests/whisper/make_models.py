#!/usr/bin/env python3
"""Writes small Whisper models (width 64, one layer each side, random weights) in every format that is read, by the
formats' own descriptions and without a line of the library or NumPy.
Usage: make_models.py DIRECTORY

  ct2-f16/ ct2-f32/ ct2-int8/ ct2-aliased/      CTranslate2
  ggml-f16.bin ggml-f32.bin ggml-q8_0.bin ...   whisper.cpp
  hf-f16/ hf-f32/ hf-bf16/ hf-sharded/          Hugging Face
  ct2-english/ ggml-english.bin hf-english/     English only: 51864 tokens
  ct2-v3/ ggml-v3.bin hf-v3/                    as large-v3: 51866 tokens, 128 mel bands
  hf-distil/                                    as distil-large-v3: also fewer layers in the decoder than in the encoder
  expected-TYPE.f32                             values of encoder.blocks.0.mlp.0.weight as they must be in memory
All of the f16 ones hold the same weights.
"""
import json
import os
import random
import struct
import sys
from array import array

WIDTH = 64
# Which of the three vocabularies is written; see use().
N_VOCAB, N_TEXT, MEL_BANDS = 51865, 50257, 80
LAYERS = {"encoder": 1, "decoder": 1}  # others only in Hugging Face's format
LANGUAGES = ("en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt "
             "la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc "
             "ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue").split()


def shapes():
    """OpenAI's names and shapes."""
    d, s = WIDTH, {}
    s["encoder.conv1.weight"], s["encoder.conv1.bias"] = (d, MEL_BANDS, 3), (d,)
    s["encoder.conv2.weight"], s["encoder.conv2.bias"] = (d, d, 3), (d,)
    s["encoder.positional_embedding"] = (1500, d)
    s["decoder.positional_embedding"] = (448, d)
    s["encoder.ln_post.weight"] = s["encoder.ln_post.bias"] = (d,)
    s["decoder.ln.weight"] = s["decoder.ln.bias"] = (d,)
    for side, kinds in (("encoder", ["attn"]), ("decoder", ["attn", "cross_attn"])):
        for layer in range(LAYERS[side]):
            b = f"{side}.blocks.{layer}."
            for kind in kinds:
                for part in ("query", "key", "value", "out"):
                    s[f"{b}{kind}.{part}.weight"] = (d, d)
                    if part != "key":
                        s[f"{b}{kind}.{part}.bias"] = (d,)
                s[f"{b}{kind}_ln.weight"] = s[f"{b}{kind}_ln.bias"] = (d,)
            s[b + "mlp.0.weight"], s[b + "mlp.0.bias"] = (4 * d, d), (4 * d,)
            s[b + "mlp.2.weight"], s[b + "mlp.2.bias"] = (d, 4 * d), (d,)
            s[b + "mlp_ln.weight"] = s[b + "mlp_ln.bias"] = (d,)
    s["decoder.token_embedding.weight"] = (N_VOCAB, d)
    return s


def product(shape):
    n = 1
    for size in shape:
        n *= size
    return n


def halves(values):
    return struct.pack(f"<{len(values)}e", *values)


def to_f32(data16):
    return array("f", struct.unpack(f"<{len(data16) // 2}e", data16))


def make_weights():
    """name -> f16 bytes. The embedding repeats 8191 values, a prime, so that rows differ."""
    rng = random.Random(20)
    weights = {}
    for name, shape in shapes().items():
        n = product(shape)
        block = halves([rng.gauss(0, 0.05) for _ in range(min(n, 8191))])
        weights[name] = (block * (n // 8191 + 1))[:2 * n]
    # Subnormal and large halves must survive as well.
    extremes = halves([5.960464477539063e-08, -6.097555160522461e-05, 30000.0, -30000.0, 0.0, -0.0])
    name = "encoder.blocks.0.mlp.0.weight"
    weights[name] = extremes + weights[name][len(extremes):]
    return weights


def byte_alphabet():
    table, n = {}, 256
    for b in range(256):
        if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174:
            table[b] = chr(b)
        else:
            table[b] = chr(n)
            n += 1
    return table


def tokens():
    """Raw bytes of the text tokens: all single bytes, pairs, in multilingual ones an empty token at the end."""
    t = [bytes([b]) for b in range(256)]
    t += [bytes([(i - 256) >> 8, i & 255]) for i in range(256, 50256)]
    return t + [b""] if N_TEXT == 50257 else t


def control_tokens():
    languages = LANGUAGES[:100 if N_VOCAB == 51866 else 99]
    names = ["<|endoftext|>", "<|startoftranscript|>"] + [f"<|{code}|>" for code in languages]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    return names + [f"<|{i * 0.02:.2f}|>" for i in range(1501)]


ALPHABET = byte_alphabet()


def text_tokens():
    return ["".join(ALPHABET[b] for b in t) for t in tokens()]


def use(n_vocab, n_text, mel_bands):
    global N_VOCAB, N_TEXT, MEL_BANDS
    N_VOCAB, N_TEXT, MEL_BANDS = n_vocab, n_text, mel_bands


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def write_json(path, value):
    write(path, json.dumps(value).encode())


# ---------------------------------------------------------------- CTranslate2

def quantize_rows(values, rows):
    """CTranslate2's int8: scale = 127 / max |row|; value = integer / scale."""
    width, data, scales = len(values) // rows, bytearray(), array("f")
    for r in range(rows):
        row = values[r * width:(r + 1) * width]
        scale = struct.unpack("<f", struct.pack("<f", 127 / max(max(map(abs, row)), 1e-30)))[0]
        scales.append(scale)
        data += struct.pack(f"{width}b", *[round(v * scale) for v in row])
    return bytes(data), scales


def ct2(directory, weights, kind, aliased=False):
    entries, aliases = [], []

    def string(text):
        data = text.encode() + b"\0"
        return struct.pack("<H", len(data)) + data

    def entry(name, shape, dtype, data):
        entries.append(string(name) + struct.pack("<B", len(shape)) + struct.pack(f"<{len(shape)}I", *shape) +
                       struct.pack("<BI", dtype, len(data)) + data)

    def tensor(name, shape, data16, matrix=False):
        if kind == "int8" and matrix:
            data, scales = quantize_rows(to_f32(data16), shape[0])
            entry(name, shape, 1, data)
            entry(name + "_scale", (shape[0],), 0, scales.tobytes())
        elif kind == "f16":
            entry(name, shape, 4, data16)
        else:
            entry(name, shape, 0, to_f32(data16).tobytes())

    def linear(name, parts, inputs=WIDTH):
        weight = b"".join(weights[p + ".weight"] for p in parts)
        rows = len(weight) // 2 // inputs
        tensor(name + "/weight", (rows, inputs), weight, True)
        bias = b"".join(weights.get(p + ".bias", bytes(2 * WIDTH)) for p in parts)
        tensor(name + "/bias", (len(bias) // 2,), bias)

    def norm(name, source):
        tensor(name + "/gamma", (WIDTH,), weights[source + ".weight"])
        tensor(name + "/beta", (WIDTH,), weights[source + ".bias"])

    entry("decoder/activation", (), 1, b"\3")
    entry("decoder/num_heads", (), 2, b"\1\0")
    entry("decoder/pre_norm", (), 1, b"\1")
    entry("decoder/scale_embeddings", (), 1, b"\0")
    for c in ("conv1", "conv2"):
        tensor(f"encoder/{c}/weight", shapes()[f"encoder.{c}.weight"], weights[f"encoder.{c}.weight"])
        tensor(f"encoder/{c}/bias", (WIDTH,), weights[f"encoder.{c}.bias"])
    entry("encoder/num_heads", (), 2, b"\1\0")
    for side in ("encoder", "decoder"):
        tensor(f"{side}/position_encodings/encodings", shapes()[f"{side}.positional_embedding"],
               weights[f"{side}.positional_embedding"])
        norm(f"{side}/layer_norm", "encoder.ln_post" if side == "encoder" else "decoder.ln")
        to, b = f"{side}/layer_0", f"{side}.blocks.0."
        norm(to + "/self_attention/layer_norm", b + "attn_ln")
        linear(to + "/self_attention/linear_0", [b + "attn.query", b + "attn.key", b + "attn.value"])
        linear(to + "/self_attention/linear_1", [b + "attn.out"])
        if side == "decoder":
            norm(to + "/attention/layer_norm", b + "cross_attn_ln")
            linear(to + "/attention/linear_0", [b + "cross_attn.query"])
            linear(to + "/attention/linear_1", [b + "cross_attn.key", b + "cross_attn.value"])
            linear(to + "/attention/linear_2", [b + "cross_attn.out"])
        if aliased and side == "decoder":
            aliases += [(f"{to}/ffn/layer_norm/{p}", f"{to}/attention/layer_norm/{p}") for p in ("gamma", "beta")]
        else:
            norm(to + "/ffn/layer_norm", b + "mlp_ln")
        linear(to + "/ffn/linear_0", [b + "mlp.0"])
        linear(to + "/ffn/linear_1", [b + "mlp.2"], 4 * WIDTH)
    tensor("decoder/embeddings/weight", (N_VOCAB, WIDTH), weights["decoder.token_embedding.weight"], True)
    aliases += [("decoder/projection/weight", "decoder/embeddings/weight")]
    if kind == "int8":
        aliases += [("decoder/projection/weight_scale", "decoder/embeddings/weight_scale")]
    data = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(entries)) + b"".join(entries)
    data += struct.pack("<I", len(aliases)) + b"".join(string(a) + string(b) for a, b in aliases)
    write(directory + "/model.bin", data)
    write_json(directory + "/config.json", {"alignment_heads": [[0, 0]], "suppress_ids": [1, 2], "lang_ids": [50259]})
    write(directory + "/vocabulary.txt", "\n".join(text_tokens() + control_tokens()).encode() + b"\n")


# ---------------------------------------------------------------- ggml

def block_quantize(values, kind):
    """ggml's block formats, and the values they decode to. The scales are chosen simply; any are valid."""
    data, decoded = bytearray(), array("f")
    for i in range(0, len(values), 32):
        v = values[i:i + 32]
        low, high = min(v), max(v)
        half = lambda x: struct.unpack("<e", struct.pack("<e", x))[0]
        bits = int(kind[1])
        if kind == "q8_0":
            scale = half(max(high, -low, 1e-4) / 127)
            q = [max(-128, min(127, round(x / scale))) for x in v]
            data += struct.pack("<e32b", scale, *q)
            decoded.extend(scale * x for x in q)
            continue
        levels = 1 << bits
        if kind.endswith("_0"):
            zero, minimum = levels // 2, 0.0
            scale = half(max(high, -low, 1e-3) / (zero - 1))
            q = [max(0, min(levels - 1, round(x / scale) + zero)) for x in v]
            data += struct.pack("<e", scale)
        else:
            zero, minimum = 0, half(max(low, -60000))
            scale = half(max(min(high - minimum, 60000) / (levels - 1), 1e-3))
            q = [max(0, min(levels - 1, round((x - minimum) / scale))) for x in v]
            data += struct.pack("<ee", scale, minimum)
        if bits == 5:
            data += struct.pack("<I", sum((x >> 4) << j for j, x in enumerate(q)))
        data += bytes((q[j] & 15) | (q[j + 16] & 15) << 4 for j in range(16))
        decoded.extend(scale * (x - zero) + minimum for x in q)
    return bytes(data), decoded


GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}
GGML_FTYPES = {"f32": 0, "f16": 1, "q4_0": 2002, "q4_1": 2003, "q8_0": 2007, "q5_0": 2008, "q5_1": 2009}


def ggml(path, weights, kind):
    # Published English-only files list one control token.
    listed = tokens() + ([b"<|endoftext|>"] if N_VOCAB == 51864 else [])
    out = [struct.pack("<I11i", 0x67676d6c, N_VOCAB, 1500, WIDTH, 1, 1, 448, WIDTH, 1, 1, MEL_BANDS, GGML_FTYPES[kind]),
           struct.pack("<2i", MEL_BANDS, 201), bytes(4 * MEL_BANDS * 201), struct.pack("<i", len(listed))]
    out += [struct.pack("<I", len(t)) + t for t in listed]
    for name, shape in shapes().items():
        data, kind_here = weights[name], kind
        if len(shape) == 1 or name.endswith("positional_embedding"):
            kind_here = "f32"
        elif len(shape) == 3 and kind.startswith("q"):
            kind_here = "f16"
        if kind_here == "f32":
            data = to_f32(data).tobytes()
        elif kind_here.startswith("q"):
            # The embedding would take long; its zeros have the same layout.
            values = to_f32(data) if product(shape) < 100000 else array("f", bytes(4 * 32))
            data, _ = block_quantize(values, kind_here)
            data = (data * (product(shape) // len(values)))
        stored = (shape[0], 1) if ".conv" in name and len(shape) == 1 else shape
        out.append(struct.pack(f"<3i{len(stored)}i", len(stored), len(name), GGML_TYPES[kind_here], *reversed(stored)))
        out += [name.encode(), data]
    write(path, b"".join(out))


# ---------------------------------------------------------------- Hugging Face

def hugging_face_name(name):
    side, rest = name.split(".", 1)
    if rest == "positional_embedding":
        return f"model.{side}.embed_positions.weight"
    if rest == "token_embedding.weight":
        return "model.decoder.embed_tokens.weight"
    if rest.startswith("ln"):
        return f"model.{side}.layer_norm." + rest.split(".")[1]
    if rest.startswith("conv"):
        return "model." + name
    _, i, part, *more = rest.split(".")
    attention = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    module = {"attn": "self_attn", "cross_attn": "encoder_attn", "attn_ln": "self_attn_layer_norm",
              "cross_attn_ln": "encoder_attn_layer_norm", "mlp_ln": "final_layer_norm"}
    if part == "mlp":
        part, more = {"0": "fc1", "2": "fc2"}[more[0]], more[1:]
    elif part in ("attn", "cross_attn"):
        part, more = module[part] + "." + attention[more[0]], more[1:]
    else:
        part = module[part]
    return f"model.{side}.layers.{i}.{part}.{more[0]}"


def convert(data16, dtype):
    if dtype == "F16":
        return data16
    if dtype == "F32":
        return to_f32(data16).tobytes()
    words = array("I", to_f32(data16).tobytes())  # BF16: the upper half of a float, truncated
    return array("H", [w >> 16 for w in words]).tobytes()


def safetensors(path, tensors, dtype):
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, (shape, data16) in tensors.items():
        blob = convert(data16, dtype)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write(path, struct.pack("<Q", len(text)) + text + b"".join(blobs))


def configuration():
    return {
        "model_type": "whisper", "d_model": WIDTH, "encoder_layers": LAYERS["encoder"],
        "decoder_layers": LAYERS["decoder"], "encoder_attention_heads": 1, "decoder_attention_heads": 1,
        "encoder_ffn_dim": 4 * WIDTH, "decoder_ffn_dim": 4 * WIDTH, "num_mel_bins": MEL_BANDS,
        "vocab_size": N_VOCAB, "max_source_positions": 1500, "max_target_positions": 448, "activation_function": "gelu",
        "scale_embedding": False}


def hugging_face(directory, weights, dtype, sharded=False):
    tensors = {hugging_face_name(n): (shape, weights[n]) for n, shape in shapes().items()}
    if sharded:
        names = sorted(tensors)
        parts = [names[0::2], names[1::2]]
        files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        for part, file in zip(parts, files):
            safetensors(f"{directory}/{file}", {n: tensors[n] for n in part}, dtype)
        index = {"metadata": {}, "weight_map": {n: f for part, f in zip(parts, files) for n in part}}
        write_json(directory + "/model.safetensors.index.json", index)
    else:
        safetensors(directory + "/model.safetensors", tensors, dtype)
    write_json(directory + "/config.json", configuration())
    write_json(directory + "/generation_config.json", {"alignment_heads": [[0, 0]],
                                                         "no_timestamps_token_id": N_VOCAB - 1502})
    if sharded:
        write_json(directory + "/vocab.json", {t: i for i, t in enumerate(text_tokens())})
        write(directory + "/merges.txt", b"#version: 0.2\n")
    else:
        added = [{"id": N_TEXT + i, "content": t, "special": True} for i, t in enumerate(control_tokens())]
        write_json(directory + "/tokenizer.json", {"added_tokens": added, "model": {
            "type": "BPE", "vocab": {t: i for i, t in enumerate(text_tokens())}, "merges": []}})


def main():
    out, weights = sys.argv[1], make_weights()
    watched = to_f32(weights["encoder.blocks.0.mlp.0.weight"])
    for kind in ("f16", "f32", "int8"):
        ct2(f"{out}/ct2-{kind}", weights, kind)
    twin = dict(weights)
    for p in ("weight", "bias"):
        twin["decoder.blocks.0.mlp_ln." + p] = twin["decoder.blocks.0.cross_attn_ln." + p]
    ct2(f"{out}/ct2-aliased", twin, "f16", aliased=True)
    for kind in GGML_TYPES:
        ggml(f"{out}/ggml-{kind}.bin", weights, kind)
    for dtype in ("F16", "F32", "BF16"):
        hugging_face(f"{out}/hf-{dtype.lower()}", weights, dtype)
    hugging_face(f"{out}/hf-sharded", weights, "F16", sharded=True)

    for name, sizes in (("english", (51864, 50256, 80)), ("v3", (51866, 50257, 128))):
        use(*sizes)
        weights = make_weights()
        ct2(f"{out}/ct2-{name}", weights, "f16")
        ggml(f"{out}/ggml-{name}.bin", weights, "f16")
        hugging_face(f"{out}/hf-{name}", weights, "F16")
    LAYERS.update(encoder=3, decoder=2)
    hugging_face(f"{out}/hf-distil", make_weights(), "F16")
    LAYERS.update(encoder=1, decoder=1)

    write(f"{out}/expected-f16.f32", watched.tobytes())
    data, scales = quantize_rows(watched, 4 * WIDTH)
    integers = struct.unpack(f"{len(data)}b", data)
    values = array("f", [q / scales[i // WIDTH] for i, q in enumerate(integers)])
    write(f"{out}/expected-int8.f32", to_f32(halves(values)).tobytes())
    for kind in ("q8_0", "q5_0", "q5_1", "q4_0", "q4_1"):
        _, values = block_quantize(watched, kind)
        write(f"{out}/expected-{kind}.f32", to_f32(halves(values)).tobytes())
    write(f"{out}/expected-bf16.f32", array("I", [w >> 16 << 16 for w in array("I", watched.tobytes())]).tobytes())


if __name__ == "__main__":
    main()
