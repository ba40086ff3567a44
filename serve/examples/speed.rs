//! Scratch: speed of a model.
#![allow(clippy::unwrap_used)]
use jtllm_models::Checkpoint;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::ir::DType;
use jtllm_runtime::trace::Trace;
use jtllm_serve::{Backend, Engine, LoadOptions, Model};
use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let threads: usize = args[2].parse().unwrap();
    let kv = DType::parse(args.get(3).map_or("f16", |s| s)).unwrap();
    let t = Instant::now();
    let checkpoint = Checkpoint::open(std::path::Path::new(&args[1])).unwrap();
    let options = LoadOptions {
        backend: Backend::Cpu,
        threads,
        context: 1024,
        keys: kv,
        values: kv,
        taps: false,
        sequences: 1,
    };
    let cache = if args.len() > 4 {
        KernelCache::open(Some(args[4].clone().into()))
    } else {
        KernelCache::off("a test")
    };
    let model = Model::load(checkpoint, options, cache).unwrap();
    println!("open {:?}", t.elapsed());
    let mut e = Engine::new(model, None);
    let prompt: Vec<u32> = (0..512).map(|i| (i * 37 + 11) % 1500).collect();
    let t = Instant::now();
    e.feed(&prompt[..16], false).unwrap();
    println!("first chunk {:?}", t.elapsed());
    let t = Instant::now();
    e.feed(&prompt[..17], false).unwrap();
    println!("first decode {:?} compiled {:?}", t.elapsed(), e.model().network().unwrap().compiled);
    e.clear();
    e.trace = Some(Trace::default());
    let t = Instant::now();
    e.feed(&prompt, false).unwrap();
    println!("pp512 {:.1} t/s", 512.0 / t.elapsed().as_secs_f64());
    for (name, entry) in e.trace.as_ref().unwrap().entries().iter().take(14) {
        println!("  {name:10} {:6} launches {:8.2} ms", entry.launches, entry.time.as_secs_f64() * 1e3);
    }
    e.clear();
    e.feed(&prompt[..1], false).unwrap();
    e.trace = Some(Trace::default());
    let t = Instant::now();
    let n = 64;
    for i in 1..n + 1 {
        e.feed(&prompt[..i + 1], false).unwrap();
    }
    println!("tg{n} {:.1} t/s", n as f64 / t.elapsed().as_secs_f64());
    for (name, entry) in e.trace.as_ref().unwrap().entries().iter().take(14) {
        println!(
            "  {name:10} {:6} launches {:8.2} ms/token {:8.2} GB/s",
            entry.launches,
            entry.time.as_secs_f64() * 1e3 / n as f64,
            entry.bytes as f64 / entry.time.as_secs_f64() / 1e9
        );
    }
}
