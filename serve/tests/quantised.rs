//! Checkpoints that ChatGLM's own code quantised, against the same numbers unpacked.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use jtllm_models::checkpoint::safetensors;
use jtllm_models::{Checkpoint, LoadError};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::ir::DType;
use jtllm_runtime::packed::PackedFolder;
use jtllm_runtime::residence::Limit;
use jtllm_serve::{Backend, Caches, Engine, LoadOptions, Memory, Model, Place};
use serde_json::{Map, Value, json};

/// A tensor as a safetensors file has it.
struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

const FIRST: &str = "chatglm-6b-tiny";

fn source(name: &str) -> Vec<Tensor> {
    let path = fixture(name).join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::parse(&bytes, &path).unwrap().tensors;
    let own = |tensor: &safetensors::Tensor| bytes[tensor.offset as usize..][..tensor.len as usize].to_vec();
    tensors
        .iter()
        .map(|tensor| Tensor {
            name: tensor.name.clone(),
            dtype: tensor.element.name,
            shape: tensor.shape.clone(),
            bytes: own(tensor),
        })
        .collect()
}

fn write(name: &str, folder: &Path, tensors: &[Tensor], bits: Option<u64>) {
    let (mut header, mut at) = (Map::new(), 0);
    for tensor in tensors {
        let end = at + tensor.bytes.len();
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end] });
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut text = serde_json::to_vec(&header).unwrap();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text);
    tensors.iter().for_each(|tensor| file.extend(&tensor.bytes));
    fs::write(folder.join("model.safetensors"), file).unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(fixture(name).join("config.json")).unwrap()).unwrap();
    if let Some(bits) = bits {
        config["quantization_bit"] = json!(bits);
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// A matrix as the authors' `quantize` leaves it: packed, with the scales of its rows, and what those numbers are.
fn quantised(tensor: &Tensor, bits: u32) -> [Tensor; 3] {
    let columns = tensor.shape[1] as usize;
    let numbers: Vec<f32> = match tensor.dtype {
        "F16" => tensor.bytes.as_chunks::<2>().0.iter().map(|x| f16::from_le_bytes(*x).to_f32()).collect(),
        dtype => {
            assert_eq!(dtype, "F32");
            tensor.bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
        }
    };
    let most = ((1 << (bits - 1)) - 1) as f32;
    let (mut packed, mut scales, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for row in numbers.chunks(columns) {
        let scale = f16::from_f32(row.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / most);
        scales.extend(scale.to_le_bytes());
        let whole: Vec<i8> = row.iter().map(|x| (x / scale.to_f32()).round_ties_even() as i8).collect();
        plain.extend(whole.iter().flat_map(|q| (f32::from(*q) * scale.to_f32()).to_le_bytes()));
        match bits {
            8 => packed.extend(whole.iter().map(|q| *q as u8)),
            _ => packed.extend(whole.chunks(2).map(|pair| (pair[0] as u8) << 4 | (pair[1] as u8 & 15))),
        }
    }
    let of = |name: String, dtype, shape, bytes| Tensor { name, dtype, shape, bytes };
    let rows = tensor.shape[0];
    [
        of(tensor.name.clone(), "I8", vec![rows, tensor.shape[1] * u64::from(bits) / 8], packed),
        of(format!("{}_scale", tensor.name), "F16", vec![rows], scales),
        of(tensor.name.clone(), "F32", tensor.shape.clone(), plain),
    ]
}

/// Writes the model packed and unpacked; `all`: its embedding and its head too, as in the files named `-qe`.
fn pair(name: &str, bits: u32, all: bool) -> [tempfile::TempDir; 2] {
    let (mut packed, mut plain) = (Vec::new(), Vec::new());
    let mut count = 0;
    for tensor in source(name) {
        let layer = tensor.name.contains(".layers.") && tensor.name.ends_with(".weight");
        let outside =
            ["transformer.word_embeddings.weight", "lm_head.weight"].contains(&tensor.name.as_str());
        // Rows of whole words; the second model's inner width has none of 4 bits.
        let whole = tensor.shape.len() == 2 && tensor.shape[1].is_multiple_of(8 * 4 / u64::from(bits));
        if whole && (layer || all && outside) {
            let [bytes, scales, numbers] = quantised(&tensor, bits);
            packed.extend([bytes, scales]);
            plain.push(numbers);
            count += 1;
        } else {
            let copy = |t: &Tensor| Tensor {
                name: t.name.clone(),
                shape: t.shape.clone(),
                bytes: t.bytes.clone(),
                ..*t
            };
            packed.push(copy(&tensor));
            plain.push(tensor);
        }
    }
    assert!(count >= if all { 10 } else { 6 }, "{count} of two layers' four matrices");
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    write(name, folders[0].path(), &packed, Some(u64::from(bits)));
    write(name, folders[1].path(), &plain, None);
    folders
}

fn logits(folder: &Path, backend: &Backend) -> Vec<f32> {
    logits_with(folder, backend, Compute::F32, KernelCache::off("a test")).0
}

fn logits_with(
    folder: &Path,
    backend: &Backend,
    compute: Compute,
    caches: impl Into<Caches>,
) -> (Vec<f32>, Option<Memory>) {
    let options = LoadOptions {
        backend: backend.clone(),
        place: Place::default(),
        threads: 2,
        context: 64,
        compute,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    };
    let mut model = Model::load(Checkpoint::open(folder).unwrap(), options, caches).unwrap();
    model.ready().unwrap();
    let mut engine = Engine::new(model, None);
    let prompt: Vec<u32> = (0..21).map(|i| 20 + i * 37 % 400).chain([5, 8]).collect();
    let mut logits = engine.feed(&prompt, true).unwrap();
    // And one token alone.
    logits.extend(engine.feed(&[prompt.as_slice(), &[77]].concat(), false).unwrap());
    (logits, engine.model().memory())
}

#[test]
fn a_second_start_reads_the_packed_file_and_answers_alike() {
    let [packed, _] = pair(FIRST, 4, true);
    let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let expected = bits(&logits(packed.path(), &Backend::Cpu));
    let kept = tempfile::tempdir().unwrap();
    let start = |backend: &Backend| {
        let packed_folder = PackedFolder::open(Some(kept.path().to_owned()));
        let caches = Caches { kernels: KernelCache::off("a test"), packed: packed_folder };
        let (logits, memory) = logits_with(packed.path(), backend, Compute::F32, caches);
        (bits(&logits), memory.unwrap())
    };
    let (found, first) = start(&Backend::Cpu);
    assert_eq!(found, expected);
    assert!(first.copied > 0 && first.packed == 0, "{first:?}");
    let (found, second) = start(&Backend::Cpu);
    assert_eq!(found, expected);
    assert_eq!((second.copied, second.packed, second.adopted), (0, first.copied, first.adopted));
    assert_eq!(fs::read_dir(kept.path()).unwrap().count(), 1);
    // Rows as they are, for lanes over the depth.
    let threads = Backend::Interp(Box::new(Caps::threads(32)));
    let (one, two) = (start(&threads), start(&threads));
    assert_eq!(one.0, two.0);
    assert_eq!((one.1.packed, two.1.copied), (0, 0));
    assert_eq!(fs::read_dir(kept.path()).unwrap().count(), 2);
}

#[test]
fn chatglms_own_integers_are_the_numbers_that_they_stand_for() {
    let backends = [
        Backend::Graph,
        Backend::Cpu,
        Backend::Interp(Box::new(Caps::vector(4))),
        Backend::Interp(Box::new(Caps::threads(32))),
    ];
    let second = "chatglm2-6b-tiny";
    let cases = [
        (FIRST, 8, false),
        (FIRST, 4, false),
        (FIRST, 8, true),
        (FIRST, 4, true),
        (second, 8, false),
        (second, 4, false),
    ];
    for (name, bits, all) in cases {
        let [packed, plain] = pair(name, bits, all);
        for backend in &backends {
            let [found, expected] = [&packed, &plain].map(|folder| logits(folder.path(), backend));
            let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let error = found.iter().zip(&expected).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            let bound = if *backend == Backend::Graph { 0.0 } else { 1e-5 * largest };
            assert!(error <= bound, "{name} {bits} bits, all {all}, {backend:?}: {error} above {bound}");
            assert!(largest > 0.1 && found.len() == expected.len());
        }
    }
}

fn largest(logits: &[f32]) -> f32 {
    logits.iter().fold(0.0, |most, x| most.max(x.abs()))
}

fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

/// Whole models in bytes: every device as the graph that says what bytes are, and that graph near to floats.
#[test]
fn models_in_bytes_are_those_of_the_rewritten_graph_and_near_to_floats() {
    for (name, bits) in [(FIRST, 8), (FIRST, 4), ("chatglm2-6b-tiny", 8), ("chatglm2-6b-tiny", 4)] {
        let [packed, _] = pair(name, bits, name == FIRST);
        let run = |backend: &Backend, compute| {
            logits_with(packed.path(), backend, compute, KernelCache::off("a test")).0
        };
        let floats = run(&Backend::Graph, Compute::F32);
        let expected = run(&Backend::Graph, Compute::Int8);
        let lost = difference(&expected, &floats) / largest(&floats);
        assert!((1e-4..0.05).contains(&lost), "{name} {bits} bits: {lost} of the largest logit");
        for backend in [Backend::Cpu, Backend::Interp(Box::new(Caps::vector(8)))] {
            let error = difference(&run(&backend, Compute::Int8), &expected) / largest(&floats);
            // A sum in another order may round an activation the other way, once in a while.
            assert!(error < lost / 2.0, "{name} {bits} bits, {backend:?}: {error} beside {lost}");
        }
    }
}

#[test]
fn a_packed_checkpoint_that_does_not_fit_together_is_refused() {
    let refused = |change: &dyn Fn(&mut Vec<Tensor>), bits: u64| -> LoadError {
        let folder = tempfile::tempdir().unwrap();
        let name = "transformer.layers.0.attention.dense.weight";
        let mut tensors: Vec<Tensor> = source(FIRST)
            .into_iter()
            .flat_map(|tensor| match tensor.name == name {
                true => quantised(&tensor, 4).into_iter().take(2).collect(),
                false => vec![tensor],
            })
            .collect();
        change(&mut tensors);
        write(FIRST, folder.path(), &tensors, Some(bits));
        Checkpoint::open(folder.path()).unwrap_err()
    };
    let says = |error: LoadError, what: &str| assert!(error.to_string().contains(what), "{error}");
    says(refused(&|_| {}, 3), "quantization_bit");
    let scales = |tensors: &[Tensor]| tensors.iter().position(|t| t.name.ends_with("_scale")).unwrap();
    let without = |all: &mut Vec<Tensor>| {
        let at = scales(all);
        all.remove(at);
    };
    says(refused(&without, 4), "without its scales");
    says(
        refused(
            &|all| {
                let at = scales(all);
                all[at].shape = vec![32, 2]
            },
            4,
        ),
        "one number for each of 64 rows",
    );
    says(
        refused(
            &|all| {
                let at = scales(all);
                (all[at - 1].dtype, all[at - 1].shape) = ("F16", vec![64, 16]);
            },
            4,
        ),
        "expected i8",
    );
}
