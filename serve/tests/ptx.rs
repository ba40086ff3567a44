//! Every kernel of the fixtures' models as PTX, given to NVIDIA's assembler.
#![allow(clippy::unwrap_used)]

#[path = "../../codegen/tests/ptx/assembler.rs"]
mod assembler;

use std::path::Path;

use assembler::{Kernels, find};
use jtllm_models::Checkpoint;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen;
use jtllm_runtime::codegen::emit::ptx::{Ptx, TEAMS};
use jtllm_runtime::codegen::target::Target;
use jtllm_runtime::ir::DType;
use jtllm_runtime::network::{Bucket, Part};
use jtllm_runtime::residence::Limit;
use jtllm_serve::{Backend, LoadOptions, Model};

/// Processors: all that have a level of their own, and the newest.
const PROCESSORS: [&str; 7] = ["70", "75", "80", "89", "90", "90a", "120"];

/// One of each family; `None` is the demo model, whose weights are packed.
const FIXTURES: [Option<&str>; 9] = [
    None,
    Some("llama2-gqa-tiny"),
    Some("mistral-swa-tiny"),
    Some("chatglm2-6b-tiny"),
    Some("chatglm-6b-tiny"),
    Some("gemma3-text-tiny"),
    Some("rwkv-6-tiny"),
    Some("rwkv-7-tiny"),
    Some("bert-bge-cls-tiny"),
];

/// The kernels of a model's parts, scheduled for a target.
fn add(kernels: &mut Kernels, fixture: Option<&str>, target: &Ptx, keys: DType, context: usize) {
    let checkpoint = match fixture {
        None => Checkpoint::demo().unwrap(),
        Some(name) => {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
            Checkpoint::open(&fixtures.join(name)).unwrap()
        }
    };
    let options = LoadOptions {
        compute: codegen::options::Compute::Auto,
        place: Default::default(),
        backend: Backend::Interp(Box::new(target.caps().clone())),
        threads: 2,
        context,
        keys,
        values: keys,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    };
    let mut model = Model::load(checkpoint, options, KernelCache::off("a test")).unwrap();
    model.ready().unwrap();
    let network = model.network().unwrap();
    let parts = [(Part::Body, Bucket::Fixed(1)), (Part::Body, Bucket::Many), (Part::Head, Bucket::Fixed(1))];
    let plans: Vec<_> = parts.iter().filter_map(|(part, bucket)| network.plan(*part, *bucket)).collect();
    assert!(plans.len() >= 2, "{fixture:?}");
    plans.iter().for_each(|plan| kernels.add(&plan.compilation.kernels));
}

#[test]
fn every_kernel_of_every_family_is_accepted() {
    let Some(ptxas) = find() else { return };
    for processor in PROCESSORS {
        let target = match processor.parse() {
            Ok(capability) => Ptx::new(capability, 99 << 10),
            Err(_) => Ptx::new(TEAMS, 227 << 10).with_teams(),
        };
        let mut kernels = Kernels::default();
        for (at, fixture) in FIXTURES.into_iter().enumerate() {
            let keys = [DType::F16, DType::F32, DType::BF16][at % 3];
            // The longer one shares out the past of decoded tokens.
            for context in [256, 1024] {
                add(&mut kernels, fixture, &target, keys, context);
            }
        }
        assert!(kernels.len() > 100, "{}", kernels.len());
        println!("{} kernels for sm_{processor}", kernels.len());
        kernels.assemble(&ptxas, &target, processor);
    }
}
