//! Graphs, weights, tokenizers, chat templates and sampling of model families.

pub mod tokenizer;
