//! What every device must do, asked of every device that is here: memory, each scalar operation on each type,
//! each kind of work, each number format, recurrences; sizes that nothing divides.
//!
//! The cases are those of the loop IR's own tests, so that a device is compared with the graph's interpreter
//! just as the schedules are. Instruction sets that the processor lacks are interpreted; any other device that is not here
//! prints that it was skipped.
#![allow(clippy::unwrap_used)]

#[path = "../../../codegen/tests/common/mod.rs"]
mod common;
mod devices;
mod groups;
mod hardware;
mod memory;
mod operations;
#[path = "../common/simulated.rs"]
mod simulated;
mod works;
