//! One operand's tile on its way into shared memory, 16 bytes a lane at a time.

use jtllm_ir::{Expr, Node, Op, Scalar, ScalarOp};

use super::{Plan, Sides};
use crate::access::visit_reads;
use crate::kernel::{Memory, ValueId, chunk};
use crate::region::Sum;
use crate::rewrite::is_fixed;
use crate::schedule::lower::Lower;

/// An operand of a product.
pub(super) struct Operand {
    node: Node,
    /// 0: left, 1: right.
    side: usize,
    /// All numbers along the depth.
    pub(super) depth: i64,
    /// The numbers of a block, if the sum has blocks, and what each of a block's is multiplied by: here, so that
    /// sums need not be taken apart.
    block: Option<i64>,
    scale: Option<Node>,
    /// [`Plan::stages`] buffers.
    pub(super) memory: Memory,
    rows: i64,
    /// Whether asynchronous copies bring it.
    pub(super) staged: bool,
}

/// What one lane brings at a time: numbers side by side along the depth.
struct Chunk {
    /// The row of the tile.
    row: Expr,
    /// The first number, of a step's.
    first: Expr,
}

impl Operand {
    pub(super) fn left(lower: &mut Lower<'_>, sum: &Sum, sides: &Sides, plan: &Plan) -> Operand {
        Operand::new(lower, sum, 0, sides, plan)
    }

    pub(super) fn right(lower: &mut Lower<'_>, sum: &Sum, sides: &Sides, plan: &Plan) -> Operand {
        Operand::new(lower, sum, 1, sides, plan)
    }

    fn new(lower: &mut Lower<'_>, sum: &Sum, side: usize, sides: &Sides, plan: &Plan) -> Operand {
        let rows = plan.group[side];
        let memory = lower.b.shared(plan.dtype, (plan.stages * plan.buffer_len(rows)) as u32);
        let node = if side == 0 { sum.left } else { sum.right };
        let blocks = sum.blocks.as_ref();
        let operand = Operand {
            node,
            side,
            depth: sum.depth * blocks.map_or(1, |blocks| blocks.count),
            block: blocks.map(|_| sum.depth),
            scale: blocks.filter(|_| side == 1).and_then(|blocks| blocks.scale(lower.graph)),
            memory,
            rows,
            staged: false,
        };
        let staged =
            lower.caps.stage && operand.scale.is_none() && operand.lies_in_chunks(lower, sides, plan);
        Operand { staged, ..operand }
    }

    /// Whether a parameter has the numbers as they are wanted: chunks at multiples of their size.
    fn lies_in_chunks(&self, lower: &Lower<'_>, sides: &Sides, plan: &Plan) -> bool {
        let numbers = chunk(plan.dtype);
        // A copy is asked: where coordinates are read from memory, asking loads them, here of numbers beyond the depth.
        let lower = &mut lower.clone();
        let chunks = self.chunks(lower, plan);
        let offset = |lower: &mut Lower<'_>, u: i64| {
            let at = self.coordinates(lower, sides, plan, &chunks[0].row, chunks[0].first.clone() + u);
            lower.source(self.node, &at, plan.dtype).map(|source| source.offset)
        };
        let (Some(first), Some(last)) = (offset(lower, 0), offset(lower, numbers - 1)) else { return false };
        first.divisor() % numbers == 0 && last - first == Expr::int(numbers - 1) && self.depth % numbers == 0
    }

    /// Where a row of one of the buffers begins, whose numbers lie side by side.
    pub(super) fn row(&self, plan: &Plan, buffer: &Expr, row: &Expr) -> Expr {
        (buffer.clone() * self.rows + row.clone()) * self.stride(plan)
    }

    /// Where a chunk of a row lies that begins with number `first` of a step's.
    pub(super) fn at(&self, plan: &Plan, buffer: &Expr, row: &Expr, first: &Expr) -> Expr {
        if !plan.is_panel() {
            return self.row(plan, buffer, row) + first.clone();
        }
        let numbers = chunk(plan.dtype);
        let along = first.clone().div_floor(numbers) * self.stride(plan);
        buffer.clone() * plan.buffer_len(self.rows) + along + row.clone() * numbers
    }

    /// Elements from one row to the next, or in panels from one chunk of a row to its next one.
    pub(super) fn stride(&self, plan: &Plan) -> i64 {
        plan.stride(self.rows)
    }

    /// Rows that the group's lanes bring at once.
    fn rows_at_once(&self, plan: &Plan) -> i64 {
        plan.lanes * chunk(plan.dtype) / plan.step
    }

    /// The chunks of a step that a lane brings, lanes side by side along a row first.
    fn chunks(&self, lower: &Lower<'_>, plan: &Plan) -> Vec<Chunk> {
        let numbers = chunk(plan.dtype);
        let (across, lane) = (plan.step / numbers, lower.b.lane());
        let rows = self.rows_at_once(plan);
        let pass = |pass: i64| Chunk {
            row: lane.clone().div_floor(across) + pass * rows,
            first: lane.clone().modulo(across) * numbers,
        };
        (0..(self.rows + rows - 1) / rows).map(pass).collect()
    }

    /// The coordinates of number `k` of a row of the tile; beyond the last row they are the last one's.
    fn coordinates(&self, lower: &Lower<'_>, sides: &Sides, plan: &Plan, row: &Expr, k: Expr) -> Vec<Expr> {
        let count = &sides.counts[self.side];
        let row = lower.b.grid(self.side) * plan.group[self.side] + row.clone();
        let whole = sides.is_whole(plan, self.side);
        let row = if whole { row } else { row.minimum(&(count.clone() - 1)) };
        let mut at = match self.side {
            0 => sides.place(Some(&row), None),
            _ => sides.place(None, Some(&row)),
        };
        match self.block {
            Some(block) => at.extend([k.clone().div_floor(block), k.modulo(block)]),
            None => at.push(k),
        }
        at
    }

    /// Calls `bring` for each chunk of a step that a lane brings with the row, the number, where it goes and how
    /// many there are, in as few pieces as end where the depth may end; stores zeros beyond.
    fn along<'a>(
        &self,
        lower: &mut Lower<'a>,
        plan: &Plan,
        step: &Expr,
        bring: &mut dyn FnMut(&mut Lower<'a>, &Expr, &Expr, &Expr, i64),
    ) {
        let numbers = chunk(plan.dtype);
        let piece = if self.depth % numbers == 0 { numbers } else { 1 };
        for Chunk { row, first } in self.chunks(lower, plan) {
            let within = row.less_than(&Expr::int(self.rows));
            for u in (0..numbers).step_by(piece as usize) {
                let k = step.clone() * plan.step + first.clone() + u;
                let to = self.at(plan, &step.clone().modulo(plan.stages), &row, &first) + u;
                // A piece's last number is inside if its first one is; of it the condition proves more.
                let last = k.clone() + (piece - 1);
                let (inside, beyond) = match self.depth % plan.step {
                    0 => (Expr::int(1), Expr::int(0)),
                    _ => (last.less_than(&Expr::int(self.depth)), Expr::int(self.depth - 1).less_than(&last)),
                };
                lower.conditional(&within.and(&inside), |lower| bring(lower, &row, &k, &to, piece));
                lower.conditional(&within.and(&beyond), |lower| {
                    let zero = lower.b.constant(plan.dtype, Scalar::Float(0.0));
                    (0..piece).for_each(|u| lower.b.store(self.memory, &(to.clone() + u), zero));
                });
            }
        }
    }

    /// Begins the copies of a step.
    pub(super) fn stage(&self, lower: &mut Lower<'_>, sides: &Sides, plan: &Plan, step: &Expr) {
        self.along(lower, plan, step, &mut |lower, row, k, to, _| {
            let at = self.coordinates(lower, sides, plan, row, k.clone());
            let source = lower.source(self.node, &at, plan.dtype);
            let source = source.expect("an operand is copied if it lies in memory as it is");
            let from = lower.open(&source);
            lower.b.stage(self.memory, to, from, &source.offset);
        });
    }

    /// Loads the words of a step that lanes will unpack, so that they are on their way while the step before is
    /// multiplied: the values that `fill` asks for then are there already.
    pub(super) fn touch(&self, lower: &mut Lower<'_>, sides: &Sides, plan: &Plan, step: &Expr) {
        // Loads under a condition stay there.
        let plain = self.depth % plan.step == 0 && self.rows % self.rows_at_once(plan) == 0;
        if !plain || !is_fixed(lower.graph, self.node) {
            return;
        }
        self.along(lower, plan, step, &mut |lower, row, k, _, numbers| {
            for u in 0..numbers {
                let at = self.coordinates(lower, sides, plan, row, k.clone() + u);
                let mut reads = Vec::new();
                for (node, at) in self.factors(&at) {
                    visit_reads(lower.graph, node, at, &|_| false, &mut |leaf, at| {
                        reads.push((leaf, at.to_vec()));
                    });
                }
                reads.retain(|(leaf, _)| matches!(lower.graph.op(*leaf), Op::Weight { .. }));
                for (leaf, at) in reads {
                    lower.value(leaf, &at);
                }
            }
        });
    }

    /// What a number is the product of, each with its coordinates.
    fn factors<'e>(&self, at: &'e [Expr]) -> impl Iterator<Item = (Node, &'e [Expr])> {
        let scale = self.scale.map(|scale| (scale, &at[..at.len() - 1]));
        std::iter::once((self.node, at)).chain(scale)
    }

    /// Unpacks, rounds and stores a step.
    pub(super) fn fill(&self, lower: &mut Lower<'_>, sides: &Sides, plan: &Plan, step: &Expr) {
        self.along(lower, plan, step, &mut |lower, row, k, to, numbers| {
            let number = |lower: &mut Lower<'_>, u: i64| {
                let at = self.coordinates(lower, sides, plan, row, k.clone() + u);
                let values: Vec<ValueId> =
                    self.factors(&at).map(|(node, at)| lower.value(node, at)).collect();
                let value = match values[..] {
                    [number, scale] => lower.b.scalar(ScalarOp::Mul, &[number, scale]),
                    _ => values[0],
                };
                lower.b.scalar(ScalarOp::Cast(plan.dtype), &[value])
            };
            // The stores stand together, so that an emitter may make one of them.
            let values: Vec<ValueId> = (0..numbers).map(|u| number(lower, u)).collect();
            for (u, value) in (0..).zip(values) {
                lower.b.store(self.memory, &(to.clone() + u), value);
            }
        });
    }
}
