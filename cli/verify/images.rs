//! What models make of images: pixels, and the hidden vectors of the part that sees.

use jtllm_models::LoadError;
use jtllm_models::image::Image;
use jtllm_serve::Engine;
use serde_json::Value;

use super::Check;
use super::golden::Golden;

/// Pixels are bytes, scaled: they are the same but for the rounding of the scaling.
const PIXEL_BOUND: f32 = 1e-6;

/// The taps of the part that sees begin so, but for the last one.
const TAPS: &str = "hidden.vision.";
const LAST_TAP: &str = "hidden.projector";

/// Whether a hidden tensor is one of the part that sees.
pub(super) fn has(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.starts_with(TAPS) || name == LAST_TAP)
}

/// Whether a name is that of a layer behind the last one that is computed: none of the first, and none with
/// another behind it.
fn is_later_layer(engine: &mut Engine, name: &str) -> bool {
    let number = name.strip_prefix(TAPS).and_then(|name| name.strip_prefix("layer")?.parse::<usize>().ok());
    let mut is_there = |number: usize| engine.model_mut().tap(&format!("{TAPS}layer{number}"), 1).is_ok();
    number.is_some_and(|number| number > 0 && !is_there(number + 1))
}

fn images(golden: &Golden, case: &Value) -> anyhow::Result<Vec<Image>> {
    let mut images = Vec::new();
    for name in golden.list(&case["images"]) {
        let path = golden.path(&format!("{}.png", golden.text("cases.images", name)?));
        let bytes = std::fs::read(&path).map_err(|source| LoadError::Io {
            file: path.clone(),
            action: "read",
            source,
        })?;
        let image = Image::decode(&bytes);
        images.push(image.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?);
    }
    Ok(images)
}

/// Shows a case's images to the engine, and compares their pixels.
pub(super) fn look(golden: &Golden, engine: &mut Engine, case: &Value) -> anyhow::Result<Vec<Check>> {
    let images = images(golden, case)?;
    let mut seen = Vec::new();
    let mut pixels: Vec<Vec<f32>> = Vec::new();
    for image in &images {
        seen.push(engine.see(image)?);
        if let Some(vision) = engine.model().architecture().vision() {
            pixels.push(vision.look(image).tiles.concat());
        }
    }
    engine.show(&seen)?;
    if images.is_empty() {
        return Ok(Vec::new());
    }
    // The reference's images of a batch have the same number of tiles: black ones follow.
    let longest = pixels.iter().map(Vec::len).max().unwrap_or(0);
    pixels.iter_mut().for_each(|pixels| pixels.resize(longest, 0.0));
    let expected = golden.tensor(golden.text("cases.pixel_values", &case["pixel_values"])?)?;
    let name = format!("pixels {}", golden.text("cases.name", &case["name"])?);
    Ok(vec![Check::numbers(name, &pixels.concat(), &expected, PIXEL_BOUND)])
}

/// Compares the hidden vectors of a case's images, tile after tile, and shows the images to the engine.
pub(super) fn hidden(
    golden: &Golden,
    engine: &mut Engine,
    case: &Value,
    bound: f32,
) -> anyhow::Result<Vec<Check>> {
    let names: Vec<&str> = golden
        .list(&golden.json()["hidden"]["tensors"])
        .iter()
        .filter(|n| has(n))
        .filter_map(Value::as_str)
        .collect();
    let mut found: Vec<Option<Vec<f32>>> = vec![Some(Vec::new()); names.len()];
    for image in images(golden, case)? {
        let Some(vision) = engine.model().architecture().vision() else { continue };
        let (tokens, tiles) = (vision.tokens(), vision.look(&image).tiles);
        for tile in tiles {
            engine.model_mut().look_at(tokens, &tile)?;
            for (found, name) in found.iter_mut().zip(&names) {
                // The projector's input is without the row of the whole tile.
                let (tap, skip) = if *name == LAST_TAP { ("rows", 1) } else { (*name, 0) };
                // Layers behind the one that the projector reads are not computed; anything else has to be there.
                let rows = match engine.model_mut().tap(tap, tokens) {
                    Err(_) if is_later_layer(engine, name) => None,
                    rows => Some(rows?),
                };
                *found = found.take().zip(rows).map(|(mut all, rows)| {
                    all.extend_from_slice(&rows[rows.len() / tokens * skip..]);
                    all
                });
            }
        }
    }
    look(golden, engine, case)?;
    let mut checks = Vec::new();
    for (name, found) in names.into_iter().zip(found) {
        checks.push(match found {
            Some(found) => Check::numbers(name, &found, &golden.tensor(name)?, bound),
            None => Check::tokens(format!("{name}: not used"), 0, 0),
        });
    }
    Ok(checks)
}
