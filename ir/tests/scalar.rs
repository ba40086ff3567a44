//! Every scalar operation on values whose results are known, and the rules of its types.
#![allow(clippy::unwrap_used)]

use jtllm_ir::scalar::TABLE;
use jtllm_ir::{DType, Scalar, ScalarOp};

fn float(op: &str, xs: &[f32]) -> f32 {
    let xs: Vec<Scalar> = xs.iter().map(|x| Scalar::Float(*x)).collect();
    ScalarOp::parse(op).unwrap().evaluate(DType::F32, &xs).float()
}

fn int(op: &str, dtype: DType, xs: &[i64]) -> i64 {
    let xs: Vec<Scalar> = xs.iter().map(|x| Scalar::Int(*x)).collect();
    ScalarOp::parse(op).unwrap().evaluate(dtype, &xs).int()
}

#[test]
fn names_are_unique_and_read_back() {
    for row in TABLE {
        if matches!(row.op, ScalarOp::Cast(_) | ScalarOp::Bitcast(_) | ScalarOp::Lookup(_)) {
            continue;
        }
        assert_eq!(row.op.name(), row.name);
        assert_eq!(ScalarOp::parse(row.name), Some(row.op));
        assert_eq!(TABLE.iter().filter(|other| other.name == row.name).count(), 1);
    }
    for dtype in DType::ALL {
        for op in [ScalarOp::Cast(dtype), ScalarOp::Bitcast(dtype)] {
            assert_eq!(ScalarOp::parse(&op.name()), Some(op));
        }
        assert_eq!(DType::parse(dtype.name()), Some(dtype));
    }
    assert_eq!(ScalarOp::parse("cast"), None, "a conversion is named by its target");
    let table = ScalarOp::Lookup([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0x80]);
    assert_eq!(table.name(), "lookup_000102030405060708090a0b0c0d0e80");
    assert_eq!(ScalarOp::parse(&table.name()), Some(table));
    for name in ["lookup", "lookup_", "lookup_00", "lookup_0x0102030405060708090a0b0c0d0e80"] {
        assert_eq!(ScalarOp::parse(name), None, "a lookup is named by all of its table: {name}");
    }
    assert_eq!(ScalarOp::parse("nothing"), None);
}

#[test]
fn each_operation_accepts_just_the_types_of_its_signature() {
    // Which of the 8 types an operation takes as its last operand.
    let accepted = |op: ScalarOp| {
        let fits = |dtype: &&DType| op.result(&op.operands(**dtype)).is_ok();
        DType::ALL.iter().filter(fits).map(|dtype| dtype.name()).collect::<Vec<_>>().join(" ")
    };
    for row in TABLE {
        let expected = match row.name {
            "add" | "sub" | "mul" | "div" | "neg" | "abs" | "min" | "max" => "f32 i32 u32",
            "rem" | "shl" | "shr" => "i32 u32",
            "and" | "or" | "xor" => "i32 u32 bool",
            "lt" | "le" | "eq" | "ne" => "f32 i32 u32 bool",
            "select" => "f32 i32 u32 bool",
            "dot4" | "dot4_signed" => "i32",
            "lookup" => "u32",
            "dot2" => "f32",
            "cast" => "f32 f16 bf16 i32 u32 i8 u8 bool",
            "bitcast" => "f32 i32 u32",
            _ => "f32",
        };
        assert_eq!(accepted(row.op), expected, "{}", row.name);
        assert!(row.op.result(&vec![DType::F32; row.arity + 1]).is_err(), "{} has an arity", row.name);
        assert!(row.op.result(&[]).is_err());
    }
    use DType::{Bool, F32, I32, U32};
    assert_eq!(ScalarOp::Select.result(&[Bool, F32, F32]), Ok(F32));
    assert!(ScalarOp::Select.result(&[F32, F32, F32]).is_err());
    assert!(ScalarOp::Select.result(&[Bool, F32, I32]).is_err());
    assert!(ScalarOp::Add.result(&[U32, I32]).is_err());
    assert_eq!(ScalarOp::Lt.result(&[U32, U32]), Ok(Bool));
    assert!(ScalarOp::Bitcast(DType::F16).result(&[I32]).is_err());
}

#[test]
fn floats() {
    assert_eq!(float("add", &[1.5, 2.0]), 3.5);
    assert_eq!(float("sub", &[1.5, 2.0]), -0.5);
    assert_eq!(float("mul", &[1.5, 2.0]), 3.0);
    assert_eq!(float("div", &[3.0, 2.0]), 1.5);
    assert_eq!(float("div", &[1.0, 0.0]), f32::INFINITY);
    assert_eq!(float("neg", &[1.0]), -1.0);
    assert_eq!(float("abs", &[-1.0]), 1.0);
    assert_eq!(float("min", &[1.0, 2.0]), 1.0);
    assert_eq!(float("max", &[1.0, 2.0]), 2.0);
    // If one is not a number, the second is the result.
    assert_eq!(float("min", &[f32::NAN, 2.0]), 2.0);
    assert_eq!(float("max", &[f32::NAN, 2.0]), 2.0);
    assert!(float("max", &[2.0, f32::NAN]).is_nan());
    assert_eq!(float("floor", &[-1.5]), -2.0);
    assert_eq!([0.5, 1.5, 2.5, -0.5].map(|x| float("round", &[x])), [0.0, 2.0, 2.0, -0.0]);
    // Rounded once: the product alone would lose the last bits.
    let x = 1.0 + 1.0 / 4096.0;
    assert_eq!(float("fma", &[x, x, -1.0]), ((f64::from(x) * f64::from(x)) - 1.0) as f32);
    assert_ne!(float("fma", &[x, x, -1.0]), x * x - 1.0);
}

#[test]
fn transcendentals_are_within_an_ulp_or_two() {
    let close = |op: &str, x: f32, expected: f64| {
        let found = f64::from(float(op, &[x]));
        assert!(
            (found - expected).abs() <= expected.abs() * 2.4e-7 + 1e-12,
            "{op} {x}: {found} for {expected}"
        );
    };
    for x in [-80.0f32, -3.7, -0.1, 0.0, 1e-3, 0.5, 1.0, 2.5, 7.0, 60.0] {
        let y = f64::from(x);
        close("exp", x, y.exp());
        close("tanh", x, y.tanh());
        close("sin", x * 100.0, f64::from(x * 100.0).sin());
        close("cos", x * 100.0, f64::from(x * 100.0).cos());
        if x > 0.0 {
            close("log", x, y.ln());
            close("sqrt", x, y.sqrt());
            close("rsqrt", x, 1.0 / y.sqrt());
        }
    }
    // Values of Abramowitz and Stegun, table 7.1, and the symmetry.
    let table = [
        (0.0, 0.0),
        (0.1, 0.112_462_916_018_284_9),
        (0.5, 0.520_499_877_813_046_5),
        (1.0, 0.842_700_792_949_714_9),
        (2.0, 0.995_322_265_018_952_7),
        (2.5, 0.999593047982555),
        (2.25, 0.9985372834133188),
        (3.0, 0.999_977_909_503_001_4),
        (7.0, 1.0),
    ];
    for (x, expected) in table {
        close("erf", x, expected);
        close("erf", -x, -expected);
    }
}

#[test]
fn products_of_bytes_are_unsigned_times_signed() {
    let dot = |x: u32, y: u32, sum: i64| int("dot4", DType::I32, &[i64::from(x), i64::from(y), sum]);
    assert_eq!(dot(0x0403_0201, 0x0101_0101, 5), 15);
    assert_eq!(dot(0xFFFF_FFFF, 0x8080_8080, 0), -4 * 255 * 128);
    assert_eq!(dot(0xFFFF_FFFF, 0x7F7F_7F7F, 0), 4 * 255 * 127);
    assert_eq!(dot(0x0000_0080, 0x0000_00FF, 0), -128, "the first is unsigned, the second signed");
    assert_eq!(dot(1, 1, i64::from(i32::MAX)), i64::from(i32::MIN), "sums wrap");
}

#[test]
fn products_of_signed_bytes_take_the_sign_of_the_first() {
    let dot = |x: u32, y: u32, sum: i64| int("dot4_signed", DType::I32, &[i64::from(x), i64::from(y), sum]);
    assert_eq!(dot(0x0403_0201, 0x0101_0101, 5), 15);
    assert_eq!(dot(0xFFFF_FFFF, 0x0403_0201, 0), -10);
    assert_eq!(dot(0x8080_8080, 0x8181_8181, 0), 4 * 128 * 127);
    assert_eq!(dot(0x0000_007F, 0x0000_0080, 0), -127 * 128);
    assert_eq!(dot(0x0000_00FF, 0x0000_0080, 0), -128, "-128 has no opposite");
    assert_eq!(dot(1, 1, i64::from(i32::MAX)), i64::from(i32::MIN), "sums wrap");
}

#[test]
fn products_of_pairs_are_added_upper_halves_first() {
    let pair = |low: f32, high: f32| high.to_bits() & 0xffff_0000 | low.to_bits() >> 16;
    let dot = |x, y, sum| {
        let words = [x, y].map(|word: u32| Scalar::Int(i64::from(word)));
        ScalarOp::Dot2.evaluate(DType::F32, &[words[0], words[1], Scalar::Float(sum)]).float()
    };
    assert_eq!(dot(pair(2.0, 3.0), pair(5.0, 7.0), 0.5), 31.5);
    let (one, large) = (1.0, 33_554_432.0);
    assert_eq!(
        dot(pair(-large, large), pair(one, one), 1.0),
        0.0,
        "the sum is rounded after the upper product"
    );
    assert_eq!(dot(pair(one, large), pair(one, one), -large), 1.0);
    // 1 + 2^-7 squared is 1 + 2^-6 + 2^-14: products are not rounded before they are added.
    assert_eq!(dot(pair(1.007_812_5, 0.0), pair(1.007_812_5, 0.0), -1.0), 0.015_686_035);
    let least = f32::MIN_POSITIVE;
    assert_eq!(
        dot(pair(0.0, least / 2.0), pair(0.0, 4.0), 0.0),
        0.0,
        "operands below the least normal are 0"
    );
    assert_eq!(dot(0, 0, -least / 2.0).to_bits(), 0, "so is the sum");
    assert_eq!(dot(pair(least, 0.0), pair(0.5, 0.0), 0.0), 0.0, "and what they make");
    assert_eq!(
        dot(pair(-least, 0.0), pair(1.0 / 16_777_216.0, 0.0), least),
        0.0,
        "even if steps there round it up"
    );
    assert_eq!(dot(pair(-least, 0.0), pair(1.0 / 33_554_432.0, 0.0), least), least);
    assert!(dot(pair(f32::INFINITY, 0.0), pair(0.0, 0.0), 1.0).is_nan());
}

#[test]
fn integers_wrap_and_divide_towards_minus_infinity() {
    use DType::{Bool, I32, U32};
    assert_eq!(int("add", I32, &[i64::from(i32::MAX), 1]), i64::from(i32::MIN));
    assert_eq!(int("sub", U32, &[0, 1]), i64::from(u32::MAX));
    assert_eq!(int("mul", U32, &[i64::from(u32::MAX), i64::from(u32::MAX)]), 1);
    assert_eq!(int("neg", I32, &[i64::from(i32::MIN)]), i64::from(i32::MIN));
    assert_eq!(int("neg", U32, &[1]), i64::from(u32::MAX));
    assert_eq!(int("abs", I32, &[i64::from(i32::MIN)]), i64::from(i32::MIN));
    for a in -9..9 {
        for b in (-4..5).filter(|b| *b != 0) {
            let quotient = (a as f64 / b as f64).floor() as i64;
            assert_eq!(int("div", I32, &[a, b]), quotient, "{a} / {b}");
            assert_eq!(int("rem", I32, &[a, b]), a - b * quotient, "{a} % {b}");
        }
        assert_eq!(int("div", I32, &[a, 0]), 0);
        assert_eq!(int("rem", I32, &[a, 0]), 0);
    }
    assert_eq!(int("div", I32, &[i64::from(i32::MIN), -1]), i64::from(i32::MIN));
    assert_eq!(int("min", U32, &[i64::from(u32::MAX), 1]), 1);
    assert_eq!(int("max", I32, &[-1, 1]), 1);
    assert_eq!(int("and", U32, &[12, 10]), 8);
    assert_eq!(int("or", U32, &[12, 10]), 14);
    assert_eq!(int("xor", Bool, &[1, 1]), 0);
    assert_eq!(int("shl", U32, &[0x8000_0001, 1]), 2);
    assert_eq!(int("shl", I32, &[1, 32]), 1);
    assert_eq!(int("shr", I32, &[-8, 1]), -4);
    assert_eq!(int("shr", U32, &[0x8000_0000, 31]), 1);
    assert_eq!(int("lt", U32, &[1, 2]), 1);
    assert_eq!(int("le", I32, &[2, 2]), 1);
    assert_eq!(int("eq", I32, &[2, 3]), 0);
    assert_eq!(int("ne", I32, &[2, 3]), 1);
    assert_eq!(int("select", I32, &[0, 5, 6]), 6);
    assert_eq!(int("select", I32, &[1, 5, 6]), 5);
}

#[test]
fn comparisons_with_what_is_not_a_number_are_false_except_ne() {
    let compare = |op: &str| {
        let xs = [Scalar::Float(f32::NAN), Scalar::Float(1.0)];
        ScalarOp::parse(op).unwrap().evaluate(DType::F32, &xs).truth()
    };
    assert_eq!(["lt", "le", "eq", "ne"].map(compare), [false, false, false, true]);
}

#[test]
fn conversions_round_saturate_and_wrap() {
    let from_float =
        |to: &str, x: f32| ScalarOp::parse(to).unwrap().evaluate(DType::F32, &[Scalar::Float(x)]);
    assert_eq!(from_float("i32", -1.9).int(), -1);
    assert_eq!(from_float("i32", 1e20).int(), i64::from(i32::MAX));
    assert_eq!(from_float("u32", -5.0).int(), 0);
    assert_eq!(from_float("i8", 200.0).int(), 127);
    assert_eq!(from_float("u8", 300.0).int(), 255);
    assert_eq!(from_float("i32", f32::NAN).int(), 0);
    assert_eq!(from_float("bool", 0.5).int(), 1);
    assert_eq!(from_float("f16", 1.0 + 1.0 / 2048.0).float(), 1.0, "ties go to even");
    assert_eq!(from_float("f16", 1e6).float(), f32::INFINITY);
    assert_eq!(from_float("bf16", 1.0 + 3.0 / 256.0).float(), 1.015_625);
    assert_eq!(int("i8", DType::I32, &[200]), -56);
    assert_eq!(int("u32", DType::I32, &[-1]), i64::from(u32::MAX));
    assert_eq!(int("i32", DType::U32, &[i64::from(u32::MAX)]), -1);
    let bits = ScalarOp::parse("bits_u32").unwrap().evaluate(DType::F32, &[Scalar::Float(1.0)]);
    assert_eq!(bits.int(), 0x3f80_0000);
    let back = ScalarOp::parse("bits_f32").unwrap().evaluate(DType::U32, &[Scalar::Int(0x3f80_0000)]);
    assert_eq!(back.float(), 1.0);
    let signed = ScalarOp::parse("bits_i32").unwrap().evaluate(DType::U32, &[Scalar::Int(0xffff_ffff)]);
    assert_eq!(signed.int(), -1);
}

#[test]
fn values_survive_their_bits_in_memory() {
    for dtype in DType::ALL {
        for bits in [0u32, 1, 0x7f, 0x80, 0x3c00, 0x8000_0001, 0x4048_f5c3] {
            let bits = match dtype.size() {
                1 if dtype == DType::Bool => bits & 1,
                1 => bits & 0xff,
                2 => bits & 0xffff,
                _ => bits,
            };
            let value = Scalar::from_bits(dtype, bits);
            let mask = if dtype.size() == 4 { u32::MAX } else { (1 << (8 * dtype.size())) - 1 };
            assert_eq!(value.to_bits(dtype) & mask, bits, "{dtype} {bits:x}");
        }
    }
}

/// The low half of each byte is a place in the table, whatever the high half is.
#[test]
fn lookups_go_byte_by_byte() {
    let table = std::array::from_fn(|place| (17 * place + 3) as u8);
    let found = ScalarOp::Lookup(table).evaluate(DType::U32, &[Scalar::Int(0xF081_2A0F)]).int();
    assert_eq!(found, i64::from(u32::from_le_bytes([table[15], table[10], table[1], table[0]])));
}
