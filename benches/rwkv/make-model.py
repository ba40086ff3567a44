#!/usr/bin/env python3
"""Makes a checkpoint of RWKV-4's 169 M shape with random weights in float32: 12 layers, width 768,
50277 tokens. How fast a pass is does not depend on what the weights say.

    benches/rwkv/make-model.py DIR

Writes DIR/config.json and DIR/model.safetensors (677 MB), with Python's standard library alone.
"""

import array
import json
import pathlib
import random
import struct
import sys

LAYERS, WIDTH, INNER, TOKENS = 12, 768, 3072, 50277


def shapes():
    """Names, shapes and the greatest magnitude of the numbers, as Hugging Face spells RWKV-4."""
    yield "rwkv.embeddings.weight", [TOKENS, WIDTH], 0.1
    for layer in range(LAYERS):
        block = f"rwkv.blocks.{layer}"
        for norm in ["pre_ln"] * (layer == 0) + ["ln1", "ln2"]:
            yield f"{block}.{norm}.weight", [WIDTH], None
            yield f"{block}.{norm}.bias", [WIDTH], 0.1
        for part in ["time_decay", "time_first"]:
            yield f"{block}.attention.{part}", [WIDTH], 1.0
        for part in ["key", "value", "receptance"]:
            yield f"{block}.attention.time_mix_{part}", [1, 1, WIDTH], None
        for part in ["key", "receptance"]:
            yield f"{block}.feed_forward.time_mix_{part}", [1, 1, WIDTH], None
        for part in ["key", "value", "receptance", "output"]:
            yield f"{block}.attention.{part}.weight", [WIDTH, WIDTH], 0.03
        yield f"{block}.feed_forward.key.weight", [INNER, WIDTH], 0.03
        yield f"{block}.feed_forward.receptance.weight", [WIDTH, WIDTH], 0.03
        yield f"{block}.feed_forward.value.weight", [WIDTH, INNER], 0.03
    yield "rwkv.ln_out.weight", [WIDTH], None
    yield "rwkv.ln_out.bias", [WIDTH], 0.1
    yield "head.weight", [TOKENS, WIDTH], 0.03


def numbers(draw, magnitude):
    """Random numbers enough to fill any tensor with; `None` stands for numbers between 0 and 1."""
    low, high = (0.0, 1.0) if magnitude is None else (-magnitude, magnitude)
    pool = array.array("f", (draw.uniform(low, high) for _ in range(99991)))
    if sys.byteorder == "big":
        pool.byteswap()
    return pool.tobytes()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    header, at, parts = {}, 0, []
    for name, shape, magnitude in shapes():
        size = 4
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        parts.append((size, magnitude))
        at += size
    draw = random.Random(4)
    pools = {magnitude: numbers(draw, magnitude) for magnitude in {magnitude for _, magnitude in parts}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for size, magnitude in parts:
            pool = pools[magnitude]
            whole, rest = divmod(size, len(pool))
            for _ in range(whole):
                file.write(pool)
            file.write(pool[:rest])
    config = {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "vocab_size": TOKENS,
        "context_length": 1024,
        "layer_norm_epsilon": 1e-5,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


main()
