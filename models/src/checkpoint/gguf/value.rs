//! GGUF metadata: keys with typed values.

use std::collections::HashMap;
use std::fmt;

use super::cursor::Cursor;
use crate::error::{LoadError, quoted};

/// Deepest nesting of arrays.
const MAX_NESTING: usize = 64;
/// Most arrays inside arrays in one file; no known key has any.
const MAX_INNER_ARRAYS: usize = 1 << 16;

/// A value as the file types it.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array as the file types it; one allocation whatever its length.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Strings),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Many strings in one piece of memory: never larger than they are in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    ends: Vec<u64>,
}

impl Strings {
    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`, counted from 0.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        // Both ends were lengths of `text`, so they fit and lie between characters.
        self.text.get(start as usize..end as usize)
    }

    /// All strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).expect("the index is below the length"))
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len() as u64);
    }
}

impl Value {
    /// A whole number that is not negative, of any of the file's integer types.
    pub fn unsigned(&self) -> Option<u64> {
        self.integer().and_then(|value| u64::try_from(value).ok())
    }

    /// A whole number of any of the file's integer types.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(value) => value.into(),
            Value::I8(value) => value.into(),
            Value::U16(value) => value.into(),
            Value::I16(value) => value.into(),
            Value::U32(value) => value.into(),
            Value::I32(value) => value.into(),
            Value::U64(value) => value.into(),
            Value::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// A floating-point number. One of 32 bits becomes the nearest short decimal, so that the 1e-5 that its
    /// writer meant is 1e-5 again, as it would be in a `config.json`.
    pub fn float(&self) -> Option<f64> {
        match *self {
            Value::F32(value) if value.is_finite() => value.to_string().parse().ok(),
            Value::F32(value) => Some(value.into()),
            Value::F64(value) => Some(value),
            _ => None,
        }
    }

    /// A truth value.
    pub fn flag(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    /// An array of strings.
    pub fn texts(&self) -> Option<&Strings> {
        match self {
            Value::Array(Array::String(value)) => Some(value),
            _ => None,
        }
    }

    /// An array of whole numbers, of any of the file's integer types.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let Value::Array(array) = self else {
            return None;
        };
        match array {
            Array::U8(values) => Some(values.iter().map(|&value| value.into()).collect()),
            Array::I8(values) => Some(values.iter().map(|&value| value.into()).collect()),
            Array::U16(values) => Some(values.iter().map(|&value| value.into()).collect()),
            Array::I16(values) => Some(values.iter().map(|&value| value.into()).collect()),
            Array::U32(values) => Some(values.iter().map(|&value| value.into()).collect()),
            Array::I32(values) => Some(values.iter().map(|&value| value.into()).collect()),
            Array::U64(values) => values.iter().map(|&value| value.try_into().ok()).collect(),
            Array::I64(values) => Some(values.clone()),
            _ => None,
        }
    }

    /// An array of 32-bit floating-point numbers.
    pub fn floats(&self) -> Option<&[f32]> {
        match self {
            Value::Array(Array::F32(values)) => Some(values),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(value) => value.fmt(f),
            Value::I8(value) => value.fmt(f),
            Value::U16(value) => value.fmt(f),
            Value::I16(value) => value.fmt(f),
            Value::U32(value) => value.fmt(f),
            Value::I32(value) => value.fmt(f),
            Value::F32(value) => value.fmt(f),
            Value::Bool(value) => value.fmt(f),
            Value::String(value) => f.write_str(&quoted(value)),
            Value::Array(_) => f.write_str("an array"),
            Value::U64(value) => value.fmt(f),
            Value::I64(value) => value.fmt(f),
            Value::F64(value) => value.fmt(f),
        }
    }
}

/// The keys of a file with their values, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    by_key: HashMap<String, usize>,
}

impl Metadata {
    /// The value of a key, with the type that the file gives it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|&index| &self.entries[index].1)
    }

    /// All keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Adds a key; `false` if it is there already.
    fn insert(&mut self, key: &str, value: Value) -> bool {
        if self.by_key.contains_key(key) {
            return false;
        }
        self.by_key.insert(key.to_owned(), self.entries.len());
        self.entries.push((key.to_owned(), value));
        true
    }
}

pub(super) fn parse_metadata(cursor: &mut Cursor, count: u64) -> Result<Metadata, LoadError> {
    let mut metadata = Metadata::default();
    let mut inner_arrays = 0;
    for _ in 0..count {
        let key = cursor.text()?;
        let duplicate = cursor.fault(format!("key {} comes twice", quoted(key)));
        let kind = cursor.u32()?;
        let value = parse_value(cursor, kind, key, &mut inner_arrays)?;
        if !metadata.insert(key, value) {
            return Err(duplicate);
        }
    }
    Ok(metadata)
}

fn parse_value(
    cursor: &mut Cursor,
    kind: u32,
    key: &str,
    inner_arrays: &mut usize,
) -> Result<Value, LoadError> {
    Ok(match kind {
        0 => Value::U8(u8::from_le_bytes(cursor.array()?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array()?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array()?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array()?)),
        4 => Value::U32(cursor.u32()?),
        5 => Value::I32(i32::from_le_bytes(cursor.array()?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array()?)),
        7 => Value::Bool(parse_bool(cursor, key)?),
        8 => Value::String(cursor.text()?.to_owned()),
        9 => Value::Array(parse_array(cursor, key, 1, inner_arrays)?),
        10 => Value::U64(cursor.u64()?),
        11 => Value::I64(i64::from_le_bytes(cursor.array()?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        _ => return Err(unknown(cursor, kind, key)),
    })
}

fn unknown(cursor: &Cursor, kind: u32, key: &str) -> LoadError {
    cursor.fault(format!("key {}: unknown value type {kind}, expected 0 to 12", quoted(key)))
}

fn parse_bool(cursor: &mut Cursor, key: &str) -> Result<bool, LoadError> {
    match cursor.array()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(cursor.fault(format!("key {}: truth value {other}, expected 0 or 1", quoted(key)))),
    }
}

fn parse_array(
    cursor: &mut Cursor,
    key: &str,
    depth: usize,
    inner_arrays: &mut usize,
) -> Result<Array, LoadError> {
    if depth > MAX_NESTING {
        return Err(cursor.fault(format!("key {}: arrays nest deeper than {MAX_NESTING}", quoted(key))));
    }
    let kind = cursor.u32()?;
    let count = cursor.u64()?;
    Ok(match kind {
        0 => Array::U8(numbers(cursor, count, u8::from_le_bytes)?),
        1 => Array::I8(numbers(cursor, count, i8::from_le_bytes)?),
        2 => Array::U16(numbers(cursor, count, u16::from_le_bytes)?),
        3 => Array::I16(numbers(cursor, count, i16::from_le_bytes)?),
        4 => Array::U32(numbers(cursor, count, u32::from_le_bytes)?),
        5 => Array::I32(numbers(cursor, count, i32::from_le_bytes)?),
        6 => Array::F32(numbers(cursor, count, f32::from_le_bytes)?),
        7 => {
            let count = cursor.require_count("array elements", count, 1, u64::MAX)?;
            let mut flags = Vec::with_capacity(count);
            for _ in 0..count {
                flags.push(parse_bool(cursor, key)?);
            }
            Array::Bool(flags)
        }
        8 => {
            let count = cursor.require_count("strings", count, 8, u64::MAX)?;
            Array::String(parse_strings(cursor, count)?)
        }
        9 => {
            let count = cursor.require_count("inner arrays", count, 12, MAX_INNER_ARRAYS as u64)?;
            *inner_arrays += count;
            if *inner_arrays > MAX_INNER_ARRAYS {
                return Err(cursor.fault(format!("more than {MAX_INNER_ARRAYS} arrays inside arrays")));
            }
            let inner = (0..count).map(|_| parse_array(cursor, key, depth + 1, inner_arrays));
            Array::Array(inner.collect::<Result<_, _>>()?)
        }
        10 => Array::U64(numbers(cursor, count, u64::from_le_bytes)?),
        11 => Array::I64(numbers(cursor, count, i64::from_le_bytes)?),
        12 => Array::F64(numbers(cursor, count, f64::from_le_bytes)?),
        _ => return Err(unknown(cursor, kind, key)),
    })
}

/// Looks first how much text there is, so that the memory taken is exactly what is needed.
fn parse_strings(cursor: &mut Cursor, count: usize) -> Result<Strings, LoadError> {
    let mut ahead = *cursor;
    let mut length = 0;
    for _ in 0..count {
        length += ahead.text()?.len();
    }
    let mut strings = Strings { text: String::with_capacity(length), ends: Vec::with_capacity(count) };
    for _ in 0..count {
        strings.push(cursor.text()?);
    }
    Ok(strings)
}

fn numbers<T, const N: usize>(
    cursor: &mut Cursor,
    count: u64,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>, LoadError> {
    let count = cursor.require_count("array elements", count, N as u64, u64::MAX)?;
    let (chunks, _) = cursor.take(count * N)?.as_chunks::<N>();
    Ok(chunks.iter().map(|&chunk| decode(chunk)).collect())
}
