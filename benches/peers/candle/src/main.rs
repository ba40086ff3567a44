//! Measures candle on a LLaMA GGUF file as `llama-bench -o jsonl` measures llama.cpp: one line for reading a
//! prompt and one for generating, with llama-bench's field names.
//!
//! ```text
//! jtllm-peer-candle -m FILE [-p 512] [-n 128] [-r 1] [-t 1]
//! ```

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::time::Instant;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use serde_json::json;

/// What the command line asks for.
struct Request {
    model: String,
    n_prompt: usize,
    n_gen: usize,
    repetitions: usize,
    threads: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let request = parse(std::env::args().skip(1))?;
    // candle takes its own number from this variable, and the pool from the builder.
    // SAFETY: no other thread exists yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", request.threads.to_string()) };
    rayon::ThreadPoolBuilder::new().num_threads(request.threads).build_global()?;

    let mut file = BufReader::new(File::open(&request.model)?);
    let content = Content::read(&mut file)?;
    let vocabulary = match content.metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(tokens)) => tokens.len() as u64,
        _ => return Err("the file has no tokenizer.ggml.tokens".into()),
    };
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    let mut ids = Ids { state: 0x9E37_79B9_7F4A_7C15, vocabulary };

    prompt(&mut model, &mut ids, request.n_prompt.min(32))?; // warms up, as llama-bench does
    if request.n_prompt > 0 {
        measure(&request, request.n_prompt, 0, || prompt(&mut model, &mut ids, request.n_prompt))?;
    }
    if request.n_gen > 0 {
        measure(&request, 0, request.n_gen, || generate(&mut model, &mut ids, request.n_gen))?;
    }
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Request, Box<dyn Error>> {
    let mut request = Request { model: String::new(), n_prompt: 512, n_gen: 128, repetitions: 1, threads: 1 };
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "-m" => request.model = value,
            "-p" => request.n_prompt = value.parse()?,
            "-n" => request.n_gen = value.parse()?,
            "-r" => request.repetitions = value.parse::<usize>()?.max(1),
            "-t" => request.threads = value.parse::<usize>()?.max(1),
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    if request.model.is_empty() { Err("-m FILE is missing".into()) } else { Ok(request) }
}

/// Random token ids; what they are does not matter, only that they differ.
struct Ids {
    state: u64,
    vocabulary: u64,
}

impl Ids {
    fn take(&mut self, count: usize) -> Vec<u32> {
        let mut next = || {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            (self.state % self.vocabulary) as u32
        };
        (0..count).map(|_| next()).collect()
    }
}

/// Reads `count` tokens in one pass, from an empty cache.
fn prompt(model: &mut ModelWeights, ids: &mut Ids, count: usize) -> Result<(), Box<dyn Error>> {
    model.clear_kv_cache();
    if count > 0 {
        model.forward(&Tensor::new(ids.take(count), &Device::Cpu)?.unsqueeze(0)?, 0)?;
    }
    Ok(())
}

/// Takes `count` tokens one by one, from an empty cache.
fn generate(model: &mut ModelWeights, ids: &mut Ids, count: usize) -> Result<(), Box<dyn Error>> {
    model.clear_kv_cache();
    for position in 0..count {
        model.forward(&Tensor::new(ids.take(1), &Device::Cpu)?.unsqueeze(0)?, position)?;
    }
    Ok(())
}

/// Runs one kind of work several times and prints its line.
fn measure(
    request: &Request,
    n_prompt: usize,
    n_gen: usize,
    mut work: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut samples_ns = Vec::new();
    for _ in 0..request.repetitions {
        let start = Instant::now();
        work()?;
        samples_ns.push(start.elapsed().as_nanos() as f64);
    }
    let samples_ts: Vec<f64> = samples_ns.iter().map(|ns| (n_prompt + n_gen) as f64 * 1e9 / ns).collect();
    let (avg_ns, stddev_ns) = mean_and_deviation(&samples_ns);
    let (avg_ts, stddev_ts) = mean_and_deviation(&samples_ts);
    let line = json!({
        "backends": "candle-cpu",
        "model_filename": request.model,
        "n_threads": request.threads,
        "n_prompt": n_prompt,
        "n_gen": n_gen,
        "n_depth": 0,
        "avg_ns": avg_ns,
        "stddev_ns": stddev_ns,
        "avg_ts": avg_ts,
        "stddev_ts": stddev_ts,
        "samples_ns": samples_ns,
        "samples_ts": samples_ts,
    });
    println!("{line}");
    Ok(())
}

fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / count;
    let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, if samples.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 })
}
