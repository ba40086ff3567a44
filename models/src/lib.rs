//! Graphs, weights, tokenizers, chat templates and sampling of model families.
//!
//! A model's name becomes a path ([`hub`], which may download it), the path a [`Checkpoint`]: a [`Config`] and tensors,
//! each under its Hugging Face name whatever the file's format, as [`Piece`]s of mapped [`Storage`].
//!
//! Invariants:
//! - Opening a checkpoint reads no weights, but for GGUF's small table of RoPE factors. Every offset and length
//!   was checked against the file before a [`Piece`] exists.
//! - No input makes a parser panic, hang, or take more memory than the file's size and 64 MB; a fault is a
//!   [`LoadError`] that names the file and the tensor, byte or field.
//! - A fact about a model has one name, the one in Hugging Face's `config.json`; what GGUF calls it is a row
//!   in [`checkpoint::names`].
//! - A downloaded file has its final name only once it is whole and has the hash that the hub promised.
//! - The environment is passed in, never read; but the library that finds the system's certificates looks there.
//!
//! # What this crate does not know
//! Devices, memory budgets, kernels, and how encoded numbers become real ones: that is `jtllm-runtime`,
//! `jtllm-codegen` and the formats of `jtllm-ir`.

pub mod arch;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod embedding;
mod error;
pub mod hub;
pub mod image;
pub mod language;
pub mod manner;
mod os;
pub mod sample;
pub mod tokenizer;

pub use checkpoint::{Checkpoint, Piece, Storage, TensorEntry};
pub use config::{Config, Generation};
pub use error::LoadError;
pub use language::{Language, LanguageError};
pub use os::Identity;
