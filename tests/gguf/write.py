#!/usr/bin/env python3
"""Writes a tiny model of ../fixtures as a GGUF file, with PyPI's gguf, by the rules of llama.cpp's
convert_hf_to_gguf.py (`--outtype f32`).

    pip install gguf==0.19.0 && python3 tests/gguf/write.py FOLDER FILE.gguf [RESCALE]

RWKV-6's converter halves weights every RESCALE layers (6 where nothing is said).
"""
import json
import pathlib
import sys

import gguf
import numpy
from gguf import MODEL_ARCH as ARCH

import files
import vocabularies


class Model:
    """What is known of a model while its file is written."""

    def __init__(self, folder, file, rescale=6):
        self.folder = pathlib.Path(folder)
        self.tensors = files.tensors(self.folder)
        config = self.folder / "config.json"
        self.config = json.loads(config.read_text()) if config.exists() else {}
        self.write = FAMILIES[self.family()]
        self.file = file
        self.rescale = rescale

    def family(self):
        if "architectures" in self.config:
            return self.config["architectures"][0]
        return "Rwkv7" if "blocks.0.att.r_k" in self.tensors else "Rwkv6"

    def begin(self, arch, layers):
        self.writer = gguf.GGUFWriter(self.file, gguf.MODEL_ARCH_NAMES[arch])
        self.names = gguf.get_tensor_name_map(arch, layers)
        self.writer.add_block_count(layers)
        return self.writer

    def add(self, name, tensor):
        """Adds a tensor under the name that gguf's table gives it."""
        mapped = self.names.get_name(name, try_suffixes=(".weight", ".bias"))
        if mapped is None:
            raise ValueError(f"gguf has no name for {name}")
        if not mapped.endswith((".weight", ".bias")):
            mapped += ".weight"
        self.put(mapped, tensor)

    def put(self, name, tensor):
        if name == "token_embd.weight":
            self.vocabulary = len(tensor)
        self.writer.add_tensor(name, numpy.ascontiguousarray(tensor, dtype=numpy.float32))

    def close(self):
        keys = self.writer.kv_data[0]
        if "tokenizer.ggml.model" not in keys:
            # So that llama.cpp reads the file: `llama-bench -m FILE -p 8 -n 8`.
            self.writer.add_tokenizer_model("no_vocab")
            if f"{self.writer.arch}.vocab_size" not in keys:
                self.writer.add_vocab_size(self.vocabulary)
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def turned(rows, heads):
    """The rows of a head's halves as neighbouring pairs (LlamaModel.permute)."""
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def decoder(model, arch):
    """What TextModel.set_gguf_parameters writes."""
    config = model.config
    writer = model.begin(arch, config["num_hidden_layers"])
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_rope_freq_base(float(config.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if (model.folder / "tokenizer.model").exists():
        vocabularies.sentencepiece(writer, model.folder, config["vocab_size"])
    if (model.folder / "tokenizer.json").exists():
        vocabularies.KINDS["qwen2"](writer, model.folder, config["vocab_size"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    return writer


def llama(model):
    config = model.config
    writer = decoder(model, ARCH.LLAMA)
    heads = config["num_attention_heads"]
    width = config.get("head_dim", config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(width)
    for name, tensor in model.tensors.items():
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            tensor = turned(tensor, heads)
        if name.endswith(("k_proj.weight", "k_proj.bias")):
            tensor = turned(tensor, config.get("num_key_value_heads", heads))
        model.add(name, tensor)
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "llama3":
        model.put("rope_freqs.weight", llama3_factors(config, scaling, width))


def llama3_factors(config, scaling, width):
    """What generate_extra_tensors computes."""
    base, original = config["rope_theta"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for frequency in 1.0 / base ** (numpy.arange(0, width, 2, dtype=numpy.float32) / width):
        length = 2 * numpy.pi / frequency
        if length < original / high:
            factors.append(1.0)
        elif length > original / low:
            factors.append(scaling["factor"])
        else:
            smooth = (original / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return numpy.array(factors, dtype=numpy.float32)


def plain(arch):
    def write(model):
        decoder(model, arch)
        for name, tensor in model.tensors.items():
            model.add(name, tensor)

    return write


def gemma3(model):
    config = model.config
    writer = decoder(model, ARCH.GEMMA3)
    writer.add_sliding_window(config["sliding_window"])
    # Converters write no pattern, since all of Gemma 3 has six; llama.cpp reads one where it stands.
    writer.add_uint32("gemma3.attention.sliding_window_pattern", config["sliding_window_pattern"])
    # Nor do they write the scale of scores, which follows from the width of a head in all of Gemma 3. This model's
    # does not, so it goes into the norm of the queries.
    scale = (config["head_dim"] / config["query_pre_attn_scalar"]) ** 0.5
    for name, tensor in model.tensors.items():
        if name.endswith("norm.weight"):
            tensor = tensor + 1.0
        if name.endswith("q_norm.weight"):
            tensor = tensor * scale
        model.add(name, tensor)


def internlm2(model):
    config = model.config
    writer = decoder(model, ARCH.INTERNLM2)
    writer.add_vocab_size(config["vocab_size"])
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    width = config["hidden_size"] // heads
    writer.add_rope_dimension_count(width)
    for name, tensor in model.tensors.items():
        if "attention.wqkv" not in name:
            model.add(name, tensor)
            continue
        groups = tensor.reshape(keys, heads // keys + 2, width, -1)
        q, k, v = groups[:, :-2], groups[:, -2], groups[:, -1]
        parts = [turned(q.reshape(heads * width, -1), heads), turned(k.reshape(keys * width, -1), keys)]
        for part, rows in zip("qkv", [*parts, v.reshape(keys * width, -1)]):
            model.add(name.replace("wqkv", f"w{part}"), rows)


def bloom(model):
    config = model.config
    width, heads = config["hidden_size"], config["n_head"]
    writer = model.begin(ARCH.BLOOM, config["n_layer"])
    writer.add_context_length(config.get("seq_length", width))
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    for name, tensor in model.tensors.items():
        if "self_attention.query_key_value" in name:
            tensor = tensor.reshape(heads, 3, width // heads, -1).swapaxes(0, 1).reshape(tensor.shape)
        model.add(name.removeprefix("transformer."), tensor)


def gpt2(model):
    config = model.config
    writer = model.begin(ARCH.GPT2, config["n_layer"])
    writer.add_context_length(config["n_ctx"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    for name, tensor in model.tensors.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            tensor = tensor.T
        model.add(name, tensor)


def chatglm(model):
    config = model.config
    writer = model.begin(ARCH.CHATGLM, config["num_layers"])
    heads = config["num_attention_heads"]
    writer.add_context_length(config.get("seq_length", config["hidden_size"]))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["ffn_hidden_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("multi_query_group_num", heads))
    writer.add_layer_norm_rms_eps(config["layernorm_epsilon"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads // 2)
    writer.add_add_bos_token(False)
    writer.add_rope_freq_base(10000 * config.get("rope_ratio", 1.0))
    vocabularies.chatglm(writer, model.folder, config["padded_vocab_size"])
    for name, tensor in model.tensors.items():
        if not name.endswith(".rotary_pos_emb.inv_freq"):
            model.add(name.removeprefix("transformer."), tensor)


def bert(model):
    config = model.config
    writer = model.begin(ARCH.BERT, config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    pooling = json.loads((model.folder / "1_Pooling" / "config.json").read_text())
    mean = pooling["pooling_mode_mean_tokens"]
    writer.add_pooling_type(gguf.PoolingType.MEAN if mean else gguf.PoolingType.CLS)
    vocabularies.bert(writer, model.folder, config["vocab_size"])
    for name, tensor in model.tensors.items():
        name = name.removeprefix("bert.")
        if not name.startswith(("embeddings.position_ids", "pooler.")):
            model.add(name, tensor)


def rwkv(model, arch, layers, width, head):
    writer = model.begin(arch, layers)
    writer.add_context_length(1048576)
    writer.add_embedding_length(width)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(head)
    writer.add_feed_forward_length(model.tensors["blocks.0.ffn.key.weight"].shape[0])
    writer.add_head_count(0)
    return writer


def rwkv_layers(model):
    return 1 + max(int(name.split(".")[1]) for name in model.tensors if name.startswith("blocks."))


def rwkv6(model):
    tensors, layers = model.tensors, rwkv_layers(model)
    every = model.rescale
    width = tensors["emb.weight"].shape[1]
    writer = rwkv(model, ARCH.RWKV6, layers, width, tensors["blocks.0.att.time_faaaa"].shape[1])
    writer.add_rescale_every_n_layers(every)
    writer.add_time_mix_extra_dim(tensors["blocks.0.att.time_maa_w1"].shape[1] // 5)
    writer.add_time_decay_extra_dim(tensors["blocks.0.att.time_decay_w1"].shape[1])
    for name, tensor in tensors.items():
        if ".att.time_maa_" in name and name[-1] in "wkvrg":
            continue
        if name.endswith(("time_maa_w1", "time_decay_w1", "time_decay_w2")):
            tensor = tensor.T
        elif name.endswith("time_maa_w2"):
            tensor = tensor.transpose(0, 2, 1)
        elif name.endswith(("time_maa_x", "time_maa_k", "time_maa_r", "time_decay")):
            tensor = tensor.squeeze()
        if name.endswith(("att.output.weight", "ffn.value.weight")):
            tensor = tensor / 2 ** (int(name.split(".")[1]) // every)
        model.add(huggingface(name), tensor)
    for layer in range(layers):
        stacked = [tensors[f"blocks.{layer}.att.time_maa_{part}"].reshape(1, 1, width) for part in "wkvrg"]
        model.put(f"blk.{layer}.time_mix_lerp_fused.weight", numpy.stack(stacked))


def huggingface(name):
    """The name of transformers' Rwkv6ForCausalLM for one of the authors'."""
    for ours, theirs in [("att.", "attention."), ("ffn.", "feed_forward."), ("blocks.0.ln0", "blocks.0.pre_ln")]:
        name = name.replace(ours, theirs)
    name = name.replace("emb.", "embeddings.")
    return name if name.startswith("head.") else f"rwkv.{name}"


def rwkv7(model):
    tensors, layers = model.tensors, rwkv_layers(model)
    width = tensors["emb.weight"].shape[1]
    writer = rwkv(model, ARCH.RWKV7, layers, width, tensors["blocks.0.att.r_k"].shape[1])
    ranks = [tensors[f"blocks.{layers - 1}.att.{part}1"].shape[1] for part in "wavg"]
    writer.add_decay_lora_rank(ranks[0])
    writer.add_iclr_lora_rank(ranks[1])
    writer.add_value_residual_mix_lora_rank(ranks[2])
    writer.add_gate_lora_rank(ranks[3])
    for name, tensor in tensors.items():
        part = name.split(".")[-1]
        if name.startswith("blocks.0.att.v") and part in ("v0", "v1", "v2") or ".att.x_" in name:
            continue
        if part in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"):
            tensor = tensor.T
        if part == "r_k":
            tensor = tensor.flatten()
        tensor = tensor.squeeze()
        other = name.replace("blocks.", "layers.").replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")
        other = other.replace("emb.", "embeddings.").replace("ln0", "pre_norm").replace("ln_out", "norm")
        model.add(other if other.startswith("head.") else f"model.{other}", tensor)
        # The first layer mixes no values; llama.cpp wants its tensors all the same.
        if name.startswith("blocks.0.att.a") and part in ("a0", "a1", "a2"):
            model.put(f"blk.0.time_mix_{part.replace('a', 'v')}.weight", tensor)
    for layer in range(layers):
        stacked = [tensors[f"blocks.{layer}.att.x_{part}"].reshape(1, 1, width) for part in "rwkvag"]
        model.put(f"blk.{layer}.time_mix_lerp_fused.weight", numpy.stack(stacked))


FAMILIES = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": llama,
    "Qwen2ForCausalLM": plain(ARCH.QWEN2),
    "Qwen3ForCausalLM": plain(ARCH.QWEN3),
    "Gemma3ForCausalLM": gemma3,
    "InternLM2ForCausalLM": internlm2,
    "BloomForCausalLM": bloom,
    "GPT2LMHeadModel": gpt2,
    "ChatGLMModel": chatglm,
    "BertModel": bert,
    "Rwkv6": rwkv6,
    "Rwkv7": rwkv7,
}

if __name__ == "__main__":
    model = Model(*sys.argv[1:3], *map(int, sys.argv[3:]))
    model.write(model)
    model.close()
