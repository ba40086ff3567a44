//! Products of warp groups.

use super::{Decoded, Decoder};
use crate::error::ParseError;
use crate::instruction::{Op, Product};
use crate::types::Type;

/// Columns of the widest product.
const COLUMNS_MAX: u32 = 256;

impl Decoder<'_, '_> {
    /// Only `sm_90a` has them: no later processor does.
    fn group_units(&mut self) -> Result<(), ParseError> {
        self.needs(90, (8, 0))?;
        if !self.header.exact || self.header.target != 90 {
            return self.wrong(format!("needs .target sm_90a, the text is for sm_{}", self.header.target));
        }
        Ok(())
    }

    pub(super) fn group_product(&mut self) -> Decoded {
        self.group_units()?;
        if self.take("fence") {
            self.arity(0)?;
            self.aligned()?;
            return Ok(Op::ProductFence);
        }
        if self.take("commit_group") {
            self.arity(0)?;
            self.aligned()?;
            return Ok(Op::ProductCommit);
        }
        if self.take("wait_group") {
            self.arity(1)?;
            self.aligned()?;
            return Ok(Op::ProductWait { open: self.literal(0, 7)? });
        }
        if !self.take("mma_async") {
            return self.unknown();
        }
        self.aligned()?;
        self.group_start()
    }

    fn group_start(&mut self) -> Decoded {
        self.arity(8)?;
        let shape = self.modifiers.iter().find_map(|name| {
            let columns = name.strip_prefix("m64n")?.strip_suffix("k16")?.parse::<u32>().ok()?;
            Some((name.to_string(), columns))
        });
        let Some((name, columns)) = shape else { return self.wrong("no shape that is known") };
        self.take(&name);
        if columns == 0 || columns > COLUMNS_MAX || columns % 8 != 0 {
            return self
                .wrong(format!("{columns} columns, where a multiple of 8 up to {COLUMNS_MAX} is wanted"));
        }
        let types = [self.ty()?, self.ty()?, self.ty()?];
        let kind = match types {
            [Type::F32, Type::F16, Type::F16] => Product::F16 { depth: 16 },
            [Type::F32, Type::Bf16, Type::Bf16] => Product::Bf16 { depth: 16 },
            _ => return self.wrong("no product of these types is known"),
        };
        for (at, plain) in [(4, 1), (5, 1), (6, 0), (7, 0)] {
            if self.literal(at, 1)? != plain {
                return self.wrong("operands that are negated or transposed are not known");
            }
        }
        let sums = self.registers(0, columns as usize / 2, Type::F32)?;
        let [a, b] = [self.value(1, Type::Bits(8))?, self.value(2, Type::Bits(8))?];
        Ok(Op::ProductStart { kind, columns, sums, a, b, adds: self.value(3, Type::Pred)? })
    }
}
