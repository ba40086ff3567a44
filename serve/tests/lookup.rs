//! Guessed tokens change how many passes an answer takes, and nothing else.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/fixtures/list.rs"]
mod list;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use jtllm_models::sample::{Sampler, Sampling};
use jtllm_models::tokenizer::Special;
use jtllm_models::{Checkpoint, Language};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::ir::DType;
use jtllm_runtime::network::{Batch, Row};
use jtllm_runtime::pages::PageTable;
use jtllm_runtime::residence::Limit;
use jtllm_serve::{Answer, Backend, Engine, Finish, LoadOptions, Lookup, Model, Place, Request, Speculation};

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
        threads: 1,
        context: CONTEXT,
        compute: Compute::F32,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
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
    check_both(name, [Speculation::Off, always()].map(|how| engine(name, how)), request, sampling)
}

fn check_both(name: &str, engines: [Engine; 2], request: &Request, sampling: &Sampling) -> [usize; 2] {
    let [mut plain, mut guessing] = engines;
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

/// Passes of rows of one sequence, which goes on after each with the first of them alone.
struct Passes {
    model: Model,
    pages: PageTable,
}

impl Passes {
    fn of(name: &str, backend: Backend) -> Passes {
        let checkpoint = Checkpoint::open(&folder(name)).unwrap();
        let model = Model::load(checkpoint, options(backend), KernelCache::off("a test")).unwrap();
        let mut pages = PageTable::new(model.pages(), 1);
        pages.reserve(0, CONTEXT).unwrap();
        Passes { model, pages }
    }

    /// The logits of each of `ids` at the positions from `start` on.
    fn run(&mut self, facts: &[(&'static str, i32)], start: usize, ids: &[u32]) -> Vec<Vec<u32>> {
        let row = |(at, id): (usize, &u32)| {
            let slot = self.pages.slot(0, start + at).unwrap();
            Row { id: *id, position: start + at, sequence: 0, slot }
        };
        let batch = Batch {
            rows: ids.iter().enumerate().map(row).collect(),
            chunk: false,
            tables: vec![self.pages.pages(0).clone()],
            lengths: vec![start + ids.len()],
            wanted: (0..ids.len()).collect(),
            facts: facts.iter().map(|(name, value)| (*name, vec![*value])).collect(),
            shown: None,
        };
        let logits = self.model.pass(&batch, None).unwrap();
        logits.chunks(logits.len() / ids.len()).map(bits).collect()
    }
}

/// Rows of one sequence in a pass have the bits that they have one after another, and rows that are then taken back
/// leave nothing: each pass writes over wrong guesses of the pass before.
fn check_rows(name: &str, backend: &Backend) {
    let ids: Vec<u32> = (0..60).map(|at| (at * 37 + 11) % 250).collect();
    let [mut alone, mut together] = [Passes::of(name, backend.clone()), Passes::of(name, backend.clone())];
    let facts = alone.model.architecture().facts(&ids);
    let expected: Vec<Vec<u32>> =
        ids.iter().enumerate().flat_map(|(at, id)| alone.run(&facts, at, &[*id])).collect();
    let mut at = 0;
    for (right, wrong) in [(1, 15), (2, 0), (3, 1), (16, 0), (1, 1), (8, 8), (5, 2), (1, 7), (16, 0)] {
        let rows = [&ids[at..at + right], &vec![249; wrong]].concat();
        let found = together.run(&facts, at, &rows);
        assert_eq!(found[..right], expected[at..at + right], "{name} {backend:?}: {right} rows at {at}");
        at += right;
    }
}

#[test]
fn rows_of_one_sequence_have_the_same_bits_one_by_one_and_together() {
    for name in list::all_but(&ELSEWHERE).iter().filter(|name| !name.starts_with("rwkv")) {
        check_rows(name, &Backend::Cpu);
    }
    // Blocks so short that the past of this context is shared out.
    let short = Caps { attend_block: 32, ..Caps::threads(32) };
    for backend in
        [Backend::Graph, Backend::Interp(Box::new(Caps::vector(4))), Backend::Interp(Box::new(short))]
    {
        ["llama2-gqa-tiny", "mistral-swa-tiny"].iter().for_each(|name| check_rows(name, &backend));
    }
}

/// Whoever looks at the text or draws numbers finds both as without guesses.
#[test]
fn every_way_of_sampling_gives_the_same_tokens() {
    let name = "bloom-belle-tiny";
    let drawn = Sampling { seed: Some(3), temperature: 0.7, ..Sampling::default() };
    let ways = [
        Sampling { repeat_penalty: 1.3, presence_penalty: 0.2, frequency_penalty: 0.1, ..greedy() },
        Sampling { repeat_penalty: 0.8, repeat_last_n: 4, ..greedy() },
        Sampling { dry_multiplier: 0.8, dry_allowed_length: 1, dry_penalty_last_n: -1, ..greedy() },
        Sampling { never_twice: (0..250).collect(), ..greedy() },
        Sampling { logit_bias: vec![(7, 3.0), (42, f32::NEG_INFINITY)], ..greedy() },
        Sampling { repeat_penalty: 0.7, ..drawn.clone() },
        Sampling { mirostat: 1, repeat_penalty: 0.7, ..drawn.clone() },
        Sampling { mirostat: 2, repeat_penalty: 0.7, ..drawn.clone() },
        Sampling { xtc_probability: 0.5, xtc_threshold: 0.01, repeat_penalty: 0.7, ..drawn },
    ];
    let (mut drafted, mut accepted) = (0, 0);
    for sampling in ways {
        let [guessed, right] = check(name, &request(prompt(), 60), &sampling);
        drafted += guessed;
        accepted += right;
    }
    assert!(accepted > 20 && drafted > accepted + 20, "{accepted} of {drafted} guesses were right");
}

/// An answer ended after each of its tokens in each way: nothing behind it is said or held, also where the end is in
/// the middle of guesses that were right.
#[test]
fn an_answer_ends_at_the_same_token_wherever_that_is() {
    let name = "bloom-belle-tiny";
    let [mut plain, mut guessing] = [Speculation::Off, always()].map(|how| engine(name, how));
    let whole = answer(&mut guessing, &request(prompt(), 40), &greedy());
    assert!(whole.timings.accepted_tokens > 10, "{:?}", whole.timings);
    for end in 0..=whole.ids.len() {
        let cut = request(prompt(), end);
        let ended =
            Request { end_ids: whole.ids.get(end).copied().into_iter().collect(), ..request(prompt(), 40) };
        for (request, most) in [(&cut, usize::MAX), (&ended, usize::MAX), (&request(prompt(), 40), end)] {
            let [expected, found] = [&mut plain, &mut guessing].map(|engine| {
                engine.clear();
                let vocabulary = engine.model().architecture().vocabulary();
                let mut sampler = Sampler::new(greedy(), vocabulary).unwrap();
                let mut heard = Vec::new();
                let answer = engine.generate(request, &mut sampler, &mut |_, id| {
                    heard.push(id);
                    if heard.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                let answer = answer.unwrap();
                let held = engine.held().to_vec();
                (answer.ids, answer.finish, heard, held, bits(&engine.append(9).unwrap()))
            });
            assert_eq!(found, expected, "after {end} tokens");
        }
    }
}

#[test]
fn a_text_that_ends_an_answer_ends_it_at_the_same_place() {
    let stop = |speculation, stops: &[&str]| {
        let checkpoint = Checkpoint::demo().unwrap();
        let language = Language::of(&checkpoint).unwrap();
        let prompt = language
            .tokenizer
            .encode("Once upon a time there was a cat. Once upon a time", Special::Parse)
            .unwrap();
        let kernels = KernelCache::off("a test");
        let model = Model::load(checkpoint, options(Backend::Cpu), kernels).unwrap();
        let mut engine = Engine::new(model, Some(language.tokenizer.clone()));
        engine.speculate(speculation);
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let found = answer(&mut engine, &Request { stops, ..request(prompt, 40) }, &greedy());
        (found.text, found.ids, found.finish, engine.held().to_vec(), found.timings.drafted_tokens)
    };
    let (text, ..) = stop(Speculation::Off, &[]);
    let words: Vec<&str> = text.split_inclusive(' ').filter(|word| word.len() > 2).collect();
    assert!(words.len() > 4, "{text}");
    let mut drafted = 0;
    for word in words {
        let expected = stop(Speculation::Off, &[word]);
        let found = stop(always(), &[word]);
        assert_eq!(expected.2, Finish::Stop(0), "{word:?}");
        drafted += found.4;
        assert_eq!(
            (found.0, found.1, found.2, found.3),
            (expected.0, expected.1, expected.2, expected.3),
            "{word:?}"
        );
    }
    assert!(drafted > 0);
}

#[test]
fn guesses_end_where_the_context_does() {
    for name in ["bloom-belle-tiny", "gpt2-tiny", "chatglm-6b-tiny"] {
        for draft_max in [1, 2, 3, 7, 15] {
            let guessing = Speculation::Always(Lookup { draft_max, ..Lookup::default() });
            let engines = || [Speculation::Off, guessing].map(|how| engine(name, how));
            let full = Request { max_tokens: None, ..request(prompt(), 0) };
            let [drafted, _] = check_both(name, engines(), &full, &greedy());
            assert!(drafted > 0, "{name}");
            if name == "bloom-belle-tiny" {
                let shifted = Request { shift_keep: Some(4), ..request(prompt(), 3 * CONTEXT) };
                check_both(name, engines(), &shifted, &greedy());
            }
        }
    }
}

/// Each answer of a conversation, on the engine that gave the last one.
#[test]
fn a_conversation_goes_on_alike() {
    let name = "bloom-belle-tiny";
    let mut engines =
        [Speculation::Off, always(), Speculation::Auto(Lookup::default())].map(|how| engine(name, how));
    let mut text = prompt();
    for turn in 0..3 {
        let answers = engines.each_mut().map(|engine| {
            let answer = answer(engine, &request(text.clone(), 15), &greedy());
            (answer.ids, answer.timings.cached_tokens, engine.held().to_vec())
        });
        assert_eq!(answers[0], answers[1], "turn {turn}");
        assert_eq!(answers[0], answers[2], "turn {turn}");
        text.extend(&answers[0].0);
        text.extend([5, 17, 42]);
    }
}

#[test]
fn what_a_state_has_read_cannot_be_taken_back() {
    let state = engine("rwkv-7-tiny", always());
    assert!(!state.can_speculate());
    assert_eq!(state.speculation(), Speculation::Off);
    assert_eq!(engine("llama2-gqa-tiny", always()).speculation(), always());
}
