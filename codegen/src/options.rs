//! What the user chooses of a compilation.

use std::fmt;

/// Which numbers contractions multiply. Sums are `f32` whatever they are, and so is all else. Attention takes no
/// other type than the cache's, and that only where matrix units compute it and `f32` is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compute {
    /// `f32`, but on targets with matrix units the type of the weights for many rows at a time, if that has 16
    /// bits, and `bf16` for packed weights; and for attention of many rows that of the cache, if that has 16 bits. On
    /// processors [`Int8`](Compute::Int8) for packed weights, and `bf16` for weights of that type where `dot2` is fast;
    /// weights of `f16` stay as they are, since rounding them would cost three of their bits.
    #[default]
    Auto,
    /// `f32`.
    F32,
    /// Operands rounded to `bf16`, everywhere.
    Bf16,
    /// Operands rounded to `f16`, everywhere.
    F16,
    /// Packed weights as the bytes that they are made of, activations as bytes with a scale for each 32, where a
    /// format's numbers are bytes times what is constant in a block; `f32` elsewhere.
    Int8,
}

impl Compute {
    /// Every choice.
    pub const ALL: [Compute; 5] = [Compute::Auto, Compute::F32, Compute::Bf16, Compute::F16, Compute::Int8];

    /// The name in command lines and reports.
    pub fn name(self) -> &'static str {
        match self {
            Compute::Auto => "auto",
            Compute::F32 => "f32",
            Compute::Bf16 => "bf16",
            Compute::F16 => "f16",
            Compute::Int8 => "int8",
        }
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What [`compile`](crate::compile) is told beside the target's caps. Which kernels are chosen may depend on all of it; the
/// text of a kernel never depends on `positions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// Which numbers contractions multiply.
    pub compute: Compute,
    /// Positions that the past of attention may have, where that is known better than from the graph.
    pub positions: Option<u32>,
    /// Bytes of weights that one launch shall read at most, where weights come and go: a product that reads more is
    /// computed in parts of its columns, each with the rows that it reads.
    pub range_bytes: Option<u64>,
}
