//! Packed files within a limit: when and how they are written, and what becomes of weights whose file cannot be kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jtllm_models::Checkpoint;
use jtllm_runtime::Error;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::packed::PackedFolder;
use jtllm_runtime::residence::{Limit, Most, TooLow};
use jtllm_runtime::swap::store::{FileStore, Store};
use jtllm_serve::{Caches, Engine, EngineError, Model};
use tempfile::TempDir;

use super::{bits, options, synthetic, synthetic_as};

/// An engine whose packed weights are in a folder, which may be none.
fn engine(model: &Path, packed: PackedFolder, memory: Limit) -> Engine {
    let caches = Caches { kernels: KernelCache::off("a test"), packed };
    Engine::new(Model::load(Checkpoint::open(model).unwrap(), options(1, memory), caches).unwrap(), None)
}

/// What is missing of a limit before the first pass.
fn refused(engine: &mut Engine) -> TooLow {
    match engine.model_mut().ready() {
        Err(EngineError::Runtime(Error::Limit(low))) => low,
        other => panic!("{other:?}"),
    }
}

#[test]
fn weights_whose_packed_file_cannot_be_kept_are_refused_before_they_are_copied() {
    for encoding in ["q4_0", "q8_0"] {
        let (folder, file) = synthetic(encoding);
        let full = TempDir::new().unwrap();
        let place = |is_full: bool| match is_full {
            true => PackedFolder::open(Some(full.path().to_owned())).with_room(|_| Some(10_000)),
            // A file is no folder.
            false => PackedFolder::open(Some(file.clone())),
        };
        let mut free =
            engine(&file, PackedFolder::open(Some(folder.path().join("packed"))), Limit::default());
        let expected = bits(&mut free).unwrap();
        let copied = free.model().networks()[0].weights().copied_bytes;
        for (is_full, why) in [(true, "10000 bytes free, and they take "), (false, "model.gguf: ")] {
            let most = copied / 2;
            let mut low = engine(&file, place(is_full), Limit::of(Most::Weights(most)));
            let error = refused(&mut low);
            let text = error.to_string();
            assert!(text.contains("packed weights cannot be kept: ") && text.contains(why), "{text}");
            assert_eq!(error.0.own.copied, copied, "{text}");
            let weights = low.model().networks()[0].weights();
            assert_eq!((weights.copied_bytes, weights.packed_bytes), (0, 0), "{encoding}");
            // What is said to be missing is enough, and not a byte less.
            let enough = most + error.missing();
            let mut nearly = engine(&file, place(is_full), Limit::of(Most::Weights(enough - 1)));
            assert_eq!(refused(&mut nearly).missing(), 1, "{encoding}");
            let mut limited = engine(&file, place(is_full), Limit::of(Most::Weights(enough)));
            assert!(bits(&mut limited).unwrap() == expected, "{encoding}");
            let network = limited.model().networks()[0];
            assert_eq!(network.weights().copied_bytes, copied);
            assert_eq!(network.residence().unwrap().counted().unwrap().own.copied, copied);
        }
        assert!(files(full.path()).is_empty(), "nothing unfinished is left");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// What is foreseen of a file that nobody has written is what is counted when it is there.
#[test]
fn a_limit_that_is_too_low_is_refused_before_weights_are_packed() {
    for encoding in ["q4_0", "q8_0"] {
        for range_bytes in [4096, 256 << 10, u64::MAX] {
            let (_folder, file) = synthetic_as("chatglm2-100m", encoding, Some(2));
            let packed = TempDir::new().unwrap();
            let within = |most| {
                let place = PackedFolder::open(Some(packed.path().to_owned()));
                engine(&file, place, Limit { range_bytes, ..Limit::of(most) })
            };
            let low = refused(&mut within(Most::Weights(0)));
            assert_eq!(low.missing(), low.0.step);
            let nearly = refused(&mut within(Most::Weights(low.0.step - 1)));
            assert_eq!(nearly.missing(), 1);
            let process = refused(&mut within(Most::Process(10_000_000)));
            assert_eq!((process.0.all, process.0.step, process.0.own), (low.0.all, low.0.step, low.0.own));
            assert!(files(packed.path()).is_empty(), "{encoding}");
            let mut enough = within(Most::Weights(low.0.step));
            enough.model_mut().ready().unwrap();
            assert_eq!(files(packed.path()).len(), 1);
            let counted = enough.model().networks()[0].residence().unwrap().counted().unwrap();
            assert_eq!((counted.all, counted.step, counted.own), (low.0.all, low.0.step, low.0.own));
        }
    }
}

/// A file of which it is counted how many bytes are read.
struct Counting {
    file: FileStore,
    read: Arc<AtomicU64>,
}

impl Store for Counting {
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(at, out)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<usize> {
        unreachable!("models are never written")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("models are never written")
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn sync(&self) -> io::Result<()> {
        unreachable!("models are never written")
    }
}

/// Two planes each, and five; of one chunk and of many.
#[test]
fn a_weight_is_read_once_however_many_planes_it_has() {
    for (shape, encoding, layers) in [("chatglm2-100m", "q8_0", 2), ("llama-1.1b", "q4_k", 1)] {
        let (folder, file) = synthetic_as(shape, encoding, Some(layers));
        let folders = ["free", "limited"].map(|name| folder.path().join(name));
        let [free, limited] = folders.each_ref().map(|path| PackedFolder::open(Some(path.clone())));
        let mut free = engine(&file, free, Limit::default());
        free.model_mut().ready().unwrap();
        // Its file is written when it goes.
        drop(free);
        let read = Arc::new(AtomicU64::new(0));
        let counter = read.clone();
        let open = move |path: &Path| {
            let is_model = path.extension().is_some_and(|end| end == "gguf");
            let read = if is_model { counter.clone() } else { Arc::default() };
            Ok(Arc::new(Counting { file: FileStore::open(path)?, read }) as Arc<dyn Store>)
        };
        let limit = Limit { open: Arc::new(open), ..Limit::of(Most::Weights(64 << 20)) };
        engine(&file, limited, limit).model_mut().ready().unwrap();
        // But for the embeddings, of which rows are read.
        let (read, all) = (read.load(Ordering::Relaxed), file.metadata().unwrap().len());
        println!("{shape} {encoding}: {read} bytes of {all} were read");
        assert!(read > all / 2 && read < all, "{read} of {all}");
        let [free, limited] = folders.map(|path| files(&path));
        assert_eq!((free.len(), limited.len()), (1, 1));
        assert_eq!(free[0].file_name(), limited[0].file_name());
        assert!(fs::read(&free[0]).unwrap() == fs::read(&limited[0]).unwrap(), "{shape} {encoding}");
    }
}
