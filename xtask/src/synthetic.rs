//! Model files with random weights, in the shapes of well-known models: speed does not depend on what weights are.
//!
//! The file is GGUF (version 3), which llama.cpp reads too. The vocabulary is made up; bytes are tokens, so that any
//! text can be a prompt.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Tensor data begins at multiples of this.
const ALIGNMENT: u64 = 32;

/// A model's sizes.
struct Shape {
    name: &'static str,
    width: u64,
    layers: u64,
    heads: u64,
    key_heads: u64,
    hidden: u64,
    vocabulary: u64,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "llama-7b",
        width: 4096,
        layers: 32,
        heads: 32,
        key_heads: 32,
        hidden: 11008,
        vocabulary: 32000,
    },
    Shape {
        name: "llama-1.1b",
        width: 2048,
        layers: 22,
        heads: 32,
        key_heads: 4,
        hidden: 5632,
        vocabulary: 32000,
    },
    Shape { name: "llama-tiny", width: 64, layers: 2, heads: 4, key_heads: 2, hidden: 96, vocabulary: 320 },
];

/// How numbers are stored: the name, GGML's number for it, numbers and bytes of a block, and the mask and the fixed bits
/// that make a block of random bytes numbers of about a hundredth.
struct Encoding {
    name: &'static str,
    kind: u32,
    numbers: u64,
    mask: &'static [u8],
    fixed: &'static [u8],
}

const ENCODINGS: &[Encoding] = &[
    // Exponents of 2^-7 and 2^-6, random signs and mantissas.
    Encoding { name: "f32", kind: 0, numbers: 1, mask: &[255, 255, 255, 0x80], fixed: &[0, 0, 0, 0x3c] },
    Encoding { name: "f16", kind: 1, numbers: 1, mask: &[255, 0x87], fixed: &[0, 0x20] },
    Encoding { name: "bf16", kind: 30, numbers: 1, mask: &[255, 0x80], fixed: &[0, 0x3c] },
    // A scale of 2^-13 or 2^-9 in half precision, then random integers.
    Encoding { name: "q8_0", kind: 8, numbers: 32, mask: &scaled::<34>(), fixed: &[0, 0x08] },
    Encoding { name: "q4_0", kind: 2, numbers: 32, mask: &scaled::<18>(), fixed: &[0, 0x18] },
];

/// The mask of a block that begins with a scale in half precision, of which all is fixed.
const fn scaled<const N: usize>() -> [u8; N] {
    let mut mask = [255; N];
    mask[0] = 0;
    mask[1] = 0;
    mask
}

struct Tensor<'e> {
    name: String,
    /// Innermost first, as the file has it.
    extents: Vec<u64>,
    /// None: ones in `f32`, as a norm's gains are.
    encoding: Option<&'e Encoding>,
}

impl Tensor<'_> {
    fn bytes(&self) -> u64 {
        let numbers: u64 = self.extents.iter().product();
        match self.encoding {
            None => numbers * 4,
            Some(encoding) => numbers / encoding.numbers * encoding.mask.len() as u64,
        }
    }
}

fn tensors<'e>(shape: &Shape, encoding: &'e Encoding) -> Vec<Tensor<'e>> {
    let matrix =
        |name: String, columns, rows| Tensor { name, extents: vec![columns, rows], encoding: Some(encoding) };
    let gains = |name: String| Tensor { name, extents: vec![shape.width], encoding: None };
    let keys = shape.width / shape.heads * shape.key_heads;
    let mut tensors = vec![matrix("token_embd.weight".to_owned(), shape.width, shape.vocabulary)];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.push(gains(name("attn_norm")));
        tensors.push(matrix(name("attn_q"), shape.width, shape.width));
        tensors.push(matrix(name("attn_k"), shape.width, keys));
        tensors.push(matrix(name("attn_v"), shape.width, keys));
        tensors.push(matrix(name("attn_output"), shape.width, shape.width));
        tensors.push(gains(name("ffn_norm")));
        tensors.push(matrix(name("ffn_gate"), shape.width, shape.hidden));
        tensors.push(matrix(name("ffn_up"), shape.width, shape.hidden));
        tensors.push(matrix(name("ffn_down"), shape.hidden, shape.width));
    }
    tensors.push(gains("output_norm.weight".to_owned()));
    tensors.push(matrix("output.weight".to_owned(), shape.width, shape.vocabulary));
    tensors
}

/// The parts of a GGUF header, as bytes.
#[derive(Default)]
struct Header {
    bytes: Vec<u8>,
    count: u64,
}

impl Header {
    fn text(&mut self, text: &str) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn key(&mut self, name: &str, kind: u32) {
        self.count += 1;
        self.text(name);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn number(&mut self, name: &str, value: u64) {
        self.key(name, 4);
        self.bytes.extend((value as u32).to_le_bytes());
    }

    fn float(&mut self, name: &str, value: f32) {
        self.key(name, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    fn string(&mut self, name: &str, value: &str) {
        self.key(name, 8);
        self.text(value);
    }

    /// The head of an array of so many elements of that kind.
    fn array(&mut self, name: &str, kind: u32, count: u64) {
        self.key(name, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(count.to_le_bytes());
    }
}

fn header(shape: &Shape) -> Header {
    let mut header = Header::default();
    header.string("general.architecture", "llama");
    header.string("general.name", shape.name);
    for (name, value) in [
        ("context_length", 4096),
        ("embedding_length", shape.width),
        ("block_count", shape.layers),
        ("feed_forward_length", shape.hidden),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.key_heads),
        ("rope.dimension_count", shape.width / shape.heads),
        ("vocab_size", shape.vocabulary),
    ] {
        header.number(&format!("llama.{name}"), value);
    }
    header.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    header.float("llama.rope.freq_base", 10000.0);
    header.string("tokenizer.ggml.model", "llama");
    let special = ["<unk>", "<s>", "</s>"];
    header.array("tokenizer.ggml.tokens", 8, shape.vocabulary);
    special.iter().for_each(|text| header.text(text));
    (0..256).for_each(|byte| header.text(&format!("<0x{byte:02X}>")));
    (259..shape.vocabulary).for_each(|id| header.text(&format!("token{id}")));
    header.array("tokenizer.ggml.scores", 6, shape.vocabulary);
    (0..shape.vocabulary).for_each(|id| header.bytes.extend((-(id as f32)).to_le_bytes()));
    header.array("tokenizer.ggml.token_type", 5, shape.vocabulary);
    for id in 0..shape.vocabulary {
        // Unknown, control, byte, normal.
        let kind: i32 = match id {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        };
        header.bytes.extend(kind.to_le_bytes());
    }
    header.number("tokenizer.ggml.bos_token_id", 1);
    header.number("tokenizer.ggml.eos_token_id", 2);
    header.number("tokenizer.ggml.unknown_token_id", 0);
    header
}

/// Random bytes in the form of blocks.
struct Blocks(u64);

impl Blocks {
    /// Numbers of an encoding, about a megabyte.
    fn fill(&mut self, encoding: &Encoding, bytes: &mut Vec<u8>) {
        bytes.clear();
        while bytes.len() < 1 << 20 {
            // Marsaglia's generator of 64 bits.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend(self.0.to_le_bytes());
        }
        let block = encoding.mask.len();
        bytes.truncate(bytes.len() / block * block);
        for chunk in bytes.chunks_exact_mut(block) {
            for (byte, mask) in chunk.iter_mut().zip(encoding.mask) {
                *byte &= mask;
            }
            for (byte, fixed) in chunk.iter_mut().zip(encoding.fixed) {
                *byte |= fixed;
            }
        }
    }
}

fn write(file: &mut impl Write, shape: &Shape, encoding: &Encoding) -> std::io::Result<()> {
    let (tensors, header) = (tensors(shape, encoding), header(shape));
    let mut infos = Header::default();
    let mut offset = 0u64;
    for tensor in &tensors {
        infos.text(&tensor.name);
        infos.bytes.extend((tensor.extents.len() as u32).to_le_bytes());
        tensor.extents.iter().for_each(|extent| infos.bytes.extend(extent.to_le_bytes()));
        infos.bytes.extend(tensor.encoding.map_or(0, |encoding| encoding.kind).to_le_bytes());
        infos.bytes.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    let mut head = Vec::from(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(header.count.to_le_bytes());
    head.extend(header.bytes);
    head.extend(infos.bytes);
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    file.write_all(&head)?;
    let (mut blocks, mut bytes) = (Blocks(0x9E37_79B9_7F4A_7C15), Vec::new());
    for tensor in &tensors {
        let mut left = tensor.bytes();
        while left > 0 {
            match tensor.encoding {
                None => bytes = 1f32.to_le_bytes().repeat(tensor.extents[0] as usize),
                Some(encoding) => blocks.fill(encoding, &mut bytes),
            }
            let part = left.min(bytes.len() as u64);
            file.write_all(&bytes[..part as usize])?;
            left -= part;
        }
        let padding = tensor.bytes().next_multiple_of(ALIGNMENT) - tensor.bytes();
        file.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
    }
    file.flush()
}

/// Writes a model of that shape, all matrices in that encoding.
pub(crate) fn synthetic(shape: &str, encoding: &str, path: &Path) -> Result<(), String> {
    let known = |names: Vec<&str>| names.join(", ");
    let found = SHAPES.iter().find(|known| known.name == shape);
    let shape = found.ok_or_else(|| {
        format!("there is no shape {shape}, only {}", known(SHAPES.iter().map(|s| s.name).collect()))
    })?;
    let found = ENCODINGS.iter().find(|known| known.name == encoding);
    let encoding = found.ok_or_else(|| {
        format!("there is no encoding {encoding}, only {}", known(ENCODINGS.iter().map(|e| e.name).collect()))
    })?;
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    write(&mut file, shape, encoding).map_err(failed)
}
