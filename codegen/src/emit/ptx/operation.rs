//! Scalar operations as instructions: one row each, beside conversions.

use jtllm_ir::scalar::{Table, words_of};
use jtllm_ir::{DType, Scalar, ScalarOp};

use super::function::{Class, Emitter};

/// How an operation is spelled for the types of its operands; nothing where it has no meaning.
///
/// `$0`, `$1`, `$2` are the operands, `$d` is the result, which is written last and may be one of them; `$a` to `$c` are words and `$p` to `$s` truth values
/// that the spelling needs in between; `$t` is the integer's type.
struct Spelling {
    op: ScalarOp,
    float: &'static str,
    signed: &'static str,
    unsigned: &'static str,
    truth: &'static str,
}

const fn row(op: ScalarOp, float: &'static str, integer: &'static str, truth: &'static str) -> Spelling {
    Spelling { op, float, signed: integer, unsigned: integer, truth }
}

const fn signs(op: ScalarOp, float: &'static str, signed: &'static str, unsigned: &'static str) -> Spelling {
    Spelling { op, float, signed, unsigned, truth: "" }
}

use ScalarOp as S;

const SPELLINGS: &[Spelling] = &[
    row(S::Add, "add.rn.f32 $d, $0, $1;", "add.$t $d, $0, $1;", ""),
    row(S::Sub, "sub.rn.f32 $d, $0, $1;", "sub.$t $d, $0, $1;", ""),
    row(S::Mul, "mul.rn.f32 $d, $0, $1;", "mul.lo.$t $d, $0, $1;", ""),
    // Of integers: the quotient by 1 where the divisor is 0 or -1; rounded down; then those two divisors.
    signs(
        S::Div,
        "div.rn.f32 $d, $0, $1;",
        "setp.eq.s32 $p, $1, 0; setp.eq.s32 $q, $1, -1; or.pred $r, $p, $q; selp.b32 $a, 1, $1, $r; \
         div.s32 $b, $0, $a; mul.lo.s32 $c, $b, $a; setp.ne.s32 $r, $c, $0; sub.s32 $c, $0, $c; \
         xor.b32 $c, $c, $a; setp.lt.s32 $s, $c, 0; and.pred $r, $r, $s; \
         selp.b32 $c, -1, 0, $r; add.s32 $b, $b, $c; \
         neg.s32 $c, $0; selp.b32 $b, $c, $b, $q; selp.b32 $d, 0, $b, $p;",
        "setp.eq.u32 $p, $1, 0; selp.b32 $a, 1, $1, $p; div.u32 $b, $0, $a; selp.b32 $d, 0, $b, $p;",
    ),
    signs(
        S::Rem,
        "",
        "setp.eq.s32 $p, $1, 0; setp.eq.s32 $q, $1, -1; or.pred $r, $p, $q; selp.b32 $a, 1, $1, $r; \
         rem.s32 $b, $0, $a; setp.ne.s32 $p, $b, 0; xor.b32 $c, $b, $a; setp.lt.s32 $q, $c, 0; \
         and.pred $p, $p, $q; selp.b32 $c, $a, 0, $p; add.s32 $d, $b, $c;",
        "setp.eq.u32 $p, $1, 0; selp.b32 $a, 1, $1, $p; rem.u32 $d, $0, $a;",
    ),
    row(S::Fma, "fma.rn.f32 $d, $0, $1, $2;", "", ""),
    row(S::Dot4, "", "dp4a.u32.s32 $d, $0, $1, $2;", ""),
    row(S::Neg, "neg.f32 $d, $0;", "neg.s32 $d, $0;", ""),
    signs(S::Abs, "abs.f32 $d, $0;", "abs.s32 $d, $0;", "mov.b32 $d, $0;"),
    // The second where one is not a number.
    row(S::Min, "setp.lt.f32 $p, $0, $1; selp.f32 $d, $0, $1, $p;", "min.$t $d, $0, $1;", ""),
    row(S::Max, "setp.gt.f32 $p, $0, $1; selp.f32 $d, $0, $1, $p;", "max.$t $d, $0, $1;", ""),
    row(S::Sqrt, "sqrt.rn.f32 $d, $0;", "", ""),
    row(S::Floor, "cvt.rmi.f32.f32 $d, $0;", "", ""),
    row(S::Round, "cvt.rni.f32.f32 $d, $0;", "", ""),
    row(S::And, "", "and.b32 $d, $0, $1;", "and.pred $d, $0, $1;"),
    row(S::Or, "", "or.b32 $d, $0, $1;", "or.pred $d, $0, $1;"),
    row(S::Xor, "", "xor.b32 $d, $0, $1;", "xor.pred $d, $0, $1;"),
    // The instructions clamp counts above 31.
    row(S::Shl, "", "and.b32 $a, $1, 31; shl.b32 $d, $0, $a;", ""),
    row(S::Shr, "", "and.b32 $a, $1, 31; shr.$t $d, $0, $a;", ""),
    row(S::Lt, "setp.lt.f32 $d, $0, $1;", "setp.lt.$t $d, $0, $1;", "not.pred $p, $0; and.pred $d, $p, $1;"),
    row(S::Le, "setp.le.f32 $d, $0, $1;", "setp.le.$t $d, $0, $1;", "not.pred $p, $0; or.pred $d, $p, $1;"),
    row(S::Eq, "setp.eq.f32 $d, $0, $1;", "setp.eq.$t $d, $0, $1;", "xor.pred $p, $0, $1; not.pred $d, $p;"),
    row(S::Ne, "setp.neu.f32 $d, $0, $1;", "setp.ne.$t $d, $0, $1;", "xor.pred $d, $0, $1;"),
    row(
        S::Select,
        "selp.f32 $d, $1, $2, $0;",
        "selp.b32 $d, $1, $2, $0;",
        "and.pred $p, $0, $1; not.pred $q, $0; and.pred $q, $q, $2; or.pred $d, $p, $q;",
    ),
];

/// What spellings may need in between.
const TEMPORARIES: &[(Class, &str)] = &[
    (Class::Word, "$a"),
    (Class::Word, "$b"),
    (Class::Word, "$c"),
    (Class::Truth, "$p"),
    (Class::Truth, "$q"),
    (Class::Truth, "$r"),
    (Class::Truth, "$s"),
];

fn spelling(op: ScalarOp, dtype: DType) -> Option<&'static str> {
    let row = SPELLINGS.iter().find(|row| row.op == op)?;
    let text = match dtype {
        DType::F32 => row.float,
        DType::I32 => row.signed,
        DType::U32 => row.unsigned,
        _ => row.truth,
    };
    (!text.is_empty()).then_some(text)
}

/// Whether the target has the operation; the others are made of simpler ones before.
pub(super) fn is_supported(op: ScalarOp, dtype: DType) -> bool {
    matches!(op, ScalarOp::Cast(_) | ScalarOp::Bitcast(_) | ScalarOp::Lookup(_))
        || spelling(op, dtype).is_some()
}

/// A constant as it stands in instructions; truth values need a register.
pub(super) fn constant(value: Scalar, dtype: DType) -> String {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => float(dtype.round(value.float())),
        _ => dtype.wrap(value.int()).to_string(),
    }
}

/// A float as it stands in instructions.
pub(super) fn float(value: f32) -> String {
    format!("0f{:08X}", value.to_bits())
}

impl Emitter<'_> {
    /// The result of an operation on operands of these types.
    pub(super) fn scalar(&mut self, op: ScalarOp, operands: &[(String, DType)]) -> String {
        let (x, from) = operands[operands.len() - 1].clone();
        match op {
            ScalarOp::Cast(to) => return self.cast(&x, from, to),
            ScalarOp::Bitcast(to) => return self.make(Class::of(to), "mov.b32", &[&x]),
            ScalarOp::Lookup(table) => return self.lookup(&x, &table),
            // A count that is known needs no reduction.
            ScalarOp::Shl | ScalarOp::Shr if x.parse::<i64>().is_ok() => {
                let count = x.parse::<i64>().map_or(0, |count| count & 31).to_string();
                let spelled = if op == ScalarOp::Shl { "shl.b32" } else { "shr.s32" };
                let spelled = if (op, from) == (ScalarOp::Shr, DType::U32) { "shr.u32" } else { spelled };
                return self.make(Class::Word, spelled, &[&operands[0].0, &count]);
            }
            _ => {}
        }
        let dtypes: Vec<DType> = operands.iter().map(|(_, dtype)| *dtype).collect();
        let result = op.result(&dtypes).expect("the kernel was verified");
        let text = spelling(op, from).expect("operations were checked before");
        let names: Vec<&str> = operands.iter().map(|(name, _)| name.as_str()).collect();
        self.spell(text, &names, Class::of(result), if from == DType::I32 { "s32" } else { "u32" })
    }

    /// Writes a spelling out; gives the register of its result.
    fn spell(&mut self, text: &str, operands: &[&str], class: Class, integer: &str) -> String {
        let mut text = text.replace("$t", integer);
        let result = self.result(class);
        text = text.replace("$d", &result);
        for (at, operand) in operands.iter().enumerate() {
            text = text.replace(&format!("${at}"), operand);
        }
        for (class, name) in TEMPORARIES {
            if text.contains(name) {
                text = text.replace(name, &self.register(*class));
            }
        }
        for instruction in text.split_terminator(';') {
            self.line(instruction.trim());
        }
        result
    }

    /// The bytes of a table that the low halves of a word's bytes number: those of either half of the table by the lowest
    /// three bits, and of both the one that the fourth bit says.
    fn lookup(&mut self, x: &str, table: &Table) -> String {
        let [first, second, third, fourth] = words_of(table);
        let text = format!(
            "and.b32 $a, $0, 0x07070707; shr.u32 $b, $a, 4; or.b32 $a, $a, $b; prmt.b32 $a, $a, 0, 0x4420; \
             prmt.b32 $b, {first}, {second}, $a; prmt.b32 $c, {third}, {fourth}, $a; xor.b32 $c, $c, $b; \
             shl.b32 $a, $0, 4; prmt.b32 $a, $a, 0, 0xBA98; and.b32 $c, $c, $a; xor.b32 $d, $b, $c;"
        );
        self.spell(&text, &[x], Class::Word, "u32")
    }

    /// The value of `x`, of type `from`, as type `to`, as both are carried.
    fn cast(&mut self, x: &str, from: DType, to: DType) -> String {
        match (from, to) {
            (from, to) if from == to => x.to_owned(),
            (from, DType::F32) if from.is_float() => x.to_owned(),
            (from, DType::F16) if from.is_float() => {
                let half = self.make(Class::Half, "cvt.rn.f16.f32", &[x]);
                self.make(Class::Float, "cvt.f32.f16", &[&half])
            }
            (from, DType::BF16) if from.is_float() => {
                let bits = self.brain_bits(x);
                self.brain_value(&bits)
            }
            (_, DType::F16 | DType::BF16) => {
                let wide = self.cast(x, from, DType::F32);
                self.cast(&wide, DType::F32, to)
            }
            (DType::Bool, DType::F32) => self.make(Class::Float, "selp.f32", &[&float(1.0), &float(0.0), x]),
            (DType::Bool, _) => self.make(Class::Word, "selp.b32", &["1", "0", x]),
            (DType::U32 | DType::U8, DType::F32) => self.make(Class::Float, "cvt.rn.f32.u32", &[x]),
            (_, DType::F32) => self.make(Class::Float, "cvt.rn.f32.s32", &[x]),
            (from, DType::Bool) if from.is_float() => {
                self.make(Class::Truth, "setp.neu.f32", &[x, &float(0.0)])
            }
            (_, DType::Bool) => self.make(Class::Truth, "setp.ne.s32", &[x, "0"]),
            (from, to) if from.is_float() => self.integer(x, to),
            (_, DType::U8) => self.make(Class::Word, "and.b32", &[x, "255"]),
            (_, DType::I8) => {
                let high = self.make(Class::Word, "shl.b32", &[x, "24"]);
                self.make(Class::Word, "shr.s32", &[&high, "24"])
            }
            // Narrow integers are carried in 32 bits with their sign.
            (_, DType::I32 | DType::U32) => x.to_owned(),
        }
    }

    /// Truncated; the conversion saturates and gives 0 for what is not a number.
    fn integer(&mut self, x: &str, to: DType) -> String {
        let kind = if matches!(to, DType::U32 | DType::U8) { "u32" } else { "s32" };
        let word = self.make(Class::Word, &format!("cvt.rzi.{kind}.f32"), &[x]);
        match to {
            DType::U8 => self.make(Class::Word, "min.u32", &[&word, "255"]),
            DType::I8 => {
                let word = self.make(Class::Word, "max.s32", &[&word, "-128"]);
                self.make(Class::Word, "min.s32", &[&word, "127"])
            }
            _ => word,
        }
    }

    /// The upper half of a float, rounded to nearest even, in the low bits of a word.
    pub(super) fn brain_bits(&mut self, x: &str) -> String {
        if self.has(80) {
            self.needs(80);
            let half = self.make(Class::Half, "cvt.rn.bf16.f32", &[x]);
            return self.make(Class::Word, "cvt.u32.u16", &[&half]);
        }
        let bits = self.make(Class::Word, "mov.b32", &[x]);
        let odd = self.make(Class::Word, "bfe.u32", &[&bits, "16", "1"]);
        let up = self.make(Class::Word, "add.u32", &[&odd, "32767"]);
        let up = self.make(Class::Word, "add.u32", &[&up, &bits]);
        let quiet = self.make(Class::Word, "or.b32", &[&bits, "4194304"]);
        let nan = self.make(Class::Truth, "setp.nan.f32", &[x, x]);
        let bits = self.make(Class::Word, "selp.b32", &[&quiet, &up, &nan]);
        self.make(Class::Word, "shr.u32", &[&bits, "16"])
    }

    /// The float whose upper half is in the low bits of a word.
    pub(super) fn brain_value(&mut self, bits: &str) -> String {
        let bits = self.make(Class::Word, "shl.b32", &[bits, "16"]);
        self.make(Class::Float, "mov.b32", &[&bits])
    }
}
