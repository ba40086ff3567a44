//! LLaVA-1.5 (Liu et al., 2023) and LLaVA-NeXT 1.6 (Liu et al., 2024): CLIP's view of a picture, through two
//! matrices, stands in a LLaMA's prompt. LLaVA-NeXT looks at a picture as a whole and at its parts.
//!
//! Tensor names are those of the llava-hf checkpoints.

mod tiles;

use jtllm_ir::build::gelu;
use jtllm_ir::{Expr, Graph};

use super::build::Build;
use super::clip::Clip;
use super::llama::{self, Llama};
use super::settings::SIZE_MAX;
use super::{Architecture, Look, Pass, Rows, Vision, Weights};
use crate::config::Config;
use crate::error::LoadError;
use crate::image::Image;
use tiles::Tiles;

struct Llava {
    language: Llama,
    eye: Eye,
}

struct Eye {
    clip: Clip,
    tiles: Tiles,
    /// Numbers of the language model's vectors.
    width: i64,
    token: u32,
    /// Whether lines of patches have ends.
    lines: bool,
}

/// What transformers' `LlamaConfig` and `MistralConfig` say where a configuration does not.
const LLAMA: &[(&str, u64)] = &[
    ("hidden_size", 4096),
    ("intermediate_size", 11008),
    ("num_hidden_layers", 32),
    ("num_attention_heads", 32),
    ("vocab_size", 32000),
];
const MISTRAL: &[(&str, u64)] = &[
    ("hidden_size", 4096),
    ("intermediate_size", 14336),
    ("num_hidden_layers", 32),
    ("num_attention_heads", 32),
    ("num_key_value_heads", 8),
    ("vocab_size", 32000),
];

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let text = config.part("text_config")?;
    let (defaults, class) = match text.optional_text("model_type")? {
        None | Some("llama") => (LLAMA, "LlamaForCausalLM"),
        Some("mistral") => (MISTRAL, "MistralForCausalLM"),
        Some(_) => return Err(text.wrong("model_type", "llama or mistral")),
    };
    let language = llama::read_part(&text.of_architecture(class).with_defaults(defaults), "language_model.")?;
    if config.optional_text("projector_hidden_act")?.is_some_and(|found| found != "gelu") {
        return Err(config.wrong("projector_hidden_act", "gelu"));
    }
    let layer = match config.raw("vision_feature_layer") {
        None => -2,
        Some(layer) => {
            layer.as_i64().ok_or_else(|| config.wrong("vision_feature_layer", "a whole number"))?
        }
    };
    let clip = Clip::read(&config.part("vision_config")?, layer)?;
    let whole = match config.optional_text("vision_feature_select_strategy")? {
        None | Some("default") => false,
        Some("full") => true,
        Some(_) => return Err(config.wrong("vision_feature_select_strategy", "default or full")),
    };
    let lines = config.architecture()?.starts_with("LlavaNext");
    if lines && whole {
        return Err(config.wrong("vision_feature_select_strategy", "default, where images are cut in tiles"));
    }
    let tiles = Tiles::read(config, lines, whole, &clip)?;
    let token = config.optional_count("image_token_index", 0..=SIZE_MAX)?;
    let token = match token {
        Some(token) => token,
        None => config.count("image_token_id", 0..=SIZE_MAX)?,
    };
    let width = language.width;
    Ok(Box::new(Llava { language, eye: Eye { clip, tiles, width, token: token as u32, lines } }))
}

impl Architecture for Llava {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        self.language.body(weights, pass)
    }

    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        self.language.head(weights, pass)
    }

    fn vocabulary(&self) -> usize {
        self.language.vocabulary()
    }

    fn positions(&self) -> usize {
        self.language.positions()
    }

    fn vision(&self) -> Option<&dyn Vision> {
        Some(&self.eye)
    }
}

impl Vision for Eye {
    fn graph(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let pass = Pass { rows: Rows::Many(self.clip.rows()), ..pass };
        let mut build = Build::new("vision", weights, pass);
        let seen = self.clip.build(&mut build, "vision_tower.vision_model.")?;
        let name = |part: &str| format!("multi_modal_projector.{part}");
        let inner = build.linear(seen, &name("linear_1"), [self.width, self.clip.width], true)?;
        let inner = gelu(&mut build.graph, inner);
        let rows = build.linear(inner, &name("linear_2"), [self.width; 2], true)?;
        build.graph.output("rows", rows);
        if self.lines {
            let end = build.vector("image_newline", self.width)?;
            let space = [Expr::int(1), Expr::int(self.width)];
            let end = build.graph.view(end, &space, &[], |c| vec![c.axis(1)]);
            build.graph.output("line_end", end);
        }
        Ok(build.graph)
    }

    fn rows(&self) -> usize {
        self.clip.rows() as usize
    }

    fn tokens(&self) -> usize {
        self.clip.tokens() as usize
    }

    fn token(&self) -> u32 {
        self.token
    }

    fn look(&self, image: &Image) -> Look {
        self.tiles.look(image)
    }

    fn bytes_to_look(&self, width: usize, height: usize) -> u64 {
        self.tiles.bytes_to_look(width, height)
    }
}
