//! Matrix units and asynchronous copies.
//!
//! Of a tile in memory each lane gives the address of a row of eight numbers: lanes 0 to 7 those of the upper left
//! eighth, and so on; which numbers then lie in which register is the same for `ldmatrix` and `mma`.

use jtllm_ir::{DType, Expr};

use super::TEAMS;
use super::function::{Class, Emitter};
use crate::kernel::{CHUNK_BYTES, FragmentId, LANE_AXIS, Memory, Role, Stmt, WARP};

impl Emitter<'_> {
    /// Registers for all fragments.
    pub(super) fn fragments(&mut self) {
        for fragment in &self.kernel.fragments {
            let (count, class) = match fragment.role {
                Role::Left => (4, Class::Word),
                Role::Right => (2, Class::Word),
                Role::Sum => (4, Class::Float),
            };
            let registers = (0..count).map(|_| self.register(class)).collect();
            self.fragments.push(registers);
        }
    }

    /// A statement of matrix units or copies; gives the statements that are left.
    pub(super) fn matrix<'s>(&mut self, stmt: &Stmt, after: &'s [Stmt]) -> &'s [Stmt] {
        match stmt {
            Stmt::Clear(sum) => {
                for register in self.fragments[sum.0 as usize].clone() {
                    self.line(&format!("mov.f32 {register}, 0f00000000"));
                }
            }
            Stmt::Fetch { fragment, memory, at, stride, turned: false } => {
                return self.fetch(*fragment, (*memory, at, *stride), after);
            }
            Stmt::Fetch { fragment, memory, at, stride, turned: true } => {
                return self.fetch_turned(*fragment, (*memory, at, *stride), after);
            }
            Stmt::Mma { sum, left, right } => self.multiply(*sum, *left, *right),
            Stmt::Spill { sum, memory, at, stride } => {
                let lane = self.lane_of_warp();
                let place = lane.clone().div_floor(4) * i64::from(*stride) + lane.modulo(4) * 2;
                let sums = self.fragments[sum.0 as usize].clone();
                for (half, pair) in sums.chunks(2).enumerate() {
                    let row = half as i64 * 8 * i64::from(*stride);
                    let address = self.element(*memory, &(at.clone() + place.clone() + row));
                    self.line(&format!("st.shared.v2.f32 {address}, {{{}}}", pair.join(", ")));
                }
            }
            Stmt::Scale { sum, memory, at, stride } => self.scale(*sum, (*memory, at, *stride)),
            Stmt::Product { sums, left, right, depth } => self.product(sums, [left, right], *depth),
            Stmt::ProductWait { pending } => {
                self.needs(TEAMS);
                self.line(&format!("wgmma.wait_group.sync.aligned {pending}"));
            }
            Stmt::Publish => {
                self.needs(TEAMS);
                self.line("fence.proxy.async.shared::cta");
            }
            Stmt::Stage { to, at, from, from_at } => {
                self.needs(80);
                let (to, from) = (self.element(*to, at), self.element(*from, from_at));
                self.line(&format!("cp.async.cg.shared.global {to}, {from}, {CHUNK_BYTES}"));
            }
            // Without asynchronous copies there is nothing to wait for.
            Stmt::StageCommit if self.has(80) => {
                self.needs(80);
                self.line("cp.async.commit_group");
            }
            Stmt::StageWait { pending } if self.has(80) => {
                self.needs(80);
                self.line(&format!("cp.async.wait_group {pending}"));
            }
            _ => {}
        }
        after
    }

    fn lane_of_warp(&self) -> Expr {
        Expr::axis(LANE_AXIS, &Expr::int(i64::from(self.kernel.lanes))).modulo(i64::from(WARP))
    }

    /// Loads a fragment; two right ones that follow each other come together.
    fn fetch<'s>(
        &mut self,
        fragment: FragmentId,
        (memory, at, stride): (Memory, &Expr, u32),
        after: &'s [Stmt],
    ) -> &'s [Stmt] {
        self.needs(75);
        let lane = self.lane_of_warp();
        let mut registers = self.fragments[fragment.0 as usize].clone();
        let stride = i64::from(stride);
        let mut rest = after;
        let place = if self.kernel.fragments[fragment.0 as usize].role == Role::Left {
            lane.clone().modulo(16) * stride + lane.div_floor(16) * 8
        } else {
            let mut place = lane.clone().modulo(8) * stride + lane.clone().div_floor(8).modulo(2) * 8;
            if let Some((partner, apart)) = self.partner((memory, at, stride, false), after) {
                registers.extend(self.fragments[partner.0 as usize].clone());
                place = place + lane.div_floor(16) * apart;
                rest = &after[1..];
            }
            place
        };
        self.load_matrix(&registers, memory, &(at.clone() + place), "");
        rest
    }

    /// The same of a right fragment whose columns are rows in memory: the load turns each eighth.
    fn fetch_turned<'s>(
        &mut self,
        fragment: FragmentId,
        (memory, at, stride): (Memory, &Expr, u32),
        after: &'s [Stmt],
    ) -> &'s [Stmt] {
        self.needs(75);
        let (lane, stride) = (self.lane_of_warp(), i64::from(stride));
        let mut registers = self.fragments[fragment.0 as usize].clone();
        let mut place = lane.clone().modulo(16) * stride;
        let partner = self.partner((memory, at, stride, true), after);
        if let Some((partner, apart)) = partner {
            registers.extend(self.fragments[partner.0 as usize].clone());
            place = place + lane.div_floor(16) * apart;
        }
        self.load_matrix(&registers, memory, &(at.clone() + place), ".trans");
        &after[usize::from(partner.is_some())..]
    }

    fn load_matrix(&mut self, registers: &[String], memory: Memory, at: &Expr, turned: &str) {
        let address = self.element(memory, at);
        let (count, registers) = (registers.len(), registers.join(", "));
        self.line(&format!(
            "ldmatrix.sync.aligned.m8n8.x{count}{turned}.shared.b16 {{{registers}}}, {address}"
        ));
    }

    /// Multiplies rows of sums: of each, a lane holds two numbers of a row and two of the row eight further down.
    fn scale(&mut self, sum: FragmentId, (memory, at, stride): (Memory, &Expr, u32)) {
        let row = self.lane_of_warp().div_floor(4);
        let sums = self.fragments[sum.0 as usize].clone();
        for (half, pair) in sums.chunks(2).enumerate() {
            let at = at.clone() + (row.clone() + half as i64 * 8) * i64::from(stride);
            let address = self.element(memory, &at);
            let factor = self.register(Class::Float);
            self.line(&format!("ld.shared.f32 {factor}, {address}"));
            pair.iter().for_each(|sum| self.line(&format!("mul.rn.f32 {sum}, {sum}, {factor}")));
        }
    }

    /// The right fragment that the next statement loads from the same memory, and how far apart they lie.
    fn partner(
        &self,
        (memory, at, stride, turns): (Memory, &Expr, i64, bool),
        after: &[Stmt],
    ) -> Option<(FragmentId, i64)> {
        match after.first()? {
            Stmt::Fetch { fragment, memory: other, at: next, stride: step, turned }
                if (*other, *turned) == (memory, turns)
                    && i64::from(*step) == stride
                    && self.kernel.fragments[fragment.0 as usize].role == Role::Right =>
            {
                Some((*fragment, (next.clone() - at.clone()).as_int()?))
            }
            _ => None,
        }
    }

    fn multiply(&mut self, sum: FragmentId, left: FragmentId, right: FragmentId) {
        let dtype = self.kernel.fragments[left.0 as usize].dtype;
        let [sum, left, right] = [sum, left, right].map(|id| self.fragments[id.0 as usize].clone());
        let sum = sum.join(", ");
        let deep = self.has(80) || dtype == DType::BF16;
        let (depth, level, parts) = if deep { (16, 80, 1) } else { (8, 75, 2) };
        self.needs(level);
        for (left, right) in left.chunks(4 / parts).zip(right.chunks(2 / parts)) {
            let (left, right) = (left.join(", "), right.join(", "));
            self.line(&format!(
                "mma.sync.aligned.m16n8k{depth}.row.col.f32.{dtype}.{dtype}.f32 \
                 {{{sum}}}, {{{left}}}, {{{right}}}, {{{sum}}}"
            ));
        }
    }
}
