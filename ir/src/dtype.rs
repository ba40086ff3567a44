//! Element types, and the rounding that each one stands for.

use std::fmt;

/// The type of one element of a tensor.
///
/// Arithmetic is defined on `F32`, `I32`, `U32` and `Bool`; the others are storage types that a
/// `cast` turns into one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Signed 32-bit integer; arithmetic wraps.
    I32,
    /// Unsigned 32-bit integer; arithmetic wraps.
    U32,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// A truth value; one byte in memory, 0 or 1.
    Bool,
}

impl DType {
    /// Every type, in the order in which they are declared.
    pub const ALL: [DType; 8] =
        [DType::F32, DType::F16, DType::BF16, DType::I32, DType::U32, DType::I8, DType::U8, DType::Bool];

    /// The name in text forms.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }

    /// The type of that name.
    pub fn parse(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bytes of one element in memory.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// Whether arithmetic is defined on the type.
    pub fn is_arithmetic(self) -> bool {
        matches!(self, DType::F32 | DType::I32 | DType::U32 | DType::Bool)
    }

    /// The smallest value of an integer type and one more than its largest; of a float type, those of `i32`.
    pub fn range(self) -> (i64, crate::Expr) {
        let (low, end) = match self {
            DType::U32 => (0, 1 << 32),
            DType::I8 => (-128, 128),
            DType::U8 => (0, 256),
            DType::Bool => (0, 2),
            DType::I32 | DType::F32 | DType::F16 | DType::BF16 => (-(1 << 31), 1 << 31),
        };
        (low, crate::Expr::int(end))
    }

    /// The value nearest to `value` that the type can hold. `self` must be a float type.
    pub fn round(self, value: f32) -> f32 {
        match self {
            DType::F16 => half::f16::from_f32(value).to_f32(),
            DType::BF16 => half::bf16::from_f32(value).to_f32(),
            _ => value,
        }
    }

    /// `value` reduced to the type's width, as two's complement hardware does it.
    pub fn wrap(self, value: i64) -> i64 {
        match self {
            DType::I32 => i64::from(value as i32),
            DType::U32 => i64::from(value as u32),
            DType::I8 => i64::from(value as i8),
            DType::U8 => i64::from(value as u8),
            DType::Bool => i64::from(value != 0),
            DType::F32 | DType::F16 | DType::BF16 => value,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
