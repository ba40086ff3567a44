//! Images of a conversation: what the model's body gets in place of their tokens.

use std::sync::Arc;

use jtllm_models::arch::Place;
use jtllm_models::image::Image;
use jtllm_runtime::network::Shown;

use crate::engine::EngineError;
use crate::model::Model;

/// An image after the model has looked at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Numbers of a row.
    width: usize,
    /// One row for each of the tokens that stand for it.
    rows: Vec<f32>,
}

impl Seen {
    /// Bytes of memory that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        bytes_of(self.rows.len())
    }

    /// How many tokens stand for it.
    pub fn tokens(&self) -> usize {
        self.rows.len() / self.width.max(1)
    }
}

impl Model {
    /// Looks at an image, tile by tile, while so many bytes are kept for others.
    ///
    /// # Errors
    /// The model sees no images, or a pass fails.
    pub(crate) fn see(&mut self, image: &Image, kept: u64) -> Result<Seen, EngineError> {
        let architecture = self.shared_architecture();
        let vision = architecture.vision().ok_or(EngineError::Blind)?;
        let kept = kept + vision.bytes_to_look(image.width, image.height);
        self.keep_beside(kept)?;
        let look = vision.look(image);
        let mut tiles = Vec::new();
        let mut line_end = Vec::new();
        for pixels in &look.tiles {
            self.look_at(vision.tokens(), pixels)?;
            let rows = self.tap("rows", vision.tokens())?;
            if tiles.is_empty() {
                // All tiles, and the rows that are made of them.
                let all = rows.len() * look.tiles.len() + rows.len() / vision.tokens() * look.places.len();
                self.keep_beside(kept + bytes_of(all))?;
            }
            tiles.push(rows);
        }
        if look.places.contains(&Place::LineEnd) {
            line_end = self.tap("line_end", 1)?;
        }
        let width = tiles.first().map_or(0, |rows| rows.len() / vision.tokens());
        let mut rows = Vec::with_capacity(look.places.len() * width);
        for place in &look.places {
            rows.extend_from_slice(match place {
                Place::Row { tile, row } => &tiles[*tile][row * width..][..width],
                Place::LineEnd => &line_end,
            });
        }
        Ok(Seen { width, rows })
    }
}

/// Bytes of so many numbers.
fn bytes_of(count: usize) -> u64 {
    (count * size_of::<f32>()) as u64
}

/// Bytes of memory that images take.
pub(crate) fn bytes(images: &[Arc<Seen>]) -> u64 {
    images.iter().map(|image| image.bytes()).sum()
}

/// How many of `images` two conversations begin with alike.
pub(crate) fn common(a: &[Arc<Seen>], b: &[Arc<Seen>]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| Arc::ptr_eq(a, b) || a == b).count()
}

/// The rows of `tokens[range]` that come from `images`, whose tokens are `token`; `None` if none does.
pub(crate) fn shown(
    images: &[Arc<Seen>],
    token: u32,
    tokens: &[u32],
    range: std::ops::Range<usize>,
) -> Option<Shown> {
    let width = images.first()?.width;
    if !tokens[range.clone()].contains(&token) {
        return None;
    }
    let before = tokens[..range.start].iter().filter(|id| **id == token).count();
    let mut rows = images.iter().flat_map(|image| image.rows.chunks_exact(width)).skip(before);
    let mut shown = Shown { rows: Vec::new(), vectors: Vec::new() };
    for id in &tokens[range] {
        let row = if *id == token { rows.next() } else { None };
        shown.rows.push(row.is_some());
        match row {
            Some(row) => shown.vectors.extend_from_slice(row),
            None => shown.vectors.resize(shown.vectors.len() + width, 0.0),
        }
    }
    shown.rows.contains(&true).then_some(shown)
}

/// A prompt with as many tokens for each image as stand for it, where it had one.
pub(crate) fn expanded(prompt: &[u32], token: u32, images: &[Arc<Seen>]) -> Result<Vec<u32>, EngineError> {
    let places = prompt.iter().filter(|id| **id == token).count();
    if places != images.len() {
        return Err(EngineError::Images { places, images: images.len() });
    }
    let mut images = images.iter();
    let mut expanded = Vec::new();
    for id in prompt {
        let count = match *id == token {
            true => images.next().map_or(0, |image| image.tokens()),
            false => 1,
        };
        expanded.resize(expanded.len() + count, *id);
    }
    Ok(expanded)
}
