//! The generation engine: a model, its cache, and the loop from prompt to answer.
//!
//! [`Model`] joins what `models` reads with what `runtime` runs; [`Engine`] owns the conversation so far and
//! generates. `jtllm run`, `jtllm bench` and every later server call the same engine.
//!
//! # Invariants
//!
//! * The keys and values of tokens that a new prompt shares with the last one are not computed again.
//! * A full context is an error that says so, unless the caller asked for a shift.
//! * Text is handed out only when no later token can change it.
//!
//! # What this crate does not know
//!
//! Terminals, arguments, colours; how kernels are made; how files are parsed.

mod engine;
mod lookup;
mod model;
pub mod place;
mod seat;
mod sight;
mod together;

pub use engine::{Answer, Engine, EngineError, Finish, Request, Timings};
pub use lookup::{Lookup, Speculation};
pub use model::{Backend, Caches, LoadOptions, Memory, Model, Tell};
pub use place::{Layers, Place};
pub use sight::Seen;
pub use together::Together;
