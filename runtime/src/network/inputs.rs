//! What a body is told of its tokens, as arrays.

use super::{Batch, Row, SEQUENCES, TILE};

/// The integer inputs of a body.
pub(crate) struct Inputs {
    ids: Vec<i32>,
    position: Vec<i32>,
    sequence: Vec<i32>,
    slot: Vec<i32>,
    lengths: Vec<i32>,
    start: Vec<i32>,
    count: Vec<i32>,
    home: Vec<i32>,
    /// The table's rows of the sequences of the batch: nobody reads those of others.
    pub(crate) table: Vec<i32>,
    /// Further inputs, with a value for each of the 16 sequences.
    pub(crate) facts: Vec<(&'static str, Vec<i32>)>,
}

impl Inputs {
    /// The inputs for a batch, its rows padded to `count`; `width` is the table's.
    pub(crate) fn of(batch: &Batch, count: usize, width: usize) -> Inputs {
        let mut rows = batch.rows.clone();
        rows.resize(count, Row { id: 0, position: 0, sequence: 0, slot: -1 });
        if batch.chunk {
            // A tile's rows speak for one sequence, padding included.
            for at in batch.rows.len()..count {
                rows[at].sequence = rows[at / TILE * TILE].sequence;
            }
        }
        let mut table = vec![0i32; batch.tables.len() * width];
        for (sequence, pages) in batch.tables.iter().enumerate() {
            for (at, page) in pages.iter().enumerate() {
                table[sequence * width + at] = *page as i32;
            }
        }
        let mut lengths: Vec<i32> = batch.lengths.iter().map(|n| *n as i32).collect();
        lengths.resize(SEQUENCES, 0);
        let (start, count) = runs(&rows);
        let mut facts = batch.facts.clone();
        facts.iter_mut().for_each(|(_, values)| values.resize(SEQUENCES, 0));
        Inputs {
            ids: rows.iter().map(|row| row.id as i32).collect(),
            position: rows.iter().map(|row| row.position as i32).collect(),
            sequence: rows.iter().map(|row| row.sequence as i32).collect(),
            slot: rows.iter().map(|row| row.slot).collect(),
            lengths,
            start,
            count,
            home: (0..SEQUENCES as i32).collect(),
            table,
            facts,
        }
    }

    /// The inputs of one axis, by name.
    pub(crate) fn columns(&self) -> [(&'static str, &[i32]); 8] {
        [
            ("ids", &self.ids),
            ("pos", &self.position),
            ("seq", &self.sequence),
            ("slot", &self.slot),
            ("lens", &self.lengths),
            ("start", &self.start),
            ("count", &self.count),
            ("home", &self.home),
        ]
    }
}

/// The first row of each sequence, and how many it has.
fn runs(rows: &[Row]) -> (Vec<i32>, Vec<i32>) {
    let (mut start, mut count) = (vec![0; SEQUENCES], vec![0; SEQUENCES]);
    for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.slot >= 0) {
        if count[row.sequence] == 0 {
            start[row.sequence] = at as i32;
        }
        count[row.sequence] += 1;
    }
    (start, count)
}
