//! Images: Pillow's resizing bit by bit, parts, and files that are damaged.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::png::PngEncoder;
use image::{ColorType, DynamicImage, ImageEncoder, ImageFormat};
use jtllm_fuzz::for_seconds;
use jtllm_models::image::Image;
use jtllm_models::{Checkpoint, arch};
use serde_json::Value;

#[path = "support/allocated.rs"]
mod allocated;

/// Most memory beside what the image itself takes.
const ROOM: u64 = 64 << 20;

/// What decoders have of their own, whatever the size: tables and windows.
const OWN: u64 = 1 << 20;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.as_chunks::<2>().0.iter().map(|[high, low]| high * 16 + low).collect()
}

fn size(value: &Value) -> [usize; 2] {
    [0, 1].map(|at| value[at].as_u64().unwrap() as usize)
}

#[test]
fn resizing_is_pillows() {
    let file = std::fs::read(tests().join("files/image/resize.json")).unwrap();
    let golden: Value = serde_json::from_slice(&file).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let [width, height] = size(&case["size"]);
        let image = Image { width, height, bytes: hex(case["pixels"].as_str().unwrap()) };
        let [wide, high] = size(&case["to"]);
        let found = image.resize(wide, high);
        assert_eq!((found.width, found.height), (wide, high));
        assert_eq!(
            found.bytes,
            hex(case["resized"].as_str().unwrap()),
            "{width} x {height} to {wide} x {high}"
        );
    }
}

#[test]
fn parts_outside_are_black() {
    let image = Image { width: 2, height: 2, bytes: (1..=12).collect() };
    assert_eq!(image.crop(0, 0, 2, 2), image);
    assert_eq!(image.crop(1, 1, 1, 1).bytes, [10, 11, 12]);
    assert_eq!(image.crop(-1, 0, 2, 1).bytes, [0, 0, 0, 1, 2, 3]);
    assert_eq!(image.crop(1, 1, 2, 2).bytes, [10, 11, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(image.crop(-5, 7, 2, 1), Image::black(2, 1));
}

#[test]
fn a_file_is_read_by_its_content() {
    let png = std::fs::read(tests().join("fixtures/llava-1.5-tiny/image0.png")).unwrap();
    let image = Image::decode(&png).unwrap();
    assert_eq!((image.width, image.height, image.bytes.len()), (45, 31, 45 * 31 * 3));
    for (file, expected) in [(&b"hello"[..], "could not be determined"), (&png[..60], "not an image")] {
        let error = Image::decode(file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A picture of so many pixels in a file of this format, with numbers of this kind, noise in it.
fn file(width: u32, height: u32, format: ImageFormat, kind: ColorType) -> Vec<u8> {
    let mut state = 1u64;
    let pixels = image::ImageBuffer::from_fn(width, height, |_, _| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        image::Rgba(
            (state >> 16).to_le_bytes().as_chunks::<2>().0.as_array().unwrap().map(u16::from_le_bytes),
        )
    });
    let picture = DynamicImage::ImageRgba16(pixels);
    let picture = match kind {
        ColorType::L8 => picture.to_luma8().into(),
        ColorType::Rgb8 => picture.to_rgb8().into(),
        ColorType::Rgba8 => picture.to_rgba8().into(),
        _ => picture,
    };
    let mut bytes = Vec::new();
    picture.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    bytes
}

#[test]
fn what_decoding_takes_is_foreseen() {
    let kinds = [
        (ImageFormat::Png, ColorType::L8),
        (ImageFormat::Png, ColorType::Rgb8),
        (ImageFormat::Png, ColorType::Rgba8),
        (ImageFormat::Png, ColorType::Rgba16),
        (ImageFormat::Jpeg, ColorType::Rgb8),
        (ImageFormat::Jpeg, ColorType::L8),
        (ImageFormat::Gif, ColorType::Rgba8),
        (ImageFormat::WebP, ColorType::Rgb8),
        (ImageFormat::WebP, ColorType::Rgba8),
        (ImageFormat::Bmp, ColorType::Rgb8),
    ];
    let made = |(format, kind)| (format!("{format:?} {kind:?}"), file(1000, 700, format, kind));
    let mut files: Vec<(String, Vec<u8>)> = kinds.map(made).into();
    // Its coefficients are in memory all at once; Pillow made it.
    let progressive = std::fs::read(tests().join("files/image/progressive.jpg")).unwrap();
    files.push(("progressive JPEG".to_owned(), progressive));
    for (name, file) in files {
        let foreseen = Image::bytes_to_decode(&file).unwrap();
        let (image, peak) = allocated::peak(|| Image::decode(&file).unwrap());
        println!("{name}: {peak} of {foreseen}");
        assert!(peak <= foreseen + OWN, "{name}: {peak} of {foreseen}");
        assert!(image.bytes.len() >= 800 * 600 * 3, "{name}: {} x {}", image.width, image.height);
    }
}

/// Headers that promise little, and files that want much.
#[test]
fn what_hostile_files_take_is_foreseen_too() {
    // A screen of one pixel and a picture of four million on it.
    let mut frame = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff".to_vec();
    frame.extend(b"\x2c\0\0\0\0\xd0\x07\xd0\x07\0\x02\x02\x44\x01\0\x3b");
    // A profile of colours that is 64 MiB of zeros.
    let mut profile = Vec::new();
    let mut encoder = PngEncoder::new(&mut profile);
    encoder.set_icc_profile(vec![0; 64 << 20]).unwrap();
    encoder.write_image(&[0; 3], 1, 1, ColorType::Rgb8.into()).unwrap();
    // What stands behind the end of an image.
    let mut tail = file(10, 10, ImageFormat::Jpeg, ColorType::Rgb8);
    tail.resize(tail.len() + (8 << 20), 0);
    for (name, file) in [("frame", frame), ("profile", profile), ("tail", tail)] {
        let (takes, first) = allocated::peak(|| Image::bytes_to_decode(&file));
        let takes = takes.unwrap();
        let (image, peak) = allocated::peak(|| Image::decode(&file).map(|image| image.width));
        println!("{name}: {first} for the header, {peak} of {takes}, {image:?}");
        assert!(first <= 2 * OWN + file.len() as u64, "{name}: {first} for the header");
        assert!(peak <= takes + OWN, "{name}: {peak} of {takes}");
    }
}

#[test]
fn what_looking_takes_is_foreseen() {
    for model in ["llava-1.5-tiny", "llava-next-1.6-tiny"] {
        let checkpoint = Checkpoint::open(&tests().join("fixtures").join(model)).unwrap();
        let architecture = arch::read(checkpoint.config()).unwrap();
        let vision = architecture.vision().unwrap();
        for (width, height) in [(45, 31), (1000, 10), (10, 1000), (2000, 1500), (30, 30), (4000, 21)] {
            let image = Image::black(width, height);
            let (_look, peak) = allocated::peak(|| vision.look(&image));
            let foreseen = vision.bytes_to_look(width, height);
            println!("{model} {width} x {height}: {peak} of {foreseen}");
            assert!(peak <= foreseen, "{model} {width} x {height}: {peak} of {foreseen}");
        }
    }
}

/// A PNG header that promises this many pixels and holds none.
fn promise(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let crc = header.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend(header);
    file.extend((!crc).to_be_bytes());
    file
}

#[test]
fn a_promise_of_many_pixels_takes_no_memory() {
    for (width, height) in [(u32::MAX / 2, 1), (1 << 15, 1 << 15), (1 << 14, 1), (1 << 14, 1 << 14)] {
        let file = promise(width, height);
        let (found, peak) = allocated::peak(|| Image::decode(&file));
        assert!(!found.unwrap_err().to_string().is_empty());
        // What an honest image of that size may take is the limit; a header alone takes nothing near.
        assert!(peak <= (512 << 20) + ROOM, "{peak} bytes for {width} x {height}");
    }
}

#[test]
fn damaged_images_are_refused_or_read() {
    let names = ["fixtures/llava-1.5-tiny/image0.png", "fixtures/llava-1.5-tiny/image1.png"];
    let files = names.map(|name| std::fs::read(tests().join(name)).unwrap());
    for_seconds("image", |random| {
        let from = &files[random.below(files.len())];
        let file = if random.below(4) == 0 { random.bytes(200) } else { random.mutated(from) };
        match Image::decode(&file) {
            Ok(image) => assert_eq!(image.bytes.len(), image.width * image.height * 3),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}
