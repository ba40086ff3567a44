//! Products of many rows on register machines, where lanes run over the depth: weights as files have them.
//!
//! A tile of sums fills the registers, and there are many tiles; what makes them slow is that their operands come from
//! the second-level cache or further away. So a group has a panel of tiles side by side, which share their rows of the left
//! operand, and a depth too long for the first-level cache is taken a piece at a time for all of them: sums wait in memory
//! meanwhile, a lane's part each, and so are added in the same order as those of a single row.

use jtllm_ir::{DType, Expr, Monoid};

use super::contract::{Chunk, across, chunk, factor, packed, product, reads_interleaved, spread};
use super::lower::Lower;
use super::{Scheduled, contract, pairs};
use crate::kernel::{CellId, Memory, ValueId};
use crate::region::{Contraction, Sum};

/// Columns of a tile: each number of the left operand is loaded once for them.
const COLUMNS: i64 = 2;

/// Where there are registers for so many sums, two columns of [`ROWS`] are enough to keep the units that multiply busy;
/// where there are fewer, half as many rows have three: eight sums alone would wait for each other.
const SUMS: u32 = 16;

/// Rows of a tile at most: each number of the right operand is loaded, and widened, once for them.
const ROWS: i64 = 8;

/// Columns of a group at most, those of sibling sums together: its rows are brought, and copied, once for them.
const PANEL: i64 = 64;

/// Steps that are written out one after another: a loop of few turns is one whose end processors foresee.
const UNROLL: i64 = 4;

/// Bytes of the left operand's rows that a piece of the depth may have, a third of a usual first-level cache: that of
/// processors with registers for many sums, and of older ones.
const PIECE_BYTES: [i64; 2] = [25 << 10, 12 << 10];

/// Bytes of the left operand's rows that all groups side by side share: half of a usual second-level cache.
const BLOCK_BYTES: i64 = 1 << 20;

/// Rows so many bytes apart meet in the same few places of a first-level cache, and drive each other out.
const ALIAS_BYTES: i64 = 4096;

/// The shape of what a group computes.
pub(super) struct Panel {
    rows: i64,
    /// Columns of a tile.
    columns: i64,
    /// Tiles below each other that groups take before they go on to other columns.
    block: i64,
    /// Tiles side by side.
    tiles: i64,
    /// Pieces of the depth, each a whole number of steps of all lanes.
    pieces: i64,
    /// Steps of a piece.
    steps: i64,
    /// Numbers that all lanes take in a step.
    step: i64,
    /// Whether numbers are multiplied two at a time.
    paired: bool,
}

/// A piece of the left operand's rows, side by side in memory of the group's own: what each lane multiplies, by steps.
struct Copy {
    memory: Memory,
    /// Elements from row to row.
    stride: i64,
}

/// A piece of the depth of a tile.
struct Part<'p> {
    /// The tile's coordinates.
    places: &'p [Vec<Vec<Expr>>],
    waiting: &'p Waiting,
    copy: Option<&'p Copy>,
    tile: &'p Expr,
    piece: &'p Expr,
}

/// Sums of one group that wait in memory.
struct Waiting {
    /// A lane's part of each sum, if the depth has several pieces.
    parts: Option<Memory>,
    /// The sums, row by row.
    whole: Memory,
}

/// The panel for a contraction; none where another schedule is better: packed weights, few rows, sums that end in a
/// state (of whose places a lane cannot be shown to be the only writer).
pub(super) fn choose(lower: &Lower<'_>, contraction: &Contraction) -> Option<Panel> {
    let caps = lower.caps;
    let plain =
        |sum: &Sum| sum.blocks.is_none() && !packed(lower, sum) && sum.depth == contraction.sums[0].depth;
    let usable = !caps.threads
        && contraction.sums.iter().all(plain)
        && !contract::writes_state(lower)
        && !reads_interleaved(lower, &contraction.sums[0]);
    if !usable {
        return None;
    }
    let left = contract::extents(&lower.region.space, &contraction.left_axes);
    let count = left.iter().fold(Expr::int(1), |product, n| product * n.clone());
    let few = caps.accumulators < SUMS;
    let columns = if few { COLUMNS + 1 } else { COLUMNS };
    let rows = ROWS.min(i64::from(caps.accumulators) / columns);
    let rows = (2..=rows).rev().find(|rows| rows.count_ones() == 1 && count.divisor() % rows == 0)?;
    let lanes = i64::from(caps.lanes);
    let width = contract::width(lower, contraction);
    let siblings = contraction.sums.len() as i64;
    // Whole tiles, and whole vectors of sums.
    let unit = if lanes % columns == 0 { lanes } else { lanes * columns };
    let panel = (PANEL / siblings / unit * unit).max(unit);
    if rows < ROWS / 2 || lanes < columns || width < panel {
        return None;
    }
    let Chunk { word, words } = chunk(lower, &contraction.sums[0]);
    let step = word * words * lanes;
    let steps = contraction.sums[0].depth / step;
    let piece = PIECE_BYTES[usize::from(few)];
    let most = (piece / (rows * step * DType::F32.size() as i64)).max(1);
    let pieces = (1..=steps).find(|pieces| steps % pieces == 0 && steps / pieces <= most)?;
    let bytes = siblings * rows * panel * (lanes + 1) * DType::F32.size() as i64;
    if bytes + piece > i64::from(caps.shared_bytes) {
        return None;
    }
    let tiles = BLOCK_BYTES / (rows * contraction.sums[0].depth * DType::F32.size() as i64);
    // A power of two, so that chunks of usual lengths are whole blocks.
    let block = 1 << tiles.max(2).ilog2();
    let paired = pairs::fit(lower, &contraction.sums[0]);
    Some(Panel { rows, columns, block, tiles: panel / columns, pieces, steps: steps / pieces, step, paired })
}

pub(super) fn schedule(mut lower: Lower<'_>, contraction: &Contraction, panel: &Panel) -> Scheduled {
    let space = lower.region.space.clone();
    let left = contract::extents(&space, &contraction.left_axes);
    let right = contract::extents(&space, &contraction.right_axes);
    let count = left.iter().fold(Expr::int(1), |product, n| product * n.clone());
    let part = lower.part.clone().unwrap_or(0..contract::width(&lower, contraction));
    let lanes = i64::from(lower.caps.lanes);
    let columns = panel.tiles * panel.columns;
    let groups = (part.end - part.start + columns - 1) / columns;
    let block = panel.rows * panel.block;
    let blocks = (count.clone() + (block - 1)).div_floor(block);
    lower.grid(lanes as u32, [Expr::int(panel.block), Expr::int(groups), blocks]);
    let tile = lower.b.grid(2) * panel.block + lower.b.grid(0);
    let tiles = count.div_floor(panel.rows);
    // What the condition below says already, in the words in which accesses are proven.
    let row = tile.minimum(&(tiles.clone() - 1)) * panel.rows;
    let column = Expr::int(part.start) + lower.b.grid(1) * columns;
    let place = |row: &Expr, column: &Expr| {
        let mut at = vec![Expr::int(0); space.len()];
        spread(&mut at, &contraction.left_axes, &left, row);
        spread(&mut at, &contraction.right_axes, &right, column);
        at
    };
    let last = Expr::int(part.end - 1);
    // Columns beyond the last one read the last one's operands.
    let places = |tile: &Expr| -> Vec<Vec<Vec<Expr>>> {
        let at = |c: i64| (column.clone() + tile.clone() * panel.columns + c).minimum(&last);
        (0..panel.rows)
            .map(|r| (0..panel.columns).map(|c| place(&(row.clone() + r), &at(c))).collect())
            .collect()
    };
    let waiting: Vec<Waiting> = contraction.sums.iter().map(|_| panel.waiting(&mut lower)).collect();
    let first = &contraction.sums[0];
    let copy = panel.copies(first).then(|| panel.copy(&mut lower));
    lower.b.open_when(&tile.less_than(&tiles));
    let each = |lower: &mut Lower<'_>, piece: Expr| {
        if let Some(copy) = &copy {
            panel.fill(lower, copy, first, &places(&Expr::int(0)), &piece);
        }
        for (sum, waiting) in contraction.sums.iter().zip(&waiting) {
            lower.repeat(&Expr::int(panel.tiles), |lower, tile| {
                let (places, copy) = (&places(&tile), copy.as_ref());
                panel.accumulate(lower, sum, &Part { places, waiting, copy, tile: &tile, piece: &piece });
            });
        }
    };
    let last = panel.pieces - 1;
    if last > 0 {
        lower.repeat(&Expr::int(last), each);
    }
    each(&mut lower, Expr::int(last));
    lower.b.barrier();
    lower.repeat(&Expr::int(panel.rows), |lower, r| {
        lower.repeat(&Expr::int(columns / lanes), |lower, strip| {
            let c = strip * lanes + lower.b.lane();
            let at = place(&(row.clone() + r.clone()), &(column.clone() + c.clone()));
            let inside = (column.clone() + c.clone()).less_than(&Expr::int(part.end));
            lower.conditional(&inside, |lower| {
                for (sum, waiting) in contraction.sums.iter().zip(&waiting) {
                    let value = lower.b.load(waiting.whole, &(r.clone() * columns + c.clone()));
                    lower.bind(sum.root, value);
                }
                lower.store_roots(space.len(), &at, false);
            });
        });
    });
    lower.b.close();
    lower.finish()
}

impl Panel {
    fn waiting(&self, lower: &mut Lower<'_>) -> Waiting {
        let sums = (self.rows * self.tiles * self.columns) as u32;
        let lanes = lower.caps.lanes;
        let parts = (self.pieces > 1).then(|| lower.b.shared(DType::F32, sums * lanes));
        Waiting { parts, whole: lower.b.shared(DType::F32, sums) }
    }

    /// The sums of a tile, each with its place among the group's.
    fn tile(&self, tile: &Expr) -> impl Iterator<Item = (usize, usize, Expr)> + use<> {
        let (rows, columns) = (self.rows, self.tiles * self.columns);
        let (tile, side) = (tile.clone() * self.columns, self.columns);
        (0..rows).flat_map(move |r| {
            let first = tile.clone() + r * columns;
            (0..side).map(move |c| (r as usize, c as usize, first.clone() + c))
        })
    }

    /// Whether rows are copied: where they would meet in the cache, or do not stay there anyhow.
    fn copies(&self, sum: &Sum) -> bool {
        let size = if self.paired { DType::BF16 } else { DType::F32 }.size() as i64;
        self.pieces > 1 || sum.depth * size % ALIAS_BYTES == 0
    }

    fn copy(&self, lower: &mut Lower<'_>) -> Copy {
        let lanes = i64::from(lower.caps.lanes);
        let stride = self.steps * lanes;
        let dtype = if self.paired { DType::U32 } else { DType::F32 };
        Copy { memory: lower.b.shared(dtype, (self.rows * stride) as u32), stride }
    }

    /// The depth at which a lane's part of a step of a piece begins.
    fn depth(&self, lower: &Lower<'_>, piece: &Expr, step: &Expr) -> Expr {
        let step = piece.clone() * self.steps + step.clone();
        (step * lower.b.lanes() + lower.b.lane()) * (self.step / lower.b.lanes())
    }

    /// Copies a piece of the rows; each lane what it will multiply itself.
    fn fill(&self, lower: &mut Lower<'_>, copy: &Copy, sum: &Sum, places: &[Vec<Vec<Expr>>], piece: &Expr) {
        lower.repeat(&Expr::int(self.steps), |lower, step| {
            let k = self.depth(lower, piece, &step);
            let at = step * lower.b.lanes() + lower.b.lane();
            for (row, places) in (0..).zip(places) {
                let from = [places[0].as_slice(), std::slice::from_ref(&k)].concat();
                let value = factor(lower, self.paired, sum.left, &from);
                lower.store(copy.memory, &(at.clone() + row * copy.stride), value, false);
            }
        });
    }

    /// Adds the products of one step to a tile's sums, with rows from their copy.
    fn multiply(
        &self,
        lower: &mut Lower<'_>,
        sum: &Sum,
        cells: &[Vec<CellId>],
        (part, copy, step): (&Part<'_>, &Copy, &Expr),
    ) {
        let k = self.depth(lower, part.piece, step);
        let right: Vec<ValueId> = part.places[0]
            .iter()
            .map(|at| {
                factor(lower, self.paired, sum.right, &[at.as_slice(), std::slice::from_ref(&k)].concat())
            })
            .collect();
        let product = product(sum, self.paired);
        let at = step.clone() * lower.b.lanes() + lower.b.lane();
        for (row, cells) in (0..).zip(cells) {
            let left = lower.b.load(copy.memory, &(at.clone() + row * copy.stride));
            for (right, cell) in right.iter().zip(cells) {
                let before = lower.b.get(*cell);
                let after = lower.b.scalar(product, &[*right, left, before]);
                lower.b.set(*cell, after);
            }
        }
    }

    /// Adds a piece of the depth to the sums of a tile.
    fn accumulate(&self, lower: &mut Lower<'_>, sum: &Sum, piece_of: &Part<'_>) {
        let Part { places, waiting, copy, tile, piece } = *piece_of;
        let zero = lower.b.float(0.0);
        let mut cell = || lower.b.cell(zero);
        let cells: Vec<Vec<CellId>> =
            (0..self.rows).map(|_| (0..self.columns).map(|_| cell()).collect()).collect();
        let lane = lower.b.lane();
        let part = |lower: &Lower<'_>, at: &Expr| at.clone() * lower.b.lanes() + lane.clone();
        if let Some(parts) = waiting.parts {
            lower.conditional(&Expr::int(0).less_than(piece), |lower| {
                for (r, c, at) in self.tile(tile) {
                    let before = lower.b.load(parts, &part(lower, &at));
                    lower.b.set(cells[r][c], before);
                }
            });
        }
        let lanes = lower.b.lanes();
        let unroll = (1..=UNROLL).rev().find(|n| self.steps % n == 0).unwrap_or(1);
        lower.repeat(&Expr::int(self.steps / unroll), |lower, turn| {
            for step in 0..unroll {
                let step = turn.clone() * unroll + step;
                if let Some(copy) = copy {
                    self.multiply(lower, sum, &cells, (piece_of, copy, &step));
                    continue;
                }
                let at = (piece.clone() * self.steps + step) * lanes + lane.clone();
                across(lower, sum, places, &cells, at);
            }
        });
        let rest = sum.depth % self.step;
        let is_last = piece.as_int() == Some(self.pieces - 1);
        if is_last && rest > 0 {
            let chunk = self.step / lanes;
            let at = Expr::int(sum.depth / self.step * lanes) + lane.clone();
            let inside = at.less_than(&Expr::int(sum.depth / chunk));
            lower.conditional(&inside, |lower| across(lower, sum, places, &cells, at));
        }
        let values: Vec<ValueId> = cells.iter().flatten().map(|cell| lower.b.get(*cell)).collect();
        match waiting.parts {
            Some(parts) if !is_last => {
                for (value, (_, _, at)) in values.into_iter().zip(self.tile(tile)) {
                    let at = part(lower, &at);
                    lower.store(parts, &at, value, false);
                }
            }
            _ => self.join(lower, waiting, tile, &values),
        }
    }

    /// Joins the lanes' parts of a tile's sums: those of all sums first, so that emitters can join them side by side.
    fn join(&self, lower: &mut Lower<'_>, waiting: &Waiting, tile: &Expr, parts: &[ValueId]) {
        let sums: Vec<ValueId> = parts.iter().map(|part| lower.b.lane_reduce(Monoid::Add, *part)).collect();
        for (sum, (_, _, at)) in sums.into_iter().zip(self.tile(tile)) {
            lower.store(waiting.whole, &at, sum, true);
        }
    }
}
