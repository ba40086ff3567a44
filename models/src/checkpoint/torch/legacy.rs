//! The form before torch 1.6: five pickles, one after another, then the storages, each behind its length.

use std::collections::HashMap;
use std::path::Path;

use super::pickle::{self, Pickle, VALUES_MAX};
use super::value::{Object, Value};
use super::{Contents, PICKLE_MAX, Storages, TENSORS_MAX, member, other_byte_order};
use crate::error::{LoadError, quoted};

/// The number that the legacy form begins with, the lowest byte first.
const MAGIC: &[u8] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const VERSION: i64 = 1001;
/// Most values in what the legacy form says of the machine that wrote it; torch writes about twenty.
const SYSTEM_VALUES_MAX: usize = 1 << 10;

/// Reads the pickles, and finds the storages.
pub(super) fn read<'a>(bytes: &'a [u8], file: &'a Path) -> Result<Contents<'a>, LoadError> {
    let mut at = 0;
    let mut next = |values_max| {
        let rest = &bytes[at..];
        let pickle = pickle::read(&rest[..rest.len().min(PICKLE_MAX as usize)], file, at as u64, values_max)?;
        at += pickle.len;
        Ok::<_, LoadError>(pickle)
    };
    if !matches!(next(1)?.root, Value::Long(MAGIC)) {
        let why = "a pickle, but not one that torch.save wrote: its magic number is missing";
        return Err(LoadError::header(file, 0, why));
    }
    if !matches!(next(1)?.root, Value::Int(VERSION)) {
        let why = format!("expected version {VERSION} of torch's legacy form");
        return Err(LoadError::header(file, 0, why));
    }
    let system = next(SYSTEM_VALUES_MAX)?;
    if let Some(Value::Bool(false)) = member(&system.objects, system.root, "little_endian") {
        return Err(other_byte_order(file, "big"));
    }
    let Pickle { objects, root, .. } = next(VALUES_MAX)?;
    // A key and its memo entry for each storage, and no storage without a tensor.
    let keys = next(2 * TENSORS_MAX + SYSTEM_VALUES_MAX)?;
    let storages = storages(bytes, file, at, &objects, &keys)?;
    Ok(Contents { file, objects, root, storages: Storages::Legacy(storages) })
}

/// Walks over the storages of the legacy form: a count of elements, then those, in the order of the keys.
fn storages<'a>(
    bytes: &[u8],
    file: &Path,
    start: usize,
    objects: &[Object<'a>],
    keys: &Pickle<'a>,
) -> Result<HashMap<&'a str, (u64, u64)>, LoadError> {
    let mut sizes = HashMap::new();
    for object in objects {
        if let Object::Storage(storage) = object {
            sizes.insert(storage.key, storage.element.map_or(1, |element| element.bytes));
        }
    }
    let Value::Object(keys_at) = keys.root else {
        return Err(LoadError::header(file, start as u64, "expected a list of storage keys"));
    };
    let Object::List(list) = &keys.objects[keys_at as usize] else {
        return Err(LoadError::header(file, start as u64, "expected a list of storage keys"));
    };
    let mut found = HashMap::new();
    let mut at = start as u64;
    for key in list {
        let size = match key {
            Value::Text(key) => sizes.get_key_value(key),
            _ => None,
        };
        let Some((key, size)) = size else {
            return Err(LoadError::header(file, at, "the list of storages names one that no tensor has"));
        };
        let truncated =
            |expected| LoadError::Truncated { file: file.to_owned(), expected, found: bytes.len() as u64 };
        let data = at + 8;
        let count = bytes.get(at as usize..).and_then(|rest| rest.first_chunk::<8>());
        let count = u64::from_le_bytes(*count.ok_or_else(|| truncated(data))?);
        let len = count.checked_mul(*size).and_then(|len| Some((len, data.checked_add(len)?)));
        let Some((len, end)) = len.filter(|(_, end)| *end <= bytes.len() as u64) else {
            return Err(truncated(data.saturating_add(count.saturating_mul(*size))));
        };
        if found.insert(*key, (data, len)).is_some() {
            return Err(LoadError::header(file, at, format!("storage {} comes twice", quoted(key))));
        }
        at = end;
    }
    Ok(found)
}
