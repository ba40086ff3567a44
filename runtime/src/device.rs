//! What runs kernels.

pub mod threads;
