//! JSON objects whose keys must differ, and errors that give a byte position.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::error::{LoadError, quoted};

/// Most members of an object. The largest known models have less than 100000 tensors; a parsed member takes
/// more memory than its text may, so the length of the text alone is no bound.
const MAX_MEMBERS: usize = 1 << 17;

/// Most dimensions of a shape.
const MAX_DIMENSIONS: usize = 64;

/// An object's members in the order of the file. A key that comes twice is an error, where most readers
/// silently take the last: two readers of one file must not see different tensors.
pub(super) struct Members<V>(pub(super) Vec<(String, V)>);

/// A member whose type may depend on its name.
pub(super) trait Member: Sized {
    /// Reads the value that follows `name`.
    fn read<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Self, A::Error>;
}

impl Member for String {
    fn read<'de, A: MapAccess<'de>>(_name: &str, map: &mut A) -> Result<Self, A::Error> {
        map.next_value()
    }
}

struct MembersVisitor<V>(PhantomData<V>);

impl<'de, V: Member> Visitor<'de> for MembersVisitor<V> {
    type Value = Members<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<(String, V)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.len() == MAX_MEMBERS {
                return Err(A::Error::custom(format_args!("more than {MAX_MEMBERS} members")));
            }
            let value = V::read(&name, &mut map)
                .map_err(|error| A::Error::custom(format_args!("in {}: {error}", quoted(&name))))?;
            members.push((name, value));
        }
        match duplicate(&members) {
            Some(name) => Err(A::Error::custom(format_args!("duplicate name {}", quoted(name)))),
            None => Ok(Members(members)),
        }
    }
}

/// Some name that comes twice. Sorts references, since a second copy of all names could be as large as the
/// file.
fn duplicate<V>(members: &[(String, V)]) -> Option<&str> {
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

impl<'de, V: Member> Deserialize<'de> for Members<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor(PhantomData))
    }
}

/// The dimensions of a tensor.
pub(super) struct Shape(pub(super) Vec<u64>);

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut dimensions = Vec::new();
        while let Some(dimension) = list.next_element()? {
            if dimensions.len() == MAX_DIMENSIONS {
                return Err(A::Error::custom(format_args!("more than {MAX_DIMENSIONS} dimensions")));
            }
            dimensions.push(dimension);
        }
        Ok(Shape(dimensions))
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

/// Reads one JSON value that fills `bytes`, which begin at byte `start` of `file`.
pub(crate) fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8], file: &Path, start: u64) -> Result<T, LoadError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        LoadError::header(file, start + error.valid_up_to() as u64, "invalid UTF-8, expected JSON text")
    })?;
    serde_json::from_str(text).map_err(|error| {
        let offset = start + offset_of(text, error.line(), error.column());
        // serde_json ends its messages with a line and column, which mean little in a header of one line.
        let message = error.to_string();
        let why = message.rsplit_once(" at line ").map_or(message.as_str(), |(why, _)| why);
        LoadError::header(file, offset, format!("invalid JSON: {why}"))
    })
}

/// The byte position of a line and column, both counted from 1 as serde_json does.
fn offset_of(text: &str, line: usize, column: usize) -> u64 {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len()) as u64
}
