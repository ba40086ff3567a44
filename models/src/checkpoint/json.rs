//! JSON objects whose keys must differ, and errors that give a byte position.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::error::{LoadError, quoted};

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
        let mut names = HashSet::new();
        let mut members = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("duplicate name {}", quoted(&name))));
            }
            let value = V::read(&name, &mut map)
                .map_err(|error| A::Error::custom(format_args!("in {}: {error}", quoted(&name))))?;
            members.push((name, value));
        }
        Ok(Members(members))
    }
}

impl<'de, V: Member> Deserialize<'de> for Members<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor(PhantomData))
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
