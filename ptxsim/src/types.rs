//! The types that instructions and declarations name.

/// What the bits of a register or of a memory element mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// One truth value.
    Pred,
    /// So many bytes without a meaning of their own.
    Bits(u8),
    /// An unsigned integer of so many bytes.
    Unsigned(u8),
    /// A signed integer of so many bytes.
    Signed(u8),
    /// IEEE half precision.
    F16,
    /// Two of them in a word.
    F16x2,
    /// The upper half of a single.
    Bf16,
    /// Two of them in a word.
    Bf16x2,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl Type {
    /// The type of that name, without its dot.
    pub(crate) fn named(name: &str) -> Option<Type> {
        Some(match name {
            "pred" => Type::Pred,
            "b8" => Type::Bits(1),
            "b16" => Type::Bits(2),
            "b32" => Type::Bits(4),
            "b64" => Type::Bits(8),
            "u8" => Type::Unsigned(1),
            "u16" => Type::Unsigned(2),
            "u32" => Type::Unsigned(4),
            "u64" => Type::Unsigned(8),
            "s8" => Type::Signed(1),
            "s16" => Type::Signed(2),
            "s32" => Type::Signed(4),
            "s64" => Type::Signed(8),
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::Bf16,
            "bf16x2" => Type::Bf16x2,
            "f32" => Type::F32,
            "f64" => Type::F64,
            _ => return None,
        })
    }

    /// Bytes of one value in a register or in memory.
    pub(crate) fn bytes(self) -> u8 {
        match self {
            Type::Pred => 1,
            Type::Bits(bytes) | Type::Unsigned(bytes) | Type::Signed(bytes) => bytes,
            Type::F16 | Type::Bf16 => 2,
            Type::F16x2 | Type::Bf16x2 | Type::F32 => 4,
            Type::F64 => 8,
        }
    }

    /// Whether a register declared so may be an operand of that type: as in PTX, types without a meaning go
    /// with any of their size, integers with integers, and halves live in registers of bits.
    pub(crate) fn accepts(self, declared: Type) -> bool {
        let integer = |x: Type| matches!(x, Type::Unsigned(_) | Type::Signed(_));
        let free = |x: Type| matches!(x, Type::Bits(_));
        self == declared
            || (self.bytes() == declared.bytes()
                && (self == Type::Pred) == (declared == Type::Pred)
                && (free(self) || free(declared) || integer(self) && integer(declared)))
    }

    /// Whether its values are integers or bits.
    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Type::Bits(_) | Type::Unsigned(_) | Type::Signed(_))
    }

    /// Whether a value's highest bit is its sign.
    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Type::Signed(_))
    }

    /// The lowest bits of a value, as many as the type has.
    pub(crate) fn truncate(self, bits: u64) -> u64 {
        match self.bytes() {
            1 => bits & 0xFF,
            2 => bits & 0xFFFF,
            4 => bits & 0xFFFF_FFFF,
            _ => bits,
        }
    }

    /// The number that an integer's bits mean, in two's complement of 64 bits.
    pub(crate) fn extend(self, bits: u64) -> i64 {
        match self {
            Type::Signed(1) => i64::from(bits as i8),
            Type::Signed(2) => i64::from(bits as i16),
            Type::Signed(4) => i64::from(bits as i32),
            _ => self.truncate(bits) as i64,
        }
    }
}
