//! `jtllm clean-cache`: what is kept on disk. Caches can be made again, and swap files are only left behind by processes
//! that were killed; models would have to be downloaded again, so they go only when they are named.

use std::path::PathBuf;

use jtllm_models::hub::Cached;
use jtllm_runtime::cache::{CacheError, Size, Status};
use jtllm_runtime::packed::PackedFolder;
use jtllm_runtime::spill::SwapFolder;
use serde_json::{Value, json};

use crate::args::{CacheKind, CleanCacheArgs};
use crate::download::client;
use crate::load;
use crate::models::{agreed, table};
use crate::terminal::{Style, bytes, print, print_json, say};

/// One kind of what is kept.
pub(crate) struct Kind {
    /// Its name on the command line and in what is printed.
    pub(crate) name: &'static str,
    flag: CacheKind,
    /// What its files are.
    what: &'static str,
    look: fn() -> Found,
    clear: fn() -> anyhow::Result<()>,
}

/// What there is of a kind.
pub(crate) struct Found {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) size: Size,
    /// Why nothing is kept, if so.
    pub(crate) fault: Option<String>,
}

/// Every kind, the largest first.
pub(crate) static KINDS: [Kind; 4] = [
    Kind {
        name: "models",
        flag: CacheKind::Models,
        what: "downloaded models",
        look: || look_at_models(&client().list()),
        clear: remove_models,
    },
    Kind {
        name: "packed",
        flag: CacheKind::Packed,
        what: "packed weights",
        look: || {
            let folder = PackedFolder::open(None);
            found(folder.status(), folder.size())
        },
        clear: || Ok(PackedFolder::open(None).clear()?),
    },
    Kind {
        name: "kernels",
        flag: CacheKind::Kernels,
        what: "compiled kernels",
        look: || {
            let cache = load::kernel_cache();
            found(cache.status(), cache.size())
        },
        clear: || Ok(load::kernel_cache().clear()?),
    },
    Kind {
        name: "swap",
        flag: CacheKind::Swap,
        what: "swap files of dead processes",
        look: || {
            let folder = SwapFolder::open(None);
            found(folder.status(), folder.size())
        },
        clear: || Ok(SwapFolder::open(None).clear()?),
    },
];

impl Kind {
    /// What there is now.
    pub(crate) fn look(&self) -> Found {
        (self.look)()
    }
}

fn found(status: &Status, size: Result<Size, CacheError>) -> Found {
    let (folder, mut fault) = match status {
        Status::On(folder) => (Some(folder.clone()), None),
        Status::Off(why) => (None, Some(why.clone())),
    };
    let size = size.unwrap_or_else(|error| {
        fault.get_or_insert(error.to_string());
        Size::default()
    });
    Found { folder, size, fault }
}

/// Of the models of the cache, which other programs share, those that this one has fetched.
fn look_at_models(models: &[Cached]) -> Found {
    let folder = client().settings().cache.clone();
    let fault = folder.is_none().then(|| "nothing says where".to_owned());
    let ours = models.iter().filter(|model| model.ours);
    let size = ours.fold(Size::default(), |size, model| Size {
        entries: size.entries + 1,
        bytes: size.bytes + model.size,
    });
    Found { folder, size, fault }
}

/// Removes the models that this program has fetched and no process uses.
fn remove_models() -> anyhow::Result<()> {
    let client = client();
    for model in client.list().iter().filter(|model| model.ours) {
        match model.is_used() {
            true => say(Style::Plain, format_args!("{} is in use and stays", model.repository)),
            false => client.remove(model)?,
        }
    }
    Ok(())
}

/// Names the models that would go, and those that are others'.
fn name_models() {
    let (ours, others): (Vec<Cached>, Vec<Cached>) =
        client().list().into_iter().partition(|model| model.ours);
    for model in ours {
        say(Style::Plain, format_args!("  {} ({})", model.repository, bytes(model.size)));
    }
    for model in others {
        let (name, size) = (model.repository, bytes(model.size));
        say(
            Style::Plain,
            format_args!("  {name} ({size}) stays: other programs have fetched it too, jtllm rm deletes it"),
        );
    }
}

/// Shows what there is, and deletes it if that is wanted.
pub(crate) fn clean_cache(args: &CleanCacheArgs) -> anyhow::Result<()> {
    let chosen: Vec<(&Kind, Found)> = KINDS
        .iter()
        .filter(|kind| match args.kind {
            None => kind.flag != CacheKind::Models,
            Some(CacheKind::All) => true,
            Some(asked) => asked == kind.flag,
        })
        .map(|kind| (kind, kind.look()))
        .collect();
    if !args.json {
        print(&table(chosen.iter().map(|(kind, found)| row(kind, found)).collect()))?;
    }
    let mut deleted = Vec::new();
    for (kind, before) in chosen.iter().filter(|(_, found)| found.size.entries > 0) {
        if kind.flag == CacheKind::Models {
            name_models();
        }
        if !args.yes && !agreed(kind.what, before.size.bytes, "--yes")? {
            say(Style::Plain, format_args!("{} stay", kind.what));
            continue;
        }
        (kind.clear)()?;
        let after = kind.look().size;
        let freed = before.size.bytes.saturating_sub(after.bytes);
        let rest = match after.entries {
            0 => String::new(),
            _ => format!("; {} are in use and stay", bytes(after.bytes)),
        };
        say(Style::Plain, format_args!("{} are deleted: {} freed{rest}", kind.what, bytes(freed)));
        deleted.push(json!({ "kind": kind.name, "bytes": freed }));
    }
    match args.json {
        true => print_json(&Value::Array(deleted)),
        false => Ok(()),
    }
}

fn row(kind: &Kind, found: &Found) -> [String; 4] {
    let place = match (&found.fault, &found.folder) {
        (Some(fault), _) => format!("not kept: {fault}"),
        (None, Some(folder)) => folder.display().to_string(),
        (None, None) => String::new(),
    };
    let count =
        format!("{} {}", found.size.entries, if kind.flag == CacheKind::Models { "models" } else { "files" });
    [kind.name.to_owned(), count, bytes(found.size.bytes), place]
}
