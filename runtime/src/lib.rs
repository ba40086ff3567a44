//! Binds symbols and buffers, keeps blobs in place, launches kernels in order.

pub mod cache;
pub mod code;
pub mod device;
pub mod machine;
pub mod memory;
pub mod os;
pub mod probe;
