//! Turns a graph into kernels and a kernel into bytes, deterministically and without touching a device.
//!
//! # The loop IR
//!
//! A [`Kernel`](kernel::Kernel) is what schedules write and emitters read; the module [`kernel`] says what
//! it means. [`kernel::build`] makes one, [`kernel::parse()`] reads its text form and `Display` prints it,
//! [`kernel::optimise()`] drops and hoists without touching arithmetic, [`kernel::verify()`] lists every
//! fault, and [`kernel::interp`] runs it: that run *is* the meaning of a kernel.
//!
//! # Invariants
//!
//! * A kernel that an emitter sees has been verified against that emitter's [`Caps`](target::Caps).
//! * Equal kernels print the same canonical text, and that text is their key in the kernel cache.
//! * Nothing after a schedule changes the order of arithmetic: results differ between targets only where
//!   their transcendental functions do.
//!
//! # What this crate does not know
//!
//! Devices, buffers, files, caches, models, tokens. It allocates no device memory and launches nothing.

pub mod emit;
pub mod kernel;
pub mod target;
