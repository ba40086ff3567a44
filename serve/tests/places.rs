//! Where models run: layers shared by two devices, devices that are too small, and devices that fail.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jtllm_models::sample::{Sampler, Sampling};
use jtllm_models::{Checkpoint, arch};
use jtllm_runtime::DeviceError;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::emit::cranelift::Cranelift;
use jtllm_runtime::codegen::kernel::Kernel;
use jtllm_runtime::codegen::schedule::Argument;
use jtllm_runtime::codegen::target::{Artifact, Caps, Target};
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::{Bytes, Device, DeviceInfo, Mem, Program, Span};
use jtllm_runtime::ir::DType;
use jtllm_runtime::network::{Bucket, Part};
use jtllm_runtime::residence::Limit;
use jtllm_serve::place::{Layers, Place, Way};
use jtllm_serve::{Backend, Engine, EngineError, LoadOptions, Lookup, Model, Request, Speculation};

/// What a device does when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Never,
    Launch,
    Alloc,
    Read,
    Load,
}

/// The processor or the interpreter, which pretends to be a device with a memory of its own, and fails from the `n`-th call on.
struct Fake {
    inner: Box<dyn Device>,
    memory: Option<u64>,
    fails: Fails,
    left: AtomicUsize,
}

impl Fake {
    fn device(memory: Option<u64>, fails: Fails, after: usize) -> Fake {
        let inner = Cpu::new(Box::new(Cranelift::host().unwrap()), 1);
        Fake { inner: Box::new(inner), memory, fails, left: AtomicUsize::new(after) }
    }

    fn check(&self, what: Fails, error: DeviceError) -> Result<(), DeviceError> {
        let fails = self.fails == what
            && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err();
        if fails { Err(error) } else { Ok(()) }
    }

    fn lost() -> DeviceError {
        DeviceError::Run { device: "the fake".to_owned(), why: "the device is lost".to_owned() }
    }
}

impl Device for Fake {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "the fake".to_owned(), memory: self.memory, threads: 0, without: None }
    }

    fn target(&self) -> &dyn Target {
        self.inner.target()
    }

    fn alloc(&self, len: u64) -> Result<Mem, DeviceError> {
        let (device, why) = ("the fake".to_owned(), "it is full".to_owned());
        self.check(Fails::Alloc, DeviceError::OutOfMemory { device, need: len, why })?;
        self.inner.alloc(len)
    }

    fn adopt(&self, _: &Bytes, _: u64, _: u64, _: u64) -> Option<Mem> {
        None
    }

    fn write(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        self.inner.write(to, bytes)
    }

    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.check(Fails::Read, Fake::lost())?;
        self.inner.read(from, bytes)
    }

    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError> {
        let (device, why) = ("the fake".to_owned(), "its compiler is broken".to_owned());
        self.check(Fails::Load, DeviceError::Load { device, why })?;
        self.inner.load(kernels)
    }

    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError> {
        self.check(Fails::Launch, Fake::lost())?;
        self.inner.launch(program, groups, symbols, args)
    }
}

/// A way to one fake device, in the place of WebGPU.
fn way(memory: Option<u64>, fails: Fails, after: usize) -> Way {
    let device: Arc<dyn Device> = Arc::new(Fake::device(memory, fails, after));
    Way { backend: "wgpu", open: Arc::new(move |_, _| Ok(device.clone())), list: Vec::new }
}

/// A way to nowhere.
fn nowhere() -> Way {
    let open = |number: Option<usize>, _| Err(format!("no fake device{}", number.map_or("", |_| " there")));
    Way { backend: "wgpu", open: Arc::new(open), list: Vec::new }
}

fn options(backend: Backend, layers: Layers) -> LoadOptions {
    LoadOptions {
        compute: jtllm_runtime::codegen::options::Compute::F32,
        backend,
        place: Place { layers, ..Place::default() },
        threads: 1,
        context: 96,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn model(name: &str, options: LoadOptions, way: Way) -> Result<Model, EngineError> {
    let checkpoint = Checkpoint::open(&folder(name)).unwrap();
    let architecture = arch::read(checkpoint.config()).unwrap().into();
    // Hundreds of models are loaded here: their kernels are emitted once.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("places-kernels");
    Model::by_ways(checkpoint, architecture, options, KernelCache::open(Some(folder)), &[way])
}

const MODEL: &str = "llama2-gqa-tiny";

const PROMPT: [u32; 20] = [3, 17, 42, 99, 7, 250, 11, 64, 5, 8, 13, 21, 34, 55, 89, 144, 233, 1, 2, 4];

/// The likeliest tokens after the prompt, one after another; the prompt grows by three tokens at once in between.
fn answer(engine: &mut Engine) -> Result<Vec<u32>, EngineError> {
    let mut tokens = PROMPT.to_vec();
    for step in 0..6 {
        let logits = engine.feed(&tokens, false)?;
        let best = (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best });
        tokens.push(best as u32);
        if step == 2 {
            tokens.extend([70, 71, 72]);
        }
    }
    Ok(tokens)
}

fn on_the_processor(name: &str) -> Vec<u32> {
    let mut engine = Engine::new(model(name, options(Backend::Cpu, Layers::Auto), nowhere()).unwrap(), None);
    answer(&mut engine).unwrap()
}

/// How often a device is asked for each thing in a run without faults.
fn calls(what: Fails) -> usize {
    let fake = Arc::new(Fake::device(None, what, usize::MAX));
    let device: Arc<dyn Device> = fake.clone();
    let way = Way { backend: "wgpu", open: Arc::new(move |_, _| Ok(device.clone())), list: Vec::new };
    let mut model = model(MODEL, options(Backend::Auto, Layers::All), way).unwrap();
    model.ready().unwrap();
    answer(&mut Engine::new(model, None)).unwrap();
    usize::MAX - fake.left.load(Ordering::SeqCst)
}

#[test]
fn auto_survives_a_failure_at_any_call() {
    let expected = on_the_processor(MODEL);
    for what in [Fails::Launch, Fails::Alloc, Fails::Read, Fails::Load] {
        let count = calls(what);
        assert!(count >= 2, "{what:?}: {count} calls");
        // Every call of the beginning, and some of the rest.
        for after in (0..count).filter(|n| *n < 6 || n % (count / 8 + 1) == 0) {
            for layers in [Layers::All, Layers::Auto, Layers::Count(2)] {
                let mut model = model(MODEL, options(Backend::Auto, layers), way(None, what, after)).unwrap();
                let told = Arc::new(Mutex::new(Vec::new()));
                let hears = told.clone();
                model.tell(Box::new(move |what| hears.lock().unwrap().push(what.to_owned())));
                model.ready().unwrap();
                let loaded = model.placement().clone();
                let mut engine = Engine::new(model, None);
                assert_eq!(answer(&mut engine).unwrap(), expected, "{what:?} {after} {layers:?}");
                let told = told.lock().unwrap();
                // With fewer layers there the device is asked less often, and may not come to fail.
                assert!(told.len() <= 1, "{told:?}");
                if let [what] = told.as_slice() {
                    assert!(loaded.device.is_some() && engine.model().placement().device.is_none());
                    assert!(what.contains("the fake") && what.contains("on the processor"), "{what}");
                }
                let moved = told.len() == 1 || !loaded.reasons.is_empty();
                assert!(moved || layers != Layers::All, "{what:?} {after} of {count} did not fail");
            }
        }
    }
}

/// An answer of guesses, and what was told meanwhile.
fn guessed(way: Way, speculation: Speculation) -> (Vec<u32>, Vec<String>, Engine) {
    let mut model = model(MODEL, options(Backend::Auto, Layers::All), way).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = told.clone();
    model.tell(Box::new(move |what| hears.lock().unwrap().push(what.to_owned())));
    model.ready().unwrap();
    let mut engine = Engine::new(model, None);
    engine.speculate(speculation);
    let request = Request {
        prompt: [PROMPT, PROMPT].concat(),
        images: Vec::new(),
        max_tokens: Some(30),
        end_ids: Vec::new(),
        stops: Vec::new(),
        shift_keep: None,
    };
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let mut sampler = Sampler::new(sampling, engine.model().architecture().vocabulary()).unwrap();
    let answer = engine.generate(&request, &mut sampler, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let told = told.lock().unwrap().clone();
    (answer.ids, told, engine)
}

/// Calls that a device gets in an answer.
fn calls_guessing(what: Fails, speculation: Speculation) -> (usize, Vec<u32>) {
    let fake = Arc::new(Fake::device(None, what, usize::MAX));
    let device: Arc<dyn Device> = fake.clone();
    let way = Way { backend: "wgpu", open: Arc::new(move |_, _| Ok(device.clone())), list: Vec::new };
    let (ids, told, _) = guessed(way, speculation);
    assert!(told.is_empty(), "{told:?}");
    (usize::MAX - fake.left.load(Ordering::SeqCst), ids)
}

#[test]
fn a_device_that_fails_while_guesses_are_computed_changes_no_token() {
    let guessing = Speculation::Always(Lookup::default());
    for what in [Fails::Launch, Fails::Read, Fails::Load] {
        let ((plain, expected), (all, ids)) =
            (calls_guessing(what, Speculation::Off), calls_guessing(what, guessing));
        assert_eq!(ids, expected);
        // Kernels are loaded when a plan is made: those of a plain answer are there before it begins.
        let first = if what == Fails::Load { plain } else { all / 2 };
        assert!(first < all, "{what:?}: {all} calls, {plain} without guesses");
        for after in (first..all).filter(|n| n % (all / 12 + 1) == 0) {
            let (ids, told, engine) = guessed(way(None, what, after), guessing);
            assert_eq!(ids, expected, "{what:?} {after} of {all}, {plain} without guesses");
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(engine.model().placement().device.is_none());
        }
    }
}

#[test]
fn a_device_without_room_for_guesses_goes_on_without_them() {
    let guessing = Speculation::Always(Lookup::default());
    let (plain, expected) = calls_guessing(Fails::Alloc, Speculation::Off);
    let (all, _) = calls_guessing(Fails::Alloc, guessing);
    assert!(all > plain, "{all} {plain}");
    for after in plain..all {
        let (ids, told, engine) = guessed(way(None, Fails::Alloc, after), guessing);
        assert_eq!(ids, expected, "{after} of {all}");
        assert!(told.len() == 1 && told[0].ends_with("no more tokens are guessed"), "{told:?}");
        assert!(engine.model().placement().device.is_some());
        assert_eq!(engine.speculation(), Speculation::Off);
    }
}

#[test]
fn a_named_backend_fails_with_an_error() {
    for what in [Fails::Launch, Fails::Alloc, Fails::Read, Fails::Load] {
        let count = calls(what);
        for after in (0..count).filter(|n| *n < 6 || n % (count / 6 + 1) == 0) {
            let way = way(None, what, after);
            let mut model = model(MODEL, options(Backend::Wgpu, Layers::All), way).unwrap();
            let result = model.ready().and_then(|()| answer(&mut Engine::new(model, None)));
            let error = result.expect_err("the device fails").to_string();
            assert!(error.contains("the fake"), "{what:?} {after}: {error}");
        }
    }
    let mut required = options(Backend::Auto, Layers::All);
    required.place.required = true;
    let mut model = model(MODEL, required, way(None, Fails::Launch, 3)).unwrap();
    model.ready().unwrap();
    assert!(answer(&mut Engine::new(model, None)).is_err());
}

/// Bytes that the whole model takes of a device, as its refusal says.
fn needed(layers: Layers) -> u64 {
    match model(MODEL, options(Backend::Wgpu, layers), way(Some(0), Fails::Never, 0)) {
        Err(EngineError::TooLarge(large)) => large.need,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("nothing fits into 0 bytes"),
    }
}

/// Devices whose memory nobody knows, too: what the model takes there stays within the limit.
#[test]
fn a_limit_is_kept_whatever_the_device_has() {
    let expected = on_the_processor(MODEL);
    let (all, half) = (needed(Layers::All), needed(Layers::Count(2)));
    for (memory, limit, layers) in [
        (None, half, Some(1)),
        (Some(10 * all), half, Some(1)),
        (Some(10 * all), all, None),
        (None, all, None),
    ] {
        let mut options = options(Backend::Wgpu, Layers::Auto);
        options.place.memory = Some(limit);
        let mut model = model(MODEL, options, way(memory, Fails::Never, 0)).unwrap();
        model.ready().unwrap();
        let on = model.placement().device.clone().unwrap();
        assert_eq!(on.layers.map(|[_, here]| here), layers, "{memory:?} {limit}");
        let mut engine = Engine::new(model, None);
        assert_eq!(answer(&mut engine).unwrap(), expected);
        let networks = engine.model().networks();
        let network = networks.last().unwrap();
        let held = network.weights().copied_bytes + network.state_bytes() + network.buffer_bytes();
        assert!(held > limit / 4 && held <= limit, "{held} of {limit}");
    }
    // Who asks for all layers all the same has their weights come and go.
    let mut options = options(Backend::Wgpu, Layers::All);
    options.place.memory = Some(half);
    let mut model = model(MODEL, options, way(Some(10 * all), Fails::Never, 0)).unwrap();
    model.ready().unwrap();
    let on = model.placement().device.clone().unwrap();
    assert_eq!((on.layers, on.within), (None, Some(half)));
    assert_eq!(answer(&mut Engine::new(model, None)).unwrap(), expected);
}

#[test]
fn a_model_larger_than_the_device_is_refused_with_both_sizes() {
    let (all, half) = (needed(Layers::All), needed(Layers::Count(2)));
    assert!(half < all && half > 0, "{half} of {all}");
    let refusal = |memory: u64, layers| {
        let way = way(Some(memory), Fails::Never, 0);
        model(MODEL, options(Backend::Wgpu, layers), way).err().map(|error| error.to_string())
    };
    assert_eq!(refusal(all, Layers::All), None);
    let told = refusal(all - 1, Layers::All).unwrap();
    let instead = "with --vram-limit weights come and go there".to_owned();
    for part in [format!("({all} bytes)"), format!("({} bytes)", all - 1), "-ngl 3 fits".to_owned(), instead]
    {
        assert!(told.contains(&part), "{told}");
    }
    assert_eq!(refusal(half, Layers::Count(2)), None);
    let told = refusal(half - 1, Layers::Count(2)).unwrap();
    assert!(told.contains("-ngl 1 fits"), "{told}");
    assert!(refusal(10, Layers::Count(2)).unwrap().contains("no layer fits"));
    // What was counted beforehand is what is taken: not less, and not much more.
    let mut whole =
        model(MODEL, options(Backend::Wgpu, Layers::All), way(Some(all), Fails::Never, 0)).unwrap();
    whole.ready().unwrap();
    let memory = whole.memory().unwrap();
    let taken = memory.copied + memory.cache + memory.buffers;
    assert!(taken <= all && all < 3 * taken, "{taken} of {all}: {memory:?}");
}

/// What decode attention hands on between its kernels is counted like other buffers.
#[test]
fn what_kernels_hand_on_is_counted() {
    let way = |memory, attend_groups| {
        let caps = Caps { attend_groups, attend_block: 32, ..Caps::threads(32) };
        let inner = Box::new(Interpreter::new(caps));
        let left = AtomicUsize::new(0);
        let device: Arc<dyn Device> = Arc::new(Fake { inner, memory, fails: Fails::Never, left });
        Way { backend: "wgpu", open: Arc::new(move |_, _| Ok(device.clone())), list: Vec::new }
    };
    let options = LoadOptions { context: 4096, ..options(Backend::Wgpu, Layers::All) };
    let need = |attend_groups| match model(MODEL, options.clone(), way(Some(0), attend_groups)) {
        Err(EngineError::TooLarge(large)) => large.need,
        _ => panic!("nothing fits into 0 bytes"),
    };
    let mut model = model(MODEL, options.clone(), way(None, 1024)).unwrap();
    model.ready().unwrap();
    let plan = model.network().unwrap().plan(Part::Body, Bucket::Fixed(1)).unwrap();
    let arguments = plan.compilation.steps.iter().map(|step| &step.arguments);
    let spans = arguments.enumerate().flat_map(|(step, arguments)| arguments.iter().zip(plan.spans(step)));
    let handed_on: Vec<u64> = spans
        .filter(|(argument, _)| matches!(argument, Argument::Scratch(..)))
        .map(|(_, span)| span.len)
        .collect();
    // Each of three layers writes it once and reads it once.
    assert_eq!(handed_on.len(), 6);
    assert_eq!(need(1024) - need(0), handed_on[0]);
}

#[test]
fn auto_takes_as_many_layers_as_fit() {
    let expected = on_the_processor(MODEL);
    let (all, half) = (needed(Layers::All), needed(Layers::Count(2)));
    // A tenth is spared.
    for (memory, backend, device, said) in [
        (2 * all, Backend::Auto, Some(None), ""),
        (
            half * 10 / 9 + 10,
            Backend::Auto,
            Some(Some([3, 1])),
            "layer 2 and the head on the fake, layers 0 to 1 on",
        ),
        (half * 10 / 9 + 10, Backend::Wgpu, Some(Some([3, 1])), "MB, and all take"),
        (1000, Backend::Auto, None, "(the fake has 0.0 MB of memory (1000 bytes)"),
    ] {
        let way = way(Some(memory), Fails::Never, 0);
        let mut model = model(MODEL, options(backend, Layers::Auto), way).unwrap();
        model.ready().unwrap();
        let placement = model.placement().clone();
        assert_eq!(placement.device.as_ref().map(|on| on.layers), device, "{placement}");
        assert!(placement.to_string().contains(said), "{placement}");
        assert_eq!(answer(&mut Engine::new(model, None)).unwrap(), expected);
    }
    let way = way(Some(1000), Fails::Never, 0);
    let mut required = options(Backend::Auto, Layers::Auto);
    required.place.required = true;
    assert!(matches!(model(MODEL, required, way), Err(EngineError::TooLarge(_))));
}

#[test]
fn without_a_device_auto_says_why() {
    let model_of = |place| {
        let options = LoadOptions { place, ..options(Backend::Auto, Layers::Auto) };
        model(MODEL, options, nowhere())
    };
    let place = Place::default();
    let found = model_of(place.clone()).unwrap().placement().to_string();
    let chosen = jtllm_runtime::device::native::host().unwrap();
    let (code, lacks) = (chosen.name, chosen.lacks);
    let why = lacks.map_or(String::new(), |what| format!(", since there is no {what}"));
    assert_eq!(found, format!("on the processor, 1 thread with {code}{why} (no fake device)"));
    for place in [Place { required: true, ..place.clone() }, Place { device: Some(4), ..place }] {
        assert!(matches!(model_of(place), Err(EngineError::NoDevice(why)) if why.contains("no fake")));
    }
    let named = model(MODEL, options(Backend::Wgpu, Layers::All), nowhere());
    assert!(matches!(named, Err(EngineError::NoDevice(why)) if why == "no fake device"));
    let none = model(MODEL, options(Backend::Wgpu, Layers::Count(0)), nowhere()).unwrap();
    assert!(none.placement().device.is_none());
}

#[test]
fn layers_shared_with_another_device_give_the_same_tokens() {
    for (name, layers) in [
        ("llama2-gqa-tiny", 3),
        ("pangu-alpha-tiny", 2),
        ("chatglm-6b-tiny", 2),
        ("rwkv-4-tiny", 2),
        ("rwkv-7-tiny", 2),
    ] {
        let expected = on_the_processor(name);
        for count in [1, layers, layers + 1] {
            let backend = Backend::Interp(Box::new(Caps::vector(4)));
            let model = model(name, options(backend, Layers::Count(count)), nowhere()).unwrap();
            let networks = model.networks().len();
            let mut engine = Engine::new(model, None);
            assert_eq!(answer(&mut engine).unwrap(), expected, "{name} -ngl {count}");
            assert_eq!(networks, if count <= layers { 2 } else { 1 });
        }
    }
}
