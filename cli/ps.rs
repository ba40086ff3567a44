//! `jtllm ps`: which processes of this user have a model in memory.
//!
//! Each of them keeps two files in the folder `running` beside the kernel cache: one says what it has, the other is
//! locked for as long as it lives. The system lets go of a lock when its holder dies, however it dies.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use jtllm_runtime::cache::Status;
use jtllm_serve::Engine;
use serde_json::{Value, json};

use crate::args::PsArgs;
use crate::load;
use crate::models::{age, table};
use crate::terminal::{bytes, print, print_json};

/// What this process says of itself, until it leaves.
static ENTRY: Mutex<Option<Entry>> = Mutex::new(None);

struct Entry {
    told: PathBuf,
    lock: PathBuf,
    _held: File,
}

/// The longest entry that is read.
const ENTRY_LEN_MAX: u64 = 64 << 10;

/// Tells `jtllm ps` of the model in memory. Where that is not possible nobody is told, and the model runs all the
/// same.
pub(crate) fn enter(engine: &Engine) {
    let Some(folder) = folder() else { return };
    sweep(&folder);
    let model = engine.model();
    let memory = model.memory().map_or_else(
        || model.checkpoint().total_bytes(),
        |memory| memory.adopted + memory.copied + memory.cache + memory.buffers,
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let told = json!({
        "pid": std::process::id(),
        "command": std::env::args().nth(1),
        "model": model.checkpoint().path().display().to_string(),
        "bytes": memory,
        "context": model.options.context,
        "started": now,
    });
    if let (Ok(entry), Ok(mut own)) = (write(&folder, &told), ENTRY.lock()) {
        *own = Some(entry);
    }
}

fn write(folder: &Path, told: &Value) -> io::Result<Entry> {
    fs::create_dir_all(folder)?;
    let pid = std::process::id();
    let lock = folder.join(format!("{pid}.lock"));
    let held = claim(&lock)?;
    let (draft, file) = (folder.join(format!("{pid}.tmp")), folder.join(format!("{pid}.json")));
    fs::write(&draft, told.to_string())?;
    fs::rename(&draft, &file)?;
    Ok(Entry { told: file, lock, _held: held })
}

/// How often a lock's file may be swept away between its making and its locking.
const CLAIMS_MAX: u32 = 16;

/// Makes a file and locks it; it still has its name then.
fn claim(lock: &Path) -> io::Result<File> {
    for _ in 0..CLAIMS_MAX {
        let held = OpenOptions::new().create(true).truncate(false).write(true).open(lock)?;
        held.lock()?;
        let others = File::open(lock).map(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        if others.is_ok_and(|locked| locked) {
            return Ok(held);
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Takes back what [`enter`] said.
pub(crate) fn leave() {
    let entry = ENTRY.lock().ok().and_then(|mut own| own.take());
    for file in entry.iter().flat_map(|entry| [&entry.told, &entry.lock]) {
        // Somebody may have swept it away; an entry that stays is swept later.
        let _gone = fs::remove_file(file);
    }
}

/// Lists the processes.
pub(crate) fn ps(args: &PsArgs) -> anyhow::Result<()> {
    let running = folder().map(|folder| sweep(&folder)).unwrap_or_default();
    if args.json {
        return print_json(&Value::Array(running));
    }
    let text = |value: &Value| value.as_str().unwrap_or("?").escape_debug().to_string();
    let row = |entry: &Value| {
        let started = entry["started"].as_u64().map(|at| UNIX_EPOCH + std::time::Duration::from_secs(at));
        [
            entry["pid"].to_string(),
            text(&entry["command"]),
            bytes(entry["bytes"].as_u64().unwrap_or(0)),
            age(started),
            text(&entry["model"]),
        ]
    };
    let heading = [["PID", "COMMAND", "MEMORY", "STARTED", "MODEL"].map(str::to_owned)];
    print(&table(heading.into_iter().chain(running.iter().map(row)).collect()))
}

fn folder() -> Option<PathBuf> {
    match load::kernel_cache().status() {
        Status::On(kernels) => kernels.parent().map(|parent| parent.join("running")),
        Status::Off(_) => None,
    }
}

/// What the living say, in the order of their numbers; what the dead have left is deleted, whatever they had come to.
fn sweep(folder: &Path) -> Vec<Value> {
    const ENDS: [&str; 3] = ["lock", "tmp", "json"];
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = paths.filter(|path| {
        let pid = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
        pid.is_some() && path.extension().is_some_and(|end| ENDS.iter().any(|known| end == *known))
    });
    let all: BTreeSet<PathBuf> = ours.map(|path| path.with_extension("json")).collect();
    let mut living = Vec::new();
    for file in all {
        let lock = file.with_extension("lock");
        let is_held =
            File::open(&lock).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        if !is_held {
            let _swept = ENDS.map(|end| fs::remove_file(file.with_extension(end)));
        } else if fs::metadata(&file).is_ok_and(|found| found.len() <= ENTRY_LEN_MAX) {
            living.extend(fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()));
        }
    }
    living.sort_by_key(|entry| entry["pid"].as_u64());
    living
}
