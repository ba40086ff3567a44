//! Products of teams: four warps whose units read both operands from shared memory.
//!
//! Where an operand lies a word of 64 bits says (PTX ISA, "Matrix Descriptor Format"): bits 0 to 13 its address,
//! 16 to 29 the distance of neighbours along the depth (`LBO`), 32 to 45 that of eight rows and the next eight
//! (`SBO`), each in units of 16 bytes; bits 62 and 63 are 0 for rows that are not swizzled. So it is the
//! canonical layout `((8,m),(T,2k)):((1T,SBO),(1,LBO))` of "Shared Memory Matrix Layout", `T` numbers being 16
//! bytes. Eight rows are 128 bytes that lie together, and `SBO` of 128 makes all rows do so: a [`Panel`].

use jtllm_ir::DType;

use super::TEAMS;
use super::function::{Class, Emitter};
use super::index::Known;
use crate::kernel::{CHUNK_BYTES, FragmentId, Panel, Role, chunk};

/// Numbers along the depth of one instruction.
const DEPTH: u32 = 16;

/// From eight rows of a piece each to the next eight, in units of a piece.
const EIGHT_ROWS: u32 = 8;

/// Bits of an address in shared memory, of which the lowest four are not told.
const ADDRESS: &str = "262128";

impl Emitter<'_> {
    /// Begins the products of a team; they are a group of their own, so that waiting counts statements.
    pub(super) fn product(&mut self, sums: &[FragmentId], panels: [&Panel; 2], depth: u32) {
        self.needs(TEAMS);
        let dtype = self.kernel.memory_dtype(panels[0].memory);
        let columns = sums.len() as u32 * Role::Sum.columns();
        let registers = sums.iter().flat_map(|sum| self.fragments[sum.0 as usize].clone());
        let registers = registers.collect::<Vec<_>>().join(", ");
        let adds = self.know(Known::Adds, 0, |emitter| emitter.make(Class::Truth, "mov.pred", &["1"]));
        let [left, right] = panels.map(|panel| self.descriptors(panel, dtype, depth / DEPTH));
        self.line("wgmma.fence.sync.aligned");
        for (left, right) in left.iter().zip(&right) {
            self.line(&format!(
                "wgmma.mma_async.sync.aligned.m64n{columns}k{DEPTH}.f32.{dtype}.{dtype} \
                 {{{registers}}}, {left}, {right}, {adds}, 1, 1, 0, 0"
            ));
        }
        self.line("wgmma.commit_group.sync.aligned");
    }

    /// Where a panel lies, for each step along the depth.
    fn descriptors(&mut self, panel: &Panel, dtype: DType, steps: u32) -> Vec<String> {
        let piece = CHUNK_BYTES as i64;
        let apart = i64::from(panel.stride) * dtype.size() as i64 / piece;
        let upper = self.know(Known::EightRows, 0, |emitter| {
            emitter.make(Class::Word, "mov.b32", &[&EIGHT_ROWS.to_string()])
        });
        let (pointer, bytes) = self.address(panel.memory, &panel.at);
        let pointer = self.make(Class::Word, "and.b32", &[&pointer, ADDRESS]);
        let start = self.make(Class::Word, "shr.u32", &[&pointer, "4"]);
        (0..i64::from(steps))
            .map(|step| {
                let word = bytes / piece + step * (i64::from(DEPTH) / chunk(dtype)) * apart + (apart << 16);
                let word = self.make(Class::Word, "add.s32", &[&start, &word.to_string()]);
                self.make(Class::Long, "mov.b64", &[&format!("{{{word}, {upper}}}")])
            })
            .collect()
    }
}
