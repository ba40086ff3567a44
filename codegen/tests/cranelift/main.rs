//! The Cranelift target: what it computes, compared with the meaning of the loop IR.

#![allow(clippy::unwrap_used)]

mod kernels;
mod native;
mod random;
mod scalars;
mod speed;
