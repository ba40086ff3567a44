//! Reading forward through bytes, with errors that give the position.

use std::path::Path;

use crate::error::LoadError;

#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    file: &'a Path,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], file: &'a Path) -> Self {
        Cursor { bytes, position: 0, file }
    }

    pub(super) fn file(&self) -> &'a Path {
        self.file
    }

    pub(super) fn position(&self) -> u64 {
        self.position as u64
    }

    fn remaining(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    /// A fault at the current position.
    pub(super) fn fault(&self, why: impl Into<String>) -> LoadError {
        LoadError::header(self.file, self.position(), why)
    }

    /// Holds a count that stands in the file against the bytes that are left, and against a limit.
    pub(super) fn require_count(
        &self,
        what: &str,
        count: u64,
        least_bytes: u64,
        limit: u64,
    ) -> Result<usize, LoadError> {
        let room = self.remaining() / least_bytes;
        match usize::try_from(count) {
            Ok(fitting) if count <= room && count <= limit => Ok(fitting),
            _ if count <= limit => {
                Err(self.fault(format!("{count} {what}, the file has room for {room} at most")))
            }
            _ => Err(self.fault(format!("{count} {what}, expected at most {limit}"))),
        }
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], LoadError> {
        let rest = &self.bytes[self.position..];
        let taken = rest.get(..count).ok_or_else(|| LoadError::Truncated {
            file: self.file.to_owned(),
            expected: self.position().saturating_add(count as u64),
            found: self.bytes.len() as u64,
        })?;
        self.position += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        self.take(N).map(|bytes| bytes.try_into().expect("take returns as many bytes as asked for"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, LoadError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, LoadError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, LoadError> {
        let length = self.u64()?;
        let length = self.require_count("bytes of a string", length, 1, u64::MAX)?;
        let start = self.position();
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let offset = start + error.valid_up_to() as u64;
            LoadError::header(self.file, offset, "invalid UTF-8 in a string")
        })
    }
}
