#!/usr/bin/env python3
"""Writes ../fixtures/gguf-blocks/<format>.bin: 16 blocks of each format as a file holds them, and then the numbers
that PyPI's gguf (0.19.0) says they stand for, as little-endian f32.

    pip install gguf==0.19.0 && python3 tests/gguf/blocks.py
"""
import pathlib

import numpy
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

FORMATS = "Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 IQ4_NL Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS".split()
BLOCKS = 16

folder = pathlib.Path(__file__).parent.parent / "fixtures" / "gguf-blocks"
folder.mkdir(exist_ok=True)
random = numpy.random.default_rng(20261121)
for name in FORMATS:
    kind = GGMLQuantizationType[name]
    _, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (BLOCKS, size), dtype=numpy.uint8)
    # The smallest and largest bytes: a scale of 0, one that is no number, the largest negative zero and the
    # smallest numbers; then whatever comes.
    for row, byte in enumerate([0x00, 0xFF, 0x80, 0x01, 0x7B]):
        blocks[row] = byte
    with numpy.errstate(all="ignore"):
        numbers = dequantize(blocks, kind)
    bytes_ = blocks.tobytes() + numbers.astype("<f4").tobytes()
    (folder / f"{name.lower()}.bin").write_bytes(bytes_)
