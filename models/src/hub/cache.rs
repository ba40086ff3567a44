//! The cache of models, in the layout that `huggingface_hub` reads and writes:
//!
//! ```text
//! models--org--name/blobs/<hash>                  what files contain, each once
//!                   snapshots/<revision>/<path>   links to blobs
//!                   refs/main                     the revision that `main` means
//!                   .jtllm                        the blobs that this program has fetched, one a line
//! .locks/models--org--name/<hash>.lock            held while a blob is written
//! ```
//!
//! The cache is shared: what is not in `.jtllm`, other programs have brought.
//!
//! A file gets its final name when it is whole and checked, a revision when all its files have theirs, and
//! `refs/main` comes last.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::HubError;
use crate::error::LoadError;
use crate::os;

/// The folder of one repository in the cache.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
    name: String,
}

/// A model of the cache.
#[derive(Debug, Clone)]
pub struct Cached {
    /// The repository, as `org/name`.
    pub repository: String,
    /// Its folder in the cache.
    pub folder: PathBuf,
    /// The files of the current revision; none if no revision is complete.
    pub snapshot: Option<PathBuf>,
    /// Bytes that the repository takes on the disk, all revisions and unfinished downloads together.
    pub size: u64,
    /// Bytes of them that belong to unfinished downloads.
    pub unfinished: u64,
    /// When something was last added.
    pub modified: Option<SystemTime>,
    /// Whether this program has fetched all of it, and no other program any.
    pub ours: bool,
}

impl Cached {
    /// Whether a process has a file of it open as a model, or downloads one.
    pub fn is_used(&self) -> bool {
        let blobs = self.folder.join("blobs");
        let open = |name: &String| File::open(blobs.join(name)).is_ok_and(|file| is_locked(&file));
        let name = self.folder.file_name().unwrap_or_default();
        let locks = self.folder.with_file_name(".locks").join(name);
        let comes = |name: &String| File::open(locks.join(name)).is_ok_and(|file| is_locked(&file));
        entries(&blobs).iter().any(open) || entries(&locks).iter().any(comes)
    }
}

/// Whether a process holds a lock on a file, shared or not.
fn is_locked(file: &File) -> bool {
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

impl Folder {
    /// A repository's folder; it need not exist.
    pub(super) fn of(cache: &Path, repository: &str) -> Self {
        Folder { root: cache.to_owned(), name: format!("models--{}", repository.replace('/', "--")) }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    fn snapshots(&self) -> PathBuf {
        self.path().join("snapshots")
    }

    /// Where a blob lies once it is whole.
    pub(super) fn blob(&self, name: &str) -> PathBuf {
        self.path().join("blobs").join(name)
    }

    /// The file that whoever writes a blob holds locked.
    pub(super) fn lock(&self, blob: &str) -> PathBuf {
        self.locks().join(format!("{blob}.lock"))
    }

    fn locks(&self) -> PathBuf {
        self.root.join(".locks").join(&self.name)
    }

    /// The folder with the files as of the main revision; without that, the only revision.
    pub(super) fn snapshot(&self) -> Result<Option<PathBuf>, LoadError> {
        let reference = self.path().join("refs").join("main");
        if let Some(revision) = crate::checkpoint::storage::read_small(&reference, 1024)? {
            let revision = String::from_utf8_lossy(&revision).trim().to_owned();
            if revision.is_empty() || !revision.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(LoadError::header(&reference, 0, "expected the hash of a revision"));
            }
            let found = self.snapshots().join(revision);
            return Ok(found.is_dir().then_some(found));
        }
        let mut revisions = entries(&self.snapshots());
        revisions.retain(|name| !name.starts_with('.'));
        match (revisions.pop(), revisions.is_empty()) {
            (Some(only), true) => Ok(Some(self.snapshots().join(only))),
            _ => Ok(None),
        }
    }

    fn receipt(&self) -> PathBuf {
        self.path().join(".jtllm")
    }

    /// Writes down that a blob is going to be ours, before any of it is there: after a kill at any moment nothing of
    /// ours looks like somebody else's.
    pub(super) fn note(&self, blob: &str) -> Result<(), HubError> {
        let path = self.receipt();
        make(&self.path())?;
        let file = OpenOptions::new().create(true).append(true).open(&path);
        // A line that a kill has cut short must not run into this one.
        let written = file.and_then(|mut file| file.write_all(format!("\n{blob}\n").as_bytes()));
        written.map_err(|error| HubError::io(&path, "write", error))
    }

    /// Whether all blobs, whole or not, are noted.
    fn is_ours(&self, blobs: &[String]) -> bool {
        let noted = fs::read_to_string(self.receipt()).unwrap_or_default();
        let bare = |name: &str| {
            let end = [INCOMPLETE, CORRUPT].into_iter().find_map(|end| name.strip_suffix(end));
            end.unwrap_or(name).to_owned()
        };
        blobs.iter().all(|name| noted.lines().any(|line| line == bare(name)))
    }

    /// Gives a revision its files, each a path and the name of a blob, and makes it the main one.
    pub(super) fn publish(&self, revision: &str, files: &[(String, String)]) -> Result<PathBuf, HubError> {
        let snapshot = self.snapshots().join(revision);
        if snapshot.is_dir() {
            files.iter().try_for_each(|(path, blob)| self.link(&snapshot, path, blob))?;
        } else {
            let draft = self.snapshots().join(format!(".{revision}.{}", std::process::id()));
            files.iter().try_for_each(|(path, blob)| self.link(&draft, path, blob))?;
            match fs::rename(&draft, &snapshot) {
                // Another process was faster: its files have the same names and contents.
                Err(_) if snapshot.is_dir() => {
                    files.iter().try_for_each(|(path, blob)| self.link(&snapshot, path, blob))?;
                    fs::remove_dir_all(&draft).map_err(|error| HubError::io(&draft, "remove", error))?;
                }
                renamed => renamed.map_err(|error| HubError::io(&snapshot, "create", error))?,
            }
        }
        let references = self.path().join("refs");
        make(&references)?;
        write_whole(&references.join("main"), revision.as_bytes())?;
        Ok(snapshot)
    }

    /// Deletes revisions that were begun and never finished: their processes died long ago.
    pub(super) fn sweep(&self) {
        for name in entries(&self.snapshots()).iter().filter(|name| name.starts_with('.')) {
            let draft = self.snapshots().join(name);
            let modified = fs::metadata(&draft).and_then(|metadata| metadata.modified());
            if modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED)) {
                let _left = fs::remove_dir_all(draft);
            }
        }
    }

    fn link(&self, snapshot: &Path, path: &str, blob: &str) -> Result<(), HubError> {
        let link = snapshot.join(path);
        let target = self.blob(blob);
        let depth = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).count();
        let relative: PathBuf = std::iter::repeat_n("..", depth + 1).collect();
        let relative = relative.join("blobs").join(blob);
        if fs::read_link(&link).is_ok_and(|found| found == relative) {
            return Ok(());
        }
        if let Some(folder) = link.parent() {
            make(folder)?;
        }
        let draft = beside(&link);
        let _absent = fs::remove_file(&draft);
        // Where links are not allowed, as for many on Windows, the file gets a second name or a copy.
        let made = os::symlink(&relative, &draft)
            .or_else(|_| fs::hard_link(&target, &draft))
            .or_else(|_| fs::copy(&target, &draft).map(|_| ()));
        made.and_then(|()| fs::rename(&draft, &link)).map_err(|error| HubError::io(&link, "create", error))
    }

    /// Deletes the repository. Fails while somebody downloads into it.
    pub(super) fn remove(&self) -> Result<(), HubError> {
        for name in entries(&self.locks()) {
            let lock = self.locks().join(name);
            let held = File::open(&lock).is_ok_and(|file| file.try_lock().is_err());
            if held {
                let busy = io::Error::new(io::ErrorKind::ResourceBusy, "another process downloads into it");
                return Err(HubError::io(self.path(), "remove", busy));
            }
        }
        fs::remove_dir_all(self.path()).map_err(|error| HubError::io(self.path(), "remove", error))?;
        match fs::remove_dir_all(self.locks()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(HubError::io(self.locks(), "remove", error))
            }
            _ => Ok(()),
        }
    }
}

/// The models of a cache in alphabetical order. What cannot be read is left out.
pub(super) fn list(cache: &Path) -> Vec<Cached> {
    repositories(cache).into_iter().map(|repository| describe(cache, repository)).collect()
}

fn describe(cache: &Path, repository: String) -> Cached {
    let folder = Folder::of(cache, &repository);
    let blobs = folder.path().join("blobs");
    let names = entries(&blobs);
    let mut found = Cached {
        ours: !names.is_empty() && folder.is_ours(&names),
        repository,
        folder: folder.path(),
        snapshot: folder.snapshot().ok().flatten(),
        size: 0,
        unfinished: 0,
        modified: None,
    };
    for name in names {
        let Ok(metadata) = fs::metadata(blobs.join(&name)) else { continue };
        found.size += metadata.len();
        if name.ends_with(INCOMPLETE) || name.ends_with(CORRUPT) {
            found.unfinished += metadata.len();
        }
        found.modified = found.modified.max(metadata.modified().ok());
    }
    found
}

/// After this time nobody works on a draft any more: making one takes an instant.
const ABANDONED: Duration = Duration::from_secs(3600);

/// How a blob's name ends while it is not whole, and when it turned out wrong.
pub(super) const INCOMPLETE: &str = ".incomplete";
pub(super) const CORRUPT: &str = ".corrupt";

/// The repositories that have a folder in the cache.
pub(super) fn repositories(cache: &Path) -> Vec<String> {
    let repository = |name: String| {
        let (organisation, model) = name.strip_prefix("models--")?.split_once("--")?;
        Some(format!("{organisation}/{model}"))
    };
    entries(cache).into_iter().filter_map(repository).collect()
}

/// A snapshot's files, as paths with slashes, in alphabetical order.
pub(super) fn files(snapshot: &Path) -> Vec<String> {
    const DEPTH_MAX: usize = 8;
    let mut found = Vec::new();
    let mut open = vec![(String::new(), 0)];
    while let Some((prefix, depth)) = open.pop() {
        for name in entries(&snapshot.join(&prefix)) {
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            match fs::metadata(snapshot.join(&path)) {
                Ok(metadata) if metadata.is_dir() && depth < DEPTH_MAX => open.push((path, depth + 1)),
                Ok(metadata) if metadata.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Creates a folder with those above it.
pub(super) fn make(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(|error| HubError::io(folder, "create", error))
}

/// A name in the same folder that nobody else uses.
fn beside(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.{}", std::process::id()))
}

fn write_whole(file: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let draft = beside(file);
    fs::write(&draft, bytes)
        .and_then(|()| fs::rename(&draft, file))
        .map_err(|error| HubError::io(file, "write", error))
}

/// The names in a folder in alphabetical order; none, if it cannot be read.
pub(super) fn entries(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
