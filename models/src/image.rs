//! Images: from a file to pixels, and to other sizes.
//!
//! Resizing is Pillow's, bit by bit, for that is what the models' processors were made with: a model must see
//! the very numbers here that its reference implementation sees.

mod resize;

use std::fmt;
use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

/// The widest and the highest image that is read.
const SIDE_MAX: u32 = 1 << 14;

/// How many times longer one side may be than the other: models stretch the shorter one.
const ASPECT_MAX: u32 = 200;

/// The most memory that decoding one image may take.
const DECODED_MAX: u64 = 512 << 20;

/// The most memory that is taken before an image's size is known.
const HEADER_MAX: u64 = 1 << 20;

/// Bytes that decoders take for a pixel beside what they give: coefficients of a progressive JPEG are three numbers of 16
/// bits.
const PER_PIXEL: u64 = 6;

/// Red, green and blue of each pixel, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Three bytes for each pixel.
    pub bytes: Vec<u8>,
}

/// Why a file is no image that can be read.
#[derive(Debug)]
pub struct ImageError(String);

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ImageError {}

fn wrong(error: &dyn fmt::Display) -> ImageError {
    ImageError(format!("not an image that can be read: {error}"))
}

/// What reads an image whose size is one that is read, and the most bytes of memory that it takes beside the file.
fn decoder(file: &[u8]) -> Result<(impl ImageDecoder + '_, u64), ImageError> {
    let mut reader =
        ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|error| wrong(&error))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    // What a header brings with it besides: profiles of colours, which are compressed.
    limits.max_alloc = Some(HEADER_MAX);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(|error| wrong(&error))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(wrong(&"it has no pixels"));
    }
    if width.max(height) / width.min(height) > ASPECT_MAX {
        let what = format!("{width} x {height} pixels, one side more than {ASPECT_MAX} times the other");
        return Err(wrong(&what));
    }
    limits.max_alloc = Some(DECODED_MAX);
    limits.reserve(decoder.total_bytes()).map_err(|error| wrong(&error))?;
    let pixels = u64::from(width) * u64::from(height);
    // The numbers of the file, once more in the order of their pixels, and in three bytes each; one decoder copies the file.
    let takes = 2 * decoder.total_bytes() + pixels * (3 + PER_PIXEL);
    limits.max_alloc = Some(takes);
    decoder.set_limits(limits).map_err(|error| wrong(&error))?;
    // A buffer that grows is copied.
    Ok((decoder, takes + 2 * HEADER_MAX + file.len() as u64))
}

impl Image {
    /// Reads a PNG, JPEG, GIF, WebP or BMP file. Transparency is dropped, not blended, as Pillow's conversion
    /// to RGB drops it; of an animation the first picture is taken.
    pub fn decode(file: &[u8]) -> Result<Image, ImageError> {
        let (decoder, _) = decoder(file)?;
        let decoded = DynamicImage::from_decoder(decoder).map_err(|error| wrong(&error))?.into_rgb8();
        let (width, height) = (decoded.width() as usize, decoded.height() as usize);
        Ok(Image { width, height, bytes: decoded.into_raw() })
    }

    /// The most bytes of memory that [`Image::decode`] takes beside the file, by what its header says.
    pub fn bytes_to_decode(file: &[u8]) -> Result<u64, ImageError> {
        decoder(file).map(|(_, takes)| takes)
    }

    /// The most bytes of memory that [`Image::resize`] takes from a size, width and height, to another.
    pub(crate) fn bytes_to_resize(from: [usize; 2], to: [usize; 2]) -> usize {
        resize::bytes(from, to)
    }

    /// A black image.
    pub fn black(width: usize, height: usize) -> Image {
        Image { width, height, bytes: vec![0; width * height * 3] }
    }

    /// The part that begins at `left` and `top`, which may lie outside on any side: there it is black.
    pub fn crop(&self, left: isize, top: isize, width: usize, height: usize) -> Image {
        let mut part = Image::black(width, height);
        for y in 0..height {
            let from = top + y as isize;
            if from < 0 || from >= self.height as isize {
                continue;
            }
            let first = left.max(0);
            let last = (left + width as isize).min(self.width as isize);
            if first >= last {
                continue;
            }
            let source = (from as usize * self.width + first as usize) * 3;
            let target = (y * width + (first - left) as usize) * 3;
            let len = (last - first) as usize * 3;
            part.bytes[target..target + len].copy_from_slice(&self.bytes[source..source + len]);
        }
        part
    }

    /// The same picture in another size, by bicubic interpolation (`a = -0.5`) over the area that each new pixel
    /// stands for.
    pub fn resize(&self, width: usize, height: usize) -> Image {
        resize::bicubic(self, width, height)
    }
}
