//! Binds symbols and buffers, keeps blobs in place, launches kernels in order.
