//! The language of tensor programs: nodes, index expressions, symbols, and their meaning.
//!
//! # A graph
//!
//! A [`Graph`] is a list of nodes, each after its operands. There are five leaves (`Weight`, `State`,
//! `Input`, `Const`, `Index`) and six operations (`Map`, `View`, `Reduce`, `Scan`, `Write`, `Opaque`);
//! everything else (matrix products, attention, normalisation, rotary positions, paging, quantisation)
//! is written with them by the functions of [`build`] and [`mod@format`]. See [`Op`] for what each one
//! means.
//!
//! * A tensor has a shape (at most [`RANK_MAX`] extents, each an expression over symbols) and a type.
//! * A `View` is every movement of data: it reads its operand at coordinates that are [`Expr`]s over its
//!   own coordinates and over *extras*, integer tensors that may be read inside the expression.
//! * `Write` is the only effect, and it is pure in the graph: it gives the next version of a state.
//! * A `Map` takes operands of exactly one shape; broadcasting is a `View`.
//!
//! # Invariants (checked by [`verify()`](verify::verify))
//!
//! * Operands come before users; shapes and types agree with the operation's rule.
//! * Every coordinate of a `View` or `Write` lies inside what it reads or writes, wherever `ok` holds.
//! * A version of a state is written at most once, and read only before that write.
//!
//! # Meaning
//!
//! The reference interpreter ([`interp`]) *is* the meaning: `f32` arithmetic rounds each operation to
//! nearest, sums of a `Reduce` are exact to `f64` and rounded once, integers wrap. Whoever computes the
//! same in another order is allowed the difference in rounding, nothing else.
//!
//! # Text
//!
//! [`print()`] writes a graph, one node a line, and [`parse()`] reads it back to an equal one: what cannot
//! be printed and read again does not exist.
//!
//! # What this crate does not know
//!
//! Devices, kernels, memory, files, models, tokens. It does no input or output.

pub mod build;
pub mod cut;
pub mod dtype;
pub mod expr;
pub mod format;
pub mod graph;
pub mod interp;
pub mod layout;
pub mod parse;
pub mod print;
pub mod scalar;
pub mod tensor;
pub mod verify;

pub use dtype::DType;
pub use expr::{Expr, Symbol};
pub use format::Format;
pub use graph::{Graph, Monoid, Node, Op};
pub use layout::Layout;
pub use parse::{ParseError, parse};
pub use print::print;
pub use scalar::{Scalar, ScalarOp};
pub use tensor::Tensor;
pub use verify::{VerifyError, verify};

/// The most axes that a tensor may have.
pub const RANK_MAX: usize = 8;
