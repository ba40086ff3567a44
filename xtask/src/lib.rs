//! What developer commands are made of, where tests need it too: `main.rs` has the commands.
//!
//! # What this crate does not know
//!
//! How models are read or run: it writes files in formats that others define, and starts programs.

pub mod synthetic;
pub mod tiers;
