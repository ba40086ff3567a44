//! Pillow's resampling (`ImagingResample` in its `src/libImaging/Resample.c`), in its fixed-point arithmetic:
//! one pass along rows, one along columns, each rounding to bytes.

use super::Image;

/// Bits behind the point of a coefficient: Pillow's, for sums of bytes in 32 bits.
const PRECISION: u32 = 32 - 8 - 2;

/// How far the filter reaches, in pixels of the larger of both sizes.
const SUPPORT: f64 = 2.0;

/// The cubic convolution of Keys (1981) with Pillow's constant.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < SUPPORT {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// What one new pixel is made of: the first old pixel, and what each from there on counts.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of every new pixel along one axis.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = SUPPORT * stretch;
    let one = |at: usize| {
        let center = (at as f64 + 0.5) * scale;
        let first = ((center - support + 0.5) as i64).max(0) as usize;
        let end = ((center + support + 0.5) as i64).min(from as i64) as usize;
        let weights: Vec<f64> =
            (first..end).map(|x| cubic((x as f64 - center + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| {
            let weight = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1u32 << PRECISION);
            (if weight < 0.0 { weight - 0.5 } else { weight + 0.5 }) as i32
        };
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(one).collect()
}

/// A sum in fixed point as a byte.
fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION - 1);

/// The most bytes of memory that [`bicubic`] takes for such sizes, width and height, the new picture included.
pub(super) fn bytes([from_width, from_height]: [usize; 2], [width, height]: [usize; 2]) -> usize {
    let between = width * from_height * 3;
    // A list for each new pixel of a side, which reaches over twice the support of the larger of both sizes.
    let lists = |from: usize, to: usize| {
        let reach = (2.0 * SUPPORT * (from as f64 / to as f64).max(1.0)) as usize + 2;
        to * (size_of::<Taps>() + reach * size_of::<i32>()) + reach * size_of::<f64>()
    };
    between
        + width * height * 3
        + lists(from_width, width)
        + lists(from_height, height)
        + width * 3 * size_of::<i32>()
}

pub(super) fn bicubic(image: &Image, width: usize, height: usize) -> Image {
    let wide = if width == image.width { image.clone() } else { along_rows(image, width) };
    if height == image.height { wide } else { along_columns(&wide, height) }
}

fn along_rows(image: &Image, width: usize) -> Image {
    let taps = taps(image.width, width);
    let mut out = Image::black(width, image.height);
    for (from, to) in image.bytes.chunks_exact(image.width * 3).zip(out.bytes.chunks_exact_mut(width * 3)) {
        for (taps, pixel) in taps.iter().zip(to.chunks_exact_mut(3)) {
            let mut sums = [HALF; 3];
            for (weight, old) in taps.weights.iter().zip(from[taps.first * 3..].chunks_exact(3)) {
                sums.iter_mut().zip(old).for_each(|(sum, old)| *sum += weight * i32::from(*old));
            }
            pixel.iter_mut().zip(sums).for_each(|(new, sum)| *new = byte(sum));
        }
    }
    out
}

fn along_columns(image: &Image, height: usize) -> Image {
    let stride = image.width * 3;
    let mut out = Image::black(image.width, height);
    for (taps, row) in taps(image.height, height).iter().zip(out.bytes.chunks_exact_mut(stride)) {
        let mut sums = vec![HALF; stride];
        for (weight, old) in taps.weights.iter().zip(image.bytes[taps.first * stride..].chunks_exact(stride))
        {
            sums.iter_mut().zip(old).for_each(|(sum, old)| *sum += weight * i32::from(*old));
        }
        row.iter_mut().zip(sums).for_each(|(new, sum)| *new = byte(sum));
    }
    out
}
