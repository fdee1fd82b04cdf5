#!/usr/bin/env python3
"""Writes vectors.tsv: texts with their ids in Whisper's multilingual and English-only vocabularies, by tiktoken (which
openai/whisper itself uses) over the vocabulary.txt of two CTranslate2 models.
Usage: pip install tiktoken; make_vectors.py MULTILINGUAL_DIR ENGLISH_DIR > vectors.tsv"""
import json
import random
import sys

import tiktoken

# openai/gpt-2 src/encoder.py, written for the regex engine of tiktoken.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

TEXTS = [
    "", " ", "   ", "a", "How are you doing?", "You should've done this", " this", " this is thistle",
    "0123456789 0 1 10 100 1000",
    "The company was founded in 2016.", "A\n'll !!to?'d''d of, can't.", "def main():\n\tpass",
    "let a = obj.toString();\ntoString();",
    "This\n\nis\na\ntest.", "UNwant\u00c9d,running", "1\u00002\ufffd3", "Hello World", "hello world",
    "   leading space",
    "trailing space   ", "Hi  Hello", "test $1 R2 #3 \u20ac4 \u00a35 \u00a56 \u20a37 \u20b98 \u20b19 test",
    "you\u2026  ",
    "you\u2026\u00a0\u00a0you\u2026\u00a0\u00a0", "weird \uff5e edge \uff5e case",
    "\u2581This \u2581is \u2581a \u2581test \u2581.",
    "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country.",
    "\u751f\u6d3b\u7684\u771f\u8c1b\u662f", "\ub2e4\ub78c\uc950 \ud5cc \uccc7\ubc14\ud034\uc5d0 \ud0c0\uace0\ud30c",
    "Falsches \u00dcben von Xylophonmusik qu\u00e4lt jeden gr\u00f6\u00dferen Zwerg.",
    "\u00bfD\u00f3nde est\u00e1 la biblioteca, ni\u00f1o?",
    "Voix ambigu\u00eb d\u2019un c\u0153ur qui, au z\u00e9phyr, pr\u00e9f\u00e8re les jattes de kiwis.",
    "\u0421\u044a\u0435\u0448\u044c \u0436\u0435 \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u043c\u044f"
    "\u0433\u043a\u0438\u0445 \u0444\u0440\u0430\u043d\u0446\u0443\u0437\u0441\u043a\u0438\u0445 \u0431\u0443"
    "\u043b\u043e\u043a.",
    "\u3044\u308d\u306f\u306b\u307b\u3078\u3068 \u3061\u308a\u306c\u308b\u3092\u3001\u6771\u4eac\u90fd\u3002",
    "\u0e40\u0e1b\u0e47\u0e19\u0e21\u0e19\u0e38\u0e29\u0e22\u0e4c\u0e2a\u0e38\u0e14\u0e1b\u0e23\u0e30\u0e40"
    "\u0e2a\u0e23\u0e34\u0e10",
    "\u0635\u0650\u0641 \u062e\u064e\u0644\u0642\u064e \u062e\u064e\u0648\u062f\u064d \u0661\u0662\u0663",
    "\u0926\u093f\u0932 \u0915\u0940 \u0927\u0921\u093c\u0915\u0928 \u096a\u0968",
    "\u05d3\u05d2 \u05e1\u05e7\u05e8\u05df \u05e9\u05d8 \u05d1\u05d9\u05dd", "\u00bd \u2167 \u00b2 x\u00b3 \u0bf0",
    "\U0001d54e\U0001d7d8 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea!",
    "tab\tand\u3000ideographic\u2003em\u2028line\u0085next\u180emongolian\u200bzero", "e\u0301 combining \u0300",
    "\u266a\u266a la la \u266a", "'S 'T 'RE it's we've I'M I'm they'll he'd''s",
    "<|en|><|notimestamps|>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "x" * 300 + " " * 70 + "!" * 129, "\r\n\r\n \r\n", "-- --- -( ['(' << >> ((()))",
]


def ranks(directory):
    unmap, n = {}, 256
    for b in range(256):
        if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174:
            unmap[chr(b)] = b
        else:
            unmap[chr(n)] = b
            n += 1
    lines = open(directory + "/vocabulary.txt", encoding="utf-8", newline="").read().split("\n")
    lines = lines[:lines.index("<|endoftext|>")]
    return {bytes(unmap[c] for c in line): i for i, line in enumerate(lines) if line}


def mixed(rng):
    """Random text from ranges that fall into different classes of the pattern."""
    spans = [(32, 126), (32, 32), (9, 13), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x52f), (0x590, 0x6ff),
             (0x900, 0x9ff), (0xe00, 0xe7f), (0x2000, 0x206f), (0x2150, 0x218f),
             (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3),
             (0x1f300, 0x1f64f), (0x1d400, 0x1d7ff)]
    return "".join(chr(rng.randint(*rng.choice(spans))) for _ in range(rng.randint(1, 24)))


def main():
    rng = random.Random(1)
    encoders = [tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=ranks(d), special_tokens={})
                for d in sys.argv[1:3]]
    for text in TEXTS + [mixed(rng) for _ in range(400)]:
        ids = [" ".join(map(str, e.encode_ordinary(text))) for e in encoders]
        print(text.encode("utf-8").hex(), *ids, sep="\t")


main()
