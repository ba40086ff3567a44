//! Scalar operations as text: one row each, beside conversions.

use jtllm_ir::scalar::words_of;
use jtllm_ir::{DType, Scalar, ScalarOp};

use super::function::carried;

/// How an operation is spelled: `$0`, `$1`, `$2` are its operands. Two spellings where floats and integers
/// differ.
const SPELLINGS: &[(ScalarOp, &str, &str)] = &[
    (ScalarOp::Add, "($0 + $1)", "($0 + $1)"),
    (ScalarOp::Sub, "($0 - $1)", "($0 - $1)"),
    (ScalarOp::Mul, "($0 * $1)", "($0 * $1)"),
    (ScalarOp::Fma, "fma($0, $1, $2)", ""),
    (ScalarOp::Dot4, "", "dot_of_bytes($0, $1, $2)"),
    (ScalarOp::Abs, "abs($0)", "abs($0)"),
    // The second where one is not a number.
    (ScalarOp::Min, "select($1, $0, $0 < $1)", "min($0, $1)"),
    (ScalarOp::Max, "select($1, $0, $0 > $1)", "max($0, $1)"),
    (ScalarOp::Sqrt, "sqrt($0)", ""),
    (ScalarOp::Floor, "floor($0)", ""),
    (ScalarOp::Round, "round($0)", ""),
    (ScalarOp::And, "", "($0 & $1)"),
    (ScalarOp::Or, "", "($0 | $1)"),
    (ScalarOp::Xor, "", "($0 ^ $1)"),
    (ScalarOp::Shl, "", "($0 << (u32($1) & 31u))"),
    (ScalarOp::Shr, "", "($0 >> (u32($1) & 31u))"),
    (ScalarOp::Lt, "($0 < $1)", "($0 < $1)"),
    (ScalarOp::Le, "($0 <= $1)", "($0 <= $1)"),
    (ScalarOp::Eq, "($0 == $1)", "($0 == $1)"),
    (ScalarOp::Ne, "($0 != $1)", "($0 != $1)"),
    (ScalarOp::Select, "select($2, $1, $0)", "select($2, $1, $0)"),
    (ScalarOp::Neg, "(-$0)", ""),
    (ScalarOp::Div, "($0 / $1)", ""),
];

/// Whether the target has the operation; the others are made of simpler ones before.
pub(super) fn is_supported(op: ScalarOp) -> bool {
    let made = matches!(op, ScalarOp::Rem | ScalarOp::Cast(_) | ScalarOp::Bitcast(_) | ScalarOp::Lookup(_));
    made || SPELLINGS.iter().any(|(known, _, _)| *known == op)
}

/// An operation on named operands of these types.
pub(super) fn scalar(op: ScalarOp, operands: &[(String, DType)]) -> String {
    let (name, dtype) = &operands[operands.len() - 1];
    match (op, dtype) {
        (ScalarOp::Cast(to), from) => return cast(name, *from, to),
        (ScalarOp::Bitcast(to), _) => return format!("bitcast<{}>({name})", carried(to)),
        (ScalarOp::Lookup(table), _) => {
            let words = words_of(&table).map(|word| format!("{word}u")).join(", ");
            return format!("bytes_of_table({name}, vec4<u32>({words}))");
        }
        (ScalarOp::Neg, DType::U32) => return format!("(0u - {name})"),
        (ScalarOp::Neg, DType::I32) => return format!("(0 - {name})"),
        (ScalarOp::Div | ScalarOp::Rem, DType::I32 | DType::U32) => {
            let function = match (op, dtype) {
                (ScalarOp::Div, DType::I32) => "div_or_zero",
                (_, DType::I32) => "rem_or_zero",
                (ScalarOp::Div, _) => "div_or_zero_u",
                _ => "rem_or_zero_u",
            };
            return format!("{function}({}, {name})", operands[0].0);
        }
        (ScalarOp::Xor, DType::Bool) => return format!("({} != {name})", operands[0].0),
        (ScalarOp::Lt, DType::Bool) => return format!("(!{} && {name})", operands[0].0),
        (ScalarOp::Le, DType::Bool) => return format!("(!{} || {name})", operands[0].0),
        _ => {}
    }
    let row = SPELLINGS.iter().find(|(known, _, _)| *known == op);
    let row = row.expect("operations were checked before");
    let mut text = if *dtype == DType::F32 { row.1 } else { row.2 }.to_owned();
    for (at, (operand, _)) in operands.iter().enumerate() {
        text = text.replace(&format!("${at}"), operand);
    }
    text
}

/// The value of `x`, of type `from`, as type `to`, as both are carried.
fn cast(x: &str, from: DType, to: DType) -> String {
    let float = |dtype: DType| matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    match (from, to) {
        (from, to) if from == to => x.to_owned(),
        (from, DType::F32) if float(from) => x.to_owned(),
        (from, DType::F16) if float(from) => format!("half_value(half_bits({x}))"),
        (from, DType::BF16) if float(from) => format!("brain_value(brain_bits({x}))"),
        (DType::Bool, to) => format!("select({0}(0), {0}(1), {x})", carried(to)),
        (_, DType::F16) => format!("half_value(half_bits(f32({x})))"),
        (_, DType::BF16) => format!("brain_value(brain_bits(f32({x})))"),
        (_, DType::F32) => format!("f32({x})"),
        (from, DType::Bool) if float(from) => format!("({x} != 0.0)"),
        (_, DType::Bool) => format!("({x} != {}(0))", carried(from)),
        (from, DType::I32) if float(from) => format!("float_to_i32({x})"),
        (from, DType::U32) if float(from) => format!("float_to_u32({x})"),
        (from, DType::I8) if float(from) => format!("clamp(float_to_i32({x}), -128, 127)"),
        (from, DType::U8) if float(from) => format!("min(float_to_u32({x}), 255u)"),
        (_, DType::I32) => format!("i32({x})"),
        (_, DType::U32) => format!("u32({x})"),
        (_, DType::I8) => format!("((i32({x}) << 24u) >> 24u)"),
        (_, DType::U8) => format!("(u32({x}) & 255u)"),
    }
}

/// A constant of a type, as it is carried.
pub(super) fn constant(value: Scalar, dtype: DType) -> String {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {
            let x = dtype.round(value.float());
            match x.is_finite() {
                true => format!("{x:?}f"),
                // The language has no literal for these, and refuses to compute them beforehand.
                false => format!("bitcast<f32>(any_bits + {}u)", x.to_bits()),
            }
        }
        DType::Bool => value.truth().to_string(),
        DType::I32 | DType::I8 => match dtype.wrap(value.int()) {
            least if least == i64::from(i32::MIN) => "(-2147483647 - 1)".to_owned(),
            value => format!("({value})"),
        },
        DType::U32 | DType::U8 => format!("{}u", dtype.wrap(value.int())),
    }
}
