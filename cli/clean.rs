//! `jtllm clean-cache`: what is kept on disk to start faster, and can be made again.

use std::path::PathBuf;

use jtllm_runtime::cache::{CacheError, Size, Status};
use jtllm_runtime::packed::PackedFolder;
use serde_json::{Value, json};

use crate::args::{CacheKind, CleanCacheArgs};
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
    clear: fn() -> Result<(), CacheError>,
}

/// What there is of a kind.
pub(crate) struct Found {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) size: Size,
    /// Why nothing is kept, if so.
    pub(crate) fault: Option<String>,
}

/// Every kind, the largest first.
pub(crate) static KINDS: [Kind; 2] = [
    Kind {
        name: "packed",
        flag: CacheKind::Packed,
        what: "packed weights",
        look: || {
            let folder = PackedFolder::open(None);
            found(folder.status(), folder.size())
        },
        clear: || PackedFolder::open(None).clear(),
    },
    Kind {
        name: "kernels",
        flag: CacheKind::Kernels,
        what: "compiled kernels",
        look: || {
            let cache = load::kernel_cache();
            found(cache.status(), cache.size())
        },
        clear: || load::kernel_cache().clear(),
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

/// Shows what there is, and deletes it if that is wanted.
pub(crate) fn clean_cache(args: &CleanCacheArgs) -> anyhow::Result<()> {
    let chosen: Vec<(&Kind, Found)> = KINDS
        .iter()
        .filter(|kind| args.kind == CacheKind::All || args.kind == kind.flag)
        .map(|kind| (kind, kind.look()))
        .collect();
    if !args.json {
        print(&table(chosen.iter().map(|(kind, found)| row(kind, found)).collect()))?;
    }
    let mut deleted = Vec::new();
    for (kind, before) in chosen.iter().filter(|(_, found)| found.size.entries > 0) {
        if !args.yes && !agreed(kind.what, before.size.bytes, "--yes")? {
            say(Style::Plain, format_args!("{} stay", kind.what));
            continue;
        }
        (kind.clear)()?;
        let after = kind.look().size;
        let freed = before.size.bytes.saturating_sub(after.bytes);
        let rest = match after.entries {
            0 => String::new(),
            _ => format!("; {} are being written and stay", bytes(after.bytes)),
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
    [kind.name.to_owned(), format!("{} files", found.size.entries), bytes(found.size.bytes), place]
}
