//! The PTX target: what NVIDIA's own assembler says of its text.
//!
//! The assembler, `ptxas`, is looked for in `JTLLM_PTXAS`, among the tests' assets and in `PATH`.

#![allow(clippy::unwrap_used)]

mod assembler;
mod operations;
