//! What each instruction does to the lanes that take part.

use crate::error::{Broken, Reason};
use crate::instruction::{Join, Op};
use crate::run::block::Worker;
use crate::run::warp::{LANES, Warp, lanes};
use crate::run::{bits, float, integer};
use crate::types::Type;

impl Worker<'_> {
    /// Everything but branches, barriers of the block and the end of a thread.
    pub(crate) fn step(&mut self, warp: &mut Warp, op: &Op, active: u32) -> Result<(), Broken> {
        match op {
            Op::Unary { op, ty, mode, to, a } => match ty.is_integer() || *ty == Type::Pred {
                true => integer::unary(warp, active, *op, *ty, [*to, *a]),
                false => float::unary(warp, active, *op, *ty, *mode, [*to, *a]),
            },
            Op::Binary { op, ty, mode, to, a, b } => match ty.is_integer() || *ty == Type::Pred {
                true => integer::binary(warp, active, *op, *ty, [*to, *a, *b]),
                false => float::binary(warp, active, *op, *ty, *mode, [*to, *a, *b]),
            },
            Op::Fused { ty, mode, to, a, b, c } => float::fused(warp, active, *ty, *mode, [*to, *a, *b, *c]),
            Op::MultiplyAdd { part, ty, to, a, b, c } => {
                integer::multiply_add(warp, active, *part, *ty, [*to, *a, *b, *c])
            }
            Op::Move { to, from } => warp.map1(active, [*to, *from], |x| x),
            Op::Convert { into, from, rounding, mode, to, a, bytes } => {
                let (into, from, rounding, mode) = (*into, *from, *rounding, *mode);
                let cut = Type::Bits(*bytes);
                warp.map1(active, [*to, *a], |x| cut.truncate(float::convert(into, from, rounding, mode, x)))
            }
            Op::ConvertPair { into, mode, to, a, b } => {
                let (into, mode) = (*into, *mode);
                warp.map2(active, [*to, *a, *b], |high, low| {
                    float::narrow_half(into, mode, low) | float::narrow_half(into, mode, high) << 16
                })
            }
            Op::Load { space, ty, bytes, to, at } => self.load(warp, active, *space, (*ty, *bytes), to, *at),
            Op::Store { space, ty, from, at } => self.store(warp, active, *space, *ty, from, *at),
            Op::LoadParameter { to, ty, bytes, offset } => {
                self.load_parameter(warp, active, (*ty, *bytes), to, *offset)
            }
            Op::Convey { to, from, space, to_generic } => {
                self.convey(warp, active, *space, *to_generic, [*to, *from])
            }
            Op::Atomic { space, op, ty, to, at, a, b } => {
                self.atomic(warp, active, *space, (*op, *ty), *to, (*at, *a, *b))
            }
            Op::CopyStart { to, from, bytes, source } => {
                self.copy_start(warp, active, *to, *from, *bytes, *source)
            }
            Op::CopyCommit => {
                warp.copies.commit(active);
                Ok(())
            }
            Op::CopyWait { open } => self.copy_wait(warp, active, *open),
            Op::WarpBarrier { members } => {
                warp.converged(*members, active)?;
                warp.barrier = self.shared.pass_warp_barrier();
                Ok(())
            }
            Op::ProductFence
            | Op::ProductStart { .. }
            | Op::ProductCommit
            | Op::ProductWait { .. }
            | Op::ProxyFence => self.group_step(warp, active, op),
            Op::LoadMatrix { to, transposed, at } => self.load_matrix(warp, active, to, *transposed, *at),
            Op::Nothing => Ok(()),
            Op::Trap => {
                let why = "the kernel gave up by trap".to_owned();
                Err(Broken::new(Reason::Trap, active.trailing_zeros(), why))
            }
            Op::Branch { .. } | Op::Exit | Op::Barrier => unreachable!("the block sees to where lanes go"),
            other => registers(warp, other, active),
        }
    }
}

/// Instructions that touch registers alone.
fn registers(warp: &mut Warp, op: &Op, active: u32) -> Result<(), Broken> {
    match op {
        Op::Pack { .. } | Op::Unpack { .. } | Op::Compare { .. } => several(warp, op, active),
        Op::Set { comparison, unordered, into, ty, mode, to, a, b } => {
            let found = float::compare(*ty, *comparison, *unordered, *mode);
            let yes = if *into == Type::F32 { u64::from(1f32.to_bits()) } else { u64::from(u32::MAX) };
            warp.map2(active, [*to, *a, *b], |a, b| if found(a, b) { yes } else { 0 })
        }
        Op::Select { to, a, b, which } => {
            warp.map3(active, [*to, *a, *b, *which], |a, b, which| if which & 1 == 1 { a } else { b })
        }
        Op::Dot { signed, to, a, b, c } => bits::dot(warp, active, *signed, [*to, *a, *b, *c]),
        Op::Logic { table, to, a, b, c } => bits::logic(warp, active, *table, [*to, *a, *b, *c]),
        Op::Permute { to, a, b, selector } => warp.map3(active, [*to, *a, *b, *selector], bits::permute),
        Op::Extract { ty, to, a, start, len } => {
            let ty = *ty;
            warp.map3(active, [*to, *a, *start, *len], |a, start, len| bits::extract(ty, a, start, len))
        }
        Op::Insert { ty, to, a, b, start, len } => {
            let (start, len) = (*warp.get(*start, active)?, *warp.get(*len, active)?);
            let (a, b) = (*warp.get(*a, active)?, *warp.get(*b, active)?);
            let value = |lane: usize| bits::insert(*ty, a[lane], b[lane], start[lane], len[lane]);
            warp.set(*to, active, &std::array::from_fn(value));
            Ok(())
        }
        Op::Funnel { left, wrap, to, a, b, by } => {
            let (left, wrap) = (*left, *wrap);
            warp.map3(active, [*to, *a, *b, *by], |a, b, by| bits::funnel(left, wrap, a, b, by))
        }
        Op::Shuffle { kind, to, inside, a, by, clamp, members } => {
            warp.shuffle(active, *kind, (*to, *inside), *a, [*by, *clamp, *members])
        }
        Op::Vote { kind, to, a, negated, members } => warp.vote(active, *kind, *to, (*a, *negated), *members),
        Op::Reduce { op, ty, to, a, members } => warp.reduce(active, *op, *ty, [*to, *a, *members]),
        Op::Active { to } => {
            warp.set(*to, active, &[u64::from(active); LANES]);
            Ok(())
        }
        Op::Product { kind, to, a, b, c } => warp.product(active, *kind, to, a, b, c),
        other => unreachable!("{other:?} touches more than registers"),
    }
}

/// Instructions that have more than one operand or result of their kind.
fn several(warp: &mut Warp, op: &Op, active: u32) -> Result<(), Broken> {
    match op {
        Op::Pack { to, parts, bits } => {
            let mut out = [0; LANES];
            for (at, part) in parts.iter().enumerate() {
                let from = warp.get(*part, active)?;
                let mask = (1u64 << bits) - 1;
                out.iter_mut().zip(from).for_each(|(out, x)| *out |= (x & mask) << (at as u32 * bits));
            }
            warp.set(*to, active, &out);
            Ok(())
        }
        Op::Unpack { to, from, bits } => {
            let from = *warp.get(*from, active)?;
            for (at, to) in to.iter().enumerate() {
                let mask = u64::MAX >> (64 - bits);
                if let Some(to) = to {
                    warp.set(*to, active, &from.map(|x| x >> (at as u32 * bits) & mask));
                }
            }
            Ok(())
        }
        Op::Compare { comparison, unordered, ty, mode, join, to, a, b } => {
            let found = float::compare(*ty, *comparison, *unordered, *mode);
            let (a, b) = (warp.get(*a, active)?, warp.get(*b, active)?);
            let mut truth = 0u32;
            for lane in lanes(active) {
                truth |= u32::from(found(a[lane], b[lane])) << lane;
            }
            let (mut first, mut second) = (truth, !truth);
            if let Some((join, register, negated)) = join {
                let other = warp.truth(*register, active)? ^ if *negated { u32::MAX } else { 0 };
                let joined = |x: u32| match join {
                    Join::And => x & other,
                    Join::Or => x | other,
                    Join::Xor => x ^ other,
                };
                (first, second) = (joined(first), joined(second));
            }
            for (to, truth) in to.iter().zip([first, second]) {
                if let Some(to) = to {
                    warp.set(*to, active, &std::array::from_fn(|lane| u64::from(truth >> lane & 1)));
                }
            }
            Ok(())
        }
        other => unreachable!("{other:?} has one result"),
    }
}
