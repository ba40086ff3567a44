//! The head of a packed file: what it is made from, where each plane lies, and what each chunk must hash to.
//!
//! `magic` (8 bytes), `version` (4), bytes of the head (8), xxh3-64 of what follows in it (8); then the key, the model's
//! files and the planes, all little endian. The head is written last: a file without it is not a packed file.

use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

use crate::os;

const MAGIC: &[u8; 8] = b"jtpacked";
const VERSION: u32 = 1;

/// Bytes before what the head's own hash covers.
pub(crate) const FIXED_BYTES: usize = 28;

/// A head is a few hundred bytes for each plane; a longer one is not ours and is not read.
pub const HEAD_BYTES_MAX: u64 = 64 << 20;

/// Planes begin at multiples of this: the largest page of the systems that we run on, so that a plane can be mapped by
/// itself anywhere, and a multiple of what unbuffered reads ask for.
pub const ALIGNMENT: u64 = 64 << 10;

/// One of the files that a model's weights are in, as it was when they were packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where it was.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// Nanoseconds from 1970 to its last change; 0 where nobody keeps that.
    pub modified: u64,
    /// A hash of parts of its contents.
    pub sample: u128,
}

/// A plane in a packed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The leaf's name.
    pub name: String,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// Bytes of each of its chunks but the last, which may have fewer.
    pub chunk_bytes: u64,
    /// The xxh3-64 of each chunk.
    pub sums: Vec<u64>,
}

impl Entry {
    /// How many chunks so many bytes are.
    pub(crate) fn chunks(len: u64, chunk_bytes: u64) -> u64 {
        len.div_ceil(chunk_bytes.max(1))
    }
}

/// What stands at the head of a packed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The hash of all that the contents follow from.
    pub key: u128,
    /// The model's files.
    pub origins: Vec<Origin>,
    /// The planes, in the order in which a pass first reads them.
    pub planes: Vec<Entry>,
}

impl Head {
    /// The head as bytes; `None` if a path cannot be written down.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut body = self.key.to_le_bytes().to_vec();
        body.extend((self.origins.len() as u32).to_le_bytes());
        for origin in &self.origins {
            put(&mut body, &os::bytes_of_path(&origin.path)?);
            body.extend(origin.len.to_le_bytes());
            body.extend(origin.modified.to_le_bytes());
            body.extend(origin.sample.to_le_bytes());
        }
        body.extend((self.planes.len() as u32).to_le_bytes());
        for plane in &self.planes {
            put(&mut body, plane.name.as_bytes());
            for number in [plane.offset, plane.len, plane.chunk_bytes].iter().chain(&plane.sums) {
                body.extend(number.to_le_bytes());
            }
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((body.len() as u64 + FIXED_BYTES as u64).to_le_bytes());
        bytes.extend(xxh3_64(&body).to_le_bytes());
        bytes.extend(body);
        Some(bytes)
    }

    /// How long the head is of which these are the first bytes.
    ///
    /// # Errors
    /// It is not the head of a packed file of this version.
    pub(crate) fn length(fixed: &[u8; FIXED_BYTES]) -> Result<u64, String> {
        let mut reader = Reader { bytes: fixed };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err("it does not begin as a packed file".to_owned());
        }
        let version = u32::from_le_bytes(reader.array()?);
        if version != VERSION {
            return Err(format!("it is of version {version}, expected {VERSION}"));
        }
        let length = u64::from_le_bytes(reader.array()?);
        match (FIXED_BYTES as u64..=HEAD_BYTES_MAX).contains(&length) {
            true => Ok(length),
            false => Err(format!("its head has {length} bytes")),
        }
    }

    /// Reads the head at the beginning of a file of so many bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8], file_bytes: u64) -> Result<Head, String> {
        let fixed = bytes.first_chunk().ok_or("it ends inside of its head")?;
        let length = Head::length(fixed)?;
        let head = usize::try_from(length).ok().and_then(|length| bytes.get(..length));
        let body = &head.ok_or("it ends inside of its head")?[FIXED_BYTES..];
        if fixed[FIXED_BYTES - 8..] != xxh3_64(body).to_le_bytes() {
            return Err("its head is damaged".to_owned());
        }
        let mut reader = Reader { bytes: body };
        let key = u128::from_le_bytes(reader.array()?);
        // Lists grow as they are read, so a false count costs nothing.
        let mut origins = Vec::new();
        for _ in 0..u32::from_le_bytes(reader.array()?) {
            origins.push(reader.origin()?);
        }
        let mut planes: Vec<Entry> = Vec::new();
        let mut end = length;
        for _ in 0..u32::from_le_bytes(reader.array()?) {
            let plane = reader.plane()?;
            let last = plane.offset.checked_add(plane.len).filter(|last| *last <= file_bytes);
            let fits = plane.offset >= end && plane.offset.is_multiple_of(ALIGNMENT);
            end = last.filter(|_| fits).ok_or_else(|| {
                let Entry { name, offset, len, .. } = &plane;
                format!("plane {name}: {len} bytes at {offset}, in a file of {file_bytes} bytes")
            })?;
            planes.push(plane);
        }
        match (reader.bytes.is_empty(), end == file_bytes) {
            (true, true) => Ok(Head { key, origins, planes }),
            (false, _) => Err("its head is longer than what it says".to_owned()),
            (_, false) => Err(format!("it has {file_bytes} bytes, expected {end}")),
        }
    }
}

fn put(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text);
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or("its head ends too early")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or("its head ends too early")?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(length as usize)
    }

    fn number(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn origin(&mut self) -> Result<Origin, String> {
        let path = os::path_of_bytes(self.text()?).ok_or("a path is no Unicode")?;
        let (len, modified) = (self.number()?, self.number()?);
        Ok(Origin { path, len, modified, sample: u128::from_le_bytes(self.array()?) })
    }

    fn plane(&mut self) -> Result<Entry, String> {
        let name = std::str::from_utf8(self.text()?).map_err(|_| "a name is no Unicode")?.to_owned();
        let (offset, len, chunk_bytes) = (self.number()?, self.number()?, self.number()?);
        if chunk_bytes == 0 {
            return Err(format!("plane {name} has chunks of 0 bytes"));
        }
        let count = usize::try_from(Entry::chunks(len, chunk_bytes)).ok().and_then(|n| n.checked_mul(8));
        let (sums, _) = self.take(count.ok_or("its head ends too early")?)?.as_chunks::<8>();
        let sums = sums.iter().map(|sum| u64::from_le_bytes(*sum)).collect();
        Ok(Entry { name, offset, len, chunk_bytes, sums })
    }
}
