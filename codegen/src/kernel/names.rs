//! How the leaves of a kernel's index expressions are written, and which values they stand for.

use std::collections::HashMap;
use std::fmt;

use jtllm_ir::expr::{Kind, Names};
use jtllm_ir::{DType, Expr};

use super::build::visit_exprs;
use super::{Kernel, LANE_AXIS, Value, ValueId, ValueRecord};

/// The names of a kernel's text form: `g0 g1 g2 lane l4 l5 ...` and `v12`.
pub struct KernelNames;

impl Names for KernelNames {
    fn axis(&self, index: u16, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match index {
            LANE_AXIS => f.write_str("lane"),
            grid if grid < LANE_AXIS => write!(f, "g{grid}"),
            bound => write!(f, "l{bound}"),
        }
    }

    fn extra(&self, slot: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{slot}")
    }
}

/// An integer value's range `low..end`.
pub(super) type ValueRange = (i64, Expr);

/// The range that follows from what a value is: an index expression's interval, else its type's.
pub(super) fn derived_range(record: &ValueRecord) -> ValueRange {
    let (low, high) = match (&record.value, record.dtype) {
        (Value::Index(x), dtype) if fits(x, dtype) => (x.low(), x.high()),
        (_, DType::U32) => (0, i64::from(u32::MAX)),
        (_, DType::I8) => (i64::from(i8::MIN), i64::from(i8::MAX)),
        (_, DType::U8) => (0, i64::from(u8::MAX)),
        (_, DType::Bool) => (0, 1),
        _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
    };
    (low, Expr::int(high + 1))
}

/// Whether an integer type holds every value of an expression.
pub(super) fn fits(x: &Expr, dtype: DType) -> bool {
    dtype.wrap(x.low()) == x.low() && dtype.wrap(x.high()) == x.high()
}

/// The ranges that index expressions state for the values that they mention, in order of occurrence;
/// a well-formed kernel states one range a value.
pub(super) fn stated_ranges(kernel: &Kernel) -> HashMap<ValueId, Vec<ValueRange>> {
    fn note(x: &Expr, ranges: &mut HashMap<ValueId, Vec<ValueRange>>) {
        x.any(&mut |leaf| {
            if let Kind::Extra { slot, low, end, .. } = leaf.kind() {
                let known = ranges.entry(ValueId(*slot)).or_default();
                if !known.iter().any(|(l, e)| l == low && e == end) {
                    known.push((*low, end.clone()));
                    note(end, ranges);
                }
            }
            false
        });
    }
    let mut ranges = HashMap::new();
    visit_exprs(kernel, &mut |x| note(x, &mut ranges));
    ranges
}
