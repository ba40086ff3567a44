//! The safetensors format: eight bytes of length, a JSON header, the tensors' bytes without gaps.
//!
//! The rules are those of the `safetensors` crate 0.8 and its documentation. Reading the header here, and not
//! through that crate, gives errors that name the tensor and the byte.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::MapAccess;

use super::json::{self, Member, Members, Shape};
use crate::error::{LoadError, quoted};

/// The longest header that is accepted, as in the format's reference implementation.
pub const MAX_HEADER: u64 = 100_000_000;

/// The header's length comes first, as a little-endian u64.
const LENGTH_BYTES: u64 = 8;

/// What a file's header says, checked against the file.
#[derive(Debug)]
pub struct Header {
    /// The free-form strings under `__metadata__`.
    pub metadata: HashMap<String, String>,
    /// The tensors in the order of their bytes, which fill the file from the header to its end.
    pub tensors: Vec<Tensor>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, unique in the file.
    pub name: String,
    /// What its bytes mean.
    pub element: Element,
    /// Outermost dimension first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its first byte, counted from the beginning of the file. It need not be aligned to anything.
    pub offset: u64,
    /// Its length in bytes: always the product of shape and element size.
    pub len: u64,
}

/// An element type of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// The format's spelling: `BF16`.
    pub name: &'static str,
    /// This project's spelling: `bf16`.
    pub encoding: &'static str,
    /// Bits of one element; fewer than eight for packed numbers.
    pub bits: u64,
}

const fn element(name: &'static str, encoding: &'static str, bits: u64) -> Element {
    Element { name, encoding, bits }
}

/// Every element type of safetensors 0.8.
pub const ELEMENTS: &[Element] = &[
    element("BOOL", "bool", 8),
    element("F4", "f4", 4),
    element("F6_E2M3", "f6_e2m3", 6),
    element("F6_E3M2", "f6_e3m2", 6),
    element("U8", "u8", 8),
    element("I8", "i8", 8),
    element("F8_E5M2", "f8_e5m2", 8),
    element("F8_E4M3", "f8_e4m3", 8),
    element("F8_E8M0", "f8_e8m0", 8),
    element("F8_E4M3FNUZ", "f8_e4m3fnuz", 8),
    element("F8_E5M2FNUZ", "f8_e5m2fnuz", 8),
    element("I16", "i16", 16),
    element("U16", "u16", 16),
    element("F16", "f16", 16),
    element("BF16", "bf16", 16),
    element("I32", "i32", 32),
    element("U32", "u32", 32),
    element("F32", "f32", 32),
    element("C64", "c64", 64),
    element("F64", "f64", 64),
    element("I64", "i64", 64),
    element("U64", "u64", 64),
];

/// The one member of the header that is no tensor.
const METADATA: &str = "__metadata__";

enum HeaderMember {
    Tensor(Description),
    Metadata(Members<String>),
}

impl Member for HeaderMember {
    fn read<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Self, A::Error> {
        match name {
            METADATA => map.next_value().map(HeaderMember::Metadata),
            _ => map.next_value().map(HeaderMember::Tensor),
        }
    }
}

/// A tensor's member of the header, in the format's own names.
#[derive(Deserialize)]
struct Description {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// Reads and checks the header of a whole file's bytes. Of those, only the header is touched. `file` names
/// them in errors. Allocates in proportion to the header, never to a number that stands in it.
pub fn parse(bytes: &[u8], file: &Path) -> Result<Header, LoadError> {
    let found = bytes.len() as u64;
    let header = header_bytes(bytes, file)?;
    let start = LENGTH_BYTES + header.len() as u64;
    let Members(members) = json::read::<Members<HeaderMember>>(header, file, LENGTH_BYTES)?;

    let mut metadata = HashMap::new();
    let mut tensors = Vec::new();
    for (name, member) in members {
        match member {
            HeaderMember::Metadata(Members(pairs)) => metadata = pairs.into_iter().collect(),
            HeaderMember::Tensor(description) => tensors.push(check_tensor(name, description, file)?),
        }
    }
    tensors.sort_by_key(|tensor| (tensor.offset, tensor.len));
    check_cover(&tensors, file, start, found)?;
    for tensor in &mut tensors {
        tensor.offset += start;
    }
    Ok(Header { metadata, tensors })
}

fn header_bytes<'a>(bytes: &'a [u8], file: &Path) -> Result<&'a [u8], LoadError> {
    let found = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let why = format!("header too small: the file has {found} bytes, expected at least {LENGTH_BYTES}");
        return Err(LoadError::header(file, 0, why));
    };
    let length = u64::from_le_bytes(*length);
    if length < 2 {
        let why = format!("header too small: its length is {length}, expected at least 2");
        return Err(LoadError::header(file, 0, why));
    }
    if length > MAX_HEADER {
        let why = format!("header too large: its length is {length}, expected at most {MAX_HEADER}");
        return Err(LoadError::header(file, 0, why));
    }
    let end = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let header = end.ok_or_else(|| LoadError::Truncated {
        file: file.to_owned(),
        expected: LENGTH_BYTES + length,
        found,
    })?;
    match header.first() {
        Some(b'{') => Ok(header),
        _ => Err(LoadError::header(file, LENGTH_BYTES, "invalid JSON: the header must begin with {")),
    }
}

/// Checks what one description says about itself; its offset stays relative to the end of the header.
fn check_tensor(name: String, description: Description, file: &Path) -> Result<Tensor, LoadError> {
    let Description { dtype, shape: Shape(shape), data_offsets: [begin, end] } = description;
    let fault = |why: String| LoadError::tensor(file, &name, why);
    let element = ELEMENTS
        .iter()
        .find(|element| element.name == dtype)
        .ok_or_else(|| fault(format!("unknown dtype {}", quoted(&dtype))))?;
    let bits = shape
        .iter()
        .try_fold(element.bits, |product, &dimension| product.checked_mul(dimension))
        .ok_or_else(|| fault(format!("shape {shape:?} of {dtype} overflows 2^64 bits")))?;
    if bits % 8 != 0 {
        return Err(fault(format!("shape {shape:?} of {dtype} ends inside a byte")));
    }
    let span = end
        .checked_sub(begin)
        .ok_or_else(|| fault(format!("data_offsets [{begin}, {end}] end before they begin")))?;
    if span != bits / 8 {
        let why = format!("shape {shape:?} of {dtype} takes {} bytes, data_offsets span {span}", bits / 8);
        return Err(fault(why));
    }
    Ok(Tensor { name, element: *element, shape, offset: begin, len: span })
}

/// Checks that sorted tensors fill the data from its beginning to the end of the file, each byte once.
fn check_cover(tensors: &[Tensor], file: &Path, start: u64, found: u64) -> Result<(), LoadError> {
    let mut covered = 0u64;
    let mut previous = "the header";
    for tensor in tensors {
        let Tensor { name, offset, len, .. } = tensor;
        if *offset > covered {
            let why = format!("hole of {} bytes between it and {}", offset - covered, quoted(previous));
            return Err(LoadError::tensor(file, name, why));
        }
        if *offset < covered {
            let why = format!("overlaps {} by {} bytes", quoted(previous), covered - offset);
            return Err(LoadError::tensor(file, name, why));
        }
        covered = offset + len;
        previous = name;
    }
    let expected = start.checked_add(covered).ok_or_else(|| {
        LoadError::header(file, 0, format!("the tensors take {covered} bytes: more than a file can have"))
    })?;
    match expected.cmp(&found) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(LoadError::Truncated { file: file.to_owned(), expected, found }),
        std::cmp::Ordering::Less => {
            let why = format!("{} trailing bytes belong to no tensor", found - expected);
            Err(LoadError::header(file, expected, why))
        }
    }
}
