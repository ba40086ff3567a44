//! Kernels made at random, run as machine code and by the interpreter of the loop IR: equal memory.
#![allow(clippy::unwrap_used)]

use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::decompose::decompose;
use jtllm_codegen::kernel::interp::{Buffer, Memories, Options, run};
use jtllm_codegen::kernel::{Access, CellId, Kernel, Memory, ValueId};
use jtllm_codegen::target::{Caps, Target};
use jtllm_ir::{DType, Expr, Monoid, Scalar, ScalarOp, Symbol};

use crate::native::{Noise, bits, groups, same};

/// Elements of each memory that kernels read, and of each one that they write in a group.
const LEN: i64 = 64;
const SLOTS: i64 = 1024;

/// One random kernel and what is in scope while it is made.
struct Maker {
    b: Builder,
    noise: Noise,
    reads: Vec<Memory>,
    writes: Vec<Memory>,
    shared: Option<Memory>,
    cells: Vec<CellId>,
    values: Vec<ValueId>,
    /// Axes, symbols and integer values that index expressions may mention.
    leaves: Vec<Expr>,
    /// The next free slot of the group in the memories that are written.
    slot: i64,
    flat: Expr,
    /// Whether the target has products of signed bytes.
    signed_bytes: bool,
    /// Whether it has products of pairs.
    dot2: bool,
}

impl Maker {
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.noise.below(from.len() as u32) as usize].clone()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.noise.below(100) < percent
    }

    /// An index expression without bounds to speak of.
    fn free(&mut self, depth: u32) -> Expr {
        let leaves = self.leaves.clone();
        let leaf = self.pick(&leaves);
        if depth == 0 {
            return leaf;
        }
        let other = self.free(depth - 1);
        let factor = i64::from(self.noise.below(9)) - 3;
        let divisor = i64::from(self.pick(&[2u32, 3, 4, 5, 7, 8, 16, 24]));
        match self.noise.below(12) {
            0..=2 => leaf * factor + other,
            3 => leaf * 4 + other,
            4 => (leaf + other).div_floor(divisor),
            5 => (leaf - other).modulo(divisor),
            6 => (leaf * other).div_floor(divisor),
            7 => leaf.minimum(&other),
            8 => leaf.maximum(&other),
            9 => leaf.less_than(&other) * factor,
            10 => leaf.equals(&other).and(&other.less_than(&leaf)) + other,
            _ => other + factor,
        }
    }

    /// An index expression in `0..end`: one that is so by nature where possible, for the plain accesses.
    fn inside(&mut self, end: i64) -> Expr {
        let lane = self.b.lane();
        for _ in 0..4 {
            let depth = self.noise.below(3);
            let mut x = self.free(depth);
            if self.chance(50) {
                x = x * self.b.lanes() + lane.clone();
            }
            if x.low() >= 0 && x.high() < end {
                return x;
            }
        }
        let depth = 1 + self.noise.below(3);
        self.free(depth).modulo(end)
    }

    fn condition(&mut self) -> Expr {
        let (a, b) = (self.free(2), self.free(1));
        match self.noise.below(5) {
            0 => self.b.lane().equals(&Expr::int(0)),
            1 => self.b.lane().less_than(&b),
            2 => a.equals(&b),
            3 => a.less_than(&b).and(&b.less_than(&Expr::int(20))),
            _ => a.less_than(&b),
        }
    }

    fn of_type(&mut self, dtype: DType) -> ValueId {
        let known: Vec<ValueId> =
            self.values.iter().copied().filter(|value| self.b.dtype(*value) == dtype).collect();
        if !known.is_empty() && self.chance(85) {
            return self.pick(&known);
        }
        let number = i64::from(self.noise.below(41)) - 20;
        let constant = match dtype {
            DType::F32 => Scalar::Float(number as f32 * 0.37),
            DType::Bool => Scalar::Int(number & 1),
            _ => Scalar::Int(dtype.wrap(number)),
        };
        self.b.constant(dtype, constant)
    }

    fn value(&mut self) -> ValueId {
        let number = self.pick(&[DType::F32, DType::F32, DType::I32, DType::U32]);
        let value = match self.noise.below(22) {
            0..=5 => {
                let memories = self.reads.clone();
                let memory = self.pick(&memories);
                let at = self.inside(LEN);
                self.b.load(memory, &at)
            }
            6 if self.shared.is_some() => {
                let at = self.inside(LEN);
                self.b.load(self.shared.unwrap(), &at)
            }
            6 | 7 => {
                let x = self.free(3);
                let dtype = self.pick(&[DType::I32, DType::U32, DType::Bool]);
                self.b.index(dtype, &x)
            }
            8 | 9 => {
                let cells = self.cells.clone();
                let cell = self.pick(&cells);
                self.b.get(cell)
            }
            10 | 11 => {
                let from = self.pick(&DType::ALL);
                let (x, to) = (self.of_type(from), self.pick(&DType::ALL));
                self.b.scalar(ScalarOp::Cast(to), &[x])
            }
            12 => {
                let dtype = self.pick(&[number, DType::Bool]);
                let (c, x, y) = (self.of_type(DType::Bool), self.of_type(dtype), self.of_type(dtype));
                self.b.scalar(ScalarOp::Select, &[c, x, y])
            }
            13 | 14 => self.operation(&[ScalarOp::Lt, ScalarOp::Le, ScalarOp::Eq, ScalarOp::Ne], number),
            15 => self.operation(&[ScalarOp::And, ScalarOp::Or, ScalarOp::Xor], DType::Bool),
            16 | 17 => {
                use ScalarOp as S;
                let integer = self.pick(&[DType::I32, DType::U32]);
                self.operation(&[S::And, S::Or, S::Xor, S::Shl, S::Shr, S::Rem], integer)
            }
            18 => {
                use ScalarOp as S;
                let ops = [S::Fma, S::Sqrt, S::Floor, S::Round, S::Exp, S::Tanh, S::Rsqrt, S::Cos];
                self.operation(&ops, DType::F32)
            }
            19 => {
                let table = [0; 16].map(|_: u8| self.noise.word() as u8);
                self.operation(&[ScalarOp::Lookup(table)], DType::U32)
            }
            20 => {
                // Never the bits of a number that may be none: those are any.
                let (from, to) = self.pick(&[
                    (DType::U32, DType::F32),
                    (DType::I32, DType::F32),
                    (DType::U32, DType::I32),
                    (DType::I32, DType::U32),
                ]);
                let x = self.of_type(from);
                self.b.scalar(ScalarOp::Bitcast(to), &[x])
            }
            _ => {
                use ScalarOp as S;
                let ops = [S::Add, S::Sub, S::Mul, S::Div, S::Neg, S::Abs, S::Min, S::Max];
                self.operation(&ops, number)
            }
        };
        self.values.push(value);
        value
    }

    fn operation(&mut self, ops: &[ScalarOp], dtype: DType) -> ValueId {
        let op = self.pick(ops);
        let xs: Vec<ValueId> = (0..op.row().arity).map(|_| self.of_type(dtype)).collect();
        self.b.scalar(op, &xs)
    }

    /// Products of bytes that follow each other in a cell, with small unsigned bytes and large ones; here and there
    /// somebody looks at what there is so far.
    fn products(&mut self) {
        let cell = self.cells[INTEGERS];
        if self.chance(50) {
            let zero = self.b.constant(DType::I32, Scalar::Int(0));
            self.b.set(cell, zero);
        }
        for _ in 0..1 + self.noise.below(10) {
            let mask = self.pick(&[0x0f0f_0f0f, 0x0f0f_0f0f, 0x1f1f_1f1f, 0x3f3f_3f3f, 0x7f7f_7f7f, -1]);
            let mask = self.b.constant(DType::U32, Scalar::Int(DType::U32.wrap(mask)));
            let (x, signed) = (self.of_type(DType::U32), self.of_type(DType::U32));
            let masked = self.b.scalar(ScalarOp::And, &[x, mask]);
            let so_far = self.b.get(cell);
            let is_signed = self.signed_bytes && self.chance(20);
            let op = if is_signed { ScalarOp::Dot4Signed } else { ScalarOp::Dot4 };
            let sum = self.b.scalar(op, &[if is_signed { x } else { masked }, signed, so_far]);
            self.b.set(cell, sum);
            match self.noise.below(12) {
                0 => self.values.push(sum),
                1 => self.values.push(so_far),
                2 => {
                    let seen = self.b.get(cell);
                    self.values.push(seen);
                }
                3 => drop(self.value()),
                _ => {}
            }
        }
    }

    /// Products of pairs in a cell; several share an operand, as those of a tile do.
    fn pairs(&mut self) {
        let shared = self.of_type(DType::U32);
        for _ in 0..1 + self.noise.below(4) {
            let cell = self.cells[self.noise.below(2) as usize];
            let (other, so_far) = (self.of_type(DType::U32), self.b.get(cell));
            let sum = self.b.scalar(ScalarOp::Dot2, &[shared, other, so_far]);
            self.b.set(cell, sum);
        }
    }

    /// Makes a value a leaf of index expressions.
    fn leaf(&mut self) {
        let x = self.of_type(DType::I32);
        let fifteen = self.b.constant(DType::I32, Scalar::Int(15));
        let x = self.b.scalar(ScalarOp::And, &[x, fifteen]);
        let leaf = self.b.as_expr(x, 0, &Expr::int(16));
        self.leaves.push(leaf);
    }

    fn store(&mut self) {
        let memories = self.writes.clone();
        let memory = self.pick(&memories);
        let dtype = self.writes.iter().position(|m| *m == memory).map(|at| WRITTEN[at]).unwrap();
        let value = match self.chance(70) {
            true => self.of_type(dtype),
            false => {
                let from = self.pick(&DType::ALL);
                let x = self.of_type(from);
                self.b.scalar(ScalarOp::Cast(dtype), &[x])
            }
        };
        let (lanes, lane) = (self.b.lanes(), self.b.lane());
        if self.slot + 2 * lanes > SLOTS {
            return;
        }
        let base = self.flat.clone() * SLOTS + self.slot;
        let at = match self.noise.below(5) {
            0 => base + lane * 2,
            1 => base + (lanes - 1) - lane,
            2 => base + (lane + 1).modulo(lanes),
            _ => base + lane,
        };
        self.slot += 2 * lanes;
        self.b.store(memory, &at, value);
    }

    /// Statements of one block; under a mask only those that may stand there.
    fn block(&mut self, depth: u32, masked: bool) {
        let (values, leaves) = (self.values.len(), self.leaves.len());
        for _ in 0..2 + self.noise.below(5) {
            for _ in 0..self.noise.below(4) {
                self.value();
            }
            match self.noise.below(12) {
                10 if self.dot2 && self.chance(50) => self.pairs(),
                10 => self.products(),
                11 if !masked => {
                    let dtype = self.pick(&[DType::I32, DType::U32]);
                    let x = self.of_type(dtype);
                    let monoid = self.pick(&[Monoid::Add, Monoid::Max, Monoid::Min]);
                    let joined = self.b.lane_reduce(monoid, x);
                    self.values.push(joined);
                }
                0 | 1 => {
                    let cells = self.cells.clone();
                    let cell = self.pick(&cells);
                    let current = self.b.get(cell);
                    let dtype = self.b.dtype(current);
                    let value = self.of_type(dtype);
                    self.b.set(cell, value);
                }
                2..=4 => self.store(),
                5 => self.leaf(),
                6 | 7 if depth > 0 => {
                    let cond = self.condition();
                    let lane_free = !cond.mentions_axis(3) && !self.mentions_values(&cond);
                    if cond.as_int().is_none() {
                        self.b.open_when(&cond);
                        self.block(depth - 1, masked || !lane_free);
                        self.b.close();
                    }
                }
                8 if depth > 0 && !masked => self.repeat(depth),
                9 if !masked => {
                    let x = self.of_type(DType::F32);
                    let monoid = self.pick(&[Monoid::Add, Monoid::Mul, Monoid::Max, Monoid::Min]);
                    let joined = self.b.lane_reduce(monoid, x);
                    self.values.push(joined);
                }
                _ => {}
            }
        }
        self.store();
        self.values.truncate(values);
        self.leaves.truncate(leaves);
    }

    fn mentions_values(&self, x: &Expr) -> bool {
        x.any(&mut |leaf| matches!(leaf.kind(), jtllm_ir::expr::Kind::Extra { .. }))
    }

    fn repeat(&mut self, depth: u32) {
        let symbols: Vec<Expr> = self
            .leaves
            .iter()
            .filter(|x| matches!(x.kind(), jtllm_ir::expr::Kind::Sym(_)))
            .cloned()
            .collect();
        let extent = match self.noise.below(3) {
            0 => self.pick(&symbols),
            1 => self.pick(&symbols) - 2,
            _ => Expr::int(i64::from(2 + self.noise.below(3))),
        };
        let axis = self.b.open_loop(&extent);
        let leaves = self.leaves.len();
        if axis.as_int().is_none() {
            self.leaves.push(axis);
        }
        self.block(depth - 1, false);
        self.leaves.truncate(leaves);
        self.b.close();
    }
}

/// The cell of integers.
const INTEGERS: usize = 2;

const READ: [DType; 7] = [DType::F32, DType::I32, DType::U32, DType::F16, DType::BF16, DType::I8, DType::U8];
const WRITTEN: [DType; 8] = DType::ALL;

/// A random kernel with a grid of several directions, and its symbols' order.
fn make(seed: u64, caps: &Caps) -> (Kernel, Vec<Symbol>) {
    let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1));
    let (n, m) = (Symbol::new("n", 0, 9, 1), Symbol::new("m", 1, 6, 1));
    let extents = [Expr::int(3), Expr::int(1), Expr::symbol(&n), Expr::int(2)];
    let grid: [Expr; 3] = std::array::from_fn(|_| extents[noise.below(4) as usize].clone());
    let mut b = Builder::new("random", caps.lanes, grid.clone());
    let groups = grid.iter().fold(Expr::int(1), |product, x| product * x.clone());
    let reads: Vec<Memory> =
        READ.iter().map(|dtype| b.param(*dtype, Access::Read, Expr::int(LEN), false)).collect();
    let writes: Vec<Memory> =
        WRITTEN.iter().map(|dtype| b.param(*dtype, Access::Write, groups.clone() * SLOTS, false)).collect();
    let flat = (b.grid(2) * grid[1].clone() + b.grid(1)) * grid[0].clone() + b.grid(0);
    let mut cells = Vec::new();
    for dtype in [DType::F32, DType::F32, DType::I32, DType::Bool, DType::F16] {
        let zero = b.constant(dtype, Scalar::Int(1));
        cells.push(b.cell(zero));
    }
    let leaves =
        vec![b.grid(0), b.grid(1), b.grid(2), b.lane(), b.lane(), Expr::symbol(&n), Expr::symbol(&m)];
    let mut maker = Maker {
        b,
        noise,
        reads,
        writes,
        shared: None,
        cells,
        values: Vec::new(),
        leaves,
        slot: 0,
        flat,
        signed_bytes: caps.signed_bytes,
        dot2: caps.dot2,
    };
    if maker.chance(50) {
        let shared = maker.b.shared(DType::F32, LEN as u32);
        let lane = maker.b.lane();
        let lanes = maker.b.lanes();
        for at in 0..LEN / lanes {
            let value = maker.of_type(DType::F32);
            maker.b.store(shared, &(lane.clone() + at * lanes), value);
            maker.value();
        }
        maker.b.barrier();
        maker.shared = Some(shared);
    }
    maker.block(3, false);
    let symbols = vec![m, n];
    (maker.b.finish(&symbols), symbols)
}

/// Compares one kernel, as the target's code and interpreted; `compile` gives what runs the code on parameters and
/// symbols.
pub(crate) fn check<Code: Fn(&mut [Vec<u8>], &[i32])>(
    target: &dyn Target,
    compile: impl Fn(&Kernel) -> Code,
    seed: u64,
) {
    let (kernel, _) = make(seed, target.caps());
    let kernel = decompose(&kernel, target.caps());
    let code = compile(&kernel);
    let mut noise = Noise(seed);
    for n in [0, 1, 5] {
        let symbols = [noise.below(6) as i32 + 1, n];
        let groups = groups(&kernel, &symbols);
        let mut params: Vec<Vec<u8>> = Vec::new();
        for dtype in READ {
            let bytes = (0..LEN).flat_map(|_| {
                let word = match dtype {
                    DType::F32 => (noise.float() * 9.0).to_bits(),
                    DType::F16 => u32::from(half::f16::from_f32(noise.float() * 9.0).to_bits()),
                    DType::BF16 => u32::from(half::bf16::from_f32(noise.float() * 9.0).to_bits()),
                    _ => noise.word() >> noise.below(32),
                };
                word.to_le_bytes()[..dtype.size()].to_vec()
            });
            params.push(bytes.collect());
        }
        for dtype in WRITTEN {
            params.push(vec![0; groups as usize * SLOTS as usize * dtype.size()]);
        }
        let mut expected = params.clone();
        let buffers = expected.iter_mut().enumerate().map(|(at, bytes)| match at < READ.len() {
            true => Buffer::Read(bytes),
            false => Buffer::Write(bytes),
        });
        let mut memories = Memories { params: buffers.collect(), symbols: &symbols };
        run(&kernel, &mut memories, Options::default())
            .unwrap_or_else(|error| panic!("seed {seed}, n = {n}: {error}\n{kernel}"));
        code(&mut params, &symbols);
        for (at, dtype) in WRITTEN.iter().enumerate() {
            let (got, wanted) = (&params[READ.len() + at], &expected[READ.len() + at]);
            let pairs = bits(*dtype, got).into_iter().zip(bits(*dtype, wanted));
            for (place, (got, wanted)) in pairs.enumerate() {
                assert!(
                    same(*dtype, got, wanted),
                    "seed {seed}, symbols {symbols:?}: p{}[{place}] ({dtype}) is {got:#x}, not {wanted:#x}\n{kernel}",
                    READ.len() + at
                );
            }
        }
    }
}
