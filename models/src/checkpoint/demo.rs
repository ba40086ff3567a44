//! The demo model, which is part of the program.

use std::path::Path;
use std::sync::Arc;

use super::{Checkpoint, SideFiles, Storage, open};
use crate::config::Config;
use crate::error::LoadError;

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../demo/", $name)))),*]
    };
}

const SIDE_FILES: &[(&str, &[u8])] = embedded![
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

const CONFIG: &[u8] = include_bytes!("../../demo/config.json");
const GENERATION: &[u8] = include_bytes!("../../demo/generation_config.json");
/// Aligned as a mapped file is, so that kernels can read the weights where they lie.
static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("../../demo/model.safetensors"));

#[repr(C, align(4096))]
struct Aligned<T: ?Sized>(T);

pub(super) fn open() -> Result<Checkpoint, LoadError> {
    let config = Config::from_json(CONFIG, Path::new("demo/config.json"))?
        .with_generation(GENERATION, Path::new("demo/generation_config.json"))?;
    let storage = Arc::new(Storage::embedded("demo/model.safetensors", &WEIGHTS.0));
    let weights = open::safetensors_file(storage)?;
    Ok(Checkpoint::new(Path::new("demo"), SideFiles::Embedded(SIDE_FILES), config, weights))
}
