//! The directory of a zip file (PKWARE's APPNOTE 6.3.10), as far as torch uses it: entries that are stored as
//! they are, so that they can be read where they lie.

use std::collections::HashMap;
use std::path::Path;

use crate::checkpoint::index::stays_inside;
use crate::error::{LoadError, quoted};

/// What a zip file begins with: its first entry's header.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";
/// Most entries. Each takes memory beside its bytes in the file.
const ENTRIES_MAX: u64 = 1 << 17;

const END_BYTES: usize = 22;
const END64_BYTES: usize = 56;
const LOCATOR_BYTES: usize = 20;
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
/// A 32-bit field whose value stands in the 64-bit extension.
const ELSEWHERE: u64 = 0xffff_ffff;

/// One file inside a zip file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where its own header begins.
    header: u64,
    len: u64,
}

/// A zip file's directory.
#[derive(Debug)]
pub(super) struct Zip<'a> {
    bytes: &'a [u8],
    file: &'a Path,
    entries: HashMap<&'a str, Entry>,
}

/// Reads little-endian numbers at a place that was checked to be there.
fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes[at..][..width].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// `count` bytes from `at` on.
fn part(bytes: &[u8], at: u64, count: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(at).ok()?..)?.get(..usize::try_from(count).ok()?)
}

/// Where the directory lies, its length, and how many entries it has.
struct Place {
    start: u64,
    len: u64,
    count: u64,
}

fn place(bytes: &[u8], file: &Path) -> Result<Place, LoadError> {
    let truncated = || {
        let why = "a zip file without its end record: the file is cut short, or something was added to it";
        LoadError::header(file, bytes.len() as u64, why)
    };
    // A comment of up to 65535 bytes may follow the record.
    let first = bytes.len().saturating_sub(END_BYTES + 0xffff);
    let at = (first..=bytes.len().checked_sub(END_BYTES).ok_or_else(truncated)?)
        .rev()
        .find(|&at| {
            bytes[at..].starts_with(b"PK\x05\x06")
                && at as u64 + END_BYTES as u64 + number(bytes, at + 20, 2) == bytes.len() as u64
        })
        .ok_or_else(truncated)?;
    let short = Place {
        start: number(bytes, at + 16, 4),
        len: number(bytes, at + 12, 4),
        count: number(bytes, at + 10, 2),
    };
    let locator = at.checked_sub(LOCATOR_BYTES).filter(|&at| bytes[at..].starts_with(b"PK\x06\x07"));
    let Some(locator) = locator else {
        return Ok(short);
    };
    let at = number(bytes, locator + 8, 8);
    let record = part(bytes, at, END64_BYTES as u64).filter(|record| record.starts_with(b"PK\x06\x06"));
    let record = record.ok_or_else(|| {
        LoadError::header(
            file,
            locator as u64,
            format!("no 64-bit end record at byte {at}, where it should be"),
        )
    })?;
    Ok(Place { start: number(record, 48, 8), len: number(record, 40, 8), count: number(record, 32, 8) })
}

/// Reads the directory. Entries must have plain names and be stored without compression or encryption.
pub(super) fn read<'a>(bytes: &'a [u8], file: &'a Path) -> Result<Zip<'a>, LoadError> {
    let Place { start, len, count } = place(bytes, file)?;
    let directory = part(bytes, start, len).ok_or_else(|| LoadError::Truncated {
        file: file.to_owned(),
        expected: start.saturating_add(len),
        found: bytes.len() as u64,
    })?;
    if count > ENTRIES_MAX {
        let why = format!("a zip file of {count} entries, expected at most {ENTRIES_MAX}");
        return Err(LoadError::header(file, start, why));
    }
    let mut entries = HashMap::new();
    let mut at = 0;
    for _ in 0..count {
        let offset = start + at as u64;
        let fault = |why: &str| LoadError::header(file, offset, why);
        let head =
            directory.get(at..).filter(|rest| rest.len() >= ENTRY_BYTES && rest.starts_with(b"PK\x01\x02"));
        let head = head.ok_or_else(|| fault("no entry of the zip directory where one should be"))?;
        let lens = [28, 30, 32].map(|field| number(head, field, 2) as usize);
        let name = head.get(ENTRY_BYTES..).and_then(|rest| rest.get(..lens[0]));
        let extra = head.get(ENTRY_BYTES + lens[0]..).and_then(|rest| rest.get(..lens[1]));
        let (Some(name), Some(extra)) = (name, extra) else {
            return Err(fault("an entry that ends beyond the zip directory"));
        };
        let name = std::str::from_utf8(name).map_err(|_| fault("an entry whose name is not UTF-8"))?;
        let entry = entry(head, extra).map_err(|why| fault(&format!("entry {}: {why}", quoted(name))))?;
        if !stays_inside(name) {
            return Err(fault(&format!("entry {} leads out of the archive", quoted(name))));
        }
        if entries.insert(name, entry).is_some() {
            return Err(fault(&format!("entry {} comes twice", quoted(name))));
        }
        at += ENTRY_BYTES + lens.iter().sum::<usize>();
    }
    Ok(Zip { bytes, file, entries })
}

fn entry(head: &[u8], extra: &[u8]) -> Result<Entry, String> {
    if number(head, 8, 2) & 1 != 0 {
        return Err("encrypted, which is not supported".to_owned());
    }
    let [packed, mut len, mut header] = [20, 24, 42].map(|field| number(head, field, 4));
    if number(head, 10, 2) != 0 {
        return Err(format!("compressed ({packed} bytes of {len}); torch stores entries as they are"));
    }
    let mut wide = extension(extra).unwrap_or_default();
    let mut next = || match wide.split_first_chunk::<8>() {
        Some((number, rest)) => {
            wide = rest;
            Ok(u64::from_le_bytes(*number))
        }
        None => Err("a 64-bit field is missing".to_owned()),
    };
    if len == ELSEWHERE {
        len = next()?;
    }
    let packed = if packed == ELSEWHERE { next()? } else { packed };
    if header == ELSEWHERE {
        header = next()?;
    }
    match packed == len {
        true => Ok(Entry { header, len }),
        false => Err(format!("stored, but {packed} bytes stand for {len}")),
    }
}

/// The field of an entry's extra data that holds 64-bit numbers.
fn extension(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (head, rest) = extra.split_first_chunk::<4>()?;
        let field = rest.get(..number(head, 2, 2) as usize)?;
        if number(head, 0, 2) == 1 {
            return Some(field);
        }
        extra = &rest[field.len()..];
    }
}

impl<'a> Zip<'a> {
    /// The only folder that has a file of this name right inside it; `None` if there are none or several.
    pub(super) fn folder_of(&self, name: &str) -> Option<&'a str> {
        let folder = |entry: &&'a str| {
            let folder = entry.strip_suffix(name)?.strip_suffix('/')?;
            Some(folder).filter(|folder| !folder.contains('/'))
        };
        let mut folders = self.entries.keys().filter_map(folder);
        folders.next().filter(|_| folders.next().is_none())
    }

    /// Where an entry's bytes begin and how many they are; `None` if there is no such entry.
    pub(super) fn find(&self, name: &str) -> Result<Option<(u64, u64)>, LoadError> {
        let Some(&Entry { header, len }) = self.entries.get(name) else {
            return Ok(None);
        };
        let fault =
            |why: &str| LoadError::header(self.file, header, format!("entry {}: {why}", quoted(name)));
        let head = part(self.bytes, header, LOCAL_BYTES as u64).filter(|head| head.starts_with(MAGIC));
        let head = head.ok_or_else(|| fault("no header where the directory says"))?;
        if number(head, 8, 2) != 0 {
            return Err(fault("stored by the directory, compressed by its own header"));
        }
        // Both sums stay small, since the header was found inside the file.
        let start = header + LOCAL_BYTES as u64 + number(head, 26, 2) + number(head, 28, 2);
        match part(self.bytes, start, len) {
            Some(_) => Ok(Some((start, len))),
            None => Err(LoadError::Truncated {
                file: self.file.to_owned(),
                expected: start.saturating_add(len),
                found: self.bytes.len() as u64,
            }),
        }
    }

    /// An entry's bytes.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<&'a [u8]>, LoadError> {
        Ok(self.find(name)?.and_then(|(start, len)| part(self.bytes, start, len)))
    }
}
