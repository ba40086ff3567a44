//! Quotients of integers, which vectors have no instruction for.

use iced_x86::Code;

use super::machine::{Access, Address, Base, Class, Division, Item, Operand, Operation, Reg, View};
use super::select::{Selector, compare};

impl Selector<'_> {
    /// Quotients rounded down, or remainders, lane by lane in 64 bits; 0 for a divisor of 0.
    pub(super) fn divided(&mut self, signed: bool, remainder: bool, x: Reg, y: Reg) -> Reg {
        let [x, y] = [x, y].map(|reg| Address::of(Base::Frame(self.kept(reg))));
        let load = if signed { Code::Movsxd_r64_rm32 } else { Code::Mov_r32_rm32 };
        self.gathered(|selector, lane| {
            let [x, y] = [x, y].map(|from| selector.general_from(load, from.plus(4 * lane as i32)));
            selector.divided_integers(signed, remainder, x, y)
        })
    }

    fn divided_integers(&mut self, signed: bool, remainder: bool, x: Reg, y: Reg) -> Reg {
        let quad = |reg| Operand::Reg(reg, View::Quad);
        let change = |selector: &mut Self, code, to: Reg, operand: Option<Operand>| {
            let operands: Vec<Operand> = std::iter::once(quad(to)).chain(operand).collect();
            selector.push(Item::Operation(Operation::new(code, Access::Update, &operands)));
        };
        let is_zero = |selector: &mut Self, reg: Reg, set| {
            selector.push(compare(reg, Operand::Immediate(0)));
            let byte = selector.general(set, View::Byte, &[]);
            selector.general(Code::Movzx_r32_rm8, View::Double, &[Operand::Reg(byte, View::Byte)])
        };
        // A divisor of 0 becomes 1, and its result is masked away.
        let none = is_zero(self, y, Code::Sete_rm8);
        let divisor = self.copy(y);
        change(self, Code::Add_r64_rm64, divisor, Some(quad(none)));
        let quotient = self.code.new_reg(Class::General);
        self.push(Item::Divide(Division {
            to: quotient,
            dividend: x,
            divisor,
            signed: true,
            remainder: false,
        }));
        let rest = |selector: &mut Self| {
            let whole = selector.copy(quotient);
            change(selector, Code::Imul_r64_rm64, whole, Some(quad(divisor)));
            let rest = selector.copy(x);
            change(selector, Code::Sub_r64_rm64, rest, Some(quad(whole)));
            rest
        };
        if signed {
            // Truncation has to be corrected where a remainder has another sign than the divisor.
            let rest = rest(self);
            let inexact = is_zero(self, rest, Code::Setne_rm8);
            change(self, Code::Xor_r64_rm64, rest, Some(quad(divisor)));
            change(self, Code::Shr_rm64_imm8, rest, Some(Operand::Immediate(63)));
            change(self, Code::And_r64_rm64, rest, Some(quad(inexact)));
            change(self, Code::Sub_r64_rm64, quotient, Some(quad(rest)));
        }
        let result = if remainder { rest(self) } else { quotient };
        change(self, Code::Add_rm64_imm32, none, Some(Operand::Immediate(-1)));
        change(self, Code::And_r64_rm64, result, Some(quad(none)));
        result
    }
}
