//! The shapes of well-known models, and the tensors that files of each have.

use super::blocks::{ENCODINGS, Encoding};
use super::gguf::Header;
use super::vocabulary;

/// A model's sizes.
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) family: &'static Family,
    width: u64,
    pub(super) layers: u64,
    heads: u64,
    key_heads: u64,
    hidden: u64,
    vocabulary: u64,
}

/// What files of an architecture have beside their sizes.
pub(super) struct Family {
    /// Its name in GGUF.
    name: &'static str,
    /// The share of a head that turns, as its reciprocal.
    turned: u64,
    /// Its vocabulary of so many tokens, which begins with the unknown, the first and the last one.
    vocabulary: fn(u64, &mut Header),
    /// The tensors of a layer.
    layer: fn(&Shape, &mut Tensors),
}

const LLAMA: Family = Family {
    name: "llama",
    turned: 1,
    vocabulary: vocabulary::merges,
    layer: |shape, tensors| {
        let keys = shape.width / shape.heads * shape.key_heads;
        tensors.gains("attn_norm", shape.width);
        tensors.matrix("attn_q", shape.width, shape.width);
        tensors.matrix("attn_k", shape.width, keys);
        tensors.matrix("attn_v", shape.width, keys);
        tensors.matrix("attn_output", shape.width, shape.width);
        tensors.gains("ffn_norm", shape.width);
        tensors.matrix("ffn_gate", shape.width, shape.hidden);
        tensors.matrix("ffn_up", shape.width, shape.hidden);
        tensors.matrix("ffn_down", shape.hidden, shape.width);
    },
};

const CHATGLM_CONTROLS: &[&str] = &[
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];

const CHATGLM: Family = Family {
    name: "chatglm",
    turned: 2,
    vocabulary: |size, header| {
        vocabulary::pieces(size, CHATGLM_CONTROLS, header);
        header.string("tokenizer.ggml.pre", "chatglm-spm");
        header.flag("tokenizer.ggml.add_bos_token", false);
    },
    layer: |shape, tensors| {
        let packed = shape.width + 2 * (shape.width / shape.heads * shape.key_heads);
        tensors.gains("attn_norm", shape.width);
        tensors.matrix("attn_qkv", shape.width, packed);
        tensors.bias("attn_qkv", packed);
        tensors.matrix("attn_output", shape.width, shape.width);
        tensors.gains("ffn_norm", shape.width);
        tensors.matrix("ffn_up", shape.width, 2 * shape.hidden);
        tensors.matrix("ffn_down", shape.hidden, shape.width);
    },
};

/// Every shape. Those that are no published model's end in their number of weights or in `tiny`.
pub(super) const SHAPES: &[Shape] = &[
    Shape {
        name: "chatglm2-6b",
        family: &CHATGLM,
        width: 4096,
        layers: 28,
        heads: 32,
        key_heads: 2,
        hidden: 13696,
        vocabulary: 65024,
    },
    // As many layers as the one above, 195 MB in 16 bits: what streams, streams in the same order.
    Shape {
        name: "chatglm2-100m",
        family: &CHATGLM,
        width: 512,
        layers: 28,
        heads: 8,
        key_heads: 2,
        hidden: 1728,
        vocabulary: 4096,
    },
    Shape {
        name: "chatglm2-tiny",
        family: &CHATGLM,
        width: 64,
        layers: 2,
        heads: 4,
        key_heads: 2,
        hidden: 96,
        vocabulary: 320,
    },
    Shape {
        name: "llama-7b",
        family: &LLAMA,
        width: 4096,
        layers: 32,
        heads: 32,
        key_heads: 32,
        hidden: 11008,
        vocabulary: 32000,
    },
    Shape {
        name: "llama-1.1b",
        family: &LLAMA,
        width: 2048,
        layers: 22,
        heads: 32,
        key_heads: 4,
        hidden: 5632,
        vocabulary: 32000,
    },
    Shape {
        name: "llama-tiny",
        family: &LLAMA,
        width: 64,
        layers: 2,
        heads: 4,
        key_heads: 2,
        hidden: 96,
        vocabulary: 320,
    },
];

/// What is in a tensor.
#[derive(Clone, Copy)]
pub(super) enum Contents {
    /// Ones in `f32`, as a norm's gains are.
    Ones,
    /// Random numbers.
    Random(&'static Encoding),
}

/// A tensor of a file.
pub(super) struct Tensor {
    pub(super) name: String,
    /// Innermost first, as the file has it.
    pub(super) extents: Vec<u64>,
    pub(super) contents: Contents,
}

impl Tensor {
    pub(super) fn bytes(&self) -> u64 {
        let numbers: u64 = self.extents.iter().product();
        match self.contents {
            Contents::Ones => numbers * 4,
            Contents::Random(encoding) => encoding.bytes(numbers),
        }
    }
}

/// Tensors in the order of a file; those of a layer are named within it.
pub(super) struct Tensors {
    all: Vec<Tensor>,
    encoding: &'static Encoding,
    prefix: String,
}

impl Tensors {
    fn add(&mut self, name: &str, extents: Vec<u64>, contents: Contents) {
        self.all.push(Tensor { name: format!("{}{name}", self.prefix), extents, contents });
    }

    fn matrix(&mut self, name: &str, columns: u64, rows: u64) {
        self.add(&format!("{name}.weight"), vec![columns, rows], Contents::Random(self.encoding));
    }

    fn gains(&mut self, name: &str, columns: u64) {
        self.add(&format!("{name}.weight"), vec![columns], Contents::Ones);
    }

    /// Vectors are of 32 bits in files of every encoding.
    fn bias(&mut self, name: &str, columns: u64) {
        self.add(&format!("{name}.bias"), vec![columns], Contents::Random(&ENCODINGS[0]));
    }
}

impl Shape {
    /// The tensors of a file with so many layers and all matrices in that encoding.
    pub(super) fn tensors(&self, layers: u64, encoding: &'static Encoding) -> Vec<Tensor> {
        let mut tensors = Tensors { all: Vec::new(), encoding, prefix: String::new() };
        tensors.matrix("token_embd", self.width, self.vocabulary);
        for layer in 0..layers {
            tensors.prefix = format!("blk.{layer}.");
            (self.family.layer)(self, &mut tensors);
        }
        tensors.prefix.clear();
        tensors.gains("output_norm", self.width);
        tensors.matrix("output", self.width, self.vocabulary);
        tensors.all
    }

    /// The metadata of a file with so many layers and all matrices in that encoding.
    pub(super) fn header(&self, layers: u64, encoding: &Encoding) -> Header {
        let family = self.family;
        let mut header = Header::default();
        header.string("general.architecture", family.name);
        header.string("general.name", self.name);
        header.number("general.file_type", encoding.file.into());
        header.number("general.quantization_version", 2);
        for (name, value) in [
            ("context_length", 4096),
            ("embedding_length", self.width),
            ("block_count", layers),
            ("feed_forward_length", self.hidden),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.key_heads),
            ("rope.dimension_count", self.width / self.heads / family.turned),
            ("vocab_size", self.vocabulary),
        ] {
            header.number(&format!("{}.{name}", family.name), value);
        }
        header.float(&format!("{}.attention.layer_norm_rms_epsilon", family.name), 1e-5);
        header.float(&format!("{}.rope.freq_base", family.name), 10000.0);
        (family.vocabulary)(self.vocabulary, &mut header);
        header.number("tokenizer.ggml.bos_token_id", 1);
        header.number("tokenizer.ggml.eos_token_id", 2);
        header.number("tokenizer.ggml.unknown_token_id", 0);
        header
    }
}
