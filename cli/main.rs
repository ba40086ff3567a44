//! The `jtllm` binary.
fn main() {}
