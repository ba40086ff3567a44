//! GGUF files that PyPI's `gguf` writes by llama.cpp's rules (`tests/gguf/*.py`): every family against the logits of
//! its reference implementation, every block format against the numbers that `gguf` says its blocks stand for.
#![allow(clippy::unwrap_used)]

#[path = "fixtures/list.rs"]
mod list;
#[path = "cli/support.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use jtllm_models::Checkpoint;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::ir::DType;
use jtllm_runtime::residence::Limit;
use jtllm_serve::{Backend, Engine, LoadOptions, Model, Place};
use support::{answer, fixture, root};

/// What llama.cpp does not convert, so that it cannot be told in GGUF.
const NOT_IN_GGUF: [(&str, &str); 10] = [
    ("mistral-swa-tiny", "its LLaMA has no sliding window"),
    ("internlm2-dynamic-tiny", "it knows no dynamic NTK"),
    ("chatglm-6b-tiny", "it begins with the second version"),
    ("moss-tiny", "it does not know the family"),
    ("pangu-alpha-tiny", "it does not know the family"),
    ("rwkv-4-tiny", "it begins with the sixth version"),
    ("rwkv-5-tiny", "it begins with the sixth version"),
    ("rwkv-5.2-tiny", "it begins with the sixth version"),
    ("llava-1.5-tiny", "what sees is another file there"),
    ("llava-next-1.6-tiny", "what sees is another file there"),
];

/// What `tests/gguf/quants.py` writes.
const FORMATS: [&str; 12] =
    ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"];

/// Sums of 512 products in another order, through two layers, relative to the largest logit.
const TOLERANCE: f32 = 2e-5;

fn python() -> Command {
    let mut python = Command::new("python3");
    python.current_dir(root()).env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

/// Whether Python has what the scripts need.
fn is_ready() -> bool {
    let found = python().args(["-c", "import gguf"]).output();
    let ready = found.is_ok_and(|output| output.status.success());
    if !ready {
        println!("skipped: python3 cannot import gguf (pip install gguf==0.19.0)");
    }
    ready
}

fn script(name: &str, arguments: &[&Path]) {
    let output = python().arg(format!("tests/gguf/{name}")).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {complaint}");
}

#[test]
fn every_family_passes_from_gguf_on_every_backend() {
    if !is_ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in &list::all_but(&NOT_IN_GGUF) {
        let file = folder.path().join(format!("{name}.gguf"));
        script("write.py", &[Path::new(&fixture(name)), &file]);
        for backend in ["cpu", "interp", "graph"] {
            let model = file.to_str().unwrap();
            let table = answer(&["verify", &fixture(name), "--model", model, "--backend", backend]);
            let compared =
                ["greedy tokens", "hidden vectors of text"].iter().any(|what| table.contains(what));
            assert!(compared, "{name}: {table}");
            // The file says how vectors are pooled.
            assert_eq!(name.starts_with("bert"), table.contains("embedding of text 7"), "{name}: {table}");
        }
    }
}

/// What a converter halves every so many layers, the model halves as well. The epsilons of norms stay, so the logits
/// are not quite the same.
#[test]
fn rwkv6_weights_that_were_halved_give_nearly_the_same_logits() {
    if !is_ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fixture = fixture("rwkv-6-tiny");
    let by = |every: &str| {
        let file = folder.path().join(format!("{every}.gguf"));
        script("write.py", &[Path::new(&fixture), &file, Path::new(every)]);
        logits(&file, Backend::Cpu)
    };
    let (whole, halved) = (by("6"), by("1"));
    let apart = whole.iter().zip(&halved).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart > 0.0 && apart < 1e-3, "{apart}");
}

fn logits(file: &Path, backend: Backend) -> Vec<f32> {
    let options = LoadOptions {
        backend,
        place: Place::default(),
        threads: 2,
        context: 32,
        compute: Compute::F32,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    };
    let checkpoint = Checkpoint::open(file).unwrap();
    let model = Model::load(checkpoint, options, KernelCache::off("a test")).unwrap();
    Engine::new(model, None).feed(&[1, 95, 17, 60, 2], true).unwrap()
}

#[test]
fn a_model_in_every_block_format_runs_on_every_backend() {
    if !is_ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    script("quants.py", &[folder.path()]);
    for format in FORMATS {
        let file = |end: &str| folder.path().join(format!("{format}{end}.gguf"));
        let expected = logits(&file("-f32"), Backend::Graph);
        let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        assert!(largest.is_finite() && largest > 0.1, "{format}: logits up to {largest}");
        // The same numbers in the same order, so the same bits.
        assert_eq!(logits(&file(""), Backend::Graph), expected, "{format}");
        let caps = [Caps::vector(4), Caps::vector(16), Caps::threads(32)];
        let others = caps.map(|caps| Backend::Interp(Box::new(caps)));
        for backend in std::iter::once(Backend::Cpu).chain(others) {
            let found = logits(&file(""), backend.clone());
            let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < TOLERANCE * largest, "{format} {backend:?}: {apart} of {largest}");
        }
    }
}
