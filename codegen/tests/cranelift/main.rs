//! The Cranelift target: what it computes, compared with the meaning of the loop IR.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod kernels;
mod native;
mod random;
mod scalars;
mod speed;
