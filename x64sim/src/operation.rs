//! Instructions as they are executed: operands are numbers of registers and places in memory.

/// Elements of a vector, 32 bits each.
pub(crate) type Lanes = [u32; 16];

/// The result of a vector operation by its operands, in their order, and its immediate.
pub(crate) type Function = fn(&[Lanes; 3], u8) -> Lanes;

/// The number of the stack's register.
pub(crate) const RSP: u8 = 4;

/// `base + index * scale + offset`; without a base, an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) base: Option<u8>,
    /// A general register, or a vector of them in gathers and scatters.
    pub(crate) index: Option<(u8, u8)>,
    pub(crate) offset: i64,
}

/// How much of a general register, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Byte = 1,
    Word = 2,
    Double = 4,
    Quad = 8,
}

/// A general register, memory, or a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Register(u8),
    Memory(Address),
    Immediate(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Equal,
    Unequal,
    Less,
    NotLess,
    Greater,
    Below,
    NotBelow,
}

/// An operation on 64 bits whose flags nobody may look at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    And,
    Xor,
    Multiply,
    Left,
    Right,
    SignedRight,
}

/// An operation on general registers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum General {
    Move {
        to: Place,
        from: Place,
        width: Width,
    },
    /// To 64 bits, with zeros or with the sign.
    Widen {
        to: u8,
        from: Place,
        width: Width,
        signed: bool,
    },
    Address {
        to: u8,
        address: Address,
    },
    Calculate {
        how: Arithmetic,
        to: u8,
        from: Place,
    },
    Negate(u8),
    MultiplyBy {
        to: u8,
        from: u8,
        by: i64,
    },
    Clear(u8),
    Compare {
        a: u8,
        b: Place,
    },
    Test {
        a: u8,
        bits: u32,
    },
    Set {
        to: u8,
        condition: Condition,
    },
    Choose {
        to: u8,
        from: u8,
        condition: Condition,
    },
    /// The sign of `rax` to all of `rdx`.
    Extend,
    Divide {
        by: Address,
        signed: bool,
    },
    Push(u8),
    Pop(u8),
    /// Touches a word of the stack and leaves it as it is.
    Touch(Address),
}

/// The last operand of a vector operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Register(u8),
    /// One element after the other.
    Memory(Address),
    /// One element for all lanes.
    Spread(Address),
    /// The low word of a general register, in all lanes.
    General(u8),
}

/// Which lanes take part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mask {
    All,
    /// Those of a mask register.
    Register(u8),
    /// Those where a vector has its signs set.
    Signs(u8),
}

/// What a vector operation changes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Vector(u8),
    /// A bit for each lane that is not 0.
    Mask(u8),
    Memory(Address),
    /// Lane 0.
    General(u8),
}

/// What becomes of lanes outside of the mask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outside {
    Zero,
    /// They are those of this register.
    Of(u8),
}

/// What the control word of floats is to an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    /// Nothing.
    Ignored,
    /// It has to be the usual one.
    Usual,
    /// There is another function for when numbers below the least normal one are taken for 0.
    Flushing(Function),
}

/// An operation on vectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector {
    pub(crate) function: Function,
    pub(crate) control: Control,
    /// Registers that are operands before the last one.
    pub(crate) reads: [Option<u8>; 2],
    pub(crate) last: Source,
    /// Bytes of an element of the last operand.
    pub(crate) element: u8,
    pub(crate) immediate: u8,
    pub(crate) lanes: u8,
    pub(crate) mask: Mask,
    pub(crate) outside: Outside,
    pub(crate) to: Target,
    /// Bytes of an element of the result.
    pub(crate) narrow: u8,
}

/// How masks are combined.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Logic {
    And,
    /// The second and not the first.
    AndNot,
    Or,
    Xor,
}

/// A mask register's other side.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bits {
    Mask(u8),
    Memory(Address),
    General(u8),
}

/// An operation on masks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Masks {
    Load {
        to: u8,
        from: Bits,
    },
    Store {
        to: Bits,
        from: u8,
    },
    Combine {
        how: Logic,
        to: u8,
        a: u8,
        b: u8,
    },
    /// Whether all bits of both are 0.
    Test {
        a: u8,
        b: u8,
    },
}

/// Elements at addresses of their own; the mask is used up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scattered {
    pub(crate) vector: u8,
    pub(crate) address: Address,
    pub(crate) mask: Mask,
    pub(crate) lanes: u8,
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Nothing,
    General(General),
    /// To the operation of that number; always, without a condition.
    Jump {
        condition: Option<Condition>,
        to: usize,
    },
    Return,
    Vector(Vector),
    Masks(Masks),
    Gather(Scattered),
    Scatter(Scattered),
    /// The signs of all lanes to a general register.
    Signs {
        to: u8,
        from: u8,
    },
    /// Whether two vectors have no bit in common.
    TestVectors {
        a: u8,
        b: u8,
    },
    ZeroUpper,
    Control(Address),
}
