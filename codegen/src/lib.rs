//! Turns a graph into kernels and a kernel into bytes, deterministically and without touching a device.

pub mod emit;
pub mod kernel;
pub mod target;
