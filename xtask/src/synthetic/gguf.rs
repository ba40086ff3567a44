//! The beginning of a GGUF file (version 3): metadata, and where tensors are.

use super::shape::{Contents, Tensor};

/// Tensor data begins at multiples of this.
pub(super) const ALIGNMENT: u64 = 32;

/// Metadata, as bytes.
#[derive(Default)]
pub(super) struct Header {
    pub(super) bytes: Vec<u8>,
    count: u64,
}

impl Header {
    pub(super) fn text(&mut self, text: &str) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn key(&mut self, name: &str, kind: u32) {
        self.count += 1;
        self.text(name);
        self.bytes.extend(kind.to_le_bytes());
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.key(name, 4);
        self.bytes.extend((value as u32).to_le_bytes());
    }

    pub(super) fn float(&mut self, name: &str, value: f32) {
        self.key(name, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        self.key(name, 7);
        self.bytes.push(u8::from(value));
    }

    pub(super) fn string(&mut self, name: &str, value: &str) {
        self.key(name, 8);
        self.text(value);
    }

    /// The head of an array of so many elements of that kind.
    pub(super) fn array(&mut self, name: &str, kind: u32, count: u64) {
        self.key(name, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(count.to_le_bytes());
    }
}

/// All that stands before the tensors' bytes, which follow each other in this order, each at a multiple of
/// [`ALIGNMENT`].
pub(super) fn beginning(metadata: &Header, tensors: &[Tensor]) -> Vec<u8> {
    let mut infos = Header::default();
    let mut offset = 0u64;
    for tensor in tensors {
        let kind = match tensor.contents {
            Contents::Ones => 0,
            Contents::Random(encoding) => encoding.kind,
        };
        infos.text(&tensor.name);
        infos.bytes.extend((tensor.extents.len() as u32).to_le_bytes());
        tensor.extents.iter().for_each(|extent| infos.bytes.extend(extent.to_le_bytes()));
        infos.bytes.extend(kind.to_le_bytes());
        infos.bytes.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    let mut head = Vec::from(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(metadata.count.to_le_bytes());
    head.extend(&metadata.bytes);
    head.extend(infos.bytes);
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    head
}
