//! Floats as they are: mapped from the file, converted where they are read.

use super::{Format, Plane};
use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Graph, Node};
use crate::scalar::ScalarOp;

/// IEEE 754 binary32.
pub static F32: Format = direct("f32", 4, &[Plane { suffix: "", dtype: DType::F32, span: 1 }]);
/// IEEE 754 binary16.
pub(super) static F16: Format = direct("f16", 2, &[Plane { suffix: "", dtype: DType::F16, span: 1 }]);
/// The upper half of a binary32.
pub(super) static BF16: Format = direct("bf16", 2, &[Plane { suffix: "", dtype: DType::BF16, span: 1 }]);

const fn direct(name: &'static str, block_bytes: usize, planes: &'static [Plane]) -> Format {
    Format { name, block: 1, block_bytes, planes, decode, unpack }
}

fn decode(graph: &mut Graph, planes: &[Node], _shape: &[Expr]) -> Node {
    match graph.dtype(planes[0]) {
        DType::F32 => planes[0],
        _ => graph.map(ScalarOp::Cast(DType::F32), planes),
    }
}

fn unpack(block: &[u8], planes: &mut [&mut [u8]]) {
    planes[0].copy_from_slice(block);
}
