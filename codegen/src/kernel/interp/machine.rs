//! The run itself: groups one after another, statements in order, lanes in lockstep.

use std::ops::Range;

use jtllm_ir::DType;

use super::compile::{Node, Program};
use super::index::{Indices, Place};
use super::matrix::{Fragments, Staging};
use super::memory::{Access, Races, decode, encode};
use super::product::Products;
use super::scalar::{apply, to_register};
use super::{Buffer, InterpError, Memories, Options};
use crate::kernel::Memory;

/// Registers and shared memory hold this before anything is written: as a float, not a number.
pub(super) const UNWRITTEN: u8 = 0xff;

pub(super) struct Machine<'p, 'm, 'b> {
    pub(super) program: &'p Program,
    pub(super) params: &'m mut [Buffer<'b>],
    /// Elements of each parameter, as declared.
    lens: Vec<u64>,
    values: Vec<Vec<u32>>,
    pub(super) indices: Indices,
    pub(super) shared: Vec<Vec<u8>>,
    pub(super) races: Option<Races>,
    /// Which lanes take part, per open varying condition.
    masks: Vec<Vec<bool>>,
    open: usize,
    scratch: [Vec<u32>; 2],
    stored: Vec<(i64, u32, u32)>,
    pub(super) fragments: Fragments,
    pub(super) staging: Staging,
    pub(super) products: Products,
    pub(super) group: u64,
}

impl Program {
    fn indices(&self, symbols: &[i32]) -> Result<Indices, InterpError> {
        let mut indices = Indices::new(self.uniforms, self.rows, self.lanes);
        for (register, slot) in &self.symbols {
            let Some(value) = symbols.get(*slot as usize) else {
                let what = format!("the symbol block has {} words, slot {slot} is read", symbols.len());
                return Err(InterpError::Binding { what });
            };
            indices.uniform[*register as usize] = i64::from(*value);
        }
        for node in &self.prologue {
            if let Node::Step(step) = node {
                indices.run(step, &[]);
            }
        }
        Ok(indices)
    }

    fn extents(&self, indices: &Indices) -> [u64; 3] {
        self.grid.map(|extent| u64::try_from(indices.uniform(extent)).unwrap_or(0))
    }

    /// How many groups the grid has for these symbols.
    pub fn group_count(&self, symbols: &[i32]) -> Result<u64, InterpError> {
        let extents = self.extents(&self.indices(symbols)?);
        Ok(extents.iter().fold(1u64, |count, extent| count.saturating_mul(*extent)))
    }

    /// Runs the kernel once for each group in `groups` (flat numbers, direction 0 fastest).
    pub fn run(
        &self,
        memories: &mut Memories<'_>,
        groups: Range<u64>,
        options: Options,
    ) -> Result<(), InterpError> {
        let indices = self.indices(memories.symbols)?;
        let extents = self.extents(&indices);
        let lens = self.bound_lens(&indices, &memories.params)?;
        let shared: Vec<Vec<u8>> =
            self.shared.iter().map(|s| vec![UNWRITTEN; s.len as usize * s.dtype.size()]).collect();
        let row = || vec![0; self.lanes];
        let mut machine = Machine {
            program: self,
            params: &mut memories.params,
            lens,
            values: (0..self.registers).map(|_| row()).collect(),
            indices,
            shared,
            races: options.threads.then(|| Races::new(self.shared.iter().map(|s| s.len as usize))),
            masks: Vec::new(),
            open: 0,
            scratch: [row(), row()],
            stored: Vec::new(),
            fragments: Fragments::new(&self.fragments, self.lanes),
            staging: Staging::default(),
            products: Products::default(),
            group: 0,
        };
        let count = extents.iter().fold(1u64, |count, extent| count.saturating_mul(*extent));
        for group in groups.start..groups.end.min(count) {
            machine.run_group(group, extents)?;
        }
        Ok(())
    }

    fn bound_lens(&self, indices: &Indices, params: &[Buffer<'_>]) -> Result<Vec<u64>, InterpError> {
        let binding = |what: String| Err(InterpError::Binding { what });
        if params.len() != self.params.len() {
            return binding(format!("{} buffers, {} parameters", params.len(), self.params.len()));
        }
        let mut lens = Vec::new();
        for (at, (facts, buffer)) in self.params.iter().zip(params).enumerate() {
            let len = u64::try_from(indices.uniform(facts.len)).unwrap_or(0);
            let need = len.saturating_mul(facts.dtype.size() as u64);
            if (buffer.bytes().len() as u64) < need {
                return binding(format!("p{at} takes {need} bytes, its buffer has {}", buffer.bytes().len()));
            }
            if facts.access.writes() && matches!(buffer, Buffer::Read(_)) {
                return binding(format!("p{at} is written, its buffer may only be read"));
            }
            lens.push(len);
        }
        Ok(lens)
    }
}

impl Machine<'_, '_, '_> {
    fn run_group(&mut self, group: u64, extents: [u64; 3]) -> Result<(), InterpError> {
        self.group = group;
        let coordinates =
            [group % extents[0], group / extents[0] % extents[1], group / extents[0] / extents[1]];
        for (slot, x) in coordinates.into_iter().enumerate() {
            self.indices.uniform[slot] = x as i64;
        }
        self.shared.iter_mut().for_each(|bytes| bytes.fill(UNWRITTEN));
        self.staging = Staging::default();
        self.products = Products::default();
        if let Some(races) = &mut self.races {
            races.begin_group();
        }
        let program = self.program;
        self.block(&program.body)
    }

    fn block(&mut self, body: &[Node]) -> Result<(), InterpError> {
        body.iter().try_for_each(|node| self.node(node))
    }

    fn node(&mut self, node: &Node) -> Result<(), InterpError> {
        match node {
            Node::Step(step) => self.indices.run(step, &self.values),
            Node::Const { bits, to } => self.values[*to].fill(*bits),
            Node::Index { at, dtype, to } => self.index(*at, *dtype, *to),
            Node::Copy { from, to, masked } => self.copy(*from, *to, *masked),
            Node::Load { memory, at, to, varying } => self.load(*memory, *at, *to, *varying)?,
            Node::Scalar { op, types, xs, to, varying } => {
                let mut out = std::mem::take(&mut self.values[*to]);
                let width = if *varying { out.len() } else { 1 };
                let row = |x: usize| &self.values[x][..width];
                match xs.as_slice() {
                    [x] => apply(*op, *types, &[row(*x)], &mut out[..width]),
                    [x, y] => apply(*op, *types, &[row(*x), row(*y)], &mut out[..width]),
                    [x, y, z] => apply(*op, *types, &[row(*x), row(*y), row(*z)], &mut out[..width]),
                    _ => {}
                }
                if !*varying {
                    let value = out[0];
                    out.fill(value);
                }
                self.values[*to] = out;
            }
            Node::LaneReduce { monoid, types, x, to } => {
                let [low, high] = &mut self.scratch;
                low.copy_from_slice(&self.values[*x]);
                let mut half = low.len() / 2;
                while half > 0 {
                    let (front, back) = low.split_at_mut(half);
                    apply(monoid.scalar(), *types, &[front, &back[..half]], &mut high[..half]);
                    front.copy_from_slice(&high[..half]);
                    half /= 2;
                }
                let value = low[0];
                self.values[*to].fill(value);
            }
            Node::Store { memory, at, from } => self.store(*memory, *at, *from)?,
            Node::Loop { axis, extent, body } => {
                for x in 0..self.indices.uniform(*extent) {
                    self.indices.uniform[*axis as usize] = x;
                    self.block(body)?;
                }
            }
            Node::If { cond, varying: false, body } => {
                if self.indices.uniform(*cond) != 0 {
                    self.block(body)?;
                }
            }
            Node::If { cond, varying: true, body } => self.divergent(*cond, body)?,
            Node::Barrier => {
                if let Some(races) = &mut self.races {
                    races.barrier();
                }
            }
            other => self.warps(other)?,
        }
        Ok(())
    }

    /// What warps and teams do together, and asynchronous copies.
    fn warps(&mut self, node: &Node) -> Result<(), InterpError> {
        match node {
            Node::Clear { sum } => {
                self.settled(&[*sum])?;
                self.fragments.clear(*sum);
            }
            Node::Tile { fragment, memory, at, stride, manner } => {
                self.tile(*fragment, *memory, *at, *stride, *manner)?;
            }
            Node::Scale { sum, memory, at, stride } => self.scale(*sum, *memory, *at, *stride)?,
            Node::Mma { sum, left, right } => {
                self.settled(&[*sum])?;
                self.fragments.multiply(*sum, *left, *right);
            }
            Node::Stage { to, at, from, from_at } => self.stage((*to, *at), (*from, *from_at))?,
            Node::Product { sums, panels, depth } => self.product(sums, panels, *depth)?,
            Node::ProductWait { pending } => self.finish_products(*pending)?,
            Node::Publish => {
                if let Some(races) = &mut self.races {
                    races.publish();
                }
            }
            Node::StageCommit => self.staging.commit(),
            Node::StageWait { pending } => self.land(*pending),
            other => unreachable!("{other:?} is what each lane does"),
        }
        Ok(())
    }

    fn index(&mut self, at: Place, dtype: DType, to: usize) {
        let bits = |x: i64| to_register(jtllm_ir::Scalar::Int(x), dtype);
        match at {
            Place::Lanes(_) => {
                for (lane, out) in self.values[to].iter_mut().enumerate() {
                    *out = bits(self.indices.at(at, lane));
                }
            }
            uniform => self.values[to].fill(bits(self.indices.uniform(uniform))),
        }
    }

    fn copy(&mut self, from: usize, to: usize, masked: bool) {
        let mut out = std::mem::take(&mut self.values[to]);
        let source = &self.values[from];
        if masked && self.open > 0 {
            let mask = &self.masks[self.open - 1];
            for ((out, source), active) in out.iter_mut().zip(source).zip(mask) {
                if *active {
                    *out = *source;
                }
            }
        } else {
            out.copy_from_slice(source);
        }
        self.values[to] = out;
    }

    /// Runs a block for the lanes whose condition holds.
    fn divergent(&mut self, cond: Place, body: &[Node]) -> Result<(), InterpError> {
        if self.masks.len() == self.open {
            self.masks.push(vec![false; self.program.lanes]);
        }
        let (outer, inner) = self.masks.split_at_mut(self.open);
        let mut any = false;
        for (lane, active) in inner[0].iter_mut().enumerate() {
            *active = outer.last().is_none_or(|mask| mask[lane]) && self.indices.at(cond, lane) != 0;
            any |= *active;
        }
        if any {
            self.open += 1;
            let result = self.block(body);
            self.open -= 1;
            result?;
        }
        Ok(())
    }

    pub(super) fn active(&self, lane: usize) -> bool {
        self.open == 0 || self.masks[self.open - 1][lane]
    }

    pub(super) fn facts(&self, memory: Memory) -> (DType, u64) {
        match memory {
            Memory::Param(param) => {
                (self.program.params[usize::from(param)].dtype, self.lens[usize::from(param)])
            }
            Memory::Shared(shared) => {
                let shared = &self.program.shared[usize::from(shared)];
                (shared.dtype, u64::from(shared.len))
            }
        }
    }

    pub(super) fn in_bounds(
        &self,
        memory: Memory,
        offset: i64,
        len: u64,
        lane: usize,
    ) -> Result<usize, InterpError> {
        match u64::try_from(offset) {
            Ok(at) if at < len => Ok(at as usize),
            _ => {
                let (group, lane) = (self.group, lane as u32);
                Err(InterpError::OutOfBounds { memory, offset, len, group, lane })
            }
        }
    }

    fn load(&mut self, memory: Memory, at: Place, to: usize, varying: bool) -> Result<(), InterpError> {
        let (dtype, len) = self.facts(memory);
        let mut out = std::mem::take(&mut self.values[to]);
        let width = if varying { out.len() } else { 1 };
        let bytes = match memory {
            Memory::Param(param) => self.params[usize::from(param)].bytes(),
            Memory::Shared(shared) => &self.shared[usize::from(shared)],
        };
        for (lane, out) in out[..width].iter_mut().enumerate() {
            // A lane that does not take part has no value; a fixed one keeps runs repeatable.
            *out = match self.active(lane) {
                true => decode(dtype, bytes, self.in_bounds(memory, self.indices.at(at, lane), len, lane)?),
                false => 0,
            };
        }
        if !varying {
            let value = out[0];
            out.fill(value);
        }
        self.values[to] = out;
        self.note(memory, at, Races::read)
    }

    /// Tells the race detector of an access by all active lanes.
    fn note(
        &mut self,
        memory: Memory,
        at: Place,
        kind: fn(&mut Races, Access) -> Result<(), InterpError>,
    ) -> Result<(), InterpError> {
        let Memory::Shared(shared) = memory else { return Ok(()) };
        let Some(mut races) = self.races.take() else { return Ok(()) };
        let group = self.group;
        let mut lanes = (0..self.program.lanes).filter(|lane| self.active(*lane));
        let result = lanes.try_for_each(|lane| {
            let offset = self.indices.at(at, lane) as usize;
            kind(&mut races, Access { shared, offset, lane: lane as u32, group })
        });
        self.races = Some(races);
        result
    }

    fn store(&mut self, memory: Memory, at: Place, from: usize) -> Result<(), InterpError> {
        let (dtype, len) = self.facts(memory);
        let (mut ascending, mut previous) = (true, -1);
        for lane in (0..self.program.lanes).filter(|lane| self.active(*lane)) {
            let offset = self.indices.at(at, lane);
            self.in_bounds(memory, offset, len, lane)?;
            ascending &= offset > previous;
            previous = offset;
        }
        if !ascending {
            self.check_conflict(memory, at, from)?;
        }
        self.note(memory, at, Races::write)?;
        let active = |lane: &usize| self.open == 0 || self.masks[self.open - 1][*lane];
        let bytes: &mut [u8] = match memory {
            Memory::Shared(shared) => &mut self.shared[usize::from(shared)],
            Memory::Param(param) => match &mut self.params[usize::from(param)] {
                Buffer::Write(bytes) => bytes,
                Buffer::Read(_) => {
                    let what = format!("{memory} is written, its buffer may only be read");
                    return Err(InterpError::Binding { what });
                }
            },
        };
        for lane in (0..self.program.lanes).filter(active) {
            encode(dtype, bytes, self.indices.at(at, lane) as usize, self.values[from][lane]);
        }
        Ok(())
    }

    /// Whether lanes that store to one element agree on its value.
    fn check_conflict(&mut self, memory: Memory, at: Place, from: usize) -> Result<(), InterpError> {
        let mut stored = std::mem::take(&mut self.stored);
        stored.clear();
        for lane in (0..self.program.lanes).filter(|lane| self.active(*lane)) {
            stored.push((self.indices.at(at, lane), self.values[from][lane], lane as u32));
        }
        stored.sort_unstable();
        let conflict = stored.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1);
        let group = self.group;
        let result = match conflict {
            None => Ok(()),
            Some(pair) => {
                let lanes = [pair[0].2.min(pair[1].2), pair[0].2.max(pair[1].2)];
                Err(InterpError::Conflict { memory, offset: pair[0].0, group, lanes })
            }
        };
        self.stored = stored;
        result
    }
}
