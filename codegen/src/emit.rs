//! The emitters, one file each: kernel in, bytes out.

pub mod interp;
