//! Products of pairs as fused products of their halves, where operands serve several sums.
//!
//! A half of a word is an `f32` after a shift or a mask, and `dot2` is two fused products of such, without numbers below
//! the least normal one: so is a fused product once the processor is told to take those for 0, as it is told for the
//! length of a loop that holds nothing else. On processors of Intel this is faster wherever halves are used more than
//! once: there `vdpbf16ps` takes as long as four fused products.

use iced_x86::Code;
use jtllm_ir::ScalarOp;

use super::isa::Op;
use super::machine::{Access, Address, Base, Item, Operand, Operation, Reg};
use super::select::Selector;
use crate::kernel::{Stmt, Value, ValueId};

/// All exceptions masked, to nearest even: what Rust's programs run with.
const USUAL: u32 = 0x1f80;
/// The same, with operands and results below the least normal number taken for 0.
const FLUSHED: u32 = 0x9fc0;

impl Selector<'_> {
    /// Whether a loop's body is made of products of pairs, and most words serve several of them.
    pub(super) fn is_made_of_pairs(&self, body: &[Stmt]) -> bool {
        let (mut words, mut products) = (0, 0);
        for stmt in body {
            let Stmt::Let(value) = stmt else {
                match stmt {
                    Stmt::Set(..) => continue,
                    _ => return false,
                }
            };
            match &self.kernel.record(*value).value {
                Value::Load { .. } => words += 1,
                Value::Scalar(ScalarOp::Dot2, _) => products += 1,
                Value::Index(_) | Value::Cell(_) | Value::Const(_) => {}
                _ => return false,
            }
        }
        // Two instructions for the halves of each word, two for each product, where one takes the time of four.
        words < products
    }

    /// Tells the processor what to do with numbers below the least normal one.
    pub(super) fn flush(&mut self, flushed: bool) -> Item {
        let at = self.code.constants.place(&[if flushed { FLUSHED } else { USUAL }]);
        let from = Operand::Memory(Address::of(Base::Constant(at)));
        Item::Operation(Operation::new(Code::VEX_Vldmxcsr_m32, Access::Read, &[from]))
    }

    /// A product of pairs by its halves, the upper ones first.
    pub(super) fn dot_of_halves(&mut self, xs: &[ValueId], target: Option<Reg>) -> Reg {
        let [x, y] = [self.halves(xs[0]), self.halves(xs[1])];
        let sum = self.lanes_of(xs[2]);
        let first = self.fused(Op::Fma231, sum, target, [self.whole(x[0]), self.whole(y[0])]);
        self.fused(Op::Fma231, first, Some(first), [self.whole(x[1]), self.whole(y[1])])
    }

    /// The upper and the lower half of a word, each as an `f32`.
    fn halves(&mut self, word: ValueId) -> [Reg; 2] {
        let depth = self.depth();
        if let Some(known) = self.scopes[depth].halves.get(&word) {
            return *known;
        }
        let register = self.lanes_of(word);
        let upper = self.word(0xffff_0000);
        let halves = [self.binary(Op::And, register, upper), self.with(Op::Shl, register, 16)];
        self.scopes[depth].halves.insert(word, halves);
        halves
    }
}
