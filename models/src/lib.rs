//! Graphs, weights, tokenizers, chat templates and sampling of model families.

pub mod arch;
pub mod chat;
pub mod checkpoint;
pub mod config;
mod error;
pub mod hub;
pub mod language;
mod os;
pub mod sample;
pub mod tokenizer;

pub use checkpoint::{Checkpoint, Piece, Storage, TensorEntry};
pub use config::{Config, Generation};
pub use error::LoadError;
pub use language::{Language, LanguageError};
pub use os::Identity;
