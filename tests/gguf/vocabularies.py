#!/usr/bin/env python3
"""Vocabularies as llama.cpp's convert_hf_to_gguf.py writes them; by itself, one of a folder in a file without tensors.

    pip install gguf==0.19.0 && python3 tests/gguf/vocabularies.py KIND FOLDER FILE.gguf
"""
import ast
import json
import pathlib
import struct
import sys

import gguf
from gguf import TokenType

AFTER_GLM = "[MASK] [gMASK] [sMASK] sop eop <|system|> <|user|> <|assistant|> <|observation|>".split()


def put(writer, model, pre, entries, scores=False):
    """Entries are (text, score, type)."""
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([text for text, _, _ in entries])
    if scores:
        writer.add_token_scores([score for _, score, _ in entries])
    writer.add_token_types([int(kind) for _, _, kind in entries])


def fields(data):
    """The fields of a protocol buffer: numbers and bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7)
        size = varint() if size is None else size
        yield key >> 3, data[at : at + size]
        at += size


def pieces(file):
    """(text, score, type) of each piece of a SentencePiece model, whose types are GGUF's."""
    found = []
    for number, value in fields(file.read_bytes()):
        if number == 1:
            piece = dict(fields(value))
            score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            found.append((piece[1].decode(), score, TokenType(piece.get(3, 1))))
    return found


def special(writer, config, ids):
    """What gguf.SpecialVocab takes from tokenizer_config.json."""
    for name in ["bos", "eos", "unk"]:
        token = config.get(f"{name}_token")
        token = token["content"] if isinstance(token, dict) else token
        if token in ids:
            getattr(writer, f"add_{name}_token_id")(ids[token])
    for name in ["bos", "eos"]:
        if f"add_{name}_token" in config:
            getattr(writer, f"add_add_{name}_token")(config[f"add_{name}_token"])


def settings(folder):
    file = folder / "tokenizer_config.json"
    return json.loads(file.read_text()) if file.exists() else {}


def sentencepiece(writer, folder, count=None):
    entries = pieces(folder / "tokenizer.model")
    entries += [(f"[PAD{at}]", -1000.0, TokenType.UNUSED) for at in range(len(entries), count or 0)]
    put(writer, "llama", "default", entries, scores=True)
    special(writer, settings(folder), {text: id for id, (text, _, _) in enumerate(entries)})


def chatglm(writer, folder, count=None):
    entries = pieces(folder / "tokenizer.model")
    entries[:3] = [(text, *rest) for text, (_, *rest) in zip(["<unk>", "<bos>", "<eos>"], entries)]
    entries += [(text, 0.0, TokenType.CONTROL) for text in AFTER_GLM]
    entries += [(f"[PAD{at}]", 0.0, TokenType.UNUSED) for at in range(len(entries), count or 0)]
    put(writer, "llama", "chatglm-spm", entries, scores=True)
    writer.add_eos_token_id(2)


def llama_without_scores(writer, folder, count=None):
    """A SentencePiece model of which tokenizer.json alone is at hand: its merges stand in the order of the scores."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    vocabulary, scores = model["vocab"], {}
    for rank, pair in enumerate(model["merges"]):
        scores.setdefault("".join(pair if isinstance(pair, list) else pair.split(" ")), -float(rank))
    kinds = [TokenType.UNKNOWN] + [TokenType.CONTROL] * 2 + [TokenType.BYTE] * 256
    kinds += [TokenType.NORMAL] * len(vocabulary)
    entries = [(text, scores.get(text, -1e6), kinds[id]) for text, id in vocabulary.items()]
    put(writer, "llama", "default", sorted(entries, key=lambda entry: vocabulary[entry[0]]), scores=True)
    special(writer, settings(folder), vocabulary)


def merged(pre):
    def write(writer, folder, count=None):
        file = json.loads((folder / "tokenizer.json").read_text())
        ids = dict(file["model"]["vocab"])
        kinds = {}
        for token in file["added_tokens"]:
            ids[token["content"]] = token["id"]
            kinds[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        texts = {id: text for text, id in ids.items()}
        entries = []
        for id in range(count or max(texts) + 1):
            if id in texts:
                entries.append((texts[id], 0.0, kinds.get(id, TokenType.NORMAL)))
            else:
                entries.append((f"[PAD{id}]", 0.0, TokenType.UNUSED))
        put(writer, "gpt2", pre, entries)
        merges = file["model"]["merges"]
        writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
        special(writer, settings(folder), ids)

    return write


def bert(writer, folder, count=None):
    lines = (folder / "vocab.txt").read_text().splitlines()
    writer.add_token_type_count(2)
    entries = []
    for line in lines:
        if line in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"):
            entries.append((line, 0.0, TokenType.CONTROL))
        else:
            text = line[2:] if line.startswith("##") else "\u2581" + line
            entries.append((text, 0.0, TokenType.NORMAL))
    entries += [(f"[PAD{at}]", 0.0, TokenType.UNUSED) for at in range(len(entries), count or 0)]
    put(writer, "bert", "default", entries)
    ids = {text: id for id, (text, _, _) in enumerate(entries)}
    writer.add_unk_token_id(ids["[UNK]"])
    writer.add_sep_token_id(ids["[SEP]"])
    config = settings(folder)
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", config.get("do_lower_case", True))


def world(writer, folder, count=None):
    (file,) = folder.glob("rwkv_vocab_*.txt")
    entries = [("<s>", 0.0, TokenType.CONTROL)]
    for line in file.read_text().splitlines():
        token = ast.literal_eval(" ".join(line.split(" ")[1:-1]))
        token = token.encode() if isinstance(token, str) else token
        # Latin-1 characters and escapes, as repr writes bytes.
        entries.append((repr(token)[2:-1], 0.0, TokenType.NORMAL))
    entries += [(f"[PAD{at}]", 0.0, TokenType.UNUSED) for at in range(len(entries), 65536)]
    put(writer, "rwkv", None, entries)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_eot_token_id(261)


KINDS = {
    "sentencepiece": sentencepiece,
    "chatglm": chatglm,
    "llama2": llama_without_scores,
    "llama3": merged("llama-bpe"),
    "qwen2": merged("qwen2"),
    "bert": bert,
    "world": world,
}

if __name__ == "__main__":
    kind, folder, file = sys.argv[1:]
    writer = gguf.GGUFWriter(file, "none")
    KINDS[kind](writer, pathlib.Path(folder))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
