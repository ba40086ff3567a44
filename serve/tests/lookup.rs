//! Guessed tokens change how many passes an answer takes, and nothing else.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/fixtures/list.rs"]
mod list;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use jtllm_models::Checkpoint;
use jtllm_models::sample::{Sampler, Sampling};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::ir::DType;
use jtllm_serve::{Answer, Backend, Engine, LoadOptions, Lookup, Model, Place, Request, Speculation};

/// What answers no prompt of text alone.
const ELSEWHERE: [(&str, &str); 2] = [
    ("bert-bge-cls-tiny", "an encoder answers nothing"),
    ("bert-minilm-mean-tiny", "an encoder answers nothing"),
];

const CONTEXT: usize = 96;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn options(backend: Backend) -> LoadOptions {
    LoadOptions {
        backend,
        place: Place::default(),
        threads: 2,
        context: CONTEXT,
        compute: Compute::F32,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 1,
    }
}

fn engine(name: &str, speculation: Speculation) -> Engine {
    let checkpoint = Checkpoint::open(&folder(name)).unwrap();
    // Each model is loaded several times here.
    let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lookup-kernels");
    let model = Model::load(checkpoint, options(Backend::Cpu), KernelCache::open(Some(kernels))).unwrap();
    let mut engine = Engine::new(model, None);
    engine.speculate(speculation);
    engine
}

fn always() -> Speculation {
    Speculation::Always(Lookup::default())
}

/// A text that says some things several times.
fn prompt() -> Vec<u32> {
    [5, 17, 42, 99, 7, 5, 17, 42, 99, 8, 21, 5, 17, 42].to_vec()
}

fn request(prompt: Vec<u32>, tokens: usize) -> Request {
    Request {
        prompt,
        images: Vec::new(),
        max_tokens: Some(tokens),
        end_ids: Vec::new(),
        stops: Vec::new(),
        shift_keep: None,
    }
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

fn answer(engine: &mut Engine, request: &Request, sampling: &Sampling) -> Answer {
    let vocabulary = engine.model().architecture().vocabulary();
    let mut sampler = Sampler::new(sampling.clone(), vocabulary).unwrap();
    engine.generate(request, &mut sampler, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Answers with and without guesses, and goes on: all is the same. Gives how many guesses were computed and said.
fn check(name: &str, request: &Request, sampling: &Sampling) -> [usize; 2] {
    let [mut plain, mut guessing] = [Speculation::Off, always()].map(|how| engine(name, how));
    let expected = answer(&mut plain, request, sampling);
    let found = answer(&mut guessing, request, sampling);
    assert_eq!(found.ids, expected.ids, "{name}");
    assert_eq!(found.finish, expected.finish, "{name}");
    assert_eq!(guessing.held(), plain.held(), "{name}");
    assert_eq!((expected.timings.drafted_tokens, expected.timings.accepted_tokens), (0, 0));
    let t = found.timings;
    assert_eq!(t.answer_passes + t.accepted_tokens, expected.timings.answer_passes, "{name}");
    if plain.held().len() < CONTEXT {
        let [plain, guessing] = [&mut plain, &mut guessing].map(|engine| bits(&engine.append(3).unwrap()));
        assert_eq!(plain, guessing, "{name}: what the cache holds");
    }
    [t.drafted_tokens, t.accepted_tokens]
}

#[test]
fn every_model_says_the_same_with_guesses() {
    for name in list::all_but(&ELSEWHERE) {
        let request = request(prompt(), 40);
        let seeded = Sampling { seed: Some(7), temperature: 0.6, ..Sampling::default() };
        let [drafted, accepted] = check(&name, &request, &greedy());
        let [seeded_drafted, _] = check(&name, &request, &seeded);
        println!("{name}: {drafted} guessed, {accepted} said; sampled: {seeded_drafted}");
        let expected = !name.starts_with("rwkv");
        assert_eq!(drafted > 0, expected, "{name}");
        assert_eq!(seeded_drafted > 0, expected, "{name}");
    }
}
