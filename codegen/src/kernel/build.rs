//! Builds kernels. Equal pure values are computed once, in the outermost block that has what they need:
//! sharing and hoisting happen by construction, so schedules may ask for the same thing twice.

use std::collections::HashMap;

use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr, Monoid, Scalar, ScalarOp, Symbol};

use super::{
    Access, CellId, Fragment, FragmentId, GRID_AXIS, Kernel, LANE_AXIS, LOOP_AXIS, Memory, Panel, Param,
    Role, Shared, Stmt, Value, ValueId, ValueRecord,
};

/// What makes two pure values the same.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Const(DType, u32),
    Index(DType, Expr),
    Load(Memory, Expr),
    Scalar(ScalarOp, Vec<ValueId>),
    LaneReduce(Monoid, ValueId),
}

/// What a block belongs to.
#[derive(Clone)]
enum Opened {
    Kernel,
    Loop {
        axis: u16,
        extent: Expr,
    },
    /// Loads may not leave the block.
    When {
        cond: Expr,
    },
}

#[derive(Clone)]
struct Scope {
    body: Vec<Stmt>,
    known: HashMap<Key, ValueId>,
    opened: Opened,
}

impl Scope {
    fn new(opened: Opened) -> Scope {
        Scope { body: Vec::new(), known: HashMap::new(), opened }
    }

    fn is_conditional(&self) -> bool {
        matches!(self.opened, Opened::When { .. })
    }

    fn binds(&self, index: u16) -> bool {
        matches!(self.opened, Opened::Loop { axis, .. } if axis == index)
    }
}

/// A kernel under construction.
#[derive(Clone)]
pub struct Builder {
    kernel: Kernel,
    scopes: Vec<Scope>,
    /// In which scope each value was defined.
    depth: Vec<usize>,
    next_axis: u16,
}

impl Builder {
    /// An empty kernel for groups of `lanes` lanes.
    pub fn new(name: &str, lanes: u32, grid: [Expr; 3]) -> Builder {
        let kernel = Kernel {
            name: name.to_owned(),
            symbols: Vec::new(),
            params: Vec::new(),
            shared: Vec::new(),
            cells: Vec::new(),
            fragments: Vec::new(),
            values: Vec::new(),
            grid,
            lanes,
            body: Vec::new(),
        };
        Builder { kernel, scopes: vec![Scope::new(Opened::Kernel)], depth: Vec::new(), next_axis: LOOP_AXIS }
    }

    /// The finished kernel, numbered in order; `slots` are the symbols of the graph in the order of their slots.
    pub fn finish(mut self, slots: &[Symbol]) -> Kernel {
        assert!(self.scopes.len() == 1, "every block that was opened is closed");
        self.kernel.body = self.scopes.remove(0).body;
        let mut used = Vec::new();
        visit_exprs(&self.kernel, &mut |x| note_symbols(x, &mut used));
        let slot = |symbol: &Symbol| slots.iter().position(|s| s == symbol);
        let mut symbols: Vec<(Symbol, u32)> = used
            .into_iter()
            .map(|symbol| {
                let slot = slot(&symbol).expect("the graph declares every symbol that its nodes mention");
                (symbol, slot as u32)
            })
            .collect();
        symbols.sort_by_key(|(_, slot)| *slot);
        self.kernel.symbols = symbols;
        self.kernel.renumbered()
    }

    /// The group's coordinate along grid direction `direction`.
    pub fn grid(&self, direction: usize) -> Expr {
        Expr::axis(GRID_AXIS + direction as u16, &self.kernel.grid[direction])
    }

    /// The lane's number.
    pub fn lane(&self) -> Expr {
        Expr::axis(LANE_AXIS, &Expr::int(i64::from(self.kernel.lanes)))
    }

    /// How many lanes a group has.
    pub fn lanes(&self) -> i64 {
        i64::from(self.kernel.lanes)
    }

    /// Adds a parameter.
    pub fn param(&mut self, dtype: DType, access: Access, len: Expr, aligned: bool) -> Memory {
        self.kernel.params.push(Param { dtype, access, len, aligned });
        Memory::Param(self.kernel.params.len() as u16 - 1)
    }

    /// Adds a memory that the group's lanes share.
    pub fn shared(&mut self, dtype: DType, len: u32) -> Memory {
        self.kernel.shared.push(Shared { dtype, len });
        Memory::Shared(self.kernel.shared.len() as u16 - 1)
    }

    /// The type of a value.
    pub fn dtype(&self, value: ValueId) -> DType {
        self.kernel.record(value).dtype
    }

    /// A constant.
    pub fn constant(&mut self, dtype: DType, value: Scalar) -> ValueId {
        // Rounded to the type, so that equal constants are one value and print alike.
        let bits = value.to_bits(dtype);
        self.pure(Key::Const(dtype, bits), Value::Const(Scalar::from_bits(dtype, bits)), dtype, 0)
    }

    /// An `f32` constant.
    pub fn float(&mut self, value: f32) -> ValueId {
        self.constant(DType::F32, Scalar::Float(value))
    }

    /// The value of an index expression.
    pub fn index(&mut self, dtype: DType, x: &Expr) -> ValueId {
        if let Some(value) = x.as_int() {
            return self.constant(dtype, Scalar::Int(dtype.wrap(value)));
        }
        if let Kind::Extra { slot, .. } = x.kind() {
            let value = ValueId(*slot);
            if self.dtype(value) == dtype {
                return value;
            }
        }
        let depth = self.expr_depth(x);
        self.pure(Key::Index(dtype, x.clone()), Value::Index(x.clone()), dtype, depth)
    }

    /// An integer value inside index expressions; every value it takes lies in `low..end`.
    pub fn as_expr(&self, value: ValueId, low: i64, end: &Expr) -> Expr {
        match &self.kernel.record(value).value {
            Value::Const(constant) => Expr::int(constant.int()),
            // Where the type may wrap the expression, the value is not the expression.
            Value::Index(x)
                if self.dtype(value).wrap(x.low()) == x.low()
                    && self.dtype(value).wrap(x.high()) == x.high() =>
            {
                x.clone()
            }
            _ => Expr::extra(value.0, Vec::new(), low, end),
        }
    }

    /// One element of a memory. Loads from parameters that are only read are shared and hoisted.
    pub fn load(&mut self, memory: Memory, at: &Expr) -> ValueId {
        let dtype = self.kernel.memory_dtype(memory);
        let value = Value::Load { memory, at: at.clone() };
        let constant = match memory {
            Memory::Param(param) => self.kernel.params[usize::from(param)].access == Access::Read,
            Memory::Shared(_) => false,
        };
        if !constant {
            return self.here(value, dtype);
        }
        let conditional = self.scopes.iter().rposition(Scope::is_conditional).unwrap_or(0);
        let depth = self.expr_depth(at).max(conditional);
        self.pure(Key::Load(memory, at.clone()), value, dtype, depth)
    }

    /// A scalar operation; operations on constants are folded.
    pub fn scalar(&mut self, op: ScalarOp, xs: &[ValueId]) -> ValueId {
        let dtypes: Vec<DType> = xs.iter().map(|x| self.dtype(*x)).collect();
        let dtype = match op.result(&dtypes) {
            Ok(dtype) => dtype,
            Err(expected) => panic!("{} of {dtypes:?} in a kernel: it takes {expected}", op.name()),
        };
        if matches!(op, ScalarOp::Cast(to) if to == dtypes[0]) {
            return xs[0];
        }
        if let Some(narrow) = self.widened(op, xs[0]) {
            return narrow;
        }
        if matches!(op, ScalarOp::Shl | ScalarOp::Shr) && self.is_zero(xs[1]) {
            return xs[0];
        }
        if let Some(folded) = self.fold(op, xs, *dtypes.last().expect("operations have operands")) {
            return self.constant(dtype, folded);
        }
        let depth = xs.iter().map(|x| self.depth[x.0 as usize]).max().unwrap_or(0);
        self.pure(Key::Scalar(op, xs.to_vec()), Value::Scalar(op, xs.to_vec()), dtype, depth)
    }

    /// What an operation gives back to 16 bits that was made an `f32` before.
    fn widened(&self, op: ScalarOp, x: ValueId) -> Option<ValueId> {
        match (op, &self.kernel.record(x).value) {
            (
                ScalarOp::Cast(to @ (DType::F16 | DType::BF16)),
                Value::Scalar(ScalarOp::Cast(DType::F32), from),
            ) => from.first().copied().filter(|narrow| self.dtype(*narrow) == to),
            _ => None,
        }
    }

    fn is_zero(&self, value: ValueId) -> bool {
        matches!(self.kernel.record(value).value, Value::Const(constant) if !constant.truth())
    }

    fn fold(&self, op: ScalarOp, xs: &[ValueId], dtype: DType) -> Option<Scalar> {
        let constants: Option<Vec<Scalar>> = xs
            .iter()
            .map(|x| match &self.kernel.record(*x).value {
                Value::Const(constant) => Some(*constant),
                _ => None,
            })
            .collect();
        // Transcendental functions are left to the target, so that every place computes them alike.
        (op.row().cost < 8).then_some(())?;
        Some(op.evaluate(dtype, &constants?))
    }

    /// All lanes' values joined.
    pub fn lane_reduce(&mut self, monoid: Monoid, value: ValueId) -> ValueId {
        let dtype = self.dtype(value);
        let depth = self.depth[value.0 as usize];
        let conditional = self.scopes.iter().rposition(Scope::is_conditional).unwrap_or(0);
        let key = Key::LaneReduce(monoid, value);
        self.pure(key, Value::LaneReduce(monoid, value), dtype, depth.max(conditional))
    }

    /// A new cell that holds `value` from here on.
    pub fn cell(&mut self, value: ValueId) -> CellId {
        self.kernel.cells.push(self.dtype(value));
        let cell = CellId(self.kernel.cells.len() as u32 - 1);
        self.set(cell, value);
        cell
    }

    /// The content of a cell.
    pub fn get(&mut self, cell: CellId) -> ValueId {
        let dtype = self.kernel.cells[cell.0 as usize];
        self.here(Value::Cell(cell), dtype)
    }

    /// Changes a cell.
    pub fn set(&mut self, cell: CellId, value: ValueId) {
        self.statement(Stmt::Set(cell, value));
    }

    /// Changes one element of a memory.
    pub fn store(&mut self, memory: Memory, at: &Expr, value: ValueId) {
        self.statement(Stmt::Store { memory, at: at.clone(), value });
    }

    /// Makes shared memory's contents visible to all lanes.
    pub fn barrier(&mut self) {
        self.statement(Stmt::Barrier);
    }

    /// A new fragment, with undefined contents.
    pub fn fragment(&mut self, role: Role, dtype: DType) -> FragmentId {
        self.kernel.fragments.push(Fragment { role, dtype });
        FragmentId(self.kernel.fragments.len() as u32 - 1)
    }

    /// Sets sums to zero.
    pub fn clear(&mut self, sum: FragmentId) {
        self.statement(Stmt::Clear(sum));
    }

    /// Loads an operand's fragment from shared memory, rows `stride` elements apart.
    pub fn fetch(&mut self, fragment: FragmentId, memory: Memory, at: &Expr, stride: u32) {
        self.statement(Stmt::Fetch { fragment, memory, at: at.clone(), stride, turned: false });
    }

    /// Loads a right operand's fragment whose columns are rows in shared memory, `stride` elements apart.
    pub fn fetch_turned(&mut self, fragment: FragmentId, memory: Memory, at: &Expr, stride: u32) {
        self.statement(Stmt::Fetch { fragment, memory, at: at.clone(), stride, turned: true });
    }

    /// `sum += left * transposed right`.
    pub fn mma(&mut self, sum: FragmentId, left: FragmentId, right: FragmentId) {
        self.statement(Stmt::Mma { sum, left, right });
    }

    /// Begins `sums += left * transposed right` for each team, both operands so deep.
    pub fn product(&mut self, sums: &[FragmentId], left: Panel, right: Panel, depth: u32) {
        self.statement(Stmt::Product { sums: sums.to_vec(), left, right, depth });
    }

    /// Waits until at most `pending` products are under way.
    pub fn product_wait(&mut self, pending: u32) {
        self.statement(Stmt::ProductWait { pending });
    }

    /// Shows the units that multiply for teams what lanes have brought to shared memory.
    pub fn publish(&mut self) {
        self.statement(Stmt::Publish);
    }

    /// Stores sums to shared memory, rows `stride` elements apart.
    pub fn spill(&mut self, sum: FragmentId, memory: Memory, at: &Expr, stride: u32) {
        self.statement(Stmt::Spill { sum, memory, at: at.clone(), stride });
    }

    /// Multiplies rows of sums by factors from shared memory, `stride` elements apart.
    pub fn scale(&mut self, sum: FragmentId, memory: Memory, at: &Expr, stride: u32) {
        self.statement(Stmt::Scale { sum, memory, at: at.clone(), stride });
    }

    /// Begins an asynchronous copy of 16 bytes from `from[from_at]` to `to[at]`.
    pub fn stage(&mut self, to: Memory, at: &Expr, from: Memory, from_at: &Expr) {
        self.statement(Stmt::Stage { to, at: at.clone(), from, from_at: from_at.clone() });
    }

    /// Ends a group of asynchronous copies.
    pub fn stage_commit(&mut self) {
        self.statement(Stmt::StageCommit);
    }

    /// Waits until at most `pending` groups of asynchronous copies are under way.
    pub fn stage_wait(&mut self, pending: u32) {
        self.statement(Stmt::StageWait { pending });
    }

    /// A loop; `body` gets the axis that it binds. A loop of one iteration is its body.
    pub fn repeat<R>(&mut self, extent: &Expr, body: impl FnOnce(&mut Builder, Expr) -> R) -> R {
        if extent.as_int() == Some(1) {
            return body(self, Expr::int(0));
        }
        let axis = self.open_loop(extent);
        let result = body(self, axis);
        self.close();
        result
    }

    /// A condition; what is always true is its body, what is never true is nothing.
    pub fn when(&mut self, cond: &Expr, body: impl FnOnce(&mut Builder)) {
        match cond.as_int() {
            Some(0) => return,
            Some(_) => return body(self),
            None => {}
        }
        self.open_when(cond);
        body(self);
        self.close();
    }

    /// Begins a loop and gives the axis that it binds; `close` ends it.
    pub fn open_loop(&mut self, extent: &Expr) -> Expr {
        let axis = self.next_axis;
        self.next_axis += 1;
        self.scopes.push(Scope::new(Opened::Loop { axis, extent: extent.clone() }));
        Expr::axis(axis, extent)
    }

    /// Begins a block that runs if the condition holds; `close` ends it.
    pub fn open_when(&mut self, cond: &Expr) {
        self.scopes.push(Scope::new(Opened::When { cond: cond.clone() }));
    }

    /// Ends the block that was begun last.
    pub fn close(&mut self) {
        let scope = self.scopes.pop().expect("a block was opened");
        let body = scope.body;
        match scope.opened {
            Opened::Kernel => panic!("the kernel's own block is closed by `finish`"),
            Opened::Loop { axis, extent } => self.statement(Stmt::Loop { axis, extent, body }),
            Opened::When { cond } => self.statement(Stmt::If { cond, body }),
        }
    }

    fn statement(&mut self, stmt: Stmt) {
        self.innermost().body.push(stmt);
    }

    fn innermost(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("the kernel's own block stays open")
    }

    fn define(&mut self, value: Value, dtype: DType, depth: usize) -> ValueId {
        self.kernel.values.push(ValueRecord { value, dtype });
        let id = ValueId(self.kernel.values.len() as u32 - 1);
        self.depth.push(depth);
        self.scopes[depth].body.push(Stmt::Let(id));
        id
    }

    /// A value that must be evaluated at this place.
    fn here(&mut self, value: Value, dtype: DType) -> ValueId {
        let depth = self.scopes.len() - 1;
        self.define(value, dtype, depth)
    }

    /// A value that may be evaluated in any block from `depth` inwards.
    fn pure(&mut self, key: Key, value: Value, dtype: DType, depth: usize) -> ValueId {
        if let Some(known) = self.scopes.iter().find_map(|scope| scope.known.get(&key)) {
            return *known;
        }
        let id = self.define(value, dtype, depth);
        self.scopes[depth].known.insert(key, id);
        id
    }

    /// The outermost block in which all leaves of an expression are defined.
    fn expr_depth(&self, x: &Expr) -> usize {
        let mut depth = 0;
        x.any(&mut |leaf| {
            let needed = match leaf.kind() {
                Kind::Axis { index, .. } if *index >= LOOP_AXIS => {
                    self.scopes.iter().position(|scope| scope.binds(*index)).unwrap_or(0)
                }
                Kind::Extra { slot, .. } => self.depth[*slot as usize],
                _ => 0,
            };
            depth = depth.max(needed);
            false
        });
        depth
    }
}

/// Notes the symbols of an expression, and those that bound the values in it: the text form states both.
fn note_symbols(x: &Expr, used: &mut Vec<Symbol>) {
    x.any(&mut |leaf| {
        match leaf.kind() {
            Kind::Sym(symbol) if !used.contains(symbol) => used.push(symbol.clone()),
            Kind::Extra { end, .. } => note_symbols(end, used),
            _ => {}
        }
        false
    });
}

/// Calls `visit` with every index expression of a kernel.
pub fn visit_exprs(kernel: &Kernel, visit: &mut dyn FnMut(&Expr)) {
    kernel.grid.iter().for_each(&mut *visit);
    kernel.params.iter().for_each(|param| visit(&param.len));
    for record in &kernel.values {
        match &record.value {
            Value::Index(x) | Value::Load { at: x, .. } => visit(x),
            _ => {}
        }
    }
    fn block(body: &[Stmt], visit: &mut dyn FnMut(&Expr)) {
        for stmt in body {
            stmt.exprs().into_iter().for_each(&mut *visit);
            if let Stmt::Loop { body, .. } | Stmt::If { body, .. } = stmt {
                block(body, visit);
            }
        }
    }
    block(&kernel.body, visit);
}
