//! From a picture to the squares that CLIP looks at, and back to lines of patches.

use crate::arch::clip::Clip;
use crate::arch::{Look, Place};
use crate::config::Config;
use crate::error::LoadError;
use crate::image::Image;

/// What CLIP's pixels are on average, and how far they spread: red, green, blue.
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const DEVIATION: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// How a model cuts pictures.
pub(super) struct Tiles {
    /// Pixels of a tile's side.
    side: usize,
    /// Patches of a tile's side.
    grid: usize,
    /// Whether the row of the whole tile stands before those of its patches.
    whole: bool,
    /// Sizes that a picture may be stretched to beside the tile, in pixels: width and height. Empty: a picture
    /// is one tile.
    sizes: Vec<[usize; 2]>,
}

impl Tiles {
    pub(super) fn read(config: &Config, parts: bool, whole: bool, clip: &Clip) -> Result<Tiles, LoadError> {
        let (side, grid) = (clip.side as usize, clip.grid() as usize);
        let sizes = if parts { sizes(config, side)? } else { Vec::new() };
        Ok(Tiles { side, grid, whole, sizes })
    }

    pub(super) fn look(&self, image: &Image) -> Look {
        match best_size(&self.sizes, [image.width, image.height]) {
            None => {
                let tile = self.middle(image);
                Look { tiles: vec![normal(&tile)], places: self.tile(0) }
            }
            Some(size) => self.parts(image, size),
        }
    }

    /// The most bytes of memory that [`Tiles::look`] takes for a picture of so many pixels.
    pub(super) fn bytes_to_look(&self, width: usize, height: usize) -> u64 {
        // Of a picture a pixel has three bytes, and of a tile three numbers.
        let (picture, tile) = (3, 3 * size_of::<f32>());
        let square = self.side * self.side;
        let resized = |[w, h]: [usize; 2]| Image::bytes_to_resize([width, height], [w, h]);
        let all = match best_size(&self.sizes, [width, height]) {
            None => {
                let places = self.grid * self.grid * size_of::<Place>();
                resized(self.whole_size(width, height)) + square * (picture + tile) + places
            }
            Some([w, h]) => {
                // A list that grows is copied when it is full.
                let places =
                    (w * h / square + 1) * (self.grid + 1) * (self.grid + 1) * 3 * size_of::<Place>();
                let parts = w * h * (picture + tile);
                resized([self.side; 2]) + resized([w, h]) + parts + square * (picture + tile) + places
            }
        };
        all as u64
    }

    /// The rows of a tile.
    fn tile(&self, tile: usize) -> Vec<Place> {
        let first = usize::from(!self.whole);
        (first..=self.grid * self.grid).map(|row| Place::Row { tile, row }).collect()
    }

    /// The size of a picture whose shorter side is made as long as a tile's.
    fn whole_size(&self, width: usize, height: usize) -> [usize; 2] {
        let long = |long: usize, short: usize| self.side * long / short;
        match width <= height {
            true => [self.side, long(height, width)],
            false => [long(width, height), self.side],
        }
    }

    /// The square in the middle of such a picture.
    fn middle(&self, image: &Image) -> Image {
        let [width, height] = self.whole_size(image.width, image.height);
        let image = image.resize(width, height);
        image.crop(
            ((width - self.side) / 2) as isize,
            ((height - self.side) / 2) as isize,
            self.side,
            self.side,
        )
    }

    /// The whole picture in one tile, and as much of `size` as it fills in tiles side by side.
    fn parts(&self, image: &Image, [width, height]: [usize; 2]) -> Look {
        let mut tiles = vec![normal(&image.resize(self.side, self.side))];
        let stretched = fitted(image, width, height);
        let left = (width - stretched.width) / 2;
        let top = (height - stretched.height) / 2;
        let canvas = stretched.crop(-(left as isize), -(top as isize), width, height);
        let (across, down) = (width / self.side, height / self.side);
        for row in 0..down {
            for column in 0..across {
                let (x, y) = ((column * self.side) as isize, (row * self.side) as isize);
                tiles.push(normal(&canvas.crop(x, y, self.side, self.side)));
            }
        }
        let mut places = self.tile(0);
        let (columns, lines) = unpadded([across * self.grid, down * self.grid], image);
        for y in lines {
            for x in columns.clone() {
                let tile = 1 + y / self.grid * across + x / self.grid;
                let row = 1 + y % self.grid * self.grid + x % self.grid;
                places.push(Place::Row { tile, row });
            }
            places.push(Place::LineEnd);
        }
        Look { tiles, places }
    }
}

/// The sizes of `image_grid_pinpoints`, which gives heights first.
fn sizes(config: &Config, side: usize) -> Result<Vec<[usize; 2]>, LoadError> {
    const FIELD: &str = "image_grid_pinpoints";
    let expected = || config.wrong(FIELD, format!("pairs of multiples of {side}, at most 64 times it"));
    let size = |value: &serde_json::Value| {
        let number = value.as_u64().map(|number| number as usize);
        number.filter(|number| *number > 0 && *number % side == 0 && *number / side <= 64)
    };
    let pair = |pair: &serde_json::Value| match pair.as_array()?.as_slice() {
        [height, width] => Some([size(width)?, size(height)?]),
        _ => None,
    };
    let sizes: Option<Vec<[usize; 2]>> = config.list(FIELD)?.iter().map(pair).collect();
    sizes.filter(|sizes| !sizes.is_empty()).ok_or_else(expected)
}

/// The size in which most of a picture's pixels are kept, and of those the one that wastes least.
fn best_size(sizes: &[[usize; 2]], [old_width, old_height]: [usize; 2]) -> Option<[usize; 2]> {
    let mut best = None;
    let mut most = (0, i64::MIN);
    for [width, height] in sizes.iter().copied() {
        let scale = (width as f64 / old_width as f64).min(height as f64 / old_height as f64);
        let scaled = |side: usize| (side as f64 * scale) as i64;
        let kept = (scaled(old_width) * scaled(old_height)).min((old_width * old_height) as i64);
        let wasted = (width * height) as i64 - kept;
        if (kept, -wasted) > most {
            most = (kept, -wasted);
            best = Some([width, height]);
        }
    }
    best
}

/// The picture as large as it fits.
fn fitted(image: &Image, width: usize, height: usize) -> Image {
    let wide = width as f64 / image.width as f64;
    let high = height as f64 / image.height as f64;
    let scaled = |side: usize, scale: f64, most: usize| ((side as f64 * scale).ceil() as usize).min(most);
    match wide < high {
        true => image.resize(width, scaled(image.height, wide, height)),
        false => image.resize(scaled(image.width, high, width), height),
    }
}

/// Which columns and lines of patches show the picture, and not what is beside it.
fn unpadded([columns, lines]: [usize; 2], image: &Image) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let (width, height) = (image.width as f64, image.height as f64);
    let (across, down) = (columns as f64, lines as f64);
    // The reference rounds to seven places before it cuts.
    let cut = |size: f64| (size * 1e7).round_ties_even() / 1e7;
    if width / height > across / down {
        let high = cut(height * (across / width)) as usize;
        let padding = (lines - high) / 2;
        (0..columns, padding..lines - padding)
    } else {
        let wide = cut(width * (down / height)) as usize;
        let padding = (columns - wide) / 2;
        (padding..columns - padding, 0..lines)
    }
}

/// Pixels as CLIP gets them: all red, all green, all blue, each around 0.
fn normal(image: &Image) -> Vec<f32> {
    let value = |color: usize, byte: u8| {
        let scaled = (f64::from(byte) * (1.0 / 255.0)) as f32;
        (scaled - MEAN[color] as f32) / DEVIATION[color] as f32
    };
    let mut pixels = Vec::with_capacity(image.bytes.len());
    for color in 0..3 {
        pixels.extend(image.bytes.chunks_exact(3).map(|pixel| value(color, pixel[color])));
    }
    pixels
}
