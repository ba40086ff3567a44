//! `jtllm tokenize`: the tokens of a text.

use jtllm_models::Language;
use jtllm_models::tokenizer::Special;

use crate::args::TokenizeArgs;
use crate::load;
use crate::run::piped;
use crate::terminal::print;

/// Prints the tokens of a text, one a line, or their ids alone.
pub(crate) fn tokenize(args: &TokenizeArgs) -> anyhow::Result<()> {
    let language = Language::of(&load::checkpoint(Some(&args.model))?)?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => piped("the text", u64::MAX)?,
    };
    let special = if args.no_parse_special { Special::Text } else { Special::Parse };
    let ids = language.prompt(&text, special)?;
    if args.ids {
        return print(&format!("{ids:?}\n"));
    }
    let line = |id: &u32| format!("{id:>7} -> {:?}\n", language.tokenizer.decode(&[*id], false));
    print(&ids.iter().map(line).collect::<String>())
}
