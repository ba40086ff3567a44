//! Scalar operations: one row each. Everything that knows an operation's name, operands, result or
//! meaning reads it here; emitters add native spellings, nothing else.

use crate::dtype::DType;

/// Sixteen bytes: see [`ScalarOp::Lookup`].
pub type Table = [u8; 16];

/// Any table, for the row of all.
const ANY: Table = [0x81, 0x98, 0xad, 0xbf, 0xcf, 0xdd, 0xea, 0xf6, 1, 13, 25, 38, 53, 69, 89, 113];

/// An operation on scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScalarOp {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient; integers round towards minus infinity and give 0 for a divisor of 0.
    Div,
    /// The remainder that belongs to `Div`; 0 for a divisor of 0.
    Rem,
    /// `a * b + c`, rounded once.
    Fma,
    /// Four products added to the third operand: the bytes of the first are unsigned, those of the second signed.
    /// Wraps, so the order does not matter.
    Dot4,
    /// The same with signed bytes on both sides, where those of the second are at least -127: the second takes the sign
    /// of the first, which -128 has no opposite for; it stays what it is.
    Dot4Signed,
    /// Two products added to the third operand: the upper halves of two words, then the lower halves, each half a `bf16`.
    /// Each step is rounded once, to nearest even; numbers below the least normal one are 0, operands and results alike.
    Dot2,
    /// Each byte of a word replaced by the byte of the table that its low four bits number.
    Lookup(Table),
    /// The opposite.
    Neg,
    /// Absolute value.
    Abs,
    /// The smaller one; if one is not a number, the second.
    Min,
    /// The larger one; if one is not a number, the second.
    Max,
    /// `e` to the power.
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// One over the square root.
    Rsqrt,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
    /// The error function.
    Erf,
    /// The largest integer that is not above.
    Floor,
    /// The nearest integer, ties to even.
    Round,
    /// Bitwise and; on truth values, both.
    And,
    /// Bitwise or; on truth values, either.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// Shift to the left; the count is taken modulo 32.
    Shl,
    /// Shift to the right, arithmetic on signed integers; the count is taken modulo 32.
    Shr,
    /// Whether the first is less.
    Lt,
    /// Whether the first is not greater.
    Le,
    /// Whether both are equal.
    Eq,
    /// Whether both differ.
    Ne,
    /// The second where the first is true, else the third.
    Select,
    /// The value converted: floats round to nearest even, floats to integers truncate and saturate,
    /// integers wrap.
    Cast(DType),
    /// The same 32 bits read as another type (`f32`, `i32`, `u32`).
    Bitcast(DType),
}

/// Which operand types an operation takes and what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// `f32`, `i32` or `u32` operands of one type, and that type.
    Arithmetic,
    /// `f32` operands, `f32` result.
    Float,
    /// `i32` or `u32` operands of one type, and that type.
    Integer,
    /// `i32`, `u32` or `bool` operands of one type, and that type.
    Bits,
    /// Operands of one arithmetic type, `bool` result.
    Comparison,
    /// `bool` and two operands of one arithmetic type, and that type.
    Choice,
    /// Two words of bytes (`u32`) and an `i32`, and `i32`.
    Bytes,
    /// Two words of two `bf16` (`u32`) and an `f32`, and `f32`.
    Pairs,
    /// A word of bytes (`u32`), and such a word.
    Word,
    /// Any type to the one that the operation names.
    Conversion,
    /// A 32-bit type to the one that the operation names.
    Reinterpretation,
}

/// The facts of one operation.
pub struct Row {
    /// The operation (conversions stand once, for all target types, and so do lookups, for all tables).
    pub op: ScalarOp,
    /// The name in text forms.
    pub name: &'static str,
    /// How many operands.
    pub arity: usize,
    /// Operand and result types.
    pub signature: Signature,
    /// Rough cost in additions, for the partition's budget.
    pub cost: u32,
}

const fn row(op: ScalarOp, name: &'static str, arity: usize, signature: Signature, cost: u32) -> Row {
    Row { op, name, arity, signature, cost }
}

use ScalarOp as S;
use Signature as G;

/// Every operation.
pub const TABLE: &[Row] = &[
    row(S::Add, "add", 2, G::Arithmetic, 1),
    row(S::Sub, "sub", 2, G::Arithmetic, 1),
    row(S::Mul, "mul", 2, G::Arithmetic, 1),
    row(S::Div, "div", 2, G::Arithmetic, 4),
    row(S::Rem, "rem", 2, G::Integer, 4),
    row(S::Fma, "fma", 3, G::Float, 1),
    row(S::Dot4, "dot4", 3, G::Bytes, 1),
    row(S::Dot4Signed, "dot4_signed", 3, G::Bytes, 1),
    row(S::Dot2, "dot2", 3, G::Pairs, 1),
    row(S::Lookup(ANY), "lookup", 1, G::Word, 4),
    row(S::Neg, "neg", 1, G::Arithmetic, 1),
    row(S::Abs, "abs", 1, G::Arithmetic, 1),
    row(S::Min, "min", 2, G::Arithmetic, 1),
    row(S::Max, "max", 2, G::Arithmetic, 1),
    row(S::Exp, "exp", 1, G::Float, 16),
    row(S::Log, "log", 1, G::Float, 16),
    row(S::Sqrt, "sqrt", 1, G::Float, 4),
    row(S::Rsqrt, "rsqrt", 1, G::Float, 8),
    row(S::Sin, "sin", 1, G::Float, 24),
    row(S::Cos, "cos", 1, G::Float, 24),
    row(S::Tanh, "tanh", 1, G::Float, 20),
    row(S::Erf, "erf", 1, G::Float, 24),
    row(S::Floor, "floor", 1, G::Float, 1),
    row(S::Round, "round", 1, G::Float, 1),
    row(S::And, "and", 2, G::Bits, 1),
    row(S::Or, "or", 2, G::Bits, 1),
    row(S::Xor, "xor", 2, G::Bits, 1),
    row(S::Shl, "shl", 2, G::Integer, 1),
    row(S::Shr, "shr", 2, G::Integer, 1),
    row(S::Lt, "lt", 2, G::Comparison, 1),
    row(S::Le, "le", 2, G::Comparison, 1),
    row(S::Eq, "eq", 2, G::Comparison, 1),
    row(S::Ne, "ne", 2, G::Comparison, 1),
    row(S::Select, "select", 3, G::Choice, 1),
    row(S::Cast(DType::F32), "cast", 1, G::Conversion, 1),
    row(S::Bitcast(DType::F32), "bitcast", 1, G::Reinterpretation, 0),
];

/// One scalar value: what the interpreters compute with.
#[derive(Clone, Copy, Debug)]
pub enum Scalar {
    /// A value of a float type, held exactly.
    Float(f32),
    /// A value of an integer type or a truth value.
    Int(i64),
}

impl Scalar {
    /// The float, or the integer as one.
    pub fn float(self) -> f32 {
        match self {
            Scalar::Float(x) => x,
            Scalar::Int(x) => x as f32,
        }
    }

    /// The integer, or the float truncated.
    pub fn int(self) -> i64 {
        match self {
            Scalar::Float(x) => x as i64,
            Scalar::Int(x) => x,
        }
    }

    /// Whether it is not zero.
    pub fn truth(self) -> bool {
        match self {
            Scalar::Float(x) => x != 0.0,
            Scalar::Int(x) => x != 0,
        }
    }

    /// The bits in memory, in the low bytes of the result.
    pub fn to_bits(self, dtype: DType) -> u32 {
        match (dtype, self) {
            (DType::F32, x) => x.float().to_bits(),
            (DType::F16, x) => u32::from(half::f16::from_f32(x.float()).to_bits()),
            (DType::BF16, x) => u32::from(half::bf16::from_f32(x.float()).to_bits()),
            (_, x) => x.int() as u32,
        }
    }

    /// The value whose bits in memory are the low bytes of `bits`.
    pub fn from_bits(dtype: DType, bits: u32) -> Scalar {
        match dtype {
            DType::F32 => Scalar::Float(f32::from_bits(bits)),
            DType::F16 => Scalar::Float(half::f16::from_bits(bits as u16).to_f32()),
            DType::BF16 => Scalar::Float(half::bf16::from_bits(bits as u16).to_f32()),
            DType::I32 => Scalar::Int(i64::from(bits as i32)),
            DType::U32 => Scalar::Int(i64::from(bits)),
            DType::I8 => Scalar::Int(i64::from(bits as i8)),
            DType::U8 | DType::Bool => Scalar::Int(i64::from(bits as u8)),
        }
    }
}

impl ScalarOp {
    /// The operation's facts.
    pub fn row(self) -> &'static Row {
        let key = match self {
            ScalarOp::Cast(_) => ScalarOp::Cast(DType::F32),
            ScalarOp::Bitcast(_) => ScalarOp::Bitcast(DType::F32),
            ScalarOp::Lookup(_) => ScalarOp::Lookup(ANY),
            other => other,
        };
        TABLE.iter().find(|row| row.op == key).expect("the table has a row for every operation")
    }

    /// The name in text forms: the target type for conversions, the table's bytes with lookups.
    pub fn name(self) -> String {
        match self {
            ScalarOp::Cast(dtype) => dtype.name().to_owned(),
            ScalarOp::Bitcast(dtype) => format!("bits_{}", dtype.name()),
            ScalarOp::Lookup(table) => format!("lookup_{:032x}", u128::from_be_bytes(table)),
            other => other.row().name.to_owned(),
        }
    }

    /// The operation of that name.
    pub fn parse(name: &str) -> Option<ScalarOp> {
        if let Some(dtype) = DType::parse(name) {
            return Some(ScalarOp::Cast(dtype));
        }
        if let Some(dtype) = name.strip_prefix("bits_").and_then(DType::parse) {
            return Some(ScalarOp::Bitcast(dtype));
        }
        if let Some(bytes) = name.strip_prefix("lookup_").filter(|bytes| bytes.len() == 32) {
            return u128::from_str_radix(bytes, 16).ok().map(|bytes| ScalarOp::Lookup(bytes.to_be_bytes()));
        }
        let named = TABLE.iter().find(|row| row.name == name)?;
        let is_whole = !matches!(named.op, ScalarOp::Cast(_) | ScalarOp::Bitcast(_) | ScalarOp::Lookup(_));
        is_whole.then_some(named.op)
    }

    /// The types of the operands when the last one has type `dtype`; whether the operation takes that one,
    /// [`ScalarOp::result`] says.
    pub fn operands(self, dtype: DType) -> Vec<DType> {
        let row = self.row();
        let mut operands = vec![dtype; row.arity];
        match row.signature {
            G::Choice => operands[0] = DType::Bool,
            G::Bytes | G::Pairs => operands[..2].fill(DType::U32),
            _ => {}
        }
        operands
    }

    /// The result type for operands of these types, or what was expected of them.
    pub fn result(self, operands: &[DType]) -> Result<DType, &'static str> {
        let row = self.row();
        if operands.len() != row.arity {
            return Err("another number of operands");
        }
        let first = operands[0];
        let same = operands.iter().all(|dtype| *dtype == first);
        let number = matches!(first, DType::F32 | DType::I32 | DType::U32);
        match (row.signature, self) {
            (G::Arithmetic, _) if same && number => Ok(first),
            (G::Arithmetic, _) => Err("operands of one type: f32, i32 or u32"),
            (G::Float, _) if same && first == DType::F32 => Ok(first),
            (G::Float, _) => Err("f32 operands"),
            (G::Integer, _) if same && number && first != DType::F32 => Ok(first),
            (G::Integer, _) => Err("operands of one type: i32 or u32"),
            (G::Bits, _) if same && first.is_arithmetic() && first != DType::F32 => Ok(first),
            (G::Bits, _) => Err("operands of one type: i32, u32 or bool"),
            (G::Comparison, _) if same && first.is_arithmetic() => Ok(DType::Bool),
            (G::Comparison, _) => Err("operands of one arithmetic type"),
            (G::Choice, _)
                if first == DType::Bool && operands[1] == operands[2] && operands[1].is_arithmetic() =>
            {
                Ok(operands[1])
            }
            (G::Choice, _) => Err("bool and two operands of one arithmetic type"),
            (G::Bytes, _) if operands == [DType::U32, DType::U32, DType::I32] => Ok(DType::I32),
            (G::Bytes, _) => Err("operands of types u32, u32 and i32"),
            (G::Pairs, _) if operands == [DType::U32, DType::U32, DType::F32] => Ok(DType::F32),
            (G::Pairs, _) => Err("operands of types u32, u32 and f32"),
            (G::Word, _) if first == DType::U32 => Ok(DType::U32),
            (G::Word, _) => Err("an operand of type u32"),
            (G::Conversion, ScalarOp::Cast(dtype)) => Ok(dtype),
            (G::Reinterpretation, ScalarOp::Bitcast(dtype)) if dtype.size() == 4 && first.size() == 4 => {
                Ok(dtype)
            }
            _ => Err("32-bit types"),
        }
    }

    /// The operation's meaning on values of type `dtype` (that of the last operand).
    pub fn evaluate(self, dtype: DType, xs: &[Scalar]) -> Scalar {
        match self {
            ScalarOp::Select => {
                if xs[0].truth() {
                    xs[1]
                } else {
                    xs[2]
                }
            }
            ScalarOp::Cast(to) => cast(xs[0], to),
            ScalarOp::Bitcast(to) => Scalar::from_bits(to, xs[0].to_bits(dtype)),
            ScalarOp::Dot2 => Scalar::Float(dot2(xs[0].int() as u32, xs[1].int() as u32, xs[2].float())),
            _ if dtype.is_float() => self.evaluate_float(xs),
            _ => self.evaluate_int(dtype, xs),
        }
    }

    fn evaluate_float(self, xs: &[Scalar]) -> Scalar {
        let x = xs[0].float();
        let y = xs.get(1).map_or(0.0, |y| y.float());
        let truth = |t: bool| Scalar::Int(i64::from(t));
        Scalar::Float(match self {
            S::Add => x + y,
            S::Sub => x - y,
            S::Mul => x * y,
            S::Div => x / y,
            S::Fma => x.mul_add(y, xs[2].float()),
            S::Neg => -x,
            S::Abs => x.abs(),
            S::Min => {
                if x < y {
                    x
                } else {
                    y
                }
            }
            S::Max => {
                if x > y {
                    x
                } else {
                    y
                }
            }
            S::Exp => x.exp(),
            S::Log => x.ln(),
            S::Sqrt => x.sqrt(),
            S::Rsqrt => 1.0 / x.sqrt(),
            S::Sin => f64::from(x).sin() as f32,
            S::Cos => f64::from(x).cos() as f32,
            S::Tanh => x.tanh(),
            S::Erf => erf(f64::from(x)) as f32,
            S::Floor => x.floor(),
            S::Round => x.round_ties_even(),
            S::Lt => return truth(x < y),
            S::Le => return truth(x <= y),
            S::Eq => return truth(x == y),
            S::Ne => return truth(x != y),
            S::Rem
            | S::Dot4
            | S::Dot4Signed
            | S::Dot2
            | S::Lookup(_)
            | S::And
            | S::Or
            | S::Xor
            | S::Shl
            | S::Shr => f32::NAN,
            S::Select | S::Cast(_) | S::Bitcast(_) => x,
        })
    }

    fn evaluate_int(self, dtype: DType, xs: &[Scalar]) -> Scalar {
        let x = xs[0].int();
        let y = xs.get(1).map_or(0, |y| y.int());
        let truth = |t: bool| Scalar::Int(i64::from(t));
        let value = match self {
            S::Add => x + y,
            S::Sub => x - y,
            S::Mul => x.wrapping_mul(y),
            S::Div if y == 0 => 0,
            S::Div => x.wrapping_div(y) - i64::from(x % y != 0 && (x < 0) != (y < 0)),
            S::Rem if y == 0 => 0,
            S::Rem => x - y * (x.wrapping_div(y) - i64::from(x % y != 0 && (x < 0) != (y < 0))),
            S::Dot4 => i64::from(dot4(x as u32, y as u32, xs[2].int() as i32)),
            S::Dot4Signed => i64::from(dot4_signed(x as u32, y as u32, xs[2].int() as i32)),
            S::Lookup(table) => i64::from(lookup(x as u32, &table)),
            S::Neg => -x,
            S::Abs => x.abs(),
            S::Min => x.min(y),
            S::Max => x.max(y),
            S::And => x & y,
            S::Or => x | y,
            S::Xor => x ^ y,
            S::Shl => x << (y & 31),
            S::Shr => x >> (y & 31),
            S::Lt => return truth(x < y),
            S::Le => return truth(x <= y),
            S::Eq => return truth(x == y),
            S::Ne => return truth(x != y),
            _ => 0,
        };
        Scalar::Int(dtype.wrap(value))
    }
}

/// What [`ScalarOp::Dot4`] gives.
pub fn dot4(unsigned: u32, signed: u32, sum: i32) -> i32 {
    let products = unsigned.to_le_bytes().into_iter().zip(signed.to_le_bytes());
    products.fold(sum, |sum, (x, y)| sum.wrapping_add(i32::from(x) * i32::from(y as i8)))
}

/// What [`ScalarOp::Lookup`] gives.
pub fn lookup(word: u32, table: &Table) -> u32 {
    u32::from_le_bytes(word.to_le_bytes().map(|byte| table[usize::from(byte & 15)]))
}

/// A table as four words, the first byte lowest.
pub fn words_of(table: &Table) -> [u32; 4] {
    std::array::from_fn(|at| u32::from_le_bytes([0, 1, 2, 3].map(|byte| table[4 * at + byte])))
}

/// What [`ScalarOp::Dot4Signed`] gives.
pub fn dot4_signed(x: u32, y: u32, sum: i32) -> i32 {
    let bytes = |word: u32| word.to_le_bytes().map(|byte| byte as i8);
    bytes(x).into_iter().zip(bytes(y)).fold(sum, |sum, (x, y)| {
        let turned = if x < 0 { y.wrapping_neg() } else { y };
        sum.wrapping_add(i32::from(x.unsigned_abs()) * i32::from(turned))
    })
}

/// What [`ScalarOp::Dot2`] gives.
pub fn dot2(x: u32, y: u32, sum: f32) -> f32 {
    let upper = |word: u32| f32::from_bits(word & 0xffff_0000);
    let lower = |word: u32| f32::from_bits(word << 16);
    let sum = fma_of_normals(upper(x), upper(y), sum);
    fma_of_normals(lower(x), lower(y), sum)
}

/// `x * y + sum` with 0 for what is below the least normal number. A result is if it would be with any exponent: one
/// that only the coarser steps below the least normal number round up to it is 0, too.
fn fma_of_normals(x: f32, y: f32, sum: f32) -> f32 {
    let flushed = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    let (x, y, sum) = (flushed(x), flushed(y), flushed(sum));
    let result = x.mul_add(y, sum);
    // The products of `bf16` that lead here are exact in `f64`, and so is their sum as far as the comparison sees it.
    let is_tiny = result.abs() == f32::MIN_POSITIVE && {
        let exact = f64::from(x) * f64::from(y) + f64::from(sum);
        exact.abs() < f64::from(f32::MIN_POSITIVE) * (1.0 - f64::from(f32::EPSILON) / 4.0)
    };
    if is_tiny { 0f32.copysign(result) } else { flushed(result) }
}

fn cast(x: Scalar, to: DType) -> Scalar {
    match (x, to.is_float()) {
        (Scalar::Float(x), true) => Scalar::Float(to.round(x)),
        (Scalar::Int(x), true) => Scalar::Float(to.round(x as f32)),
        (Scalar::Float(x), false) => Scalar::Int(match to {
            DType::U32 => i64::from(x as u32),
            DType::I8 => i64::from(x as i8),
            DType::U8 => i64::from(x as u8),
            DType::Bool => i64::from(x != 0.0),
            _ => i64::from(x as i32),
        }),
        (Scalar::Int(x), false) => Scalar::Int(to.wrap(x)),
    }
}

/// The error function to about 1e-16: the Taylor series near zero, the continued fraction beyond.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a > 6.0 {
        return x.signum();
    }
    if a < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut tail = 0.0;
    for n in (1..60).rev() {
        tail = f64::from(n) / 2.0 / (a + tail);
    }
    let complement = (-a * a).exp() / ((a + tail) * std::f64::consts::PI.sqrt());
    (1.0 - complement).copysign(x)
}
