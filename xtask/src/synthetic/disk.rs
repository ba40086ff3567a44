//! Writing a file of many gigabytes without filling the memory of the machine with it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use jtllm_swap::store::{BLOCK_BYTES, FileStore, Store, write_all};

/// What is written at once.
const PIECE_BYTES: usize = 4 << 20;

/// A file that is written from its beginning to its end, past the page cache where its file system allows that.
pub(super) struct Disk {
    store: FileStore,
    /// Longer than a piece, which must begin at a block's border.
    memory: Vec<u8>,
    first: usize,
    filled: usize,
    at: u64,
}

impl Disk {
    pub(super) fn create(path: &Path) -> io::Result<Disk> {
        File::create(path)?;
        let store = FileStore::open_for_writing(path)?;
        let memory = vec![0; PIECE_BYTES + BLOCK_BYTES as usize];
        let first = memory.as_ptr().align_offset(BLOCK_BYTES as usize);
        Ok(Disk { store, memory, first, filled: 0, at: 0 })
    }

    /// How many bytes are on their way or in the file.
    pub(super) fn written(&self) -> u64 {
        self.at + self.filled as u64
    }

    /// Writes what is left; without this the end of the file is missing.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let end = self.written();
        let whole = self.filled.next_multiple_of(BLOCK_BYTES as usize);
        write_all(&self.store, self.at, &self.memory[self.first..self.first + whole])?;
        self.filled = 0;
        self.store.set_len(end)?;
        self.store.sync()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.filled);
        let start = self.first + self.filled;
        self.memory[start..start + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        if self.filled == PIECE_BYTES {
            write_all(&self.store, self.at, &self.memory[self.first..self.first + PIECE_BYTES])?;
            self.at += PIECE_BYTES as u64;
            self.filled = 0;
        }
        Ok(count)
    }

    /// Does nothing: only whole pieces and the end can be written.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
