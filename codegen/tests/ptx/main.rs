//! The PTX target: what NVIDIA's own assembler says of its text, and what the text computes.
//!
//! The assembler, `ptxas`, is looked for in `JTLLM_PTXAS`, among the tests' assets and in `PATH`.

#![allow(clippy::unwrap_used)]

mod assembler;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod golden;
mod operations;
mod shapes;
mod teams;

use jtllm_codegen as codegen;
