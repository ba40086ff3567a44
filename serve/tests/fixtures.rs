//! Model fixtures with logits of reference implementations, on every backend.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/fixtures/list.rs"]
mod list;
#[path = "../../runtime/tests/common/simulated.rs"]
mod simulated;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jtllm_models::checkpoint::safetensors;
use jtllm_models::{Checkpoint, arch};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::emit::x64::{Level, X64};
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::device::Device;
use jtllm_runtime::ir::DType;
use jtllm_runtime::network::{Batch, Row};
use jtllm_runtime::pages::PageTable;
use jtllm_runtime::residence::Limit;
use jtllm_serve::place::Way;
use jtllm_serve::{Backend, Engine, EngineError, LoadOptions, Model, Place, Together};
use serde_json::Value;
use xtask::synthetic::Synthetic;

use crate::simulated::Simulated;

/// What gives no logits of texts alone.
const ELSEWHERE: [(&str, &str); 4] = [
    ("bert-bge-cls-tiny", "tests/cli_embed.rs compares vectors"),
    ("bert-minilm-mean-tiny", "tests/cli_embed.rs compares vectors"),
    ("llava-1.5-tiny", "tests/cli_images.rs shows it images"),
    ("llava-next-1.6-tiny", "tests/cli_images.rs shows it images"),
];

fn check_each(backend: &Backend) {
    list::all_but(&ELSEWHERE).iter().for_each(|name| check(name, backend.clone()));
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// What 16-bit operands may make of logits, relative to the largest: each layer adds its part.
const SIXTEEN_BITS: f32 = 0.06;

fn options(backend: Backend, threads: usize) -> LoadOptions {
    LoadOptions {
        backend,
        place: Place::default(),
        threads,
        context: 96,
        compute: Compute::F32,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 16,
        memory: Limit::default(),
    }
}

fn engine(name: &str, backend: Backend) -> Engine {
    let checkpoint = Checkpoint::open(&folder(name)).unwrap();
    Engine::new(Model::load(checkpoint, options(backend, 2), KernelCache::off("a test")).unwrap(), None)
}

struct Golden {
    json: Value,
    bytes: Vec<u8>,
    tensors: Vec<safetensors::Tensor>,
}

impl Golden {
    fn open(name: &str) -> Golden {
        let json = serde_json::from_slice(&std::fs::read(folder(name).join("golden.json")).unwrap()).unwrap();
        let path = folder(name).join("golden.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let tensors = safetensors::parse(&bytes, &path).unwrap().tensors;
        Golden { json, bytes, tensors }
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let tensor = self.tensors.iter().find(|t| t.name == name).unwrap();
        let count: u64 = tensor.shape.iter().product();
        let bytes = &self.bytes[tensor.offset as usize..][..count as usize * 4];
        bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    /// The bound that the fixtures' README gives: 20 times the reference's own error, at most 1e-3.
    fn bound(&self) -> f32 {
        let error = self.json["f32_vs_f64"]["logits_max_abs"].as_f64().unwrap() as f32;
        (20.0 * error).min(1e-3)
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (x, y)| m.max((x - y).abs()))
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best }) as u32
}

/// The logits of all positions of each case, found and expected.
fn case_logits(golden: &Golden, engine: &mut Engine) -> Vec<[Vec<f32>; 2]> {
    let mut all = Vec::new();
    for case in golden.json["cases"].as_array().unwrap() {
        let Some(kind) = case["logits_kind"].as_str() else { continue };
        if !kind.starts_with("all positions") {
            continue;
        }
        for row in case["input_ids"].as_array().unwrap() {
            let found = engine.feed(&ids(row), true).unwrap();
            all.push([found, golden.tensor(case["logits"].as_str().unwrap())]);
        }
    }
    all
}

fn check(name: &str, backend: Backend) {
    let golden = Golden::open(name);
    let mut engine = engine(name, backend.clone());
    for (at, [found, expected]) in case_logits(&golden, &mut engine).iter().enumerate() {
        let error = largest_difference(found, expected);
        let what = format!("{name} {backend:?} text {at}: {error} above {}", golden.bound());
        assert!(error <= golden.bound(), "{what}");
    }
    for generate in golden.json["generate"].as_array().unwrap() {
        let mut tokens = ids(&generate["prompt"]);
        for expected in ids(&generate["tokens"]) {
            let logits = engine.feed(&tokens, false).unwrap();
            assert_eq!(argmax(&logits), expected, "{name} {backend:?} after {} tokens", tokens.len());
            tokens.push(expected);
        }
    }
}

#[test]
fn machine_code_agrees_with_the_references() {
    check_each(&Backend::Cpu);
}

#[test]
fn the_graph_interpreter_agrees_with_the_references() {
    check_each(&Backend::Graph);
}

#[test]
fn the_loop_interpreter_agrees_with_the_references() {
    check_each(&Backend::Interp(Box::new(Caps::vector(4))));
    check("llama2-gqa-tiny", Backend::Interp(Box::new(Caps::threads(32))));
    // Blocks so short that even this context's past is shared out.
    let short = Caps { attend_block: 32, ..Caps::threads(32) };
    check("llama2-gqa-tiny", Backend::Interp(Box::new(short.clone())));
    check("mistral-swa-tiny", Backend::Interp(Box::new(Caps::vector(16))));
    for name in [
        "gemma3-text-tiny",
        "bloom-belle-tiny",
        "gpt2-tiny",
        "moss-tiny",
        "pangu-alpha-tiny",
        "chatglm-6b-tiny",
        "rwkv-4-tiny",
        "rwkv-7-tiny",
    ] {
        check(name, Backend::Interp(Box::new(short.clone())));
    }
}

const ROUNDED: [&str; 3] = ["llama2-gqa-tiny", "chatglm2-6b-tiny", "qwen3-tied-tiny"];

/// A graphics processor with matrix units, in small groups, so that tiny models have rows enough for its tiles.
fn units() -> Backend {
    Backend::Interp(Box::new(Caps::threads(64).with_matrix(32)))
}

#[test]
fn matrix_units_in_float32_agree_with_the_references() {
    ROUNDED.iter().for_each(|name| check(name, units()));
}

#[test]
fn rounded_operands_stay_near_the_references_on_every_backend() {
    for name in ROUNDED {
        let golden = Golden::open(name);
        for compute in [Compute::Bf16, Compute::F16] {
            for backend in [units(), Backend::Cpu, Backend::Graph] {
                let options = LoadOptions { compute, ..options(backend.clone(), 2) };
                let checkpoint = Checkpoint::open(&folder(name)).unwrap();
                let model = Model::load(checkpoint, options, KernelCache::off("a test")).unwrap();
                let mut engine = Engine::new(model, None);
                for [found, expected] in case_logits(&golden, &mut engine) {
                    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                    let error = largest_difference(&found, &expected) / largest;
                    let rounded = error > golden.bound() / largest && error < SIXTEEN_BITS;
                    assert!(rounded, "{name} {backend:?} {compute}: {error}");
                }
            }
        }
    }
}

/// The logits of each sequence's last token when they are decoded together.
fn batched(mut model: Model, prompts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let mut pages = PageTable::new(model.pages(), 16);
    for (sequence, prompt) in prompts.iter().enumerate() {
        pages.reserve(sequence, prompt.len()).unwrap();
    }
    let tables: Vec<_> = (0..prompts.len()).map(|s| pages.pages(s).clone()).collect();
    let longest = prompts.iter().map(Vec::len).max().unwrap();
    let mut last = vec![Vec::new(); prompts.len()];
    for position in 0..longest {
        let active: Vec<usize> = (0..prompts.len()).filter(|s| position < prompts[*s].len()).collect();
        let rows = active.iter().map(|s| Row {
            id: prompts[*s][position],
            position,
            sequence: *s,
            slot: pages.slot(*s, position).unwrap(),
        });
        let batch = Batch {
            rows: rows.collect(),
            chunk: false,
            tables: tables.clone(),
            lengths: prompts.iter().map(|p| p.len().min(position + 1)).collect(),
            wanted: (0..active.len()).collect(),
            facts: Vec::new(),
            shown: None,
        };
        let logits = model.pass(&batch, None).unwrap();
        let width = logits.len() / active.len();
        for (at, sequence) in active.into_iter().enumerate() {
            last[sequence] = logits[at * width..][..width].to_vec();
        }
    }
    last
}

/// Compares the last logits of texts as chunks, token by token and in batches, on one thread and two.
fn check_company(name: &str, load: &dyn Fn(usize) -> Model) {
    let prompts: Vec<Vec<u32>> =
        (0..16).map(|s| (0..5 + s * 2).map(|i| (i * 7 + s * 3) % 250).collect()).collect();
    let mut engine = Engine::new(load(2), None);
    let chunked: Vec<Vec<f32>> = prompts.iter().map(|p| engine.feed(p, false).unwrap()).collect();
    for (count, threads) in [(1, 1), (1, 2), (2, 1), (3, 2), (16, 1), (16, 2)] {
        let together = batched(load(threads), &prompts[..count]);
        for sequence in 0..count {
            let pairs = chunked[sequence].iter().zip(&together[sequence]);
            let same = pairs.into_iter().all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{name}: sequence {sequence} of {count} on {threads} threads");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    for name in [
        "llama2-gqa-tiny",
        "belle-llama-tiny",
        "bloom-belle-tiny",
        "gemma3-text-tiny",
        "rwkv-4-tiny",
        "rwkv-7-tiny",
    ] {
        check_company(name, &|threads| load(&folder(name), options(Backend::Cpu, threads)));
    }
}

/// A fixture whose matrices are numbers of `bf16`.
fn narrowed(name: &str) -> tempfile::TempDir {
    let path = folder(name).join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for tensor in safetensors::parse(&bytes, &path).unwrap().tensors {
        let own = &bytes[tensor.offset as usize..][..tensor.len as usize];
        let start = data.len();
        let element = match (tensor.element.name, tensor.shape.len()) {
            ("F32", 2) => {
                let numbers = own.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x));
                data.extend(numbers.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()));
                "BF16"
            }
            (element, _) => {
                data.extend_from_slice(own);
                element
            }
        };
        let entry = serde_json::json!({
            "dtype": element, "shape": tensor.shape, "data_offsets": [start, data.len()]
        });
        header.insert(tensor.name.clone(), entry);
    }
    let mut text = serde_json::to_vec(&header).unwrap();
    text.resize(text.len().next_multiple_of(8), b' ');
    let file = [(text.len() as u64).to_le_bytes().as_slice(), &text, &data].concat();
    let made = tempfile::tempdir().unwrap();
    std::fs::write(made.path().join("model.safetensors"), file).unwrap();
    std::fs::copy(folder(name).join("config.json"), made.path().join("config.json")).unwrap();
    made
}

/// The numbers multiplied with weights, and the logits of a text's positions and of one token more.
fn rounded_logits(mut model: Model) -> (Vec<Compute>, Vec<f32>) {
    model.ready().unwrap();
    let [decoding, prompts] = model.products();
    let mut engine = Engine::new(model, None);
    let text: Vec<u32> = (0..21).map(|i| 20 + i * 37 % 200).collect();
    let mut logits = engine.feed(&text, true).unwrap();
    logits.extend(engine.feed(&[text.as_slice(), &[77]].concat(), false).unwrap());
    (decoding.union(&prompts).copied().collect(), logits)
}

fn load(folder: &Path, options: LoadOptions) -> Model {
    Model::load(Checkpoint::open(folder).unwrap(), options, KernelCache::off("a test")).unwrap()
}

/// A model on the processor whose products are of pairs of bf16; where it has none, on the interpreter of its code, in
/// place of WebGPU.
fn load_in_pairs(folder: &Path, threads: usize) -> Model {
    let target = || X64::complete(Level::Avx512);
    let options = |backend| LoadOptions { compute: Compute::Bf16, ..options(backend, threads) };
    if target().is_here() {
        return load(folder, options(Backend::Cpu));
    }
    let checkpoint = Checkpoint::open(folder).unwrap();
    let architecture = arch::read(checkpoint.config()).unwrap().into();
    let device: Arc<dyn Device> = Arc::new(Simulated::new(target()));
    let way = Way { backend: "wgpu", open: Arc::new(move |_, _| Ok(device.clone())), list: Vec::new };
    let cache = KernelCache::off("a test");
    Model::by_ways(checkpoint, architecture, options(Backend::Wgpu), cache, &[way]).unwrap()
}

#[test]
fn weights_of_bf16_are_multiplied_in_pairs_by_themselves() {
    for name in ["mistral-swa-tiny", "qwen3-tied-tiny"] {
        let made = narrowed(name);
        let pairs = Backend::Interp(Box::new(Caps::vector(16).with_dot2()));
        let logits =
            |compute| rounded_logits(load(made.path(), LoadOptions { compute, ..options(pairs.clone(), 2) }));
        let (products, found) = logits(Compute::Auto);
        assert_eq!(products, [Compute::Bf16], "{name}");
        let (products, expected) = logits(Compute::F32);
        assert_eq!(products, [Compute::F32], "{name}");
        let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        let error = largest_difference(&found, &expected) / largest;
        assert!(error > 0.0 && error < SIXTEEN_BITS, "{name}: {error}");
        let (_, expected) = logits(Compute::Bf16);
        let (_, found) = rounded_logits(load_in_pairs(made.path(), 2));
        let same = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name}: {}", largest_difference(&found, &expected));
        check_company(name, &|threads| load_in_pairs(made.path(), threads));
    }
}

/// Prompts of different lengths in common chunks, then a token of each in one pass: as if each were alone.
#[test]
fn sequences_side_by_side_have_the_same_bits_as_alone() {
    let tokens = |s: u32, count: u32| (0..count).map(|i| (i * 7 + s * 3 + 5) % 250).collect::<Vec<u32>>();
    for name in ["llama2-gqa-tiny", "mistral-swa-tiny", "rwkv-4-tiny", "rwkv-7-tiny"] {
        for count in [2u32, 3, 8, 16] {
            let all: Vec<Vec<u32>> = (0..count).map(|s| tokens(s, 12 + s % 5 * 13)).collect();
            let mut alone = engine(name, Backend::Cpu);
            let checkpoint = Checkpoint::open(&folder(name)).unwrap();
            let options = options(Backend::Cpu, 2);
            let mut model = Model::load(checkpoint, options, KernelCache::off("a test")).unwrap();
            let mut together = Together::new(&mut model, count as usize);
            // Again after it was cleared: nothing of the first round is left.
            for _ in 0..2 {
                together.clear();
                let prompts: Vec<Vec<u32>> = all.iter().map(|ids| ids[..ids.len() - 4].to_vec()).collect();
                let mut found = together.feed(&prompts).unwrap();
                for step in (0..=4).rev() {
                    for (ids, found) in all.iter().zip(&found) {
                        let expected = alone.feed(&ids[..ids.len() - step], false).unwrap();
                        let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                        assert_eq!(bits(&expected), bits(found), "{name}: {count} sequences, {step} to come");
                    }
                    if step > 0 {
                        let ids: Vec<u32> = all.iter().map(|ids| ids[ids.len() - step]).collect();
                        let logits = together.append(&ids).unwrap();
                        let width = logits.len() / ids.len();
                        found = logits.chunks(width).map(<[f32]>::to_vec).collect();
                    }
                }
            }
        }
    }
}

#[test]
fn sequences_side_by_side_are_refused_what_does_not_fit() {
    let checkpoint = Checkpoint::open(&folder("llama2-gqa-tiny")).unwrap();
    let options = LoadOptions { sequences: 2, context: 32, ..options(Backend::Cpu, 1) };
    let mut model = Model::load(checkpoint, options, KernelCache::off("a test")).unwrap();
    let mut together = Together::new(&mut model, 2);
    assert!(matches!(together.feed(&[vec![], vec![]]), Err(EngineError::EmptyPrompt)));
    assert!(matches!(together.append(&[1, 2, 3]), Err(EngineError::EmptyPrompt)));
    assert!(matches!(together.feed(&[vec![1 << 20]]), Err(EngineError::NoSuchToken { .. })));
    together.feed(&[vec![1; 32], vec![2; 3]]).unwrap();
    let full = together.append(&[1, 2]);
    assert!(matches!(full, Err(EngineError::ContextFull { context: 32, need: 33 })), "{full:?}");
    together.clear();
    together.append(&[1, 2]).unwrap();
}

/// More threads than heads: attention then shares out the past of each row among them.
#[test]
fn logits_are_the_same_bits_for_any_number_of_threads() {
    let prompts: Vec<Vec<u32>> = [300, 130].map(|len| (0..len).map(|i| (i * 7 + len) % 250).collect()).into();
    let made = tempfile::tempdir().unwrap();
    let packed = made.path().join("llama-tiny-q4_0.gguf");
    Synthetic::of("llama-tiny", "q4_0", None).unwrap().write(&packed, &mut |_| {}).unwrap();
    let halves = narrowed("qwen3-tied-tiny");
    let cases = [
        (folder("llama2-gqa-tiny"), Compute::F32),
        (packed, Compute::Int8),
        // In pairs where the processor multiplies them.
        (halves.path().to_owned(), Compute::Bf16),
    ];
    for (path, compute) in cases {
        let load = |threads| {
            let own = options(Backend::Cpu, threads);
            load(&path, LoadOptions { context: 512, sequences: 2, compute, ..own })
        };
        // Together token by token, and each in chunks.
        let logits = |threads| {
            let mut engine = Engine::new(load(threads), None);
            let chunks = prompts.iter().map(|prompt| engine.feed(prompt, false).unwrap());
            let mut all: Vec<Vec<f32>> = chunks.collect();
            let products = engine.model().products();
            assert!(products.iter().flatten().any(|product| *product == compute), "{compute}");
            all.extend(batched(load(threads), &prompts));
            all
        };
        let expected = logits(1);
        for threads in [2, 8, 16] {
            for (found, expected) in logits(threads).iter().zip(&expected) {
                let same = found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && found.len() == expected.len(), "{compute} on {threads} threads");
            }
        }
    }
}

/// Two sequences of different lengths at once, on whatever graphics adapter is here.
#[test]
fn ragged_batches_agree_on_an_adapter() {
    if jtllm_runtime::device::wgpu::adapters().is_empty() {
        println!("skipped: no graphics adapter");
        return;
    }
    let prompts: Vec<Vec<u32>> =
        (0..2).map(|s| (0..3 + s * 5).map(|i| (i * 7 + s * 3) % 250).collect()).collect();
    let folder = folder("llama2-gqa-tiny");
    let expected = batched(load(&folder, options(Backend::Cpu, 2)), &prompts);
    let found = batched(load(&folder, options(Backend::Wgpu, 1)), &prompts);
    for (found, expected) in found.iter().zip(&expected) {
        let scale = expected.iter().fold(1.0f32, |most, x| most.max(x.abs()));
        let error = largest_difference(found, expected);
        assert!(error < 1e-5 * scale, "{error} of {scale}");
    }
}
