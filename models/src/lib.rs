//! Graphs, weights, tokenizers, chat templates and sampling of model families.

pub mod chat;
pub mod sample;
pub mod tokenizer;
