//! Divides a range of bytes into extents: an arena, a pool, a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A stretch of a range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// Where it begins, in bytes from the start of the range.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
}

impl Extent {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.offset, self.end())
    }
}

/// The free and the used extents of a range of bytes.
///
/// An allocation takes the smallest free extent that it fits into, the first of equal ones, so that the same
/// calls always give the same offsets. Free neighbours are joined at once.
#[derive(Clone, Debug)]
pub struct Space {
    capacity: u64,
    /// Free extents, length by offset.
    free: BTreeMap<u64, u64>,
    /// The same, as (length, offset).
    by_len: BTreeSet<(u64, u64)>,
    /// Extents in use, length by offset.
    used: BTreeMap<u64, u64>,
}

impl Space {
    /// A range of `len` bytes, all free.
    pub fn new(len: u64) -> Space {
        let mut space =
            Space { capacity: len, free: BTreeMap::new(), by_len: BTreeSet::new(), used: BTreeMap::new() };
        space.insert_free(0, len);
        space
    }

    /// The length of the whole range in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether nothing is in use.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// Takes `len` bytes at a multiple of `align`, or nothing if no free extent has room for them. No bytes
    /// are an extent at 0 that takes no room.
    ///
    /// # Panics
    ///
    /// If `align` is not a power of two.
    pub fn allocate(&mut self, len: u64, align: u64) -> Option<Extent> {
        assert!(align.is_power_of_two(), "an alignment of {align} is not a power of two");
        if len == 0 {
            return Some(Extent { offset: 0, len: 0 });
        }
        let (free_len, start, offset) = self.by_len.range((len, 0)..).find_map(|&(free_len, start)| {
            let offset = start.checked_next_multiple_of(align)?;
            (offset.checked_add(len)? <= start + free_len).then_some((free_len, start, offset))
        })?;
        self.remove_free(start, free_len);
        self.insert_free(start, offset - start);
        self.insert_free(offset + len, start + free_len - (offset + len));
        self.used.insert(offset, len);
        Some(Extent { offset, len })
    }

    /// Gives an extent back.
    ///
    /// # Panics
    ///
    /// If it is not in use as it was allocated, which is a fault of the caller's books.
    pub fn free(&mut self, extent: Extent) {
        if extent.len == 0 {
            return;
        }
        let found = self.used.remove(&extent.offset);
        assert_eq!(found, Some(extent.len), "{extent} is not an extent in use");
        let (mut start, mut end) = (extent.offset, extent.end());
        if let Some((&before, &len)) = self.free.range(..start).next_back()
            && before + len == start
        {
            self.remove_free(before, len);
            start = before;
        }
        if let Some(&len) = self.free.get(&end) {
            self.remove_free(end, len);
            end += len;
        }
        self.insert_free(start, end - start);
    }

    /// The length of the largest free extent.
    pub fn largest_free(&self) -> u64 {
        self.by_len.last().map_or(0, |(len, _)| *len)
    }

    /// The bytes that are free in all.
    pub fn free_bytes(&self) -> u64 {
        self.free.values().sum()
    }

    /// The first byte behind every extent in use: how long the range need be.
    pub fn high_water(&self) -> u64 {
        self.used.last_key_value().map_or(0, |(offset, len)| offset + len)
    }

    /// The free extents, in order.
    pub fn free_extents(&self) -> impl Iterator<Item = Extent> {
        self.free.iter().map(|(&offset, &len)| Extent { offset, len })
    }

    fn insert_free(&mut self, offset: u64, len: u64) {
        if len > 0 {
            self.free.insert(offset, len);
            self.by_len.insert((len, offset));
        }
    }

    fn remove_free(&mut self, offset: u64, len: u64) {
        self.free.remove(&offset);
        self.by_len.remove(&(len, offset));
    }
}
