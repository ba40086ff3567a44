//! Packed files: a later start reads what an earlier one packed, or packs again, and never reads anything else.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use jtllm_runtime::cache::Status;
use jtllm_runtime::codegen::emit::cranelift::Cranelift;
use jtllm_runtime::codegen::kernel::Kernel;
use jtllm_runtime::codegen::target::{Artifact, Caps, Target};
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::{Bytes, Device, DeviceInfo, Mem, Program, Span};
use jtllm_runtime::ir::Format;
use jtllm_runtime::ir::format::{APART, FORMATS};
use jtllm_runtime::packed::table::{Entry, Head};
use jtllm_runtime::packed::{Happening, Keeping, Moment, Origin, PACKING_VERSION, PackedFolder};
use jtllm_runtime::weights::{Source, Wanted, Weights};
use jtllm_runtime::{DeviceError, Error};
use xxhash_rust::xxh3::xxh3_64;

/// The weights of the tests: the first has several chunks, the last no whole group of rows.
const SHAPES: [(&str, &str, [u64; 2]); 3] =
    [("head", "q8_0", [2080, 4096]), ("layer.0", "q4_0", [48, 64]), ("layer.1", "q4_k", [9, 256])];

/// Bytes that differ from place to place.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut byte = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..len).map(|_| byte()).collect()
}

fn source(format: &'static Format, shape: &[u64]) -> Source {
    let count = shape.iter().product::<u64>() as usize;
    Source::whole(format, shape, Arc::new(noise(count / format.block * format.block_bytes, shape[0])))
}

fn wanted(name: &str, format: &Format, shape: &[u64]) -> Vec<Wanted> {
    let one = |plane: &jtllm_runtime::ir::format::Plane| Wanted {
        name: format.plane_name(name, plane),
        dtype: plane.dtype,
        shape: vec![shape[0] as i64, shape[1] as i64 / plane.span as i64],
    };
    format.own_planes().iter().map(one).collect()
}

fn all_wanted(shapes: &[(&str, &str, [u64; 2])]) -> Vec<Wanted> {
    shapes
        .iter()
        .flat_map(|(name, format, shape)| wanted(name, Format::find(format).unwrap(), shape))
        .collect()
}

fn locate(name: &str) -> Option<Source> {
    let (_, format, shape) = SHAPES.iter().find(|(known, ..)| *known == name)?;
    Some(source(Format::find(format)?, shape))
}

fn processor() -> Arc<dyn Device> {
    Arc::new(Cpu::new(Box::new(Cranelift::host().unwrap()), 2))
}

/// A device whose memory is its own.
struct Far(Interpreter);

impl Device for Far {
    fn info(&self) -> DeviceInfo {
        self.0.info()
    }

    fn target(&self) -> &dyn Target {
        self.0.target()
    }

    fn alloc(&self, len: u64) -> Result<Mem, DeviceError> {
        self.0.alloc(len)
    }

    fn adopt(&self, _: &Bytes, _: u64, _: u64, _: u64) -> Option<Mem> {
        None
    }

    fn write(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.write(to, bytes)
    }

    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(from, bytes)
    }

    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError> {
        self.0.load(kernels)
    }

    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError> {
        self.0.launch(program, groups, symbols, args)
    }
}

/// What a start found.
#[derive(Debug, PartialEq)]
struct Start {
    planes: Vec<Vec<u8>>,
    packed: u64,
    copied: u64,
}

fn start_with(device: &Arc<dyn Device>, keeping: Option<Keeping>, wanted: &[Wanted]) -> Result<Start, Error> {
    let mut weights = Weights::default();
    if let Some(keeping) = keeping {
        weights.keep(keeping);
    }
    weights.bind(device, wanted, &locate)?;
    let mut planes = Vec::new();
    for one in wanted {
        let bound = weights.plane(&one.name).unwrap();
        bound.ready.wait()?;
        let mut bytes = vec![0; bound.span.len as usize];
        device.read(&bound.span, &mut bytes).unwrap();
        planes.push(bytes);
    }
    Ok(Start { planes, packed: weights.packed_bytes, copied: weights.copied_bytes })
}

/// A model file, a folder of packed weights, and what a user was told.
struct Place {
    scratch: tempfile::TempDir,
    told: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn new() -> Place {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("model.gguf"), noise(100_000, 3)).unwrap();
        Place { scratch, told: Arc::default() }
    }

    fn model(&self) -> PathBuf {
        self.scratch.path().join("model.gguf")
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("packed")
    }

    fn folder(&self) -> PackedFolder {
        let told = self.told.clone();
        let tell = Box::new(move |what: &str| told.lock().unwrap().push(what.to_owned()));
        PackedFolder::open(Some(self.path())).telling(tell)
    }

    fn keeping(&self, folder: PackedFolder) -> Keeping {
        let model = self.model();
        let bytes = fs::read(&model).unwrap();
        let origin = Origin::of(&model, fs::metadata(&model).unwrap().modified().ok(), &bytes);
        Keeping { folder: Arc::new(folder), origins: vec![origin] }
    }

    fn start(&self) -> Result<Start, Error> {
        self.start_in(self.folder())
    }

    fn start_in(&self, folder: PackedFolder) -> Result<Start, Error> {
        start_with(&processor(), Some(self.keeping(folder)), &all_wanted(&SHAPES))
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The one file that is there, whole.
    fn file(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        assert!(files[0].extension().is_some_and(|extension| extension == "packed"), "{files:?}");
        files[0].clone()
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

fn plain() -> Start {
    start_with(&processor(), None, &all_wanted(&SHAPES)).unwrap()
}

fn head(path: &Path) -> Head {
    let bytes = fs::read(path).unwrap();
    Head::parse(&bytes, bytes.len() as u64).unwrap()
}

#[test]
fn a_second_start_maps_what_the_first_packed() {
    let expected = plain();
    let place = Place::new();
    let first = place.start().unwrap();
    assert_eq!(first, expected);
    assert!(first.copied > 8_000_000 && first.packed == 0);
    let path = place.file();
    let second = place.start().unwrap();
    assert_eq!((second.packed, second.copied), (first.copied, 0));
    assert!(second.planes == first.planes);
    assert_eq!(place.file(), path);
    assert_eq!(place.told(), [""; 0]);
    let size = place.folder().size().unwrap();
    assert_eq!((size.entries, size.bytes), (1, fs::metadata(&path).unwrap().len()));
    // In the order of their use, each on a page of any system.
    let names: Vec<String> = all_wanted(&SHAPES).into_iter().map(|one| one.name).collect();
    let head = head(&path);
    assert!(head.planes.iter().map(|plane| &plane.name).eq(&names));
    assert!(head.planes.iter().all(|plane| plane.offset % 65536 == 0));
    assert_eq!(head.planes[0].sums.len(), 9);
    place.folder().clear().unwrap();
    assert!(place.files().is_empty());
}

#[test]
fn layouts_have_files_of_their_own_and_far_devices_take_copies() {
    let place = Place::new();
    let interleaved = place.start().unwrap();
    let far: Arc<dyn Device> = Arc::new(Far(Interpreter::new(Caps::threads(32))));
    let start = || start_with(&far, Some(place.keeping(place.folder())), &all_wanted(&SHAPES)).unwrap();
    let first = start();
    assert_ne!(first.planes, interleaved.planes);
    assert_eq!(place.files().len(), 2);
    let second = start();
    assert_eq!(second, first);
    assert_eq!(second.packed, 0, "a copy is no mapping");
    let path = place.files().into_iter().find(|path| {
        let bytes = fs::read(path).unwrap();
        let at = head(path).planes[0].offset as usize;
        bytes[at..][..4096] == first.planes[0][..4096]
    });
    flip(&path.unwrap(), |head| head.planes[0].offset);
    let error = start_with(&far, Some(place.keeping(place.folder())), &all_wanted(&SHAPES)).unwrap_err();
    assert!(matches!(error, Error::Packed { .. }), "{error}");
}

/// Turns a bit of the byte at a place.
fn flip(path: &Path, place: impl Fn(&Head) -> u64) {
    let mut bytes = fs::read(path).unwrap();
    let at = place(&head(path)) as usize;
    bytes[at] ^= 16;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_bit_that_turned_in_any_chunk_is_found_before_it_is_read() {
    let place = Place::new();
    let first = place.start().unwrap();
    let path = place.file();
    let sound = fs::read(&path).unwrap();
    for plane in &head(&path).planes {
        for chunk in 0..plane.sums.len() as u64 {
            let begin = chunk * plane.chunk_bytes;
            let end = (begin + plane.chunk_bytes).min(plane.len);
            for at in [begin, (begin + end) / 2, end - 1] {
                flip(&path, |_| plane.offset + at);
                let error = place.start().unwrap_err();
                let text = error.to_string();
                assert!(matches!(error, Error::Packed { file, .. } if file == path), "{text}");
                assert!(text.contains(&format!("chunk {chunk} of {}", plane.name)), "{text}");
                assert!(text.contains("start again"), "{text}");
                assert!(!path.exists());
                fs::write(&path, &sound).unwrap();
            }
        }
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(place.start().unwrap(), first, "packed anew");
    assert_eq!(fs::read(place.file()).unwrap(), sound);
}

#[test]
fn what_is_no_packed_file_is_replaced() {
    let place = Place::new();
    let first = place.start().unwrap();
    let path = place.file();
    let sound = fs::read(&path).unwrap();
    let cut = |len: usize| sound[..len].to_vec();
    let changed = |at: usize, byte: u8| {
        let mut bytes = sound.clone();
        bytes[at] = byte;
        bytes
    };
    let longer = [&sound[..], &[0; 9]].concat();
    let other = {
        let mut head = head(&path);
        head.key ^= 1;
        let bytes = head.encode().unwrap();
        [&bytes[..], &sound[bytes.len()..]].concat()
    };
    let cases = [
        ("empty", Vec::new()),
        ("foreign", b"#!/bin/sh\nrm -rf /\n".repeat(9)),
        ("cut in its head", cut(30)),
        ("cut in its fixed part", cut(20)),
        ("cut in its table", cut(200)),
        ("cut in its planes", cut(sound.len() / 2)),
        ("cut by a byte", cut(sound.len() - 1)),
        ("longer", longer),
        ("of another version", changed(8, 9)),
        ("damaged in its head", changed(100, !sound[100])),
        ("of another key", other),
    ];
    for (what, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        let again = place.start().unwrap();
        assert_eq!(again, first, "{what}");
        let told = place.told();
        assert!(told.len() == 1 && told[0].contains("packed anew"), "{what}: {told:?}");
        assert!(fs::read(place.file()).unwrap() == sound, "{what}");
        assert_eq!(place.start().unwrap().copied, 0, "{what}");
    }
    // A folder of that name cannot be replaced, and is not believed.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(place.start().unwrap(), first);
    assert!(path.is_dir());
}

#[test]
fn a_changed_model_is_packed_anew_and_its_old_file_goes() {
    let place = Place::new();
    place.start().unwrap();
    let old = place.file();
    let later = SystemTime::now() + Duration::from_secs(60);
    // The same length, and another time.
    File::options().write(true).open(place.model()).unwrap().set_modified(later).unwrap();
    assert_eq!(place.start().unwrap().packed, 0);
    let touched = place.file();
    assert_ne!(touched, old);
    // The same length and time, and other contents in one place.
    let mut bytes = fs::read(place.model()).unwrap();
    bytes[99_000] ^= 1;
    fs::write(place.model(), bytes).unwrap();
    File::options().write(true).open(place.model()).unwrap().set_modified(later).unwrap();
    assert_eq!(place.start().unwrap().packed, 0);
    assert_eq!(place.files().len(), 2, "nothing says that the old one is of no use");
    // Another length.
    fs::write(place.model(), noise(100_001, 3)).unwrap();
    assert_eq!(place.start().unwrap().packed, 0);
    place.file();
}

#[test]
fn a_model_that_moved_is_known_again() {
    let place = Place::new();
    place.start().unwrap();
    let moved = place.scratch.path().join("moved.gguf");
    fs::rename(place.model(), &moved).unwrap();
    let origin =
        Origin::of(&moved, fs::metadata(&moved).unwrap().modified().ok(), &fs::read(&moved).unwrap());
    let keeping = Keeping { folder: Arc::new(place.folder()), origins: vec![origin] };
    let again = start_with(&processor(), Some(keeping), &all_wanted(&SHAPES)).unwrap();
    assert_eq!(again.copied, 0);
}

/// Every moment of writing, and how often it comes.
fn moments() -> Vec<(Moment, usize)> {
    let (place, seen) = (Place::new(), Arc::new(Mutex::new(Vec::new())));
    let sees = seen.clone();
    let fate = move |moment| {
        sees.lock().unwrap().push(moment);
        Happening::Nothing
    };
    place.start_in(place.folder().with_fate(Box::new(fate))).unwrap();
    let seen = seen.lock().unwrap();
    let count = |moment| (moment, seen.iter().filter(|one| **one == moment).count());
    [Moment::Length, Moment::Chunk, Moment::Head, Moment::Name].map(count).to_vec()
}

/// A start in which something happens at the `number`-th of those moments.
fn start_to(place: &Place, moment: Moment, number: usize, what: fn() -> Happening) -> Start {
    let come = AtomicUsize::new(0);
    let fate = move |now| match now == moment && come.fetch_add(1, Ordering::Relaxed) == number {
        true => what(),
        false => Happening::Nothing,
    };
    place.start_in(place.folder().with_fate(Box::new(fate))).unwrap()
}

#[test]
fn a_death_at_any_moment_leaves_nothing_that_the_next_start_does_not_remove() {
    let expected = plain();
    for (moment, count) in moments() {
        assert!(count > 0, "{moment:?}");
        for number in 0..count {
            let place = Place::new();
            assert_eq!(start_to(&place, moment, number, || Happening::Death), expected);
            let left = place.files();
            assert!(
                left.len() == 1 && left[0].extension().unwrap() == "tmp",
                "{moment:?} {number}: {left:?}"
            );
            // The leftovers of another model go too.
            fs::rename(&left[0], place.path().join("00000000000000000000000000000000.tmp")).unwrap();
            let second = place.start().unwrap();
            assert_eq!(second, expected);
            place.file();
            let third = place.start().unwrap();
            assert!(third.copied == 0 && third.planes == expected.planes, "{moment:?} {number}");
            assert_eq!(place.told(), [""; 0]);
        }
    }
}

#[test]
fn a_disk_that_is_full_is_said_once_and_weights_stay_in_memory() {
    let expected = plain();
    for (moment, count) in moments() {
        for number in 0..count {
            let place = Place::new();
            let full = || Happening::Refused(io::Error::from(ErrorKind::StorageFull));
            assert_eq!(start_to(&place, moment, number, full), expected);
            assert!(place.files().is_empty(), "{moment:?} {number}: {:?}", place.files());
            let told = place.told();
            assert!(told.len() == 1 && told[0].contains("stay in memory"), "{told:?}");
        }
    }
    // Two kinds of weights, one word.
    let place = Place::new();
    let folder = place.folder().with_room(|_| Some(1_000_000));
    let keeping = place.keeping(folder);
    for shapes in [&SHAPES[..1], &SHAPES[..2]] {
        start_with(&processor(), Some(keeping.clone()), &all_wanted(shapes)).unwrap();
    }
    let told = place.told();
    assert!(told.len() == 1 && told[0].contains("1000000 bytes free"), "{told:?}");
    assert!(place.files().is_empty());
}

#[test]
fn a_folder_that_cannot_be_used_is_said_once() {
    let place = Place::new();
    fs::write(place.path(), "no folder").unwrap();
    let folder = place.folder();
    assert!(matches!(folder.status(), Status::Off(_)));
    assert_eq!(folder.size().unwrap().entries, 0);
    folder.clear().unwrap();
    let keeping = place.keeping(folder);
    for _ in 0..2 {
        let start = start_with(&processor(), Some(keeping.clone()), &all_wanted(&SHAPES)).unwrap();
        assert_eq!(start, plain());
    }
    let told = place.told();
    assert!(told.len() == 1 && told[0].contains("stay in memory"), "{told:?}");
}

#[test]
fn one_process_writes_and_the_other_says_nothing() {
    let place = Place::new();
    place.start().unwrap();
    let path = place.file();
    fs::remove_file(&path).unwrap();
    let temporary = path.with_extension("tmp");
    let other = File::create(&temporary).unwrap();
    other.lock().unwrap();
    assert_eq!(place.start().unwrap(), plain());
    assert_eq!(place.files(), std::slice::from_ref(&temporary));
    place.folder().clear().unwrap();
    assert_eq!(place.files(), [temporary], "a file that is being written stays");
    drop(other);
    // Several at once: whoever is late finds the file or leaves it to the others.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(place.start().unwrap().planes == plain().planes));
        }
    });
    place.file();
    assert_eq!(place.start().unwrap().copied, 0);
    assert_eq!(place.told(), [""; 0]);
}

#[cfg(unix)]
#[test]
fn odd_names_of_models_are_kept() {
    use std::os::unix::ffi::OsStrExt;
    for name in [&b"mod el\n\".gguf"[..], b"\xff\xfe.gguf", "模型.gguf".as_bytes()] {
        let place = Place::new();
        let model = place.scratch.path().join(std::ffi::OsStr::from_bytes(name));
        fs::rename(place.model(), &model).unwrap();
        let start = || {
            let origin =
                Origin::of(&model, fs::metadata(&model).unwrap().modified().ok(), &fs::read(&model).unwrap());
            let keeping = Keeping { folder: Arc::new(place.folder()), origins: vec![origin] };
            start_with(&processor(), Some(keeping), &all_wanted(&SHAPES[1..])).unwrap()
        };
        start();
        assert_eq!(head(&place.file()).origins[0].path, model);
        assert_eq!(start().copied, 0);
        // It would go if its model could not be found by that name.
        fs::write(place.model(), "another").unwrap();
        place.start().unwrap();
        assert_eq!(place.files().len(), 2);
    }
}

#[test]
fn weights_of_no_file_are_not_kept() {
    let place = Place::new();
    let keeping = Keeping { folder: Arc::new(place.folder()), origins: Vec::new() };
    assert_eq!(start_with(&processor(), Some(keeping), &all_wanted(&SHAPES)).unwrap(), plain());
    assert!(place.files().is_empty() && place.told().is_empty());
}

/// What packing writes, format by format: if this changes, packed files of before are wrong, and the version of packing
/// (`weights/pack.rs`) has to be one more.
#[test]
fn golden_packing_writes_what_its_version_says() {
    let devices: [Arc<dyn Device>; 2] =
        [Arc::new(Interpreter::new(Caps::vector(16))), Arc::new(Interpreter::new(Caps::threads(32)))];
    let mut found = format!("version {PACKING_VERSION}\n");
    for format in FORMATS.iter().chain(APART).filter(|format| !format.is_direct()) {
        let shape = [20, 512];
        let locate = |_: &str| Some(source(format, &shape));
        for device in &devices {
            let mut weights = Weights::default();
            let wanted = wanted("w", format, &shape);
            weights.bind(device, &wanted, &locate).unwrap();
            let mut all = Vec::new();
            for one in &wanted {
                let bound = weights.plane(&one.name).unwrap();
                bound.ready.wait().unwrap();
                let mut bytes = vec![0; bound.span.len as usize];
                device.read(&bound.span, &mut bytes).unwrap();
                all.extend(bytes);
            }
            found += &format!("{} {:016x}\n", format.name, xxh3_64(&all));
        }
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packing.txt");
    if std::env::var_os("JTLLM_BLESS").is_some() {
        fs::write(&golden, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&golden).unwrap());
}

fn some_head() -> Head {
    let origin = |name: &str| Origin { path: name.into(), len: 7, modified: 1 << 60, sample: u128::MAX - 5 };
    let plane = |name: &str, offset, len, chunk_bytes| {
        let sums = (0..u64::div_ceil(len, chunk_bytes)).collect();
        Entry { name: name.to_owned(), offset, len, chunk_bytes, sums }
    };
    let planes =
        vec![plane("a#q", 65536, 70_000, 30_000), plane("a#s", 196_608, 0, 5), plane("b", 262_144, 9, 9)];
    Head { key: 77, origins: vec![origin("/a/b c"), origin("")], planes }
}

#[test]
fn a_head_is_read_as_it_was_written() {
    let head = some_head();
    let bytes = head.encode().unwrap();
    assert_eq!(Head::parse(&bytes, 262_153).unwrap(), head);
    assert!(Head::parse(&bytes, 262_152).is_err());
    assert!(Head::parse(&bytes, 262_154).is_err());
    for len in 0..bytes.len() {
        assert!(Head::parse(&bytes[..len], 262_153).is_err(), "{len}");
    }
}

#[test]
fn fuzz_head() {
    let sound = some_head().encode().unwrap();
    jtllm_fuzz::for_seconds("packed head", |random| {
        let mut bytes = random.mutated(&sound);
        // Most damage ends at the hash: half of the cases have a right one, and a right length.
        if random.below(2) == 0 && bytes.len() >= 28 {
            let length = (bytes.len() as u64).to_le_bytes();
            bytes[12..20].copy_from_slice(&length);
            let sum = xxh3_64(&bytes[28..]).to_le_bytes();
            bytes[20..28].copy_from_slice(&sum);
        }
        let file_bytes = *random.choice(&[0, 262_153, u64::MAX, bytes.len() as u64]);
        if let Ok(head) = Head::parse(&bytes, file_bytes) {
            let mut end = 0;
            for plane in &head.planes {
                assert!(plane.offset >= end && plane.chunk_bytes > 0);
                end = plane.offset + plane.len;
                assert_eq!(plane.sums.len() as u64, plane.len.div_ceil(plane.chunk_bytes));
            }
            assert!(end <= file_bytes);
            assert_eq!(head.encode().unwrap(), bytes[..head.encode().unwrap().len()]);
        }
    });
}
