//! `jtllm template`: the prompt that a model gets to read.

use jtllm_models::Language;
use jtllm_models::chat::Message;
use jtllm_models::language::Origin;
use serde_json::json;

use crate::args::TemplateArgs;
use crate::load;
use crate::terminal::{Style, print, print_json, say};

/// Prints the prompt of a question as the model's template renders it, and its token ids.
pub(crate) fn template(args: &TemplateArgs) -> anyhow::Result<()> {
    let language = Language::of(&load::checkpoint(Some(&args.model))?)?;
    let system = args.system.iter().map(|text| Message::new("system", text.as_str()));
    let messages: Vec<Message> = system.chain([Message::new("user", args.prompt.as_str())]).collect();
    let (text, ids) = (language.rendered(&messages)?, language.chat(&messages)?);
    let origin = match language.template.as_ref().map(|(_, origin)| origin) {
        Some(Origin::File(file)) => (*file).to_owned(),
        Some(Origin::Name(name)) => format!("built-in: {name}"),
        Some(Origin::Given) => "given".to_owned(),
        None => "none".to_owned(),
    };
    if args.json {
        return print_json(&json!({ "template": origin, "prompt": text, "ids": ids }));
    }
    say(Style::Faint, format_args!("template: {origin}; {} tokens", ids.len()));
    print(&format!("{text}\n{ids:?}\n"))
}
