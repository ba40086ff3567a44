//! Which files of a repository are needed to run its model, and by which of them it is opened.
//!
//! One rule serves both sides: what is fetched from a hub's listing is what is looked for in the cache.

use super::nearest;
use crate::checkpoint::gguf::Split;

/// Files of a model besides its weights. A `*` stands for any text.
const SIDE_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "args.json",
    "params.json",
    "tokenizer.json",
    "20B_tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "ice_text.model",
    "vocab.model",
    "rwkv_vocab_*.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];

/// Forms of weights, the preferred first. The first row of which a repository has a file is taken; of a row
/// the files of all its patterns are.
const FORMS: &[&[&str]] = &[
    &["model.safetensors"],
    &["model.safetensors.index.json", "model-*-of-*.safetensors"],
    &["pytorch_model.bin"],
    &["pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"],
    &["consolidated.*.pth"],
    &["latest_checkpointed_iteration.txt", "iter_*/mp_rank_00/model_optim_rng.pt*"],
    &["checkpoint/latest_checkpointed_iteration.txt", "checkpoint/iter_*/mp_rank_00/model_optim_rng.pt*"],
];

/// The quantisations that are taken unasked, the preferred first.
const QUANTISATIONS: [&str; 2] = ["q4_k_m", "q8_0"];

/// What to take of a repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// The files, by their place in the list that was chosen from.
    pub(super) files: Vec<usize>,
    /// The file by which the model is opened; without one it is the folder.
    pub(super) main: Option<String>,
}

/// Why nothing could be chosen.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) why: String,
    pub(super) suggestions: Vec<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)?;
        match self.suggestions.as_slice() {
            [] => Ok(()),
            names => write!(f, "; similar: {}", names.join(", ")),
        }
    }
}

/// Chooses among a repository's files. `choice` is the name of a file or a part of a GGUF file's name, as
/// `Q4_K_M`.
pub(super) fn select(paths: &[&str], choice: Option<&str>) -> Result<Selection, Refusal> {
    match choice {
        Some(choice) => chosen(paths, choice),
        None => preferred(paths),
    }
}

fn preferred(paths: &[&str]) -> Result<Selection, Refusal> {
    let matching = |patterns: &[&str]| -> Vec<usize> {
        let fits = |path: &str| patterns.iter().any(|pattern| fits(path, pattern));
        (0..paths.len()).filter(|&at| fits(paths[at])).collect()
    };
    let weights = |row: &&[&str]| {
        let found = matching(row);
        // An index or a tracker alone is no model.
        found.iter().any(|&at| !is_small(paths[at])).then_some(found)
    };
    if let Some(mut files) = FORMS.iter().find_map(weights) {
        files.extend(matching(SIDE_FILES));
        return Ok(Selection { files, main: None });
    }
    let models = models(paths, ".gguf");
    if let Some(model) = default_gguf(&models) {
        return Ok(single(paths, model));
    }
    let torch = models_at_root(paths, ".pth");
    match torch.as_slice() {
        [one] => Ok(single(paths, one)),
        [] => Err(Refusal {
            why: "it has no weights in a form that is read".to_owned(),
            suggestions: Vec::new(),
        }),
        several => {
            let why = format!("it has {} models: choose one as NAME:FILE", several.len());
            Err(Refusal { why, suggestions: several.iter().take(3).map(|name| (*name).to_owned()).collect() })
        }
    }
}

fn chosen(paths: &[&str], choice: &str) -> Result<Selection, Refusal> {
    let torch = models_at_root(paths, ".pth");
    let models = models(paths, ".gguf");
    let known = || models.iter().chain(&torch);
    if let Some(exact) = known().find(|path| **path == choice || file_name(path) == choice) {
        return Ok(single(paths, exact));
    }
    let wanted = choice.to_ascii_lowercase();
    let matching: Vec<&str> = known().copied().filter(|path| has_part(file_name(path), &wanted)).collect();
    match matching.as_slice() {
        [one] => Ok(single(paths, one)),
        found => {
            let all: Vec<String> = known().map(|path| (*path).to_owned()).collect();
            let why = match found.len() {
                0 => format!("no GGUF file of this name or quantisation: {choice}"),
                count => format!("{count} GGUF files match {choice}"),
            };
            Err(Refusal { why, suggestions: nearest::nearest(choice, &all) })
        }
    }
}

/// A file with all its parts, and what stands beside it.
fn single(paths: &[&str], main: &str) -> Selection {
    let split = Split::of(main);
    let part = |path: &str| match &split {
        Some(split) => {
            Split::of(path).is_some_and(|other| (&other.stem, other.count) == (&split.stem, split.count))
        }
        None => path == main,
    };
    let beside =
        |path: &str| !main.ends_with(".gguf") && SIDE_FILES.iter().any(|pattern| fits(path, pattern));
    let files = (0..paths.len()).filter(|&at| part(paths[at]) || beside(paths[at])).collect();
    Selection { files, main: Some(main.to_owned()) }
}

/// Models in single files or split ones, each by its first part. Projectors of images are none.
fn models<'a>(paths: &[&'a str], extension: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> = paths.iter().copied().filter(|path| path.ends_with(extension)).collect();
    found.retain(|path| Split::of(path).is_none_or(|split| split.number == 1));
    found.retain(|path| !file_name(path).to_ascii_lowercase().contains("mmproj"));
    found
}

fn models_at_root<'a>(paths: &[&'a str], extension: &str) -> Vec<&'a str> {
    models(paths, extension).into_iter().filter(|path| !path.contains('/')).collect()
}

fn default_gguf<'a>(models: &[&'a str]) -> Option<&'a str> {
    let of = |part: &&str| models.iter().find(|path| has_part(file_name(path), part)).copied();
    QUANTISATIONS.iter().find_map(of).or(models.first().copied())
}

fn is_small(path: &str) -> bool {
    path.ends_with(".json") || path.ends_with(".txt")
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a path has the form of a pattern, in which `*` stands for any text within a folder.
fn fits(path: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => path == pattern,
        Some((start, rest)) => path.strip_prefix(start).is_some_and(|path| {
            let ends = path.char_indices().map(|(at, _)| at).chain([path.len()]);
            ends.take_while(|&at| !path[..at].contains('/')).any(|at| fits(&path[at..], rest))
        }),
    }
}

/// Whether a file name contains `part` as a word of its own, so that `q4_k` does not match `q4_k_m`.
fn has_part(name: &str, part: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let joins = |character: char| character.is_ascii_alphanumeric() || character == '_';
    !part.is_empty()
        && name.match_indices(part).any(|(start, _)| {
            !name[..start].ends_with(joins) && !name[start + part.len()..].starts_with(joins)
        })
}
