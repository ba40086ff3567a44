//! Functions and control flow: groups, loops, conditions, cells.

use std::collections::HashMap;

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F32X4, I8, I32, I32X4, I64};
use cranelift_codegen::ir::{
    BlockArg, Function, Inst, InstBuilder, MemFlagsData, StackSlot, StackSlotData, StackSlotKind, Type,
};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use jtllm_ir::{DType, Expr, Symbol};

use super::{Features, LANES};
use crate::kernel::{GRID_AXIS, Kernel, Memory, Stmt, Value, ValueId, Varying};

/// A value of Cranelift's: a scalar or a vector.
pub(super) type Register = cranelift_codegen::ir::Value;

/// What has been computed and need not be computed again.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Known {
    /// An index expression as an `i64`.
    Index(Expr),
    /// Whether an index expression is not 0, as an `i8`.
    Truth(Expr),
    /// An index expression's four values, as `i32`s.
    Lanes(Expr),
    /// Where an index expression is not 0, as a mask.
    Mask(Expr),
    /// The address of a memory's byte.
    Pointer(Memory, Expr),
    /// A uniform value in every lane.
    Splat(ValueId),
    /// One lane of a varying value.
    Lane(ValueId, usize),
}

/// A block of the kernel that is open.
pub(super) struct Scope {
    known: HashMap<Known, Register>,
    /// The instruction that enters the next scope, once there is one.
    leave: Option<Inst>,
    /// Whether the block is repeated.
    repeated: bool,
}

/// The lanes that take part in the statements being emitted, where not all do.
#[derive(Clone)]
pub(super) struct Mask {
    /// As a vector.
    pub(super) vector: Register,
    /// The condition of each lane.
    pub(super) lanes: [Expr; LANES],
}

/// A kernel's value and where it was computed.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) register: Register,
    pub(super) depth: usize,
}

/// One function under construction.
pub(super) struct Emitter<'k, 'f> {
    pub(super) kernel: &'k Kernel,
    pub(super) varying: Varying,
    pub(super) features: Features,
    pub(super) builder: FunctionBuilder<'f>,
    pub(super) held: Vec<Option<Held>>,
    pub(super) mask: Option<Mask>,
    pub(super) axes: HashMap<u16, Held>,
    pub(super) symbols: HashMap<Symbol, Register>,
    pub(super) constants: HashMap<(Type, [u32; LANES]), Register>,
    memories: HashMap<Memory, Register>,
    cells: Vec<Variable>,
    scopes: Vec<Scope>,
    /// Which scope instructions are added to.
    place: usize,
    /// Constants are inserted before this instruction of the entry.
    entry: Option<Inst>,
    /// Sixteen bytes that lanes without part in an access read and write instead.
    spare: Option<StackSlot>,
}

/// Writes the kernel into `function`.
pub(super) fn emit(
    kernel: &Kernel,
    features: Features,
    function: &mut Function,
    scratch: &mut FunctionBuilderContext,
    config: TargetFrontendConfig,
) {
    let mut emitter = Emitter {
        kernel,
        varying: kernel.varying(),
        features,
        builder: FunctionBuilder::new(function, scratch),
        held: vec![None; kernel.values.len()],
        mask: None,
        axes: HashMap::new(),
        symbols: HashMap::new(),
        constants: HashMap::new(),
        memories: HashMap::new(),
        cells: Vec::new(),
        scopes: Vec::new(),
        place: 0,
        entry: None,
        spare: None,
    };
    emitter.groups();
    emitter.builder.seal_all_blocks();
    emitter.builder.finalize(config);
}

/// The type of the register that carries values of a type.
pub(super) fn carrier(dtype: DType, wide: bool) -> Type {
    match (dtype, wide) {
        (DType::F32, false) => F32,
        (DType::F32, true) => F32X4,
        (DType::Bool, false) => I8,
        (_, false) => I32,
        (_, true) => I32X4,
    }
}

impl<'k> Emitter<'k, '_> {
    /// Where the next instruction goes.
    pub(super) fn at(&mut self) -> FuncCursor<'_> {
        if self.place == self.depth() {
            return self.builder.cursor();
        }
        let leave = self.scopes[self.place].leave.expect("an outer scope has been left for an inner one");
        FuncCursor::new(self.builder.func).at_inst(leave)
    }

    /// Where constants go: before everything else.
    pub(super) fn at_entry(&mut self) -> FuncCursor<'_> {
        let entry = self.entry.expect("the entry has an instruction before anything is computed");
        FuncCursor::new(self.builder.func).at_inst(entry)
    }

    /// The number of the innermost scope; 0 is the function's entry, 1 the body of a group.
    pub(super) fn depth(&self) -> usize {
        self.scopes.len() - 1
    }

    /// The scope in which something that needs scope `needed` is computed: before the outermost loop
    /// in which it stays the same, but not before a condition that nothing repeats.
    pub(super) fn place_of(&self, needed: usize) -> usize {
        let outermost = (needed + 1..self.scopes.len()).find(|scope| self.scopes[*scope].repeated);
        outermost.map_or(self.depth(), |scope| scope - 1)
    }

    /// What `key` stands for, computed by `compute` in the scope that it needs unless it is known.
    pub(super) fn know(
        &mut self,
        key: Known,
        needed: usize,
        compute: impl FnOnce(&mut Self) -> Register,
    ) -> Register {
        if let Some(known) = self.scopes.iter().rev().find_map(|scope| scope.known.get(&key)) {
            return *known;
        }
        let place = self.place_of(needed);
        let outer = std::mem::replace(&mut self.place, place);
        let register = compute(self);
        self.place = outer;
        self.scopes[place].known.insert(key, register);
        register
    }

    fn open(&mut self, leave: Inst, repeated: bool) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.leave = Some(leave);
        }
        self.scopes.push(Scope { known: HashMap::new(), leave: None, repeated });
        self.place = self.depth();
    }

    fn close(&mut self) {
        self.scopes.pop();
        self.place = self.depth();
        self.scopes[self.place].leave = None;
    }

    /// The address of a memory's first element.
    pub(super) fn memory(&self, memory: Memory) -> Register {
        self.memories[&memory]
    }

    /// The address of bytes that nobody needs.
    pub(super) fn spare(&mut self) -> Register {
        let slot = *self.spare.get_or_insert_with(|| {
            let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, 16, 4);
            self.builder.create_sized_stack_slot(slot)
        });
        self.at().ins().stack_addr(I64, slot, 0)
    }

    /// The entry: addresses, symbols and cells; then a loop over the groups asked for.
    fn groups(&mut self) {
        let entry = self.builder.create_block();
        self.builder.append_block_params_for_function_params(entry);
        self.builder.switch_to_block(entry);
        self.scopes.push(Scope { known: HashMap::new(), leave: None, repeated: false });
        let arguments = self.builder.block_params(entry).to_vec();
        let anchor = self.builder.ins().iconst(I64, 0);
        self.entry = self.builder.func.dfg.value_def(anchor).inst();
        self.bind(arguments[0], arguments[1]);
        let (first, end) = (arguments[2], arguments[3]);
        let (head, exit) = (self.builder.create_block(), self.builder.create_block());
        let flat = self.builder.append_block_param(head, I64);
        let some = self.builder.ins().icmp(IntCC::UnsignedLessThan, first, end);
        // Directions of a single group have no axis.
        let wide: Vec<usize> = (0..3).filter(|d| self.kernel.grid[*d].as_int() != Some(1)).collect();
        let extents: Vec<Register> = wide.iter().map(|d| self.grid_extent(*d)).collect();
        let mut start = vec![BlockArg::from(first)];
        if wide.len() > 1 {
            start.extend(self.coordinates(first, &extents).into_iter().map(BlockArg::from));
        }
        let mut here = vec![flat; wide.len()];
        if wide.len() > 1 {
            here.iter_mut().for_each(|at| *at = self.builder.append_block_param(head, I64));
        }
        let leave = self.builder.ins().brif(some, head, &start, exit, &[]);
        self.builder.switch_to_block(head);
        self.open(leave, true);
        for (direction, at) in wide.iter().zip(&here) {
            self.axes.insert(GRID_AXIS + *direction as u16, Held { register: *at, depth: 1 });
        }
        let kernel = self.kernel;
        self.block(&kernel.body);
        let next = self.builder.ins().iadd_imm_s(flat, 1);
        let mut arguments = vec![BlockArg::from(next)];
        if wide.len() > 1 {
            arguments.extend(self.following(&here, &extents).into_iter().map(BlockArg::from));
        }
        let more = self.builder.ins().icmp(IntCC::UnsignedLessThan, next, end);
        self.builder.ins().brif(more, head, &arguments, exit, &[]);
        self.close();
        self.builder.switch_to_block(exit);
        self.builder.ins().return_(&[]);
    }

    /// Loads what the caller passes in memory, and declares what lives in the frame.
    fn bind(&mut self, params: Register, symbols: Register) {
        let trusted = MemFlagsData::trusted();
        for number in 0..self.kernel.params.len() {
            let address = self.builder.ins().load(I64, trusted, params, 8 * number as i32);
            self.memories.insert(Memory::Param(number as u16), address);
        }
        for (symbol, slot) in &self.kernel.symbols {
            let value = self.builder.ins().sload32(trusted, symbols, 4 * *slot as i32);
            self.symbols.insert(symbol.clone(), value);
        }
        for (number, shared) in self.kernel.shared.iter().enumerate() {
            let bytes = shared.len * shared.dtype.size() as u32;
            let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes.max(1), 4);
            let slot = self.builder.create_sized_stack_slot(slot);
            let address = self.builder.ins().stack_addr(I64, slot, 0);
            self.memories.insert(Memory::Shared(number as u16), address);
        }
        for (number, dtype) in self.kernel.cells.iter().enumerate() {
            let wide = self.varying.cell(crate::kernel::CellId(number as u32));
            let cell = self.builder.declare_var(carrier(*dtype, wide));
            self.cells.push(cell);
        }
    }

    /// The number of groups along a direction, as a divisor: at least 1.
    fn grid_extent(&mut self, direction: usize) -> Register {
        let extent = self.kernel.grid[direction].maximum(&Expr::int(1));
        self.index(&extent)
    }

    /// The coordinates of a group by its number.
    fn coordinates(&mut self, flat: Register, extents: &[Register]) -> Vec<Register> {
        let mut rest = flat;
        let mut coordinates = Vec::new();
        for extent in &extents[..extents.len() - 1] {
            coordinates.push(self.builder.ins().urem(rest, *extent));
            rest = self.builder.ins().udiv(rest, *extent);
        }
        coordinates.push(rest);
        coordinates
    }

    /// The coordinates of the group after the one at `here`.
    fn following(&mut self, here: &[Register], extents: &[Register]) -> Vec<Register> {
        let zero = self.builder.ins().iconst(I64, 0);
        let mut carry = self.builder.ins().iconst(I64, 1);
        let mut coordinates = Vec::new();
        for (at, extent) in here.iter().zip(extents) {
            let next = self.builder.ins().iadd(*at, carry);
            if coordinates.len() + 1 == here.len() {
                coordinates.push(next);
                break;
            }
            let wrapped = self.builder.ins().icmp(IntCC::Equal, next, *extent);
            coordinates.push(self.builder.ins().select(wrapped, zero, next));
            carry = self.builder.ins().uextend(I64, wrapped);
        }
        coordinates
    }

    fn block(&mut self, body: &'k [Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Let(value) => self.define(*value),
                Stmt::Set(cell, value) => {
                    let variable = self.cells[cell.0 as usize];
                    let wide = self.varying.cell(*cell);
                    let mut register = if wide { self.vector(*value) } else { self.scalar(*value) };
                    if let Some(mask) = self.mask.clone() {
                        let kept = self.builder.use_var(variable);
                        register = self.choose(mask.vector, register, kept);
                    }
                    self.builder.def_var(variable, register);
                }
                Stmt::Store { memory, at, value } => self.store(*memory, at, *value),
                Stmt::Loop { axis, extent, body } => self.repeat(*axis, extent, body),
                Stmt::If { cond, body } if self.varying.expr(cond) => self.masked(cond, body),
                Stmt::If { cond, body } => self.when(cond, body),
                // The lanes of a register are in step; matrix units and asynchronous copies are refused before.
                _ => {}
            }
        }
    }

    fn define(&mut self, value: ValueId) {
        let kernel = self.kernel;
        let record = kernel.record(value);
        let wide = self.varying.value(value);
        let register = match &record.value {
            // Constants are made where they are wanted.
            Value::Const(_) => return,
            Value::Index(x) => self.index_value(x, record.dtype, wide),
            Value::Cell(cell) => self.builder.use_var(self.cells[cell.0 as usize]),
            Value::Load { memory, at } => self.load(*memory, at, wide),
            Value::Scalar(op, operands) => self.operation(*op, operands, wide),
            Value::LaneReduce(monoid, operand) => self.lane_reduce(*monoid, *operand),
        };
        self.held[value.0 as usize] = Some(Held { register, depth: self.depth() });
    }

    fn repeat(&mut self, axis: u16, extent: &'k Expr, body: &'k [Stmt]) {
        let count = self.index(extent);
        let (head, exit) = (self.builder.create_block(), self.builder.create_block());
        let at = self.builder.append_block_param(head, I64);
        let zero = self.builder.ins().iconst(I64, 0);
        let start = [BlockArg::from(zero)];
        let leave = if extent.low() > 0 {
            self.builder.ins().jump(head, &start)
        } else {
            let some = self.builder.ins().icmp(IntCC::SignedLessThan, zero, count);
            self.builder.ins().brif(some, head, &start, exit, &[])
        };
        self.builder.switch_to_block(head);
        self.open(leave, true);
        let depth = self.depth();
        self.axes.insert(axis, Held { register: at, depth });
        self.block(body);
        let next = self.builder.ins().iadd_imm_s(at, 1);
        let more = self.builder.ins().icmp(IntCC::SignedLessThan, next, count);
        self.builder.ins().brif(more, head, &[BlockArg::from(next)], exit, &[]);
        self.close();
        self.builder.seal_block(head);
        self.builder.switch_to_block(exit);
        self.builder.seal_block(exit);
    }

    fn when(&mut self, cond: &'k Expr, body: &'k [Stmt]) {
        let truth = self.truth(cond);
        self.branch(truth, body);
    }

    /// Runs the body if `truth` is not 0.
    fn branch(&mut self, truth: Register, body: &'k [Stmt]) {
        let (inside, after) = (self.builder.create_block(), self.builder.create_block());
        let leave = self.builder.ins().brif(truth, inside, &[], after, &[]);
        self.builder.seal_block(inside);
        self.builder.switch_to_block(inside);
        self.open(leave, false);
        self.block(body);
        self.builder.ins().jump(after, &[]);
        self.close();
        self.builder.seal_block(after);
        self.builder.switch_to_block(after);
    }

    /// Runs the body for the lanes for which the condition holds, if there are any.
    fn masked(&mut self, cond: &'k Expr, body: &'k [Stmt]) {
        let outer = self.mask.take();
        let mut lanes: [Expr; LANES] = std::array::from_fn(|lane| self.in_lane(cond, lane));
        let mut vector = self.lane_mask(cond);
        if let Some(outer) = &outer {
            vector = self.at().ins().band(outer.vector, vector);
            lanes = std::array::from_fn(|lane| outer.lanes[lane].and(&lanes[lane]));
        }
        let fixed = lanes.iter().all(|lane| lane.as_int().is_some());
        let none = lanes.iter().all(|lane| lane.as_int() == Some(0));
        self.mask = Some(Mask { vector, lanes });
        if fixed && !none {
            self.block(body);
        } else if !none {
            let any = self.builder.ins().vany_true(vector);
            self.branch(any, body);
        }
        self.mask = outer;
    }
}
