//! Turns a graph into kernels and a kernel into bytes.
