//! Writes GGUF files, sound and broken, as the format's description says.

/// A file in the making. Whatever a test breaks, it breaks in these parts.
#[derive(Clone)]
pub(crate) struct GgufFile {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// What the file says of how many there are; the true number if `None`.
    pub(crate) key_count: Option<u64>,
    pub(crate) tensor_count: Option<u64>,
    /// Name, type and the bytes of the value.
    pub(crate) keys: Vec<(String, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<GgufTensor>,
    pub(crate) alignment: u64,
}

#[derive(Clone)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    /// Innermost first, as in the file.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: u32,
    /// Where the file says that it lies; the place where it does lie if `None`.
    pub(crate) offset: Option<u64>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn text(value: &str) -> Vec<u8> {
    let mut bytes = (value.len() as u64).to_le_bytes().to_vec();
    bytes.extend(value.as_bytes());
    bytes
}

pub(crate) fn array(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((elements.len() as u64).to_le_bytes());
    bytes.extend(elements.concat());
    bytes
}

impl GgufFile {
    /// A sound file of a LLaMA with 2 layers, hidden size 64, 4 heads on 2, and 5 tokens; tensor bytes count
    /// up from 0.
    pub(crate) fn llama() -> Self {
        let mut file = GgufFile {
            magic: *b"GGUF",
            version: 3,
            key_count: None,
            tensor_count: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        };
        file.set("general.architecture", 8, text("llama"));
        for (key, value) in [
            ("block_count", 2u32),
            ("context_length", 128),
            ("embedding_length", 64),
            ("feed_forward_length", 96),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("rope.dimension_count", 16),
        ] {
            file.set(&format!("llama.{key}"), 4, value.to_le_bytes().to_vec());
        }
        file.set("llama.attention.layer_norm_rms_epsilon", 6, 1e-5f32.to_le_bytes().to_vec());
        file.set("llama.rope.freq_base", 6, 100_000f32.to_le_bytes().to_vec());
        let tokens = ["<unk>", "<s>", "</s>", "a", "b"].map(text);
        file.set("tokenizer.ggml.tokens", 9, array(8, &tokens));
        file.set("tokenizer.ggml.bos_token_id", 4, 1u32.to_le_bytes().to_vec());
        file.set("tokenizer.ggml.eos_token_id", 4, 2u32.to_le_bytes().to_vec());
        file.tensor("token_embd.weight", &[64, 5], 8, 5 * 2 * 34);
        for layer in 0..2 {
            let mut add = |part: &str, dimensions: &[u64], kind, len| {
                file.tensor(&format!("blk.{layer}.{part}.weight"), dimensions, kind, len);
            };
            add("attn_norm", &[64], 0, 256);
            add("attn_q", &[64, 64], 2, 64 * 2 * 18);
            add("attn_k", &[64, 32], 3, 32 * 2 * 20);
            add("attn_v", &[64, 32], 8, 32 * 2 * 34);
            add("attn_output", &[64, 64], 1, 64 * 128);
            add("ffn_norm", &[64], 0, 256);
            add("ffn_gate", &[64, 96], 30, 96 * 128);
            add("ffn_up", &[64, 96], 8, 96 * 2 * 34);
            add("ffn_down", &[96, 64], 8, 64 * 3 * 34);
        }
        file.tensor("output_norm.weight", &[64], 0, 256);
        file
    }

    /// Sets a key, in its old place if it has one.
    pub(crate) fn set(&mut self, key: &str, kind: u32, bytes: Vec<u8>) {
        match self.keys.iter_mut().find(|(name, ..)| name == key) {
            Some(entry) => *entry = (key.to_owned(), kind, bytes),
            None => self.keys.push((key.to_owned(), kind, bytes)),
        }
    }

    pub(crate) fn tensor(&mut self, name: &str, dimensions: &[u64], kind: u32, len: usize) {
        self.tensors.push(GgufTensor {
            name: name.to_owned(),
            dimensions: dimensions.to_vec(),
            kind,
            offset: None,
            bytes: (0..len).map(|index| index as u8).collect(),
        });
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let padded = |bytes: &mut Vec<u8>| {
            bytes.resize((bytes.len() as u64).next_multiple_of(self.alignment) as usize, 0);
        };
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.dimensions.len() as u32).to_le_bytes());
            bytes.extend(tensor.dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            padded(&mut data);
        }
        padded(&mut bytes);
        bytes.extend(data);
        bytes
    }
}
