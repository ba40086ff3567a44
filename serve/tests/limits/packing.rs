//! Packed files within a limit: when they are written, and what becomes of weights whose file cannot be kept.

use std::path::Path;

use jtllm_models::Checkpoint;
use jtllm_runtime::Error;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::packed::PackedFolder;
use jtllm_runtime::residence::{Limit, Most, TooLow};
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
        let mut free = engine(&file, PackedFolder::open(Some(folder.path().join("packed"))), Limit::default());
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
        assert_eq!(files(full.path()), 0, "nothing unfinished is left");
    }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
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
            assert_eq!(files(packed.path()), 0, "{encoding}");
            let mut enough = within(Most::Weights(low.0.step));
            enough.model_mut().ready().unwrap();
            assert_eq!(files(packed.path()), 1);
            let counted = enough.model().networks()[0].residence().unwrap().counted().unwrap();
            assert_eq!((counted.all, counted.step, counted.own), (low.0.all, low.0.step, low.0.own));
        }
    }
}
