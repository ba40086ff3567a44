//! What the command line may say. Flags have llama.cpp's names.

// The doc comments here are help texts, in which brackets hold defaults and are no links.
#![allow(rustdoc::broken_intra_doc_links)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jtllm_serve::{Layers, Lookup, Speculation};

use crate::size::Limit;

/// Runs large language models from one binary, in the memory you have.
#[derive(Parser, Debug)]
#[command(name = "jtllm", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Line {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Answer a prompt, or chat
    Run(Box<RunArgs>),
    /// Foresee what a model takes of this machine, and how fast it answers
    Plan(Box<PlanArgs>),
    /// Download a model, or what changed of it
    Pull(PullArgs),
    /// List the models of the cache
    List(ListArgs),
    /// Say what a model is, and which files it has
    Show(ShowArgs),
    /// Delete models from the cache
    Rm(RmArgs),
    /// Delete what is kept on disk: what can be made again and, if asked for, models
    CleanCache(CleanCacheArgs),
    /// List the processes that have a model in memory
    Ps(PsArgs),
    /// Compare a model with the stored outputs of its reference implementation
    Verify(VerifyArgs),
    /// Turn texts into vectors, with a model that was made for it
    Embed(EmbedArgs),
    /// Measure speed, as llama-bench does
    Bench(BenchArgs),
    /// Measure how well a model predicts a text, as llama-perplexity does
    Perplexity(PerplexityArgs),
    /// Show what a model is compiled to
    Inspect(InspectArgs),
    /// Show the tokens of a text
    Tokenize(TokenizeArgs),
    /// Show the prompt that a model gets to read, and its token ids
    Template(TemplateArgs),
    /// Say what this machine has and what jtllm uses of it
    Doctor(DoctorArgs),
    /// Print the completions of a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// The first device that will do, else the processor
    Auto,
    /// Machine code on the processor
    Cpu,
    /// NVIDIA's graphics processor, by CUDA
    Cuda,
    /// A graphics processor, by Vulkan, Metal or Direct3D
    Wgpu,
    /// The interpreter of kernels
    Interp,
    /// The interpreter of graphs
    Graph,
}

/// Which numbers matrix products multiply; sums are float32 whatever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ComputeName {
    /// f32, but on processors int8 for packed weights, and bf16 for weights of bf16 where AVX512_BF16 is fast (not
    /// Intel's; not for those of f16, which rounding would change); and 16 bits for prompts where a GPU has matrix
    /// units and weights are not f32
    Auto,
    F32,
    /// Both operands rounded to bfloat16
    Bf16,
    /// Both operands rounded to half precision
    F16,
    /// Packed weights as they are, what they are multiplied with as bytes with a scale for each 32
    Int8,
}

/// Where a model runs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PlaceArgs {
    /// What computes [default: auto]
    #[arg(long, value_enum)]
    pub(crate) backend: Option<BackendName>,
    /// Which device of the backend; `jtllm doctor` numbers them
    #[arg(long, value_name = "N")]
    pub(crate) device: Option<usize>,
    /// How many layers the device takes, the head first and then the last ones: a number, all or auto, as many
    /// as fit [default: auto, with a backend named: all] [also: -ngl]
    #[arg(long, visible_alias = "gpu-layers", value_name = "N", value_parser = layers)]
    pub(crate) n_gpu_layers: Option<Layers>,
    /// The most memory that the device's part of the model takes: as 2GB (2*10^9), 2GiB (2^31) or bytes; layers without
    /// room there run on the processor, unless -ngl asks for more of them: then weights come and go there, and the device
    /// computes with as little as that; -1: all that the device has [default: device_mem_limit of the environment, else -1]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) vram_limit: Option<Limit>,
    /// Fail if no device can take any of the model, instead of running it on the processor
    #[arg(long)]
    pub(crate) require_gpu: bool,
}

/// How much of the host's memory a model may take.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct MemoryArgs {
    /// The most memory of the machine that the program takes: as 2GB (2*10^9), 2GiB (2^31) or bytes; weights that do
    /// not fit are read from disk when they are needed; -1: no limit [default: cpu_mem_limit of the environment, else
    /// what there is if the model does not fit into it]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) mem_limit: Option<Limit>,
    /// Let keys and values that do not fit into --mem-limit go to a swap file and come back when they are needed; without a
    /// limit into what memory there is. Those that do not fit into --vram-limit go to the machine's memory first
    /// [default: JT_SAVE_MEM of the environment]
    #[arg(long)]
    pub(crate) kv_spill: bool,
    /// The folder of the swap file; it must exist, lie on a disk, and be yours alone to write to [default: swap below jtllm's
    /// caches]
    #[arg(long, value_name = "DIR")]
    pub(crate) swap_dir: Option<PathBuf>,
}

fn layers(text: &str) -> Result<Layers, String> {
    match text {
        "all" => Ok(Layers::All),
        "auto" => Ok(Layers::Auto),
        number => number.parse().map(Layers::Count).map_err(|_| "expected a number, all or auto".to_owned()),
    }
}

/// The type of cached keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheType {
    F32,
    F16,
    Bf16,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// A folder, a .gguf file or a name; without it the built-in demo model answers
    pub(crate) model: Option<String>,
    /// The same as MODEL
    #[arg(short = 'm', long = "model", value_name = "MODEL", conflicts_with = "model")]
    pub(crate) model_flag: Option<String>,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArgs {
    /// The prompt; without it a chat begins, or a pipe's text is the prompt
    #[arg(short, long)]
    pub(crate) prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) file: Option<PathBuf>,
    /// What the model is told before the conversation [also: -sys]
    #[arg(long = "system-prompt", visible_alias = "system", value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// Show the model an image, before the first message; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// Take the prompt as it stands: no chat template; special tokens in it are special
    #[arg(long)]
    pub(crate) raw: bool,
    /// Use a built-in chat template
    #[arg(long, value_name = "NAME", conflicts_with = "raw")]
    pub(crate) chat_template: Option<String>,
    /// Use the chat template in a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["raw", "chat_template"])]
    pub(crate) chat_template_file: Option<PathBuf>,
    /// Chat: leave after the first answer [also: -st]
    #[arg(long)]
    pub(crate) single_turn: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Answer")]
pub(crate) struct AnswerArgs {
    /// The most tokens of an answer; -1: until the context is full [default: the model's own limit, else -1]
    #[arg(
        short = 'n',
        long,
        visible_aliases = ["n-predict", "max-new-tokens"],
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..)
    )]
    pub(crate) predict: Option<i64>,
    /// End the answer before this text; may be given several times
    #[arg(short = 'r', long, visible_alias = "stop", value_name = "TEXT")]
    pub(crate) reverse_prompt: Vec<String>,
    /// Do not stop at the tokens, nor at the model's own texts, that end an answer
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// When the context is full, drop its older half and go on
    #[arg(long)]
    pub(crate) context_shift: bool,
    /// Tokens of the start that a shift keeps
    #[arg(long, value_name = "N", default_value_t = 0, requires = "context_shift")]
    pub(crate) keep: usize,
    /// Print one JSON object: text, token ids, why it ended, times, sampling
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where guesses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpecType {
    /// As ngram-simple, where the passes so far let expect that it saves time
    Auto,
    /// Nothing is guessed
    None,
    /// What came after the same words before, wherever that was right often enough
    NgramSimple,
}

/// Guessed tokens are computed together. The answer stays the same, whatever the sampling.
#[derive(Args, Debug)]
#[command(next_help_heading = "Speculation (guessed tokens are computed in one pass; answers stay the same)")]
pub(crate) struct SpeculationArgs {
    /// How the next tokens are guessed
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = SpecType::Auto)]
    pub(crate) spec_type: SpecType,
    /// The most tokens that are guessed at once
    #[arg(
        long,
        visible_aliases = ["draft", "spec-draft-n-max"],
        value_name = "N",
        default_value_t = 15,
        value_parser = clap::value_parser!(u8).range(1..=15)
    )]
    pub(crate) draft_max: u8,
    /// How many last tokens must have been said before [default: 3, else 2, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) spec_ngram_size_n: Option<u8>,
}

impl SpeculationArgs {
    pub(crate) fn chosen(&self) -> Speculation {
        let Lookup { ngram_max, ngram_min, .. } = Lookup::default();
        let [ngram_max, ngram_min] = self.spec_ngram_size_n.map_or([ngram_max, ngram_min], |n| [n.into(); 2]);
        let lookup = Lookup { ngram_max, ngram_min, draft_max: self.draft_max.into() };
        match self.spec_type {
            SpecType::Auto => Speculation::Auto(lookup),
            SpecType::None => Speculation::Off,
            SpecType::NgramSimple => Speculation::Always(lookup),
        }
    }
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineArgs {
    /// Positions of the context; 0: as many as the model was made for [default: the same, at most 4096; of perplexity 512]
    #[arg(short, long, value_name = "N")]
    pub(crate) ctx_size: Option<usize>,
    /// Threads [default: one for each core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// Which numbers matrix products multiply
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = ComputeName::Auto)]
    pub(crate) compute: ComputeName,
    /// The type in which keys are kept [also: -ctk]
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = CacheType::F16)]
    pub(crate) cache_type_k: CacheType,
    /// The type in which values are kept [also: -ctv]
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = CacheType::F16)]
    pub(crate) cache_type_v: CacheType,
}

/// Each left out takes the model's recommendation, else the default in brackets.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Sampling (default: the model's own, else the value in brackets)")]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0: always the likeliest token [0.8]
    #[arg(long, visible_alias = "temperature", value_name = "T", allow_negative_numbers = true)]
    pub(crate) temp: Option<f32>,
    /// Keep this many of the likeliest tokens; 0: all [40]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) top_k: Option<i32>,
    /// Keep the likeliest tokens that together reach this probability [0.95]
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Keep tokens at least this likely, relative to the likeliest [0.05]
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Keep the tokens of most typical surprise; 1: all [1]
    #[arg(long, visible_alias = "typical-p", value_name = "P")]
    pub(crate) typical: Option<f32>,
    /// Drop tokens this many standard deviations below the likeliest; -1: none [-1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) top_n_sigma: Option<f32>,
    /// Divides the logits of recent tokens; 1: off [1]
    #[arg(long, visible_alias = "repetition-penalty", value_name = "X")]
    pub(crate) repeat_penalty: Option<f32>,
    /// How many tokens are recent; -1: all [64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) repeat_last_n: Option<i32>,
    /// Taken off the logit of each recent token [0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Taken off for each time that it occurred [0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Scale of the penalty for repeated sequences; 0: off [0]
    #[arg(long, value_name = "X")]
    pub(crate) dry_multiplier: Option<f32>,
    /// How fast that penalty grows [1.75]
    #[arg(long, value_name = "X")]
    pub(crate) dry_base: Option<f32>,
    /// Repetitions shorter than this are free [2]
    #[arg(long, value_name = "N")]
    pub(crate) dry_allowed_length: Option<u32>,
    /// How far back repetitions are looked for; -1: everywhere [64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) dry_penalty_last_n: Option<i32>,
    /// Repetitions do not reach across this text; `none`: across anything; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) dry_sequence_breaker: Vec<String>,
    /// Chance of dropping all likely tokens but the least [0]
    #[arg(long, value_name = "P")]
    pub(crate) xtc_probability: Option<f32>,
    /// Which tokens are likely for that [0.1]
    #[arg(long, value_name = "P")]
    pub(crate) xtc_threshold: Option<f32>,
    /// Aim at a surprise instead of cutting: version 1 or 2; 0: off [0]
    #[arg(long, value_name = "N")]
    pub(crate) mirostat: Option<u8>,
    /// The surprise aimed at, in bits [5]
    #[arg(long, value_name = "X")]
    pub(crate) mirostat_ent: Option<f32>,
    /// How fast it is learnt [0.1]
    #[arg(long, value_name = "X")]
    pub(crate) mirostat_lr: Option<f32>,
    /// Change a token's logit: ID+BIAS, ID-BIAS or ID-inf; may be given several times
    #[arg(short, long, value_name = "ID+BIAS", value_parser = logit_bias)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Makes sampling repeatable; -1: drawn, and told by --json [-1]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) seed: Option<i64>,
    /// The stages and their order [penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature]
    #[arg(long, value_name = "LIST")]
    pub(crate) samplers: Option<String>,
}

/// `15043+1.5`, `15043-1`, `15043-inf`.
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let expected = || "expected a token id, + or -, and a number or inf".to_owned();
    let at = text.find(['+', '-']).ok_or_else(expected)?;
    let id = text[..at].parse().map_err(|_| expected())?;
    let bias: f32 = text[at..].parse().map_err(|_| expected())?;
    match bias.is_nan() || bias == f32::INFINITY {
        true => Err(expected()),
        false => Ok((id, bias)),
    }
}

#[derive(Args, Debug)]
#[command(mut_arg("backend", |backend| backend.help("What computes [default: cpu]")))]
pub(crate) struct VerifyArgs {
    /// The folder with golden.json
    pub(crate) folder: PathBuf,
    /// The model, where it is not in that folder
    #[arg(short, long)]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// With --backend interp: what kernels are scheduled for [default: vector4]
    #[arg(long, value_enum)]
    pub(crate) caps: Option<CapsName>,
    /// Which numbers matrix products multiply; the references were made with f32
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = ComputeName::F32)]
    pub(crate) compute: ComputeName,
    /// Threads [default: one for each core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the interpreter of kernels pretends to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CapsName {
    Vector4,
    Vector8,
    Vector16,
    Threads32,
    Threads128,
    /// Threads with matrix units
    Matrix128,
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Md,
    Json,
    Jsonl,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// A folder, a .gguf file or a name; without it the built-in demo model runs
    pub(crate) model: Option<String>,
    /// Tokens of the prompt; 0: no such test
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    pub(crate) n_prompt: usize,
    /// Tokens to generate; 0: no such test
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    pub(crate) n_gen: usize,
    /// Tokens that the cache holds before each test begins
    #[arg(short = 'd', long, value_name = "N", default_value_t = 0)]
    pub(crate) n_depth: usize,
    /// Sequences at once: each reads a prompt, then each pass decodes a token of all; several numbers with commas
    /// between them; rows are those of llama-batched-bench [also: -npl]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) parallel: Vec<u16>,
    /// How often each test runs
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repetitions: u32,
    /// Threads [default: one for each core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Which numbers matrix products multiply
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = ComputeName::Auto)]
    pub(crate) compute: ComputeName,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// The type in which keys are kept [also: -ctk]
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = CacheType::F16)]
    pub(crate) cache_type_k: CacheType,
    /// The type in which values are kept [also: -ctv]
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = CacheType::F16)]
    pub(crate) cache_type_v: CacheType,
    /// How results are printed
    #[arg(short, long, value_enum, default_value_t = Form::Md)]
    pub(crate) output: Form,
    /// Print of each kernel its time, bytes and operations too, and how near they come to the machine's limits
    #[arg(long)]
    pub(crate) kernels: bool,
}

/// What is shown of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// Nodes and their shapes
    Graph,
    /// Which nodes share a kernel
    Regions,
    /// The loops of each kernel
    Kernels,
    /// Launches and buffers
    Plan,
}

/// How many rows a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RowsName {
    /// Decoding: one
    One,
    /// Prompts: a multiple of 16
    Many,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A folder, a .gguf file or a name; `demo` is the built-in model
    pub(crate) model: String,
    /// What to show
    #[arg(value_enum, default_value_t = Stage::Plan)]
    pub(crate) stage: Stage,
    /// For how many rows
    #[arg(long, value_enum, default_value_t = RowsName::One)]
    pub(crate) rows: RowsName,
    /// Which numbers matrix products multiply
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = ComputeName::Auto)]
    pub(crate) compute: ComputeName,
    /// With kernels: the bytes of their machine code too
    #[arg(long)]
    pub(crate) code: bool,
}

/// How hidden vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PoolingName {
    /// That of the first token
    Cls,
    Mean,
    Max,
    /// That of the last token
    Last,
}

#[derive(Args, Debug)]
pub(crate) struct EmbedArgs {
    /// A folder, a .gguf file or a name
    pub(crate) model: String,
    /// A text; may be given several times; without it each line of stdin is one
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) prompt: Vec<String>,
    /// How the vectors of tokens become one [default: what the model's files say]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) pooling: Option<PoolingName>,
    /// Print one JSON object, as OpenAI's API answers
    #[arg(long)]
    pub(crate) json: bool,
    /// Threads [default: one for each core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
}

#[derive(Args, Debug)]
pub(crate) struct PerplexityArgs {
    /// A folder, a .gguf file or a name; `demo` is the built-in model
    pub(crate) model: String,
    /// The text to predict
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Pieces of the text to read at most [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chunks: Option<u32>,
    /// Where to keep probabilities, or with --kl-divergence where they are: a file as llama-perplexity writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) kl_divergence_base: Option<PathBuf>,
    /// Compare with the probabilities of --kl-divergence-base, on its text
    #[arg(long)]
    pub(crate) kl_divergence: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// A folder, a .gguf file or a name; `demo` is the built-in model
    pub(crate) model: String,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Args, Debug)]
pub(crate) struct TokenizeArgs {
    /// A folder, a .gguf file or a name; `demo` is the built-in model
    pub(crate) model: String,
    /// The text; without it stdin is read
    pub(crate) text: Option<String>,
    /// Print the ids alone, as a JSON list
    #[arg(long)]
    pub(crate) ids: bool,
    /// Take special tokens in the text for plain characters
    #[arg(long)]
    pub(crate) no_parse_special: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TemplateArgs {
    /// A folder, a .gguf file or a name; `demo` is the built-in model
    pub(crate) model: String,
    /// The question
    #[arg(short, long, value_name = "TEXT", default_value = "Hello!")]
    pub(crate) prompt: String,
    /// What the model is told before the question [also: -sys]
    #[arg(long = "system-prompt", visible_alias = "system", value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// A name, with :SIZE where it has several, or org/name, with :FILE or :QUANTISATION for GGUF
    pub(crate) model: String,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Print a JSON list
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// A folder, a .gguf file or a name; `demo` is the built-in model
    pub(crate) model: String,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// The models, as `jtllm list` or `jtllm pull` names them
    #[arg(required = true)]
    pub(crate) models: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Print a JSON list of what was deleted
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CleanCacheArgs {
    /// What is deleted [default: all but models]
    #[arg(value_enum)]
    pub(crate) kind: Option<CacheKind>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Print a JSON list of what was deleted
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheKind {
    /// Weights as kernels read them
    Packed,
    /// Compiled kernels
    Kernels,
    /// What processes have left that were killed while weights or caches were on disk
    Swap,
    /// Models that jtllm has downloaded and no process uses
    Models,
    /// All of these
    All,
}

#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    /// Print a JSON list
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of several letters after one dash, as llama.cpp spells them, and their long names.
const SPELLINGS: [(&str, &str); 6] = [
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ngl", "--n-gpu-layers"),
    ("-npl", "--parallel"),
    ("-sys", "--system-prompt"),
    ("-st", "--single-turn"),
];

/// The arguments with llama.cpp's spellings replaced; what follows `--` stays.
pub(crate) fn respelled(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut open = true;
    let replace = |argument: OsString| {
        open &= argument != "--";
        let found = SPELLINGS.iter().find(|(short, _)| open && argument == *short);
        found.map_or(argument, |(_, long)| OsString::from(long))
    };
    arguments.map(replace).collect()
}
