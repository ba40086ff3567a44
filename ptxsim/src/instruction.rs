//! The instructions that are executed: a closed list.

use crate::types::Type;

/// A register's number. Constants and special registers are registers too, filled before a warp begins.
pub(crate) type Register = u32;

/// An instruction, and where it stands in the text.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub(crate) op: Op,
    /// Lanes take part where this register is true (false, if the flag is set).
    pub(crate) guard: Option<(Register, bool)>,
    pub(crate) line: u32,
}

/// Which memory an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Local,
    /// Arrays of the module.
    Module,
    /// The address says it.
    Generic,
}

/// A register plus so many bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) base: Register,
    pub(crate) offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    Negate,
    Absolute,
    Not,
    Exp2,
    Log2,
    Reciprocal,
    ReciprocalRoot,
    Root,
    Sine,
    Cosine,
    Tanh,
    CountOnes,
    LeadingZeros,
    Reverse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Subtract,
    /// The low half of a product; a product of floats.
    Multiply,
    MultiplyHigh,
    /// The whole product, of twice the type's size.
    MultiplyWide,
    Divide,
    Remainder,
    Minimum,
    Maximum,
    /// As the two before, but NaN if an operand is.
    MinimumNan,
    MaximumNan,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    CopySign,
}

/// Which part of a product of integers a third operand is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Low,
    High,
    Wide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Neither is NaN.
    Ordered,
    /// One is NaN.
    Unordered,
}

/// How a comparison is joined with another truth value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even: of the result's own precision.
    Nearest,
    /// Toward zero, of the result's own precision.
    Zero,
    /// To integers: to nearest, toward zero, down, up.
    NearestInteger,
    ZeroInteger,
    DownInteger,
    UpInteger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    Minimum,
    Maximum,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
}

/// The shapes of matrix products that are known: `m16n8` and these depths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    /// Halves, 8 or 16 deep.
    F16 { depth: u8 },
    /// The upper halves of singles, 8 or 16 deep.
    Bf16 { depth: u8 },
    /// Bytes, 16 or 32 deep; whether those of the left and of the right side have signs.
    Bytes { depth: u8, signed: [bool; 2] },
}

/// What floats do beside the operation itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Mode {
    /// Subnormal operands and results are zero, with their sign.
    pub(crate) flush: bool,
    /// Results are cut to 0..=1, NaN to 0.
    pub(crate) saturate: bool,
}

/// What an instruction does; `to` is where the result goes.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Branch {
        target: u32,
    },
    Exit,
    Trap,
    Nothing,
    Barrier,
    WarpBarrier {
        members: Register,
    },
    Move {
        to: Register,
        from: Register,
    },
    Pack {
        to: Register,
        parts: Vec<Register>,
        bits: u32,
    },
    Unpack {
        to: Vec<Option<Register>>,
        from: Register,
        bits: u32,
    },
    LoadParameter {
        to: Vec<Option<Register>>,
        ty: Type,
        bytes: u8,
        offset: u32,
    },
    Load {
        space: Space,
        ty: Type,
        bytes: u8,
        to: Vec<Option<Register>>,
        at: Address,
    },
    Store {
        space: Space,
        ty: Type,
        from: Vec<Register>,
        at: Address,
    },
    /// To (or from) an address of a window, from (or to) a generic one.
    Convey {
        to: Register,
        from: Register,
        space: Space,
        to_generic: bool,
    },
    Unary {
        op: Unary,
        ty: Type,
        mode: Mode,
        to: Register,
        a: Register,
    },
    Binary {
        op: Binary,
        ty: Type,
        mode: Mode,
        to: Register,
        a: Register,
        b: Register,
    },
    Fused {
        ty: Type,
        mode: Mode,
        to: Register,
        a: Register,
        b: Register,
        c: Register,
    },
    MultiplyAdd {
        part: Part,
        ty: Type,
        to: Register,
        a: Register,
        b: Register,
        c: Register,
    },
    Convert {
        into: Type,
        from: Type,
        rounding: Rounding,
        mode: Mode,
        to: Register,
        a: Register,
        bytes: u8,
    },
    /// Two singles as halves of a word, the first in its upper part.
    ConvertPair {
        into: Type,
        mode: Mode,
        to: Register,
        a: Register,
        b: Register,
    },
    Compare {
        comparison: Comparison,
        /// Also true if an operand is NaN.
        unordered: bool,
        ty: Type,
        mode: Mode,
        join: Option<(Join, Register, bool)>,
        to: [Option<Register>; 2],
        a: Register,
        b: Register,
    },
    /// A comparison whose result is all ones, or 1.0.
    Set {
        comparison: Comparison,
        unordered: bool,
        into: Type,
        ty: Type,
        mode: Mode,
        to: Register,
        a: Register,
        b: Register,
    },
    Select {
        to: Register,
        a: Register,
        b: Register,
        which: Register,
    },
    Dot {
        signed: [bool; 2],
        to: Register,
        a: Register,
        b: Register,
        c: Register,
    },
    Logic {
        table: u8,
        to: Register,
        a: Register,
        b: Register,
        c: Register,
    },
    Permute {
        to: Register,
        a: Register,
        b: Register,
        selector: Register,
    },
    Extract {
        ty: Type,
        to: Register,
        a: Register,
        start: Register,
        len: Register,
    },
    Insert {
        ty: Type,
        to: Register,
        a: Register,
        b: Register,
        start: Register,
        len: Register,
    },
    Funnel {
        left: bool,
        wrap: bool,
        to: Register,
        a: Register,
        b: Register,
        by: Register,
    },
    Shuffle {
        kind: Shuffle,
        to: Register,
        inside: Option<Register>,
        a: Register,
        by: Register,
        clamp: Register,
        members: Register,
    },
    Vote {
        kind: Vote,
        to: Register,
        a: Register,
        negated: bool,
        members: Register,
    },
    Reduce {
        op: Binary,
        ty: Type,
        to: Register,
        a: Register,
        members: Register,
    },
    Active {
        to: Register,
    },
    Atomic {
        space: Space,
        op: Atomic,
        ty: Type,
        to: Option<Register>,
        at: Address,
        a: Register,
        b: Option<Register>,
    },
    CopyStart {
        to: Address,
        from: Address,
        bytes: u8,
        source: Option<Register>,
    },
    CopyCommit,
    /// Waits until at most so many groups of copies are open.
    CopyWait {
        open: u32,
    },
    LoadMatrix {
        to: Vec<Register>,
        transposed: bool,
        at: Address,
    },
    /// Orders the registers of the products that follow behind what was done to them before.
    ProductFence,
    /// Begins a product of a warp group, both operands of which descriptors say where they lie.
    ProductStart {
        kind: Product,
        columns: u32,
        sums: Vec<Register>,
        a: Register,
        b: Register,
        /// Whether it is added to what the sums are.
        adds: Register,
    },
    ProductCommit,
    /// Waits until at most so many groups of products are open.
    ProductWait {
        open: u32,
    },
    /// Shows the warp groups' units what a thread has done to shared memory.
    ProxyFence,
    Product {
        kind: Product,
        to: [Register; 4],
        a: Vec<Register>,
        b: Vec<Register>,
        c: [Register; 4],
    },
}

/// A register that the machine fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Thread(u8),
    BlockSize(u8),
    Block(u8),
    GridSize(u8),
    Lane,
    Warp,
    WarpCount,
    LaneMaskEqual,
    LaneMaskLess,
    LaneMaskLessOrEqual,
    LaneMaskGreater,
    LaneMaskGreaterOrEqual,
}

impl Special {
    /// The register of that name.
    pub(crate) fn named(name: &str) -> Option<Special> {
        if let Some((set, axis)) = name.rsplit_once('.') {
            let axis = match axis {
                "x" => 0,
                "y" => 1,
                "z" => 2,
                _ => return None,
            };
            return Some(match set {
                "%tid" => Special::Thread(axis),
                "%ntid" => Special::BlockSize(axis),
                "%ctaid" => Special::Block(axis),
                "%nctaid" => Special::GridSize(axis),
                _ => return None,
            });
        }
        Some(match name {
            "%laneid" => Special::Lane,
            "%warpid" => Special::Warp,
            "%nwarpid" => Special::WarpCount,
            "%lanemask_eq" => Special::LaneMaskEqual,
            "%lanemask_lt" => Special::LaneMaskLess,
            "%lanemask_le" => Special::LaneMaskLessOrEqual,
            "%lanemask_gt" => Special::LaneMaskGreater,
            "%lanemask_ge" => Special::LaneMaskGreaterOrEqual,
            _ => return None,
        })
    }
}
