//! The GGUF format, versions 2 and 3, little endian: typed metadata, tensor descriptions, aligned data.
//!
//! The rules are those of ggml's `docs/gguf.md` and of the checks that llama.cpp makes. Every count is held
//! against the bytes that are left before anything is allocated for it, so that a parse needs at most the
//! file's size and 64 MiB of memory.

use std::collections::HashSet;
use std::path::Path;

use crate::error::LoadError;

mod cursor;
mod value;

pub use value::{Array, Metadata, Strings, Value};

use cursor::Cursor;

/// Most metadata keys that a file may have; real ones have about forty.
pub const MAX_KEYS: u64 = 1 << 16;
/// Most tensors that a file may have; the largest known models have some thousands.
pub const MAX_TENSORS: u64 = 1 << 17;
/// Most dimensions of a tensor, as in ggml.
pub const MAX_DIMENSIONS: u32 = 4;
/// The largest alignment of tensor data that is accepted.
pub const MAX_ALIGNMENT: u64 = 1 << 20;

/// A block type of ggml: so many elements in a row are stored together in so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// ggml's number of the type.
    pub id: u32,
    /// ggml's name in lower case: `q4_k`.
    pub encoding: &'static str,
    /// Elements of a block.
    pub elements: u64,
    /// Bytes of a block.
    pub bytes: u64,
}

const fn block(id: u32, encoding: &'static str, elements: u64, bytes: u64) -> Block {
    Block { id, encoding, elements, bytes }
}

/// Every block type of ggml that a file may hold; the gaps are types that ggml has removed.
pub const BLOCKS: &[Block] = &[
    block(0, "f32", 1, 4),
    block(1, "f16", 1, 2),
    block(2, "q4_0", 32, 18),
    block(3, "q4_1", 32, 20),
    block(6, "q5_0", 32, 22),
    block(7, "q5_1", 32, 24),
    block(8, "q8_0", 32, 34),
    block(9, "q8_1", 32, 36),
    block(10, "q2_k", 256, 84),
    block(11, "q3_k", 256, 110),
    block(12, "q4_k", 256, 144),
    block(13, "q5_k", 256, 176),
    block(14, "q6_k", 256, 210),
    block(15, "q8_k", 256, 292),
    block(16, "iq2_xxs", 256, 66),
    block(17, "iq2_xs", 256, 74),
    block(18, "iq3_xxs", 256, 98),
    block(19, "iq1_s", 256, 50),
    block(20, "iq4_nl", 32, 18),
    block(21, "iq3_s", 256, 110),
    block(22, "iq2_s", 256, 82),
    block(23, "iq4_xs", 256, 136),
    block(24, "i8", 1, 1),
    block(25, "i16", 1, 2),
    block(26, "i32", 1, 4),
    block(27, "i64", 1, 8),
    block(28, "f64", 1, 8),
    block(29, "iq1_m", 256, 56),
    block(30, "bf16", 1, 2),
    block(34, "tq1_0", 256, 54),
    block(35, "tq2_0", 256, 66),
    block(39, "mxfp4", 32, 17),
    block(40, "nvfp4", 64, 36),
    block(41, "q1_0", 128, 18),
];

/// What stands in a GGUF file, checked against its length.
#[derive(Debug)]
pub struct Header {
    /// The format's version: 2 or 3.
    pub version: u32,
    /// Tensor data begins on multiples of this many bytes.
    pub alignment: u64,
    /// The metadata.
    pub metadata: Metadata,
    /// The tensors in the order of the file.
    pub tensors: Vec<Tensor>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, unique in the file: `blk.0.attn_q.weight`.
    pub name: String,
    /// How its elements are stored.
    pub block: Block,
    /// Outermost dimension first, the reverse of the order in the file.
    pub shape: Vec<u64>,
    /// Its first byte, counted from the beginning of the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Reads and checks the head of a whole file's bytes; tensor data is not touched. `file` names them in
/// errors.
pub fn parse(bytes: &[u8], file: &Path) -> Result<Header, LoadError> {
    let mut cursor = Cursor::new(bytes, file);
    let version = parse_version(&mut cursor)?;
    let tensor_count = cursor.u64()?;
    let key_count = cursor.u64()?;
    // Each key takes at least its length, one byte, a type and one byte; each tensor at least its name's
    // length, one byte, one dimension with its count, a type and an offset.
    cursor.require_count("metadata keys", key_count, 14, MAX_KEYS)?;
    cursor.require_count("tensors", tensor_count, 33, MAX_TENSORS)?;
    let metadata = value::parse_metadata(&mut cursor, key_count)?;
    let alignment = alignment(&metadata, file)?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..tensor_count {
        let tensor = parse_tensor(&mut cursor)?;
        if !names.insert(tensor.name.clone()) {
            return Err(LoadError::tensor(file, &tensor.name, "comes twice"));
        }
        tensors.push(tensor);
    }
    place(&mut tensors, cursor.position().next_multiple_of(alignment), alignment, bytes.len() as u64, file)?;
    Ok(Header { version, alignment, metadata, tensors })
}

fn parse_version(cursor: &mut Cursor) -> Result<u32, LoadError> {
    let magic = cursor.take(4)?;
    if magic != b"GGUF" {
        let why = format!("wrong magic {}: not a GGUF file", magic.escape_ascii());
        return Err(LoadError::header(cursor.file(), 0, why));
    }
    let version = cursor.u32()?;
    let what = match version {
        2 | 3 => return Ok(version),
        _ if matches!(version.swap_bytes(), 1..=0xff) => "big-endian GGUF".to_owned(),
        _ => format!("GGUF version {version}"),
    };
    Err(LoadError::Unsupported {
        file: cursor.file().to_owned(),
        what,
        supported: "versions 2 and 3 in little endian are".to_owned(),
    })
}

fn alignment(metadata: &Metadata, file: &Path) -> Result<u64, LoadError> {
    const DEFAULT: u64 = 32;
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(DEFAULT);
    };
    match value.unsigned() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT => Ok(alignment),
        _ => Err(LoadError::Field {
            file: file.to_owned(),
            field: "general.alignment".to_owned(),
            expected: format!("a power of two up to {MAX_ALIGNMENT}"),
            found: value.to_string(),
        }),
    }
}

/// Reads one description; its offset stays relative to the beginning of the data.
fn parse_tensor(cursor: &mut Cursor) -> Result<Tensor, LoadError> {
    let file = cursor.file();
    let name = cursor.text()?.to_owned();
    let fault = |why: String| LoadError::tensor(file, &name, why);
    if name.is_empty() {
        return Err(fault("its name is empty".to_owned()));
    }
    let rank = cursor.u32()?;
    if !(1..=MAX_DIMENSIONS).contains(&rank) {
        return Err(fault(format!("{rank} dimensions, expected 1 to {MAX_DIMENSIONS}")));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        let dimension = cursor.u64()?;
        if dimension == 0 || dimension > i64::MAX.unsigned_abs() {
            return Err(fault(format!("dimension {}, expected at least 1", dimension.cast_signed())));
        }
        shape.push(dimension);
    }
    let id = cursor.u32()?;
    let offset = cursor.u64()?;
    let block = *BLOCKS
        .iter()
        .find(|block| block.id == id)
        .ok_or_else(|| fault(format!("unknown ggml type {id}")))?;
    let row = shape[0];
    if row % block.elements != 0 {
        let Block { encoding, elements, .. } = block;
        return Err(fault(format!("row of {row} elements, {encoding} needs a multiple of {elements}")));
    }
    let len = shape
        .iter()
        .try_fold(1u64, |product, &dimension| product.checked_mul(dimension))
        .and_then(|elements| (elements / block.elements).checked_mul(block.bytes))
        .filter(|&len| len <= i64::MAX.unsigned_abs())
        .ok_or_else(|| fault(format!("shape {shape:?} overflows 2^63 bytes")))?;
    shape.reverse();
    Ok(Tensor { name, block, shape, offset, len })
}

/// Checks that the tensors follow each other from `start` on, each padded to the alignment, as every writer
/// lays them out and llama.cpp demands; so none overlap, and the file's length follows.
fn place(
    tensors: &mut [Tensor],
    start: u64,
    alignment: u64,
    found: u64,
    file: &Path,
) -> Result<(), LoadError> {
    let mut next = 0u64;
    let mut end = 0u64;
    for tensor in tensors {
        if tensor.offset != next {
            let Tensor { offset, name, .. } = tensor;
            let aligned = if *offset % alignment == 0 { "" } else { "unaligned " };
            let why = format!("{aligned}offset {offset}, expected {next}: the next multiple of {alignment}");
            return Err(LoadError::tensor(file, name, why));
        }
        let overflow = || LoadError::tensor(file, &tensor.name, "ends beyond 2^64 bytes");
        tensor.offset = start.checked_add(next).ok_or_else(overflow)?;
        end = tensor.offset.checked_add(tensor.len).ok_or_else(overflow)?;
        next = (end - start).checked_next_multiple_of(alignment).ok_or_else(overflow)?;
    }
    if end > found {
        return Err(LoadError::Truncated { file: file.to_owned(), expected: end, found });
    }
    Ok(())
}

/// The position of a file in a set that was split into several: `name-00002-of-00003.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// What comes before the number.
    pub stem: String,
    /// Counted from 1.
    pub number: u32,
    /// How many files the set has.
    pub count: u32,
}

impl Split {
    /// Reads a file name; `None` where it does not follow the pattern.
    pub fn of(file_name: &str) -> Option<Self> {
        let rest = file_name.strip_suffix(".gguf")?;
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| match text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u32>().ok(),
            false => None,
        };
        let (number, count) = (digits(number)?, digits(count)?);
        let split = Split { stem: stem.to_owned(), number, count };
        (1..=count).contains(&number).then_some(split)
    }

    /// The name of another file of the set, counted from 1.
    pub fn name(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }

    /// Checks that the file at this place says so itself.
    pub fn check(&self, header: &Header, file: &Path) -> Result<(), LoadError> {
        let expected = [("split.no", self.number - 1), ("split.count", self.count)];
        for (key, expected) in expected {
            let found = header.metadata.get(key);
            if found.and_then(Value::unsigned) != Some(u64::from(expected)) {
                return Err(LoadError::Field {
                    file: file.to_owned(),
                    field: key.to_owned(),
                    expected: format!("{expected} as in the file's name"),
                    found: found.map_or("nothing".to_owned(), Value::to_string),
                });
            }
        }
        Ok(())
    }
}
