//! `jtllm embed`: vectors of texts.

use std::io::{BufRead, Read};

use anyhow::Context;
use jtllm_models::embedding::{Embedding, Pooling};
use jtllm_models::tokenizer::bytes_to_encode;
use jtllm_models::{Checkpoint, Language};
use jtllm_serve::Engine;
use serde_json::{Value, json};

use crate::args::{CacheType, ComputeName, EmbedArgs, MachineArgs, PoolingName};
use crate::failure::Usage;
use crate::run::{FILE_MAX, tokenising};
use crate::terminal::print;
use crate::{load, memory};

/// Prints the vector of each text: one a line as soon as it is known, or all in one object.
pub(crate) fn embed(args: &EmbedArgs) -> anyhow::Result<()> {
    let checkpoint = load::checkpoint(Some(&args.model))?;
    let how = pooling(&checkpoint, args)?;
    let language = Language::of(&checkpoint)?;
    let machine = MachineArgs {
        ctx_size: Some(0),
        threads: args.threads,
        place: args.place.clone(),
        memory: args.memory.clone(),
        compute: ComputeName::F32,
        cache_type_k: CacheType::F32,
        cache_type_v: CacheType::F32,
    };
    let mut engine = Engine::new(load::model(checkpoint, &machine)?, None);
    let positions = engine.context();
    let (mut index, mut count) = (0, 0);
    for text in texts(args) {
        let text = text?;
        memory::make_room(&mut engine, &tokenising(&text), bytes_to_encode(&text))?;
        let tokens = how.tokens(&language.tokenizer, &text, positions)?;
        engine.make_room(0)?;
        let vector: Value = engine.embed(&tokens, &how)?.into_iter().map(shortest).collect();
        match args.json {
            // As it comes, for there may be many.
            true => {
                count += tokens.len();
                let entry = json!({ "object": "embedding", "index": index, "embedding": vector });
                print(&format!("{}{entry}", if index == 0 { "{\"data\":[\n" } else { ",\n" }))?;
                index += 1;
            }
            false => print(&format!("{vector}\n"))?,
        }
    }
    if !args.json {
        return Ok(());
    }
    let (model, usage) = (json!(args.model), json!({ "prompt_tokens": count, "total_tokens": count }));
    let begin = if index == 0 { "{\"data\":[" } else { "" };
    print(&format!("{begin}\n],\"model\":{model},\"object\":\"list\",\"usage\":{usage}}}\n"))
}

/// A number with no more digits than tell it from its neighbours.
fn shortest(x: f32) -> Value {
    Value::from(x.to_string().parse::<f64>().unwrap_or(f64::from(x)))
}

/// The texts that were given, or the lines of stdin.
fn texts(args: &EmbedArgs) -> Box<dyn Iterator<Item = anyhow::Result<String>> + '_> {
    if args.prompt.is_empty() {
        return Box::new(std::iter::from_fn(|| line(&mut std::io::stdin().lock()).transpose()));
    }
    Box::new(args.prompt.iter().map(|text| Ok(text.clone())))
}

/// The next line, without what ends it.
fn line(input: &mut dyn BufRead) -> anyhow::Result<Option<String>> {
    let mut line = String::new();
    let read = input.take(FILE_MAX + 1).read_line(&mut line);
    match read.context("cannot read the texts from stdin")? as u64 {
        0 => return Ok(None),
        read if read > FILE_MAX => {
            return Err(Usage(format!("a text from stdin has more than {FILE_MAX} bytes")).into());
        }
        _ => {}
    }
    if line.ends_with('\n') {
        line.pop();
        if line.ends_with('\r') {
            line.pop();
        }
    }
    Ok(Some(line))
}

/// What the model's files say, or what was asked for: then with vectors of length 1, unless they say otherwise.
fn pooling(checkpoint: &Checkpoint, args: &EmbedArgs) -> anyhow::Result<Embedding> {
    let asked = args.pooling.map(|name| match name {
        PoolingName::Cls => Pooling::First,
        PoolingName::Mean => Pooling::Mean,
        PoolingName::Max => Pooling::Max,
        PoolingName::Last => Pooling::Last,
    });
    match (Embedding::of(checkpoint)?, asked) {
        (Some(stated), Some(pooling)) => Ok(Embedding { pooling, ..stated }),
        (Some(stated), None) => Ok(stated),
        (None, Some(pooling)) => Ok(Embedding { pooling, normalise: true, tokens_max: None }),
        (None, None) => Err(Usage(
            "the model's files do not say how the vectors of tokens become one: --pooling says it".to_owned(),
        )
        .into()),
    }
}
