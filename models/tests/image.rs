//! Images: Pillow's resizing bit by bit, parts, and files that are damaged.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use jtllm_fuzz::for_seconds;
use jtllm_models::image::Image;
use serde_json::Value;

#[path = "support/allocated.rs"]
mod allocated;

/// Most memory beside what the image itself takes.
const ROOM: u64 = 64 << 20;

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
