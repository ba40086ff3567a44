//! Binds symbols and buffers, keeps blobs in place, launches kernels in order.
//!
//! A [`Network`](network::Network) is a model on a device: its weights, its states (keys and values in
//! pages), and a [`Plan`](plan::Plan) for each number of rows that passes have asked for. A plan is built
//! once and serves every position: sizes reach kernels through a symbol block in memory. A
//! [`Single`](single::Single) is one graph without a model around it.
//!
//! # Invariants
//!
//! * Launches of a plan run in the order of its steps; two buffers share bytes only if no step needs both.
//! * Weights are never written; a weight that lies in its file as kernels want it is read there.
//! * A launch waits until the weights that it reads are ready. What was packed by an earlier start was compared with its
//!   hash before that.
//! * After the first pass of a kind no kernel is compiled again, whatever the positions.
//! * A device's errors are only those of the world; legality is checked before a kernel is emitted.
//!
//! # What this crate does not know
//!
//! Architectures, tokens, files' formats, prompts, sampling: graphs and tensors come from closures.

pub mod cache;
pub mod code;
pub mod device;
mod error;
pub mod machine;
pub mod memory;
pub mod need;
pub mod network;
pub mod os;
pub mod packed;
pub mod pages;
pub mod plan;
pub mod probe;
mod program;
pub mod ready;
pub mod reference;
pub mod residence;
pub mod runner;
pub mod single;
pub mod spill;
pub mod split;
pub mod trace;
pub mod voice;
pub mod weights;

pub use error::{DeviceError, Error};
pub use jtllm_codegen as codegen;
pub use jtllm_ir as ir;
pub use jtllm_swap as swap;
