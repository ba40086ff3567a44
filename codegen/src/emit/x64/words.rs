//! `Dot4` on processors without an instruction for it: products of bytes by those for words of 16 bits.
//!
//! Where the unsigned bytes are known to be so small that two products fit a signed word, `vpmaddubsw` adds them in
//! pairs; and where several such sums follow each other, as in a block of weights of 4 bits, words are added as long as
//! they cannot overflow, and only the last sum goes to words of 32 bits. Elsewhere bytes are made words first, the even
//! and the odd ones, once for all products that share them; no sum of two such products is cut off in 32 bits.
//!
//! `Dot4Signed` is `vpmaddubsw`, too: of one operand's magnitudes and the other's bytes with the first one's signs.

use std::collections::HashMap;

use jtllm_ir::ScalarOp;

use super::isa::Op;
use super::machine::{Operand, Reg};
use super::select::Selector;
use crate::kernel::{CellId, Kernel, Stmt, Value, ValueId};

/// The largest magnitude of a signed byte.
const BYTE: u32 = 128;
/// How far back values are looked at: values may share operands, and each is looked at once for each use.
const LEVELS: u32 = 8;
/// The largest signed word.
const WORD: u32 = 32767;

/// What one product of a run does. Runs are of products that follow each other in one cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// The content of the cell that the first product of the run adds to.
    run: ValueId,
    /// Whether it is the last one.
    ends: bool,
    /// Whether there was nothing in the cell before its first run, so that its own register can hold the words.
    alone: bool,
    /// The run before this one in a cell that is alone: its sum waits elsewhere.
    before: Option<ValueId>,
    /// Whether this run's sum waits so, for another run of the cell.
    waits: bool,
}

/// Runs of products, by the content of the cell that each product adds to.
#[derive(Default)]
pub(super) struct Runs(HashMap<ValueId, Link>);

/// A run that may go on.
#[derive(Clone, Copy)]
struct Open {
    last: ValueId,
    /// What its words reach at most.
    most: u32,
}

/// What is known of a cell at a statement.
#[derive(Clone, Copy, Default)]
struct Known {
    open: Option<Open>,
    is_zero: bool,
    /// Its content, if somebody took it.
    content: Option<ValueId>,
    /// The product on its way to the cell, which adds to that content.
    coming: Option<ValueId>,
}

impl Runs {
    /// The runs of a kernel; `is_spent` says of a value whether it is used once, in its own block.
    pub(super) fn of(kernel: &Kernel, is_spent: &impl Fn(ValueId) -> bool) -> Runs {
        let mut runs = Runs(HashMap::new());
        runs.block(kernel, &kernel.body, is_spent);
        runs
    }

    fn block(&mut self, kernel: &Kernel, body: &[Stmt], is_spent: &impl Fn(ValueId) -> bool) {
        let mut cells: HashMap<CellId, Known> = HashMap::new();
        for stmt in body {
            match stmt {
                Stmt::Let(value) => match &kernel.record(*value).value {
                    Value::Cell(cell) => {
                        let known = cells.entry(*cell).or_default();
                        // Who takes it beside a product wants a whole sum.
                        if known.content.is_some() || !is_spent(*value) {
                            *known = Known::default();
                        }
                        known.content = Some(*value);
                    }
                    Value::Scalar(ScalarOp::Dot4, xs) => {
                        if let Value::Cell(cell) = kernel.record(xs[2]).value
                            && let Some(known) = cells.get_mut(&cell)
                            && known.content == Some(xs[2])
                            && is_spent(xs[2])
                            && is_spent(*value)
                        {
                            known.coming = Some(*value);
                        }
                    }
                    _ => {}
                },
                Stmt::Set(cell, value) => {
                    let known = cells.remove(cell).unwrap_or_default();
                    cells.insert(*cell, self.set(kernel, known, *value));
                }
                Stmt::Loop { body, .. } | Stmt::If { body, .. } => {
                    cells.clear();
                    self.block(kernel, body, is_spent);
                }
                _ => {}
            }
        }
    }

    /// What is known of a cell when it was set.
    fn set(&mut self, kernel: &Kernel, known: Known, value: ValueId) -> Known {
        if let Value::Const(constant) = &kernel.record(value).value {
            return Known { is_zero: constant.int() == 0, ..Known::default() };
        }
        let Some(content) = known.content.filter(|_| known.coming == Some(value)) else {
            return Known::default();
        };
        let Value::Scalar(_, xs) = &kernel.record(value).value else { return Known::default() };
        let most = 2 * BYTE * largest_byte(possible(kernel, xs[0], LEVELS));
        if most > WORD {
            return Known::default();
        }
        let open = match known.open.filter(|open| open.most + most <= WORD) {
            Some(open) => {
                let before = self.0.get_mut(&open.last).expect("a run has its last product");
                before.ends = false;
                let link = *before;
                self.0.insert(content, Link { ends: true, ..link });
                Open { last: content, most: open.most + most }
            }
            None => {
                let last = known.open.and_then(|open| self.0.get_mut(&open.last)).filter(|last| last.alone);
                let before = last.map(|last| {
                    last.waits = true;
                    last.run
                });
                let alone = known.is_zero || before.is_some();
                let link = Link { run: content, ends: true, alone, before, waits: false };
                self.0.insert(content, link);
                Open { last: content, most }
            }
        };
        Known { open: Some(open), ..Known::default() }
    }
}

/// The bits of a word that may be 1, as far as so many operations before it tell.
fn possible(kernel: &Kernel, value: ValueId, levels: u32) -> u32 {
    let Some(levels) = levels.checked_sub(1) else { return u32::MAX };
    let possible = |value| possible(kernel, value, levels);
    let constant = |value: ValueId| match &kernel.record(value).value {
        Value::Const(constant) => Some(constant.int() as u32),
        _ => None,
    };
    match &kernel.record(value).value {
        Value::Const(constant) => constant.int() as u32,
        Value::Scalar(ScalarOp::And, xs) => possible(xs[0]) & possible(xs[1]),
        Value::Scalar(ScalarOp::Or | ScalarOp::Xor, xs) => possible(xs[0]) | possible(xs[1]),
        Value::Scalar(op @ (ScalarOp::Shl | ScalarOp::Shr), xs)
            if kernel.record(value).dtype == jtllm_ir::DType::U32 =>
        {
            match (constant(xs[1]).filter(|count| *count < 32), op) {
                (Some(count), ScalarOp::Shl) => possible(xs[0]) << count,
                (Some(count), _) => possible(xs[0]) >> count,
                (None, _) => u32::MAX,
            }
        }
        _ => u32::MAX,
    }
}

fn largest_byte(word: u32) -> u32 {
    word.to_le_bytes().into_iter().max().unwrap_or(0).into()
}

impl Selector<'_> {
    /// `Dot4` without an instruction for it, into `target` if there is one.
    pub(super) fn dot_of_words(&mut self, xs: &[ValueId], target: Option<Reg>) -> Reg {
        if let (None, Some(to), Some(link)) = (self.mask, target, self.runs.0.get(&xs[2]).copied()) {
            self.dot_of_run(xs, link, to);
            return to;
        }
        let sum = self.lanes_of(xs[2]);
        let products = match 2 * BYTE * largest_byte(possible(self.kernel, xs[0], LEVELS)) <= WORD {
            true => {
                let words = self.pairs_of_bytes(xs, None);
                self.sums_of_words(words)
            }
            false => {
                let [x, y] = [self.even_and_odd(xs[0], false), self.even_and_odd(xs[1], true)];
                let [even, odd] = [0, 1].map(|at| self.binary(Op::MulWords, x[at], y[at]));
                self.binary(Op::AddInt, even, odd)
            }
        };
        self.add_to(target, sum, products)
    }

    /// `Dot4Signed`: the magnitudes of the first operand's bytes, once for all products that share them, times the bytes of
    /// the second with the signs of the first. Two products fit a signed word: 128 times 127 is less than half of one.
    pub(super) fn dot_of_signed(&mut self, xs: &[ValueId], target: Option<Reg>) -> Reg {
        let sum = self.lanes_of(xs[2]);
        let [x, y] = [xs[0], xs[1]].map(|word| self.lanes_of(word));
        let depth = self.depth();
        let magnitudes = match self.scopes[depth].magnitudes.get(&xs[0]) {
            Some(known) => *known,
            None => {
                let magnitudes = self.new_vector();
                let operand = self.whole(x);
                self.vector_to(magnitudes, Op::AbsBytes, &[operand]);
                self.scopes[depth].magnitudes.insert(xs[0], magnitudes);
                magnitudes
            }
        };
        let turned = self.binary(Op::SignBytes, y, x);
        let words = self.binary(Op::MulBytes, magnitudes, turned);
        let products = self.sums_of_words(words);
        self.add_to(target, sum, products)
    }

    /// A product of a run: words are added until the last one.
    fn dot_of_run(&mut self, xs: &[ValueId], link: Link, cell: Reg) {
        let words = match (xs[2] == link.run, link.alone) {
            (true, true) => self.pairs_of_bytes(xs, Some(cell)),
            (true, false) => self.pairs_of_bytes(xs, None),
            (false, alone) => {
                let so_far = if alone { cell } else { self.words[&link.run] };
                let more = self.pairs_of_bytes(xs, None);
                let operands = [self.whole(so_far), self.whole(more)];
                self.vector_to(so_far, Op::AddWords, &operands);
                so_far
            }
        };
        match (link.ends, link.alone) {
            (true, true) => self.end_alone(words, link, cell),
            (true, false) => {
                let products = self.sums_of_words(words);
                self.words.remove(&link.run);
                self.add_to(Some(cell), cell, products);
            }
            (false, true) => {}
            (false, false) => {
                self.words.insert(link.run, words);
            }
        }
    }

    /// Ends a run whose words are in the register of its cell. While several runs of a cell follow each other, that
    /// register always holds words, and what has been summed waits elsewhere: where there are few registers, in memory.
    fn end_alone(&mut self, words: Reg, link: Link, cell: Reg) {
        let before = link.before.and_then(|run| self.words.remove(&run));
        let to = if link.waits { self.new_vector() } else { cell };
        let ones = self.word(0x0001_0001);
        let operands = [self.whole(words), self.whole(ones)];
        self.vector_to(to, Op::MulWords, &operands);
        let sum = before.map_or(to, |before| self.add_to((!link.waits).then_some(cell), before, to));
        if link.waits {
            self.words.insert(link.run, sum);
        }
    }

    /// Products of bytes, added in pairs to signed words, which hold them.
    fn pairs_of_bytes(&mut self, xs: &[ValueId], target: Option<Reg>) -> Reg {
        let unsigned = self.lanes_of(xs[0]);
        let signed = match self.operand(xs[1]) {
            // This instruction spreads nothing on its way from memory.
            Operand::Memory(address) if address.broadcast => {
                let spread = self.lanes_of(xs[1]);
                self.whole(spread)
            }
            operand => operand,
        };
        let operands = [self.whole(unsigned), signed];
        let to = target.unwrap_or_else(|| self.new_vector());
        self.vector_to(to, Op::MulBytes, &operands);
        to
    }

    /// Each two words added.
    fn sums_of_words(&mut self, words: Reg) -> Reg {
        let ones = self.word(0x0001_0001);
        self.binary(Op::MulWords, words, ones)
    }

    fn add_to(&mut self, target: Option<Reg>, sum: Reg, more: Reg) -> Reg {
        let to = target.unwrap_or_else(|| self.new_vector());
        let operands: [Operand; 2] = [self.whole(sum), self.whole(more)];
        self.vector_to(to, Op::AddInt, &operands);
        to
    }

    /// The bytes of a word as signed words: the even ones, the odd ones.
    fn even_and_odd(&mut self, word: ValueId, signed: bool) -> [Reg; 2] {
        let depth = self.depth();
        if let Some(known) = self.scopes[depth].bytes.get(&(word, signed)) {
            return *known;
        }
        let register = self.lanes_of(word);
        let bytes = if signed {
            let even = self.with(Op::ShlWord, register, 8);
            [self.with(Op::SarWord, even, 8), self.with(Op::SarWord, register, 8)]
        } else {
            let low = self.word(0x00ff_00ff);
            [self.binary(Op::And, register, low), self.with(Op::ShrWord, register, 8)]
        };
        self.scopes[depth].bytes.insert((word, signed), bytes);
        bytes
    }
}
