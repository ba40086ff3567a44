//! Products of warp groups: four warps whose units read both operands from shared memory, behind their backs.
//!
//! Everything here is our reading of NVIDIA's "PTX ISA", chapter "Asynchronous Warpgroup Level Matrix
//! Multiply-Accumulate Instructions"; no hardware was compared. A warp runs its own quarter of a product:
//! rows `16 w` to `16 w + 15` of 64, `w` being its place among the four.
//!
//! *Where operands lie* ("Matrix Descriptor Format", "Shared Memory Matrix Layout", "Canonical Layouts"; CUTLASS
//! says the same of `GmmaDescriptor` and `Major::K`, `INTERLEAVE`). A descriptor's bits 0 to 13 are the address,
//! 16 to 29 `LBO`, 32 to 45 `SBO`, each divided by 16; bits 49 to 51 a base offset, which is 0 without swizzling;
//! bits 62 and 63 the swizzling, of which only "none" is known here. With `T` the numbers in 16 bytes, number `k`
//! of row `r` is at `address + r div 8 * SBO + r mod 8 * 16 + k div T * LBO + k mod T * size`.
//!
//! *Where sums are* ("Matrix Fragments for wgmma.mma_async.m64nNk16"): of lane `l` of warp `w`, register `4 j + 2
//! h + c` is that of row `16 w + 8 h + l div 4` and column `8 j + l mod 4 * 2 + c`.
//!
//! *When* ("Async Proxy", `wgmma.fence`, `wgmma.commit_group`, `wgmma.wait_group`). The sums are taken from a
//! warp when it begins a product and given back when it waits for the group of it.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::error::{Broken, Reason};
use crate::instruction::{Op, Product, Register};
use crate::run::block::Worker;
use crate::run::matrix::whole;
use crate::run::warp::{LANES, Lanes, Warp, pending};

/// Warps of a group.
const WARPS: u32 = 4;
/// Rows of a warp's part.
const ROWS: usize = 16;
/// Numbers along the depth, and of them in 16 bytes.
const DEPTH: usize = 16;
const PIECE: usize = 8;
/// Products that a warp may have under way: the language names no limit, but a text may not take all memory.
const UNDER_WAY_MAX: usize = 512;

/// Products that a warp has begun.
#[derive(Default)]
pub(crate) struct Products {
    /// In no group yet, and in groups, the oldest first.
    open: Vec<Running>,
    groups: VecDeque<Vec<Running>>,
    /// Sums under way: what they will be, and how many products of them are not waited for.
    sums: HashMap<Register, (Lanes, u32)>,
    /// Whether there was a fence at all.
    fenced: bool,
    /// What the warp has done, to compare with the others of its group.
    trace: DefaultHasher,
}

/// A product under way.
struct Running {
    sums: Vec<Register>,
    /// Where the 16 bytes lie that it reads.
    reads: Vec<usize>,
}

impl Products {
    pub(crate) fn is_under_way(&self, register: Register) -> bool {
        self.sums.contains_key(&register)
    }

    fn bounded(&self) -> Result<(), Broken> {
        if self.open.len().max(self.groups.len()) <= UNDER_WAY_MAX {
            return Ok(());
        }
        let why = format!("more than {UNDER_WAY_MAX} products, or groups of them, are under way");
        Err(Broken::new(Reason::PendingProduct, None, why))
    }
}

/// An operand's place, taken from its descriptor.
#[derive(Clone, Copy, Hash)]
struct Descriptor {
    start: u64,
    along: u64,
    eight_rows: u64,
}

impl Descriptor {
    fn of(word: u64) -> Result<Descriptor, Broken> {
        let field = |low: u32| (word >> low & 0x3FFF) << 4;
        let fault = |why: &str| Err(Broken::new(Reason::Descriptor, None, format!("{word:#018x} {why}")));
        match (word >> 62, word >> 49 & 7) {
            (0, 0) => {}
            (0, _) => return fault("has a base offset, which means nothing without swizzling"),
            _ => return fault("is of a swizzled operand, which is not known here"),
        }
        let known = 0x3FFF << 32 | 0x3FFF << 16 | 0x3FFF;
        if word & !known != 0 {
            return fault("has bits that mean nothing");
        }
        Ok(Descriptor { start: field(0), along: field(16), eight_rows: field(32) })
    }

    /// Where 16 bytes of a row lie.
    fn piece(&self, row: usize, piece: usize) -> u64 {
        let (row, piece) = (row as u64, piece as u64);
        self.start + row / 8 * self.eight_rows + row % 8 * 16 + piece * self.along
    }
}

/// The one value of a register in a warp.
fn same(warp: &Warp, register: Register) -> Result<u64, Broken> {
    let values = warp.get(register, u32::MAX)?;
    match values.iter().position(|value| *value != values[0]) {
        None => Ok(values[0]),
        Some(lane) => {
            let why = "the lanes of a warp have different descriptors".to_owned();
            Err(Broken::new(Reason::Convergence, lane as u32, why))
        }
    }
}

impl Worker<'_> {
    pub(crate) fn group_step(&mut self, warp: &mut Warp, active: u32, op: &Op) -> Result<(), Broken> {
        if let Op::ProxyFence = op {
            for lane in crate::run::warp::lanes(active) {
                self.shared.fence(Self::toucher(warp, lane));
            }
            return Ok(());
        }
        whole(active)?;
        std::mem::discriminant(op).hash(&mut warp.products.trace);
        match op {
            Op::ProductFence => {
                warp.products.fenced = true;
                warp.fence();
            }
            Op::ProductStart { kind, columns, sums, a, b, adds } => {
                let adds = warp.truth(*adds, active)? == active;
                let [a, b] = [same(warp, *a)?, same(warp, *b)?];
                (sums, a, b).hash(&mut warp.products.trace);
                let operands = [Descriptor::of(a)?, Descriptor::of(b)?];
                self.start_product(warp, *kind, sums, operands, (*columns as usize, adds))?;
            }
            Op::ProductCommit => {
                let group = std::mem::take(&mut warp.products.open);
                warp.products.groups.push_back(group);
                warp.products.bounded()?;
            }
            Op::ProductWait { open } => {
                open.hash(&mut warp.products.trace);
                while warp.products.groups.len() > *open as usize {
                    for running in warp.products.groups.pop_front().unwrap_or_default() {
                        self.end_product(warp, running)?;
                    }
                }
            }
            other => unreachable!("{other:?} is no matter of warp groups"),
        }
        Ok(())
    }

    /// Reads a warp's rows of an operand.
    fn operand(
        &mut self,
        by: &Warp,
        kind: Product,
        (descriptor, rows): (Descriptor, std::ops::Range<usize>),
        reads: &mut Vec<usize>,
    ) -> Result<Vec<[f32; DEPTH]>, Broken> {
        let by = Self::toucher(by, 0);
        rows.map(|row| {
            let mut numbers = [0.0; DEPTH];
            for (piece, numbers) in numbers.chunks_exact_mut(PIECE).enumerate() {
                let start = self.shared.begin_product(descriptor.piece(row, piece), by)?;
                reads.push(start);
                for (at, number) in numbers.iter_mut().enumerate() {
                    *number = kind.element(0, self.shared.load(start + at * 2, 2), 0);
                }
            }
            Ok(numbers)
        })
        .collect()
    }

    fn start_product(
        &mut self,
        warp: &mut Warp,
        kind: Product,
        sums: &[Register],
        [a, b]: [Descriptor; 2],
        (columns, adds): (usize, bool),
    ) -> Result<(), Broken> {
        let first = warp.number as usize % WARPS as usize * ROWS;
        let mut reads = Vec::new();
        let left = self.operand(warp, kind, (a, first..first + ROWS), &mut reads)?;
        let right = self.operand(warp, kind, (b, 0..columns), &mut reads)?;
        for (number, register) in sums.iter().enumerate() {
            let before = take(warp, *register, adds)?;
            let mut after = [0; LANES];
            for (lane, after) in after.iter_mut().enumerate() {
                let row = &left[number / 2 % 2 * 8 + lane / 4];
                let column = &right[number / 4 * 8 + lane % 4 * 2 + number % 2];
                let before = if adds { f32::from_bits(before[lane] as u32) } else { 0.0 };
                let sum = row.iter().zip(column).fold(before, |sum, (x, y)| sum + x * y);
                *after = u64::from(sum.to_bits());
            }
            let known = warp.products.sums.entry(*register).or_insert((after, 0));
            *known = (after, known.1 + 1);
        }
        warp.products.open.push(Running { sums: sums.to_vec(), reads });
        warp.products.bounded()
    }

    fn end_product(&mut self, warp: &mut Warp, running: Running) -> Result<(), Broken> {
        let by = Self::toucher(warp, 0);
        for start in running.reads {
            self.shared.end_product(start, by)?;
        }
        for register in running.sums {
            if warp.is_written(register) {
                return Err(pending(0));
            }
            let Some((values, count)) = warp.products.sums.get_mut(&register) else { continue };
            *count -= 1;
            if *count == 0 {
                let values = *values;
                warp.products.sums.remove(&register);
                warp.receive(register, values);
            }
        }
        Ok(())
    }
}

/// What a product adds to: the sums of one that is under way, or those of the warp, which a fence must have put
/// in order.
fn take(warp: &mut Warp, register: Register, adds: bool) -> Result<Lanes, Broken> {
    if let Some((values, _)) = warp.products.sums.get(&register) {
        return if warp.is_written(register) { Err(pending(0)) } else { Ok(*values) };
    }
    if !warp.products.fenced || warp.is_fresh(register) {
        let why = "a product's registers were written with no wgmma.fence since".to_owned();
        return Err(Broken::new(Reason::ProductFence, None, why));
    }
    if adds {
        warp.get(register, u32::MAX)?;
    }
    Ok(warp.give(register))
}

/// Fails unless the warps of each group have multiplied the same, all four of them.
pub(crate) fn agree(warps: &[Warp]) -> Result<(), (u32, u32, Broken)> {
    for group in warps.chunks(WARPS as usize) {
        let traces: Vec<u64> = group.iter().map(|warp| warp.products.trace.finish()).collect();
        let idle = DefaultHasher::new().finish();
        let other = traces.iter().position(|trace| *trace != traces[0]);
        let missing = group.len() < WARPS as usize && traces[0] != idle;
        if let Some(at) = other.or(missing.then_some(0)) {
            let why = "the warps of a group do not multiply the same".to_owned();
            return Err((group[at].number, 0, Broken::new(Reason::Convergence, None, why)));
        }
    }
    Ok(())
}
