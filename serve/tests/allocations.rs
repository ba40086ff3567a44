//! What a decoded token costs beside its pass does not grow with the conversation: shown by the bytes that are
//! allocated for it.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use jtllm_models::Checkpoint;
use jtllm_models::sample::{Sampler, Sampling};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::ir::DType;
use jtllm_runtime::residence::{Limit, Most};
use jtllm_serve::{Backend, Engine, LoadOptions, Lookup, Model, Place, Request, Speculation};

/// Bytes that all threads have asked for so far.
static ASKED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tokens of an answer that are looked at, after some that may allocate for the first time.
const TOKENS: usize = 10;

/// Bytes that each of some tokens asked for, in an answer to a prompt of so many.
fn asked(engine: &mut Engine, held: usize) -> Vec<usize> {
    let prompt: Vec<u32> = (0..held as u32).map(|at| (at * 31 + 7) % 250).collect();
    let mut sampler = Sampler::new(Sampling::default(), engine.model().architecture().vocabulary()).unwrap();
    let request = Request {
        prompt,
        images: Vec::new(),
        max_tokens: Some(2 + TOKENS),
        end_ids: Vec::new(),
        stops: Vec::new(),
        shift_keep: None,
    };
    // Long enough that the list itself asks for nothing.
    let mut marks = Vec::with_capacity(2 + TOKENS);
    let mut hear = |_: &str, _: u32| {
        marks.push(ASKED.load(Ordering::Relaxed));
        ControlFlow::Continue(())
    };
    engine.generate(&request, &mut sampler, &mut hear).unwrap();
    marks.windows(2).skip(1).map(|pair| pair[1] - pair[0]).collect()
}

/// What a token costs where guesses are looked for, but nothing is ever said twice.
fn looking() -> Speculation {
    Speculation::Always(Lookup { ngram_min: 16, ngram_max: 16, ..Lookup::default() })
}

#[test]
fn a_token_asks_for_no_more_memory_after_4000_than_after_40() {
    // One after the other: what is counted is what all threads ask for.
    let free = check(Limit::default());
    let streamed = check(Limit::of(Most::Weights(300_000)));
    // Weights that come and go ask for a row of the embedding, and for its books.
    assert!(streamed <= free + TOKENS * 2048, "{streamed} bytes with a limit, {free} without");
}

/// Bytes that the tokens of an answer asked for after many others.
fn check(memory: Limit) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama2-gqa-tiny");
    let options = LoadOptions {
        backend: Backend::Cpu,
        place: Place::default(),
        threads: 1,
        context: 4096,
        compute: Compute::F32,
        keys: DType::F16,
        values: DType::F16,
        taps: false,
        sequences: 1,
        memory,
    };
    let model = Model::load(Checkpoint::open(&folder).unwrap(), options, KernelCache::off("a test")).unwrap();
    let mut engine = Engine::new(model, None);
    // What is made once is made before.
    asked(&mut engine, 40);
    let each = [Speculation::Off, looking()].map(|speculation| {
        engine.speculate(speculation);
        engine.clear();
        let early = asked(&mut engine, 40);
        engine.clear();
        let late = asked(&mut engine, 4000);
        println!("{speculation:?}: bytes a token after 40: {early:?}, after 4000: {late:?}");
        assert_eq!((early.len(), late.len()), (TOKENS, TOKENS));
        assert!(early.iter().all(|bytes| *bytes > 0), "allocations are counted");
        // Lists that double when they are full do so now and then: no more of that than there was early on.
        assert!(late.iter().sum::<usize>() <= early.iter().sum::<usize>(), "{late:?} {early:?}");
        late.iter().sum()
    });
    each[0]
}
