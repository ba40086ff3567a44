//! Kernels that press where the emitter is weakest.
