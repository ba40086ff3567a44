//! `jtllm pull`, `list`, `show` and `rm`: the models of the cache.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use jtllm_models::Checkpoint;
use jtllm_models::hub::Cached;
use serde_json::{Value, json};

use crate::args::{ListArgs, PullArgs, RmArgs, ShowArgs};
use crate::download::{Display, client};
use crate::failure::Usage;
use crate::terminal::{Style, bytes, print, print_json, say};
use crate::{interrupt, load};

/// Downloads a model.
pub(crate) fn pull(args: &PullArgs) -> anyhow::Result<()> {
    interrupt::listen()?;
    let display = Display::new();
    let path = client().pull(&args.model, &|event| display.hear(event))?;
    match args.json {
        true => print_json(&json!({ "model": args.model, "path": path.display().to_string() })),
        false => print(&format!("{}\n", path.display())),
    }
}

/// Lists the models of the cache.
pub(crate) fn list(args: &ListArgs) -> anyhow::Result<()> {
    let client = client();
    let found = client.list();
    if args.json {
        let rows: Vec<Value> = found.iter().map(described).collect();
        return print_json(&Value::Array(rows));
    }
    let rows = found.iter().map(|cached| {
        let state = match (&cached.snapshot, cached.unfinished) {
            (None, _) => "  unfinished",
            (Some(_), 0) => "",
            (Some(_), _) => "  with unfinished files",
        };
        [cached.repository.clone(), bytes(cached.size), format!("{}{state}", age(cached.modified))]
    });
    let heading = [["NAME", "SIZE", "MODIFIED"].map(str::to_owned)];
    print(&table(heading.into_iter().chain(rows).collect()))
}

/// Says what is known of a model on this machine, without computing anything.
pub(crate) fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let checkpoint = match args.model.as_str() {
        load::DEMO if !Path::new(load::DEMO).exists() => Checkpoint::demo()?,
        name => Checkpoint::open(&client().locate(name)?)?,
    };
    let facts = facts(&checkpoint)?;
    if args.json {
        return print_json(&facts);
    }
    let mut rows: Vec<[String; 2]> = Vec::new();
    for (name, value) in facts.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::Array(files) => rows.extend(files.iter().map(|file| {
                let size = file["bytes"].as_u64().map(bytes).unwrap_or_default();
                ["file".to_owned(), format!("{}  {size}", file["name"].as_str().unwrap_or_default())]
            })),
            Value::String(text) => rows.push([name.clone(), text.escape_debug().to_string()]),
            number if name == "bytes" => rows.push([name.clone(), bytes(number.as_u64().unwrap_or(0))]),
            number if name == "parameters" => {
                rows.push([name.clone(), load::count(number.as_u64().unwrap_or(0))]);
            }
            other => rows.push([name.clone(), other.to_string()]),
        }
    }
    print(&table(rows))
}

/// Deletes a model from the cache.
pub(crate) fn rm(args: &RmArgs) -> anyhow::Result<()> {
    let client = client();
    let found: Vec<Cached> = args.models.iter().map(|name| client.find(name)).collect::<Result<_, _>>()?;
    let mut deleted = Vec::new();
    for cached in &found {
        if !args.force && !agreed(&cached.repository, cached.size, "--force")? {
            say(Style::Plain, format_args!("{} stays", cached.repository));
            continue;
        }
        client.remove(cached)?;
        say(Style::Plain, format_args!("{} is deleted: {} freed", cached.repository, bytes(cached.size)));
        deleted.push(json!({ "name": cached.repository, "bytes": cached.size }));
    }
    match args.json {
        true => print_json(&Value::Array(deleted)),
        false => Ok(()),
    }
}

/// Asks whether something of that size may be deleted; `flag` says so without being asked.
pub(crate) fn agreed(what: &str, size: u64, flag: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Usage(format!("without a terminal to ask on, deleting wants {flag}")).into());
    }
    let mut stream = io::stderr().lock();
    write!(stream, "delete {what} ({})? [y/N] ", bytes(size))?;
    stream.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn described(cached: &Cached) -> Value {
    json!({
        "name": cached.repository,
        "path": cached.snapshot.as_ref().map(|path| path.display().to_string()),
        "bytes": cached.size,
        "unfinished_bytes": cached.unfinished,
        "modified": cached.modified.and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())),
    })
}

fn facts(checkpoint: &Checkpoint) -> anyhow::Result<Value> {
    let architecture = jtllm_models::arch::read(checkpoint.config())?;
    let path = checkpoint.path();
    let mut files: Vec<Value> = Vec::new();
    for storage in checkpoint.storages() {
        let name = storage.path().strip_prefix(path).ok().filter(|name| !name.as_os_str().is_empty());
        let name = name.or(storage.path().file_name().map(Path::new)).unwrap_or(storage.path());
        files.push(json!({ "name": name.display().to_string(), "bytes": storage.len() }));
    }
    Ok(json!({
        "path": path.display().to_string(),
        "architecture": checkpoint.config().architecture()?,
        "parameters": load::parameters(checkpoint),
        "encoding": load::dtype(checkpoint),
        "context": architecture.positions(),
        "vocabulary": architecture.vocabulary(),
        "bytes": checkpoint.total_bytes(),
        "files": files,
    }))
}

/// `3 days ago`.
pub(crate) fn age(time: Option<SystemTime>) -> String {
    let Some(seconds) = time.and_then(|time| Some(time.elapsed().ok()?.as_secs())) else {
        return "unknown".to_owned();
    };
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let unit = units.iter().find(|(length, _)| seconds >= *length);
    match unit.map(|(length, name)| (seconds / length, name)) {
        None => "just now".to_owned(),
        Some((1, name)) => format!("1 {name} ago"),
        Some((count, name)) => format!("{count} {name}s ago"),
    }
}

/// Rows with their columns aligned.
pub(crate) fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
