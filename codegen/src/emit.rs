//! The emitters: each turns a kernel into what one kind of device loads.

pub mod cranelift;
pub mod interp;
pub mod ptx;
pub mod wgsl;
pub mod x64;
