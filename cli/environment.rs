//! What JittorLLMs' users have in their environment means here what they expect of it.
//!
//! A flag wins; what is used is said once. A value that cannot be read is an error that names its variable: there it was a
//! warning that few saw, and the limit was off.

use std::path::Path;

use crate::failure::Usage;
use crate::size::Limit;
use crate::terminal::{self, Style, say};

/// Turns the limits off where it is 0, as they had no effect without it there; where it is 1 variables leave memory for
/// files, as there.
const SAVE: &str = "JT_SAVE_MEM";
const HOST: &str = "cpu_mem_limit";
const DEVICE: &str = "device_mem_limit";
const HOME: &str = "JITTOR_HOME";

/// What may be held of the memory of the host, by a flag or else by `cpu_mem_limit`; nothing if neither says.
pub(crate) fn host(flag: Option<Limit>) -> Result<Option<Limit>, Usage> {
    limit(flag, HOST, "--mem-limit")
}

/// The same of devices, by a flag or else by `device_mem_limit`.
pub(crate) fn device(flag: Option<Limit>) -> Result<Option<Limit>, Usage> {
    limit(flag, DEVICE, "--vram-limit")
}

/// Whether the host's memory has a limit that a flag or the environment asks for.
pub(crate) fn limits_host(flag: Option<Limit>) -> bool {
    let named = || matches!(value(HOST), Ok(Some(text)) if matches!(text.parse(), Ok(Limit::Bytes(_))));
    flag.is_some() || (named() && saves().unwrap_or(true))
}

fn limit(flag: Option<Limit>, variable: &str, name: &str) -> Result<Option<Limit>, Usage> {
    if flag.is_some() {
        return Ok(flag);
    }
    let Some(text) = value(variable)? else { return Ok(None) };
    let wrong = |why: String| Usage(format!("{variable}={text}: {why}"));
    // What -1 says there is the default here: a limit of the system's own is kept.
    let Limit::Bytes(bytes) = text.parse().map_err(wrong)? else { return Ok(None) };
    if !saves()? {
        say(Style::Plain, format_args!("{variable} is not kept: {SAVE}=0"));
        return Ok(None);
    }
    say(Style::Plain, format_args!("{variable}={text}: {name} is {}", terminal::bytes(bytes)));
    Ok(Some(Limit::Bytes(bytes)))
}

/// Whether limits are to be kept. Who sets them wants that, unless `JT_SAVE_MEM` says otherwise.
fn saves() -> Result<bool, Usage> {
    match value(SAVE)?.as_deref() {
        None | Some("1") => Ok(true),
        Some("0") => Ok(false),
        Some(other) => Err(Usage(format!("{SAVE}={other}: expected 0 or 1"))),
    }
}

/// Whether keys and values may go to a swap file, by a flag or else by `JT_SAVE_MEM`; if so, whether that is required of
/// whatever computes. The variable asks for it where it can be.
pub(crate) fn spill(flag: bool) -> Result<Option<bool>, Usage> {
    if flag {
        return Ok(Some(true));
    }
    if value(SAVE)?.is_none() || !saves()? {
        return Ok(None);
    }
    say(
        Style::Plain,
        format_args!(
            "{SAVE}=1: --kv-spill: what does not fit into the processor's memory, or into {DEVICE}, goes to disk"
        ),
    );
    Ok(Some(false))
}

/// Looks at the variables that every command obeys: a folder that is not there would have gigabytes land elsewhere.
///
/// # Errors
/// One of them has no meaning.
pub(crate) fn check() -> Result<(), Usage> {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let models = !["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"].into_iter().any(is_set);
    let kinds: Vec<&str> = [(models, "models"), (!is_set("JTLLM_CACHE"), "caches")]
        .into_iter()
        .filter_map(|(is_used, what)| is_used.then_some(what))
        .collect();
    let Some(home) = value(HOME)?.filter(|_| !kinds.is_empty()) else { return Ok(()) };
    if !Path::new(&home).is_absolute() || !Path::new(&home).is_dir() {
        return Err(Usage(format!("{HOME}={home}: expected the path of a folder from the root on")));
    }
    say(Style::Faint, format_args!("{HOME}={home}: {} are below its folder .cache", kinds.join(" and ")));
    Ok(())
}

/// A variable's text without blanks and without the quotes that `set` of Windows' shell leaves in it; nothing if there is
/// none.
fn value(name: &str) -> Result<Option<String>, Usage> {
    let Some(found) = std::env::var_os(name) else { return Ok(None) };
    let text = found.to_str().ok_or_else(|| Usage(format!("{name} is no text: {}", found.display())))?;
    let text = text.trim();
    let bare = ['"', '\''].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
    Ok(Some(bare.unwrap_or(text)).filter(|text| !text.is_empty()).map(str::to_owned))
}
