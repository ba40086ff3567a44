//! What configurations of several families say alike.

use jtllm_ir::build::{Pairing, Rope, RopeScaling, yarn_magnitude};

use crate::config::{Config, Fields};
use crate::error::LoadError;

/// The widest layer that is believed.
pub(super) const SIZE_MAX: u64 = 1 << 20;

/// The most heads, layers, or coordinates of a head that are believed.
pub(super) const HEADS_MAX: u64 = 4096;

/// The longest context that is believed.
pub(super) const POSITIONS_MAX: u64 = 1 << 24;

/// How many positions the model was made for.
pub(super) fn positions(config: &Config) -> Result<i64, LoadError> {
    Ok(config.optional_count("max_position_embeddings", 1..=POSITIONS_MAX)?.unwrap_or(2048) as i64)
}

/// How many positions the model was made for, by another name.
pub(super) fn positions_in(config: &Config, field: &str) -> Result<usize, LoadError> {
    config.count(field, 1..=POSITIONS_MAX).map(|count| count as usize)
}

/// A number of coordinates, rows or inner units.
pub(super) fn size(config: &Config, field: &str) -> Result<i64, LoadError> {
    config.count(field, 1..=SIZE_MAX).map(|n| n as i64)
}

/// A number of layers, heads, or coordinates of a head.
pub(super) fn few(config: &Config, field: &str) -> Result<i64, LoadError> {
    config.count(field, 1..=HEADS_MAX).map(|n| n as i64)
}

/// The vocabulary's size.
pub(super) fn vocabulary(config: &Config, field: &str) -> Result<i64, LoadError> {
    config.count(field, 1..=1 << 24).map(|n| n as i64)
}

/// Heads of keys and values: all of `heads`, or a divisor of them.
pub(super) fn key_heads(config: &Config, field: &str, heads: i64) -> Result<i64, LoadError> {
    match config.optional_count(field, 1..=HEADS_MAX)? {
        Some(count) if heads % count as i64 != 0 => {
            Err(config.wrong(field, format!("a divisor of the number of heads ({heads})")))
        }
        Some(count) => Ok(count as i64),
        None => Ok(heads),
    }
}

/// Coordinates of a head, said or by division.
pub(super) fn head_width(config: &Config, width: i64, heads: i64) -> Result<i64, LoadError> {
    match config.optional_count("head_dim", 1..=HEADS_MAX)? {
        Some(width) => Ok(width as i64),
        None if width % heads == 0 => Ok(width / heads),
        None => Err(config.wrong("hidden_size", format!("a multiple of the number of heads ({heads})"))),
    }
}

/// Which layers look at a window alone, if `layer_types` says so.
pub(super) fn local_layers(config: &Config, layers: i64) -> Result<Option<Vec<bool>>, LoadError> {
    let Some(types) = config.optional_list("layer_types")? else { return Ok(None) };
    let kind = |kind: &serde_json::Value| match kind.as_str()? {
        "sliding_attention" => Some(true),
        "full_attention" => Some(false),
        _ => None,
    };
    let local: Option<Vec<bool>> = types.iter().map(kind).collect();
    let local = local.filter(|local| local.len() as i64 == layers);
    let expected = format!("{layers} times sliding_attention or full_attention");
    local.map(Some).ok_or_else(|| config.wrong("layer_types", expected))
}

/// A norm's epsilon.
pub(super) fn epsilon(config: &Config, field: &str, default: f64) -> Result<f32, LoadError> {
    Ok(config.optional_number(field, 0.0..=1.0)?.unwrap_or(default) as f32)
}

/// The rotation of heads of `head_width` coordinates.
pub(super) fn rope(config: &Config, head_width: i64) -> Result<Rope, LoadError> {
    let fraction = config.partial_rotary_factor()?;
    let width = match config.optional_count("rotary_dim", 2..=HEADS_MAX)? {
        Some(width) => width as i64,
        None => (head_width as f64 * fraction) as i64,
    };
    if width < 2 || width % 2 != 0 || width > head_width {
        return Err(config.wrong("head_dim", "an even number of coordinates, at least 2"));
    }
    let scaling = match config.rope_scaling()? {
        Some(fields) => scaling(&fields, positions(config)?, width / 2)?,
        None => RopeScaling::None,
    };
    let pairing = if config.rope_interleaved { Pairing::Interleaved } else { Pairing::HalfSplit };
    let base = config.rope_theta()?;
    if base == 1.0 && matches!(scaling, RopeScaling::Yarn { .. }) {
        return Err(config.wrong("rope_theta", "a number above 1, as yarn wants it"));
    }
    Ok(Rope { width, base, pairing, scaling })
}

fn scaling(fields: &Fields, trained: i64, pairs: i64) -> Result<RopeScaling, LoadError> {
    let original = fields.optional_count("original_max_position_embeddings", 1..=POSITIONS_MAX)?;
    let original = original.map_or(trained, |n| n as i64);
    let positive = 1e-6..=1e6;
    let factor = || fields.number("factor", positive.clone());
    let or = |field: &str, default: f64| {
        fields.optional_number(field, positive.clone()).map(|value| value.unwrap_or(default))
    };
    match fields.text("rope_type")? {
        "default" | "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "dynamic" => Ok(RopeScaling::Dynamic { factor: factor()?, original }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: factor()?,
            low: fields.number("low_freq_factor", positive.clone())?,
            high: fields.number("high_freq_factor", positive.clone())?,
            original: original as f64,
        }),
        "yarn" => Ok(RopeScaling::Yarn {
            factor: factor()?,
            beta_fast: or("beta_fast", 32.0)?,
            beta_slow: or("beta_slow", 1.0)?,
            original: original as f64,
            attention_factor: yarn_attention(fields, factor()?)?,
            truncate: fields.optional_flag("truncate")?.unwrap_or(true),
        }),
        "factors" => {
            let factors = fields.numbers("factors", positive.clone())?;
            if factors.len() as i64 != pairs {
                return Err(fields.wrong("factors", format!("{pairs} numbers, one for each pair of a head")));
            }
            Ok(RopeScaling::Factors(factors.into_iter().map(|factor| factor as f32).collect()))
        }
        _ => Err(fields.wrong("rope_type", "default, linear, dynamic, llama3 or yarn")),
    }
}

/// What YaRN multiplies sines and cosines by: said, or by DeepSeek's two weights, or the paper's.
fn yarn_attention(fields: &Fields, factor: f64) -> Result<f64, LoadError> {
    if let Some(said) = fields.optional_number("attention_factor", 1e-6..=1e6)? {
        return Ok(said);
    }
    let weight =
        |field: &str| fields.optional_number(field, 0.0..=1e3).map(|weight| weight.filter(|w| *w != 0.0));
    Ok(match (weight("mscale")?, weight("mscale_all_dim")?) {
        (Some(above), Some(below)) => yarn_magnitude(factor, above) / yarn_magnitude(factor, below),
        _ => yarn_magnitude(factor, 1.0),
    })
}

/// Refuses flags that change the arithmetic in ways that are not built: each must have its value here where it
/// is there at all.
pub(super) fn only(config: &Config, flags: &[(&str, bool)]) -> Result<(), LoadError> {
    for (field, wanted) in flags {
        if config.optional_flag(field)?.is_some_and(|found| found != *wanted) {
            return Err(config.wrong(field, wanted.to_string()));
        }
    }
    Ok(())
}
