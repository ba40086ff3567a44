//! Index expressions as lists of steps: what is the same for all lanes is computed once.

use jtllm_ir::DType;

/// Where an index lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: it is known.
    Const(i64),
    /// A register that all lanes share.
    Uniform(u32),
    /// A row of registers, one per lane.
    Lanes(u32),
}

/// One computation of an index. Operands of a uniform step are uniform.
#[derive(Debug)]
pub(super) enum Action {
    /// `base + sum(coefficient * place)`; in a step of lanes `base` alone is uniform.
    Sum { base: Place, terms: Box<[(Place, i64)]> },
    /// The product.
    Product(Box<[Place]>),
    /// Division, rounding down.
    Div(Place, i64),
    /// The remainder of that division.
    Mod(Place, i64),
    /// Division by a power of two.
    Shift(Place, u32),
    /// Remainder of division by a power of two.
    Mask(Place, i64),
    /// The smaller one.
    Min(Place, Place),
    /// The larger one.
    Max(Place, Place),
    /// Whether the first is less.
    Less(Place, Place),
    /// Whether both are equal.
    Equal(Place, Place),
    /// Whether none is zero.
    All(Box<[Place]>),
    /// A value of the kernel, by register.
    Value(usize, DType),
}

/// A computation and where its result goes: `Uniform` or `Lanes`.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) to: Place,
}

/// The registers of indices.
pub(super) struct Indices {
    pub(super) uniform: Vec<i64>,
    rows: Vec<Vec<i64>>,
}

/// An integer register of a value as an index.
fn widen(bits: u32, dtype: DType) -> i64 {
    match dtype {
        DType::U32 | DType::U8 | DType::Bool => i64::from(bits),
        _ => i64::from(bits as i32),
    }
}

impl Indices {
    /// Registers for a program; row 0 holds the lanes' numbers.
    pub(super) fn new(uniform: usize, rows: usize, lanes: usize) -> Indices {
        let mut rows = vec![vec![0; lanes]; rows];
        rows[0].iter_mut().enumerate().for_each(|(lane, x)| *x = lane as i64);
        Indices { uniform: vec![0; uniform], rows }
    }

    /// An index that is the same for all lanes.
    pub(super) fn uniform(&self, place: Place) -> i64 {
        self.at(place, 0)
    }

    /// A lane's index.
    pub(super) fn at(&self, place: Place, lane: usize) -> i64 {
        match place {
            Place::Const(value) => value,
            Place::Uniform(slot) => self.uniform[slot as usize],
            Place::Lanes(row) => self.rows[row as usize][lane],
        }
    }

    /// Runs a step; `values` are the kernel's registers.
    pub(super) fn run(&mut self, step: &Step, values: &[Vec<u32>]) {
        match step.to {
            Place::Const(_) => {}
            Place::Uniform(slot) => self.uniform[slot as usize] = self.one(&step.action, values, 0),
            Place::Lanes(row) => {
                let mut out = std::mem::take(&mut self.rows[row as usize]);
                self.row(&step.action, values, &mut out);
                self.rows[row as usize] = out;
            }
        }
    }

    /// The result of an action for one lane.
    fn one(&self, action: &Action, values: &[Vec<u32>], lane: usize) -> i64 {
        let get = |place: &Place| self.at(*place, lane);
        match action {
            Action::Sum { base, terms } => {
                terms.iter().fold(get(base), |sum, (x, c)| sum.wrapping_add(get(x).wrapping_mul(*c)))
            }
            Action::Product(xs) => xs.iter().fold(1i64, |product, x| product.wrapping_mul(get(x))),
            Action::Div(x, d) => get(x).div_euclid(*d),
            Action::Mod(x, d) => get(x).rem_euclid(*d),
            Action::Shift(x, by) => get(x) >> by,
            Action::Mask(x, mask) => get(x) & mask,
            Action::Min(a, b) => get(a).min(get(b)),
            Action::Max(a, b) => get(a).max(get(b)),
            Action::Less(a, b) => i64::from(get(a) < get(b)),
            Action::Equal(a, b) => i64::from(get(a) == get(b)),
            Action::All(xs) => i64::from(xs.iter().all(|x| get(x) != 0)),
            Action::Value(register, dtype) => widen(values[*register][lane], *dtype),
        }
    }

    /// The results of an action for all lanes; the common actions run as one tight loop each.
    fn row(&self, action: &Action, values: &[Vec<u32>], out: &mut [i64]) {
        match action {
            Action::Sum { base, terms } => {
                out.fill(self.uniform(*base));
                for (x, c) in terms {
                    let Place::Lanes(row) = x else { continue };
                    let row = &self.rows[*row as usize];
                    out.iter_mut().zip(row).for_each(|(o, x)| *o = o.wrapping_add(x.wrapping_mul(*c)));
                }
            }
            Action::Shift(Place::Lanes(row), by) => {
                out.iter_mut().zip(&self.rows[*row as usize]).for_each(|(o, x)| *o = x >> by);
            }
            Action::Mask(Place::Lanes(row), mask) => {
                out.iter_mut().zip(&self.rows[*row as usize]).for_each(|(o, x)| *o = x & mask);
            }
            Action::Value(register, dtype) => {
                out.iter_mut().zip(&values[*register]).for_each(|(o, x)| *o = widen(*x, *dtype));
            }
            _ => {
                for (lane, o) in out.iter_mut().enumerate() {
                    *o = self.one(action, values, lane);
                }
            }
        }
    }
}
