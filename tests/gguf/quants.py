#!/usr/bin/env python3
"""Writes a LLaMA of two layers, 256 wide, in each block format: FOLDER/q4_k.gguf and its like have random blocks,
FOLDER/q4_k-f32.gguf the numbers that PyPI's gguf (0.19.0) says they stand for.

    pip install gguf==0.19.0 && python3 tests/gguf/quants.py FOLDER
"""
import pathlib
import sys

import gguf
import numpy
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Where a block's half-precision scale and minimum stand, and how many scales the minimum should be for numbers around
# zero: k-quants subtract theirs.
FORMATS = {
    "Q8_0": (0, None, 0),
    "Q4_0": (0, None, 0),
    "Q4_1": (0, 2, -7.5),
    "Q5_0": (0, None, 0),
    "Q5_1": (0, 2, -15.5),
    "IQ4_NL": (0, None, 0),
    "Q2_K": (80, 82, 1.5),
    "Q3_K": (108, None, 0),
    "Q4_K": (0, 2, 7.5),
    "Q5_K": (0, 2, 15.5),
    "Q6_K": (208, None, 0),
    "IQ4_XS": (0, None, 0),
}
WIDTH, INNER, LAYERS, HEADS, VOCABULARY = 256, 512, 2, 4, 96


def matrix(random, name, rows, columns):
    """Random blocks whose numbers have a standard deviation of about 1/16."""
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows * columns // elements, size), dtype=numpy.uint8)
    at, minimum, shift = FORMATS[name]

    def put(scale):
        blocks[:, at : at + 2] = scale.astype("<f2").reshape(-1, 1).view(numpy.uint8)
        if minimum is not None:
            values = (scale * shift).astype("<f2").reshape(-1, 1)
            blocks[:, minimum : minimum + 2] = values.view(numpy.uint8)

    ones = numpy.ones(len(blocks), dtype=numpy.float32)
    put(ones)
    put(ones / 16 / dequantize(blocks, kind).std() * random.uniform(0.5, 1.5, len(blocks)))
    return kind, blocks.reshape(rows, -1)


def write(folder, name):
    random = numpy.random.default_rng(7)
    files = [gguf.GGUFWriter(folder / f"{name.lower()}{end}.gguf", "llama") for end in ["", "-f32"]]
    for writer in files:
        writer.add_block_count(LAYERS)
        writer.add_context_length(128)
        writer.add_embedding_length(WIDTH)
        writer.add_feed_forward_length(INNER)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(HEADS // 2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)

    def packed(tensor, rows, columns):
        kind, blocks = matrix(random, name, rows, columns)
        files[0].add_tensor(f"{tensor}.weight", blocks, raw_dtype=kind)
        files[1].add_tensor(f"{tensor}.weight", dequantize(blocks, kind))

    def norm(tensor):
        numbers = random.uniform(0.5, 1.5, WIDTH).astype(numpy.float32)
        for writer in files:
            writer.add_tensor(f"{tensor}.weight", numbers)

    packed("token_embd", VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm")
        packed(f"blk.{layer}.attn_q", WIDTH, WIDTH)
        packed(f"blk.{layer}.attn_k", WIDTH // 2, WIDTH)
        packed(f"blk.{layer}.attn_v", WIDTH // 2, WIDTH)
        packed(f"blk.{layer}.attn_output", WIDTH, WIDTH)
        norm(f"blk.{layer}.ffn_norm")
        packed(f"blk.{layer}.ffn_gate", INNER, WIDTH)
        packed(f"blk.{layer}.ffn_up", INNER, WIDTH)
        packed(f"blk.{layer}.ffn_down", WIDTH, INNER)
    norm("output_norm")
    packed("output", VOCABULARY, WIDTH)
    for writer in files:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


if __name__ == "__main__":
    for name in FORMATS:
        write(pathlib.Path(sys.argv[1]), name)
