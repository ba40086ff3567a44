//! What runs inside of a process that finds the mock driver.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use jtllm_models::Checkpoint;
use jtllm_runtime::DeviceError;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::kernel::parse;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Artifact;
use jtllm_runtime::codegen::{Compilation, Step};
use jtllm_runtime::device::cuda::Cuda;
use jtllm_runtime::device::{Device, Recorded};
use jtllm_runtime::ir::DType;
use jtllm_runtime::network::{Batch, Bucket, Part, Row};
use jtllm_runtime::residence::Limit;
use jtllm_runtime::trace::Trace;
use jtllm_serve::{Backend, LoadOptions, Model};

use crate::support::fixture;

fn model() -> Model {
    model_on(Backend::Cuda, Compute::F32)
}

fn model_on(backend: Backend, compute: Compute) -> Model {
    model_as(LoadOptions { backend, compute, ..options() })
}

pub(crate) fn options() -> LoadOptions {
    LoadOptions {
        backend: Backend::Cuda,
        place: Default::default(),
        threads: 1,
        context: 64,
        compute: Compute::F32,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    }
}

fn model_as(options: LoadOptions) -> Model {
    model_of("llama2-gqa-tiny", options)
}

fn model_of(name: &str, options: LoadOptions) -> Model {
    let checkpoint = Checkpoint::open(std::path::Path::new(&fixture(name))).unwrap();
    Model::load(checkpoint, options, KernelCache::off("a test")).unwrap()
}

/// The pass that decodes one token at a position.
pub(crate) fn decode(position: usize) -> Batch {
    Batch {
        rows: vec![Row { id: 7 + position as u32, position, sequence: 0, slot: position as i32 }],
        chunk: false,
        tables: vec![Arc::new((0..4).collect())],
        lengths: vec![position + 1],
        wanted: vec![0],
        facts: Vec::new(),
        shown: None,
    }
}

pub(crate) fn log() -> Vec<String> {
    let path = std::env::var_os("MOCKCUDA_LOG").unwrap();
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

pub(crate) fn count(lines: &[String], word: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(word)).count()
}

/// A trace wants to time each launch, so that nothing is recorded for it.
pub(crate) fn tokens_are_equal() {
    let (mut recorded, mut single) = (model(), model());
    for position in 0..=40 {
        let batch = decode(position);
        let found = recorded.pass(&batch, None).unwrap();
        let expected = single.pass(&batch, Some(&mut Trace::default())).unwrap();
        assert_eq!(found, expected, "position {position}");
        assert!(found.iter().all(|x| x.is_finite()) && found.iter().any(|x| *x != 0.0));
    }
    let lines = log();
    // The body and the head.
    assert_eq!(count(&lines, "graph "), 2 * 41);
}

/// A session of many blocks shares out its past, each layer in one more launch; one of few does not.
pub(crate) fn a_past_is_shared_out() {
    let [mut few, mut many] = [64, 512].map(|context| model_as(LoadOptions { context, ..options() }));
    for position in 0..=17 {
        let batch = decode(position);
        assert_eq!(many.pass(&batch, None).unwrap(), few.pass(&batch, None).unwrap(), "position {position}");
    }
    let [few, many] = [few, many]
        .map(|model| model.network().unwrap().plan(Part::Body, Bucket::Fixed(1)).unwrap().step_count());
    assert_eq!(many, few + 3);
}

pub(crate) fn launches_are_few() {
    let mut model = model();
    // What the device showed when it was opened.
    let opened = log().len();
    model.pass(&decode(0), None).unwrap();
    let before = log().split_off(opened);
    let network = model.network().unwrap();
    let steps = |part| network.plan(part, Bucket::Fixed(1)).unwrap().step_count();
    let steps = steps(Part::Body) + steps(Part::Head);
    assert!(steps > 20);
    assert_eq!((count(&before, "capture "), count(&before, "launch ")), (steps, 0));
    model.pass(&decode(1), None).unwrap();
    let after = log().split_off(opened + before.len());
    assert_eq!((count(&after, "graph "), count(&after, "launch "), count(&after, "capture ")), (2, 0, 0));
    // All kernels run all the same.
    assert_eq!(count(&after, "kernel "), steps);
    assert_eq!(count(&after, "module "), 0);
}

/// Whatever point the driver refuses at.
pub(crate) fn without_recordings() {
    let mut model = model();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    model.tell(Box::new(move |what| heard.lock().unwrap().push(what.to_owned())));
    let mut single = self::model();
    for position in 0..3 {
        let found = model.pass(&decode(position), None).unwrap();
        assert_eq!(found, single.pass(&decode(position), Some(&mut Trace::default())).unwrap());
    }
    let told = told.lock().unwrap();
    let [told] = told.as_slice() else { panic!("it is said once: {told:?}") };
    for part in ["records no graph: ", "CUDA_ERROR", "launched one by one"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(count(&log(), "graph "), 0);
}

/// What happens inside of a recording ends it, even if it is a panic.
pub(crate) fn recordings_end() {
    let device = Cuda::open(0).unwrap();
    let before = device.alloc(256).unwrap().span();
    let failing = || DeviceError::Run { device: "a test".to_owned(), why: "the third step".to_owned() };
    for _ in 0..2 {
        let recorded = device.record(&mut || Err(failing())).unwrap();
        assert!(matches!(recorded, Recorded::Refused(why) if why.contains("the third step")));
        let panics = || device.record(&mut || panic!("a planted fault")).map(|_| ());
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        // Nothing of this is allowed inside of a recording, nor by the driver while it captures.
        device.write(&before, &[7; 256]).unwrap();
        let after = device.alloc(256).unwrap().span();
        device.copy(&after, &before).unwrap();
        let mut bytes = [0; 256];
        device.read(&after, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 256]);
        device.finish().unwrap();
    }
    assert!(matches!(device.record(&mut || Ok(())).unwrap(), Recorded::Tape(_)));
}

pub(crate) fn a_text_is_refused() {
    let device = Cuda::open(0).unwrap();
    let kernel = parse("kernel k grid=[1, 1, 1] lanes=1 () {\n}\n");
    let kernel = kernel.unwrap_or_else(|error| panic!("{error}"));
    let bytes =
        b".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry main() {\nfrobnicate.f32 %f1;\n}\n";
    let text = match device.load(&[(&kernel, Artifact { bytes: bytes.to_vec() })]) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("a text that is no PTX was loaded"),
    };
    for part in ["CUDA_ERROR_INVALID_PTX", "line 5", "frobnicate"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(Cuda::open(1).is_err());
}

/// A prompt of 20 tokens, padded to two tiles.
fn prompt() -> Batch {
    let row = |at: usize| Row { id: 3 + 5 * at as u32, position: at, sequence: 0, slot: at as i32 };
    let rows = (0..20).map(row).collect();
    Batch { rows, chunk: true, lengths: vec![20], wanted: (0..20).collect(), ..decode(0) }
}

/// How many lanes multiply out of shared memory together, and what the emitter calls the device's level.
fn teams(device: &Cuda) -> (u32, String) {
    (device.target().caps().matrix.map_or(0, |matrix| matrix.teams), device.target().variant())
}

pub(crate) fn teams_multiply() {
    assert_eq!(teams(&Cuda::open(0).unwrap()), (256, "level 90a".to_owned()));
    assert_eq!(Cuda::open(0).unwrap().info().without, None);
}

pub(crate) fn teams_are_not_there() {
    assert_eq!(teams(&Cuda::open(0).unwrap()), (0, "level 80".to_owned()));
}

/// The same kernels, once as PTX and once as they are.
pub(crate) fn matrix_units_agree() {
    let device = Cuda::open(0).unwrap();
    for compute in [Compute::Bf16, Compute::F16] {
        let caps = Box::new(device.target().caps().clone());
        let (mut found, mut expected) =
            (model_on(Backend::Cuda, compute), model_on(Backend::Interp(caps), compute));
        let (found_logits, logits) =
            (found.pass(&prompt(), None).unwrap(), expected.pass(&prompt(), None).unwrap());
        let plan = found.network().unwrap().plan(Part::Body, Bucket::Many).unwrap();
        let word = if teams(&device).0 > 0 { "product " } else { "mma " };
        let products = plan.compilation.kernels.iter().filter(|k| k.canonical_text().contains(word));
        assert!(products.count() >= 3);
        let scale = logits.iter().fold(0f32, |scale, x| scale.max(x.abs()));
        for (found, expected) in found_logits.iter().zip(&logits) {
            assert!((found - expected).abs() <= 1e-5 * scale, "{compute}: {found}, expected {expected}");
        }
    }
}

/// What rounding queries and weights of attention to the cache's type may make of logits through three layers, relative to
/// the largest: `f16` has 11 significant bits, `bf16` has 8.
const ATTENTION: [(DType, f32); 2] = [(DType::F16, 2e-3), (DType::BF16, 2e-2)];

/// A whole model whose prompt attends to a cache of 16 bits by matrix units, and the processor with the same cache.
pub(crate) fn prompts_attend_by_matrix_units() {
    for (cache, tolerance) in ATTENTION {
        let [mut found, mut expected] = [Backend::Cuda, Backend::Cpu].map(|backend| {
            let options =
                LoadOptions { backend, compute: Compute::Auto, keys: cache, values: cache, ..options() };
            // Heads as wide as units multiply, four of them for one head of keys.
            model_of("mistral-swa-tiny", options)
        });
        // The prompt, and two tokens that are decoded behind it.
        let passes = [prompt(), decode(20), decode(21)];
        let [found_logits, logits] = [&mut found, &mut expected].map(|model| {
            passes.iter().map(|batch| model.pass(batch, None).unwrap()).collect::<Vec<Vec<f32>>>()
        });
        let plan = found.network().unwrap().plan(Part::Body, Bucket::Many).unwrap();
        let attends = |step: &&Step| {
            let Compilation { kernels, partition, .. } = &*plan.compilation;
            partition.regions[step.region].work.name() == "attend"
                && !kernels[step.kernel].fragments.is_empty()
        };
        assert_eq!(plan.compilation.steps.iter().filter(attends).count(), 3);
        for (pass, (found, expected)) in found_logits.iter().zip(&logits).enumerate() {
            let scale = expected.iter().fold(0f32, |scale, x| scale.max(x.abs()));
            let error = found.iter().zip(expected).fold(0f32, |most, (x, y)| most.max((x - y).abs())) / scale;
            println!("{cache} cache, pass {pass}: {error}");
            assert!(error <= tolerance, "{cache} cache, pass {pass}: {error}");
            // Something was rounded: the lanes' schedule would come much nearer.
            assert!(pass > 0 || error > 1e-5, "{cache} cache: {error}");
        }
    }
}
