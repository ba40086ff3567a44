//! Graphics adapters that can little, or are lost, under a whole model.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use jtllm_models::{Checkpoint, arch};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::device::wgpu::{Adapter, Choice};
use jtllm_runtime::ir::DType;
use jtllm_runtime::residence::Limit;
use jtllm_serve::place::Way;
use jtllm_serve::{Backend, Engine, EngineError, LoadOptions, Model};

/// A way to an adapter, or what is said where there is none.
fn way(choice: &Choice) -> Option<(Arc<Adapter>, Way)> {
    match Adapter::open(choice) {
        Ok(adapter) => {
            let adapter = Arc::new(adapter);
            let opened = adapter.clone();
            Some((
                adapter,
                Way { backend: "wgpu", open: Arc::new(move |_, _| Ok(opened.clone())), list: Vec::new },
            ))
        }
        Err(why) => {
            println!("skipped: wgpu: {why}");
            None
        }
    }
}

fn model(name: &str, backend: Backend, way: &Way) -> Result<Model, EngineError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let architecture = arch::read(checkpoint.config()).unwrap().into();
    let options = LoadOptions {
        backend,
        place: Default::default(),
        threads: 1,
        context: 96,
        compute: Compute::F32,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    };
    let ways = std::slice::from_ref(way);
    let mut model = Model::by_ways(checkpoint, architecture, options, KernelCache::off("a test"), ways)?;
    model.ready()?;
    Ok(model)
}

/// RWKV-7 reads and writes more buffers in one kernel than WebGPU promises.
#[test]
fn an_adapter_with_few_bindings_is_refused_or_left() {
    let Some((_, way)) = way(&Choice { buffers: 8, ..Choice::default() }) else { return };
    let refused = model("rwkv-7-tiny", Backend::Wgpu, &way).err().unwrap().to_string();
    assert!(refused.contains("buffers at a time, the target has 8"), "{refused}");
    let left = model("rwkv-7-tiny", Backend::Auto, &way).unwrap();
    let place = left.placement().to_string();
    assert!(place.starts_with("on the processor") && place.contains("the target has 8"), "{place}");
    // What needs fewer runs there.
    assert!(model("llama2-gqa-tiny", Backend::Wgpu, &way).unwrap().placement().device.is_some());
}

#[test]
fn a_lost_adapter_is_an_error_or_left() {
    for backend in [Backend::Wgpu, Backend::Auto] {
        let Some((adapter, way)) = way(&Choice::default()) else { return };
        let mut engine = Engine::new(model("llama2-gqa-tiny", backend.clone(), &way).unwrap(), None);
        let prompt = [1, 5, 9, 13];
        let before = engine.feed(&prompt, false).unwrap();
        adapter.shared().destroy();
        let after = engine.feed(&[1, 5, 9, 13, 17], false);
        match backend {
            Backend::Wgpu => {
                let error = after.unwrap_err().to_string();
                assert!(error.contains("lost"), "{error}");
            }
            _ => {
                assert_eq!(after.unwrap().len(), before.len());
                assert!(engine.model().placement().device.is_none());
            }
        }
    }
}

/// Spans of a plan are the same in every pass, and so is what binds them.
#[test]
fn decoding_binds_each_launch_once() {
    let Some((adapter, way)) = way(&Choice::default()) else { return };
    let mut engine = Engine::new(model("llama2-gqa-tiny", Backend::Wgpu, &way).unwrap(), None);
    let mut tokens = vec![1, 5, 9, 13];
    engine.feed(&tokens, false).unwrap();
    let mut counts = Vec::new();
    for token in 0..8 {
        tokens.push(17 + token);
        engine.feed(&tokens, false).unwrap();
        counts.push(adapter.bindings().0);
    }
    let (first, last) = (counts[0], counts[counts.len() - 1]);
    assert!(first > 0 && first == last, "bindings after each token: {counts:?}");
    drop(engine);
    let (made, kept) = adapter.bindings();
    println!("{made} bindings for {} tokens, {kept} kept without the model", tokens.len());
    assert_eq!(kept, 0);
}
