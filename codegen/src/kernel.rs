//! The loop IR: one kernel, as every emitter and the interpreter read it.
//!
//! # What a kernel is
//!
//! A kernel runs its body once for each cell of its `grid`, by a *group* of `lanes` lanes. On a GPU the
//! lanes are the threads of a group; on a CPU they are the elements of a vector register. Lanes run in
//! step as far as anyone can tell: where one lane reads from `shared` memory what another has written, a
//! `Barrier` stands between.
//!
//! *Values are pure, statements have effects.* A [`Value`] is evaluated where its `Let` stands, once, and
//! may be used by later statements of the same block and of blocks inside it. A *cell* is a variable (one
//! per lane); reading it is a value, `Set` changes it. Nothing else changes but memory.
//!
//! *Indices are [`Expr`]s.* Their axes are: 0, 1, 2 the group's place in the grid; 3 the lane; 4 and up
//! the loops, each bound once. Their extras (without coordinates) are integer values of the kernel, by
//! value number, each with the one range `low..end` that the kernel relies on for that value. Symbols are
//! read from the symbol block.
//!
//! A value is *uniform* if it is the same for all lanes, else *varying*; [`Kernel::varying`] decides.
//! An `If` whose condition varies may hold only `Let`, `Set`, `Store`, `Stage` and such `If`s: lanes for which
//! the condition does not hold neither load nor store inside, and keep their cells.
//!
//! *Matrix units* work by *warp*: [`WARP`] consecutive lanes, the first of them a multiple of that. A
//! [`Fragment`] is a small tile that a warp holds among its lanes, in an order that the hardware chooses and
//! nobody looks into: a tile comes from shared memory by `Fetch`, sums go there by `Spill`,
//! and the factors of `Scale` come from there. An offset of each is the same for all lanes of a warp.
//!
//! Some units multiply out of shared memory by themselves, for a *team*: [`TEAM`] consecutive lanes, the first of
//! them a multiple of that, whose warps hold the sums as fragments one below the other. Such a `Product` is
//! *under way* until `ProductWait` waits for it: till then nobody stores to what it reads, and its sums serve
//! further products alone. The units see what a lane has stored, or copied and waited for, once that lane has
//! come to `Publish` and then to a `Barrier`. How operands lie is said at [`Panel`].
//!
//! *Asynchronous copies* (`Stage`) fill shared memory behind the lanes' backs. A lane's copies since its last
//! `StageCommit` are a group; `StageWait` lets the lane see those of its groups that it waits for, and a
//! `Barrier` after it the other lanes. Until then nobody touches where they go.

pub mod build;
pub mod decompose;
pub mod interp;
mod matrix;
mod names;
mod optimise;
pub mod parse;
mod print;
mod renumber;
mod types;
mod uniformity;
pub mod verify;

use std::fmt;

use jtllm_ir::{DType, Expr, Monoid, Scalar, ScalarOp, Symbol};

pub use matrix::{chunk, has_products};
pub use names::KernelNames;
pub use optimise::optimise;
pub use parse::{ParseError, parse};
pub use uniformity::Varying;
pub(crate) use verify::bounds::inline;
pub use verify::{KernelError, verify};

/// The axis number of the group's first grid coordinate; the others follow.
pub const GRID_AXIS: u16 = 0;
/// The axis number of the lane.
pub const LANE_AXIS: u16 = 3;
/// The first axis number of loops.
pub const LOOP_AXIS: u16 = 4;
/// Lanes that hold a fragment together.
pub const WARP: u32 = 32;
/// Lanes that multiply out of shared memory together.
pub const TEAM: u32 = 128;
/// Rows of a team's sums.
pub const TEAM_ROWS: u32 = 64;
/// Bytes of one asynchronous copy; rows of tiles begin at multiples of it.
pub const CHUNK_BYTES: usize = 16;

/// A value of a kernel; prints as `v12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A cell of a kernel; prints as `c3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellId(pub u32);

/// A fragment of a kernel; prints as `f3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FragmentId(pub u32);

/// A memory that a kernel reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Memory {
    /// Parameter number so; prints as `p0`.
    Param(u16),
    /// Memory of the group; prints as `s0`.
    Shared(u16),
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memory::Param(param) => write!(f, "p{param}"),
            Memory::Shared(shared) => write!(f, "s{shared}"),
        }
    }
}

/// What a kernel does with a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Only loads.
    Read,
    /// Only stores.
    Write,
    /// Loads and stores, each element by one lane alone.
    Update,
}

impl Access {
    /// Whether something may be stored.
    pub fn writes(self) -> bool {
        self != Access::Read
    }
}

/// A buffer that a launch binds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Param {
    /// The type of its elements.
    pub dtype: DType,
    /// What is done with it.
    pub access: Access,
    /// How many elements it has at least; over symbols.
    pub len: Expr,
    /// Whether it starts at a multiple of 256 bytes; else at a multiple of the element's size.
    pub aligned: bool,
}

/// What a fragment is in `sum += left * transposed right`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// 16 rows of 16 along the depth.
    Left,
    /// 8 rows of 16 along the depth: a column of the sum is a row of this.
    Right,
    /// 16 rows of 8 sums.
    Sum,
}

impl Role {
    /// Every role, with its name in text form.
    pub const ALL: [(Role, &'static str); 3] =
        [(Role::Left, "left"), (Role::Right, "right"), (Role::Sum, "sum")];

    /// The name in text form.
    pub fn name(self) -> &'static str {
        Role::ALL[self as usize].1
    }

    /// Rows of the tile in memory.
    pub fn rows(self) -> u32 {
        if self == Role::Right { 8 } else { 16 }
    }

    /// Elements of a row.
    pub fn columns(self) -> u32 {
        if self == Role::Sum { 8 } else { 16 }
    }
}

/// A tile that the lanes of each warp hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Which operand of a product it is.
    pub role: Role,
    /// The type of its elements: `f16` or `bf16`, and `f32` for sums.
    pub dtype: DType,
}

/// An operand of a team's product in shared memory: rows side by side in pieces of [`CHUNK_BYTES`], all rows'
/// first pieces, then all rows' second ones, so that eight rows' pieces fill every bank once. With a stride of
/// one piece more than there are rows, the pieces of one row lie in different banks too, and lanes that bring a
/// row do not wait for each other.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Shared memory of a 16-bit type.
    pub memory: Memory,
    /// Where the first row's first piece begins; the same for all lanes of a team.
    pub at: Expr,
    /// Elements from a piece of a row to the next one of that row; each next row's piece follows at once.
    pub stride: u32,
}

/// Memory that the lanes of a group share, with undefined contents at the start. It begins at a multiple of
/// [`CHUNK_BYTES`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shared {
    /// The type of its elements.
    pub dtype: DType,
    /// How many elements.
    pub len: u32,
}

/// A pure computation.
#[derive(Clone, Debug)]
pub enum Value {
    /// A constant.
    Const(Scalar),
    /// The value of an index expression, as `i32`, `u32` or `bool`.
    Index(Expr),
    /// The content of a cell at this place.
    Cell(CellId),
    /// One element of a memory.
    Load {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        at: Expr,
    },
    /// A scalar operation.
    Scalar(ScalarOp, Vec<ValueId>),
    /// All lanes' values joined, in the order of a fixed tree (see [`lane_tree`]); uniform.
    LaneReduce(Monoid, ValueId),
}

/// An effect.
#[derive(Clone, Debug)]
pub enum Stmt {
    /// Evaluates a value here.
    Let(ValueId),
    /// Changes a cell.
    Set(CellId, ValueId),
    /// Changes one element of a memory.
    Store {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        at: Expr,
        /// The new value, of the memory's type.
        value: ValueId,
    },
    /// Runs the body for each value of `axis` in `0..extent`, ascending; the extent is uniform.
    Loop {
        /// The axis that it binds.
        axis: u16,
        /// How often; below 1: not at all.
        extent: Expr,
        /// What is repeated.
        body: Vec<Stmt>,
    },
    /// Runs the body if the condition is not 0.
    If {
        /// The condition.
        cond: Expr,
        /// What is run.
        body: Vec<Stmt>,
    },
    /// Makes what lanes have written to shared memory visible to the group's other lanes.
    Barrier,
    /// Sets a fragment of sums to zero.
    Clear(FragmentId),
    /// Loads a fragment of an operand: row `r` of the tile begins at `at + r * stride`. A right one may lie in memory
    /// as the product reads it, not transposed: then that memory has a row for each of its columns.
    Fetch {
        /// The fragment, a left or right one.
        fragment: FragmentId,
        /// Shared memory of the fragment's type.
        memory: Memory,
        /// The first element's offset; the same for all lanes of a warp.
        at: Expr,
        /// Elements from one row to the next.
        stride: u32,
        /// Whether memory has the tile's columns as rows.
        turned: bool,
    },
    /// `sum += left * transposed right`. The interpreter adds the products one by one, along the depth; hardware
    /// adds the same products in an order and with an inner precision of its own.
    Mma {
        /// 16 x 8 sums.
        sum: FragmentId,
        /// 16 x 16 numbers.
        left: FragmentId,
        /// 8 x 16 numbers.
        right: FragmentId,
    },
    /// Begins `sums += left * transposed right` for each team. Warp `w` of a team has the rows from `16 w` on of its
    /// [`TEAM_ROWS`], and sum `s` the columns from `8 s` on. The interpreter adds as for `Mma`.
    Product {
        /// 16 x 8 sums each, all of one row of tiles.
        sums: Vec<FragmentId>,
        /// [`TEAM_ROWS`] rows.
        left: Panel,
        /// A row for each column of the sums.
        right: Panel,
        /// Numbers of each row, a multiple of 16.
        depth: u32,
    },
    /// Waits until at most `pending` products, the newest ones, are under way.
    ProductWait {
        /// How many may be.
        pending: u32,
    },
    /// Shows the units what the lane has stored to shared memory, and copied and waited for.
    Publish,
    /// Stores a fragment of sums, in rows as `Fetch` takes them.
    Spill {
        /// The fragment of sums.
        sum: FragmentId,
        /// Shared memory of `f32`.
        memory: Memory,
        /// The first element's offset; the same for all lanes of a warp.
        at: Expr,
        /// Elements from one row to the next.
        stride: u32,
    },
    /// Multiplies row `r` of a fragment of sums by the number at `at + r * stride`.
    Scale {
        /// The fragment of sums.
        sum: FragmentId,
        /// Shared memory of `f32`.
        memory: Memory,
        /// The first factor's offset; the same for all lanes of a warp.
        at: Expr,
        /// Elements from one factor to the next.
        stride: u32,
    },
    /// Begins the copy of [`CHUNK_BYTES`] bytes from a parameter to shared memory, one for each lane.
    Stage {
        /// The shared memory.
        to: Memory,
        /// The offset of the first element there.
        at: Expr,
        /// A parameter that is only read, of the same type.
        from: Memory,
        /// The offset of the first element there.
        from_at: Expr,
    },
    /// Makes a group of the copies that each lane has begun since its last group.
    StageCommit,
    /// Waits until at most `pending` of a lane's groups of copies, the newest ones, are under way.
    StageWait {
        /// How many may be.
        pending: u32,
    },
}

/// A value and its type.
#[derive(Clone, Debug)]
pub struct ValueRecord {
    /// The computation.
    pub value: Value,
    /// The type of the result.
    pub dtype: DType,
}

/// One kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// A name for people; not part of the kernel's identity.
    pub name: String,
    /// The symbols that it mentions and their slots (4-byte words) in the symbol block.
    pub symbols: Vec<(Symbol, u32)>,
    /// The buffers that a launch binds, in order.
    pub params: Vec<Param>,
    /// The group's own memories.
    pub shared: Vec<Shared>,
    /// The types of the cells.
    pub cells: Vec<DType>,
    /// The tiles that warps hold.
    pub fragments: Vec<Fragment>,
    /// All values.
    pub values: Vec<ValueRecord>,
    /// How many groups run along each of three directions; over symbols.
    pub grid: [Expr; 3],
    /// How many lanes a group has.
    pub lanes: u32,
    /// What a group does.
    pub body: Vec<Stmt>,
}

impl Kernel {
    /// A value's record.
    pub fn record(&self, value: ValueId) -> &ValueRecord {
        &self.values[value.0 as usize]
    }

    /// Whether the kernel has that memory.
    pub fn memory_exists(&self, memory: Memory) -> bool {
        match memory {
            Memory::Param(param) => usize::from(param) < self.params.len(),
            Memory::Shared(shared) => usize::from(shared) < self.shared.len(),
        }
    }

    /// What may be done with a parameter; `None` for shared memory.
    pub fn access(&self, memory: Memory) -> Option<Access> {
        match memory {
            Memory::Param(param) => Some(self.params[usize::from(param)].access),
            Memory::Shared(_) => None,
        }
    }

    /// A fragment's record, if the kernel has it.
    pub fn fragment(&self, fragment: FragmentId) -> Option<Fragment> {
        self.fragments.get(fragment.0 as usize).copied()
    }

    /// The type of a memory's elements.
    pub fn memory_dtype(&self, memory: Memory) -> DType {
        match memory {
            Memory::Param(param) => self.params[usize::from(param)].dtype,
            Memory::Shared(shared) => self.shared[usize::from(shared)].dtype,
        }
    }

    /// The number of elements of a memory.
    pub fn memory_len(&self, memory: Memory) -> Expr {
        match memory {
            Memory::Param(param) => self.params[usize::from(param)].len.clone(),
            Memory::Shared(shared) => Expr::int(i64::from(self.shared[usize::from(shared)].len)),
        }
    }

    /// Which values and cells differ between lanes.
    pub fn varying(&self) -> Varying {
        Varying::of(self)
    }
}

/// The order in which `LaneReduce` joins lanes: pairs at distance `lanes / 2`, then `lanes / 4`, and so
/// on; lane 0 ends with the result. The number of lanes is a power of two.
pub fn lane_tree<T: Clone>(mut lanes: Vec<T>, mut join: impl FnMut(T, T) -> T) -> Option<T> {
    while lanes.len() > 1 {
        let half = lanes.len() / 2;
        let upper = lanes.split_off(half);
        lanes = lanes.into_iter().zip(upper).map(|(a, b)| join(a, b)).collect();
    }
    lanes.pop()
}
