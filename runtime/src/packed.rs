//! Packed weights on disk: taken apart once, mapped by every later start.
//!
//! A file holds the planes that one model's passes read on one kind of device, in the order in which they are first
//! read. Its name is a hash of what it follows from: contents of the model's files as far as their length, their time
//! and samples of them tell, the planes' formats, shapes and layouts, and the version of packing. A file is never
//! changed once it has its name.

pub(crate) mod file;
pub mod table;
mod write;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::Xxh3;

use crate::cache::{CacheError, Size, Status, default_folder, has_extension, list};
use crate::error::Error;
use crate::os;
use crate::voice::{Tell, Voice};
pub use crate::weights::pack::PACKING_VERSION;
use crate::weights::pack::Packing;
pub(crate) use file::{PackedFile, damaged};
pub use table::Origin;
use table::{ALIGNMENT, Entry, Head};
pub(crate) use write::{ByWeight, Chunks};
use write::{Refusal, Way};

/// Ends the names of packed files.
const EXTENSION: &str = "packed";

impl Origin {
    /// A model file of which these are the bytes. Its beginning, where headers are, is hashed, and small parts spread
    /// over all of it: enough to tell another model in its place, for a few pages of reading.
    pub fn of(path: &Path, modified: Option<SystemTime>, bytes: &[u8]) -> Origin {
        const BEGINNING: usize = 256 << 10;
        const SAMPLES: usize = 32;
        const SAMPLE: usize = 1 << 10;
        let mut hash = Xxh3::new();
        hash.update(&bytes[..bytes.len().min(BEGINNING)]);
        for number in 1..=SAMPLES {
            let start = bytes.len() / SAMPLES * number;
            hash.update(&bytes[start.saturating_sub(SAMPLE)..start]);
        }
        // A hub's blob is named by the hash of all its bytes.
        let in_blobs = path.parent().and_then(Path::file_name).is_some_and(|folder| folder == "blobs");
        if let Some(name) = path.file_name().filter(|_| in_blobs) {
            hash.update(name.as_encoded_bytes());
        }
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = since.map_or(0, |since| since.as_nanos() as u64);
        Origin { path: path.to_owned(), len: bytes.len() as u64, modified, sample: hash.digest128() }
    }

    /// Whether the file is no longer there, or no longer the same as far as its length and its time tell.
    fn is_gone(&self) -> bool {
        match fs::metadata(&self.path) {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(now) => {
                let modified = now.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                now.len() != self.len || modified.map_or(0, |since| since.as_nanos() as u64) != self.modified
            }
        }
    }
}

/// A moment in the writing of a packed file, at which it may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the file gets its length.
    Length,
    /// Before a chunk is written.
    Chunk,
    /// Before the head is written.
    Head,
    /// Before the file gets its name.
    Name,
}

/// What a test has happen at a moment.
pub enum Happening {
    /// Nothing.
    Nothing,
    /// The system refuses.
    Refused(io::Error),
    /// The process dies: whatever is there stays.
    Death,
}

/// Says what happens at a moment.
pub type Fate = dyn Fn(Moment) -> Happening + Send + Sync;

/// The folder of packed weights, or the reason why there is none.
pub struct PackedFolder {
    status: Status,
    voice: Voice,
    fate: Option<Box<Fate>>,
    room: fn(&Path) -> Option<u64>,
    dead: AtomicBool,
}

impl fmt::Debug for PackedFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedFolder").field("status", &self.status).finish_non_exhaustive()
    }
}

impl PackedFolder {
    /// The given folder, or the folder `packed` beside that of kernels (see
    /// [`KernelCache::open`](crate::cache::KernelCache::open)); it is created where missing. Where it cannot be used,
    /// weights are packed at each start.
    pub fn open(folder: Option<PathBuf>) -> PackedFolder {
        PackedFolder::open_in(folder, |name| std::env::var_os(name))
    }

    /// As [`PackedFolder::open`], with the environment given by a function.
    pub fn open_in(folder: Option<PathBuf>, environment: impl Fn(&str) -> Option<OsString>) -> PackedFolder {
        let status = match folder.or_else(|| default_folder(EXTENSION, environment)) {
            None => Status::Off("none of JTLLM_CACHE, XDG_CACHE_HOME and HOME is set".to_owned()),
            Some(folder) => {
                let made = os::create_private_folder(&folder).map_err(|error| error.to_string());
                match made.and_then(|()| os::check_private(&folder)) {
                    Ok(()) => Status::On(folder),
                    Err(why) => Status::Off(format!("{}: {why}", folder.display())),
                }
            }
        };
        PackedFolder::with(status)
    }

    /// A folder that keeps nothing, for this reason.
    pub fn off(reason: &str) -> PackedFolder {
        PackedFolder::with(Status::Off(reason.to_owned()))
    }

    fn with(status: Status) -> PackedFolder {
        PackedFolder {
            status,
            voice: Voice::default(),
            fate: None,
            room: os::free_bytes,
            dead: AtomicBool::new(false),
        }
    }

    /// Has somebody told why weights are not kept, once, and what became of damaged files.
    pub fn telling(self, tell: Box<Tell>) -> PackedFolder {
        PackedFolder { voice: Voice::to(tell), ..self }
    }

    /// Has things go wrong, for tests.
    pub fn with_fate(self, fate: Box<Fate>) -> PackedFolder {
        PackedFolder { fate: Some(fate), ..self }
    }

    /// Has a folder so much room, for tests.
    pub fn with_room(self, room: fn(&Path) -> Option<u64>) -> PackedFolder {
        PackedFolder { room, ..self }
    }

    /// Whether packed weights are kept, and where or why not.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Counts the files and their bytes, unfinished ones too; nothing where none are kept.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn size(&self) -> Result<Size, CacheError> {
        let lengths = self.files()?.into_iter().filter_map(|path| Some(fs::metadata(path).ok()?.len()));
        Ok(lengths
            .fold(Size::default(), |size, len| Size { entries: size.entries + 1, bytes: size.bytes + len }))
    }

    /// Removes every file but those that a process writes or has open.
    ///
    /// # Errors
    /// The folder cannot be listed or a file cannot be removed.
    pub fn clear(&self) -> Result<(), CacheError> {
        for path in self.files()? {
            match remove_unused(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(CacheError { path, action: "remove", source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn files(&self) -> Result<Vec<PathBuf>, CacheError> {
        let Status::On(folder) = &self.status else { return Ok(Vec::new()) };
        let ours = |path: &PathBuf| has_extension(path, EXTENSION) || has_extension(path, "tmp");
        Ok(list(folder)?.into_iter().filter(ours).collect())
    }

    /// Removes what processes that died have left, and what was packed from files that are gone or have changed.
    fn sweep(&self) {
        for path in self.files().unwrap_or_default() {
            if has_extension(&path, "tmp") {
                let _ = remove_unused(&path);
            } else if let Ok(Some((file, head))) = file::head(&path)
                && head.origins.iter().any(Origin::is_gone)
            {
                drop(file);
                let _ = remove_unused(&path);
            }
        }
    }

    pub(crate) fn say(&self, what: &str) {
        self.voice.say(what);
    }

    /// Says, once, that weights are in memory since they cannot be kept.
    pub(crate) fn say_unkept(&self, why: &Unkept) {
        if let (Unkept::Because(why), false) = (why, self.is_dead()) {
            self.voice.say_once(&format!("packed weights stay in memory: {why}"));
        }
    }

    fn moment(&self, moment: Moment) -> io::Result<()> {
        match self.fate.as_ref().map_or(Happening::Nothing, |fate| fate(moment)) {
            Happening::Nothing => Ok(()),
            Happening::Refused(error) => Err(error),
            Happening::Death => {
                self.dead.store(true, Ordering::Relaxed);
                Err(io::ErrorKind::Interrupted.into())
            }
        }
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

/// Removes a file unless a process writes it or has it open.
fn remove_unused(path: &Path) -> io::Result<()> {
    match File::open(path)?.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => fs::remove_file(path),
    }
}

/// Where one model's packed weights are kept.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// The folder.
    pub folder: Arc<PackedFolder>,
    /// The files that the model's weights are in; none if they are in no files.
    pub origins: Vec<Origin>,
}

/// What a folder has for some weights.
pub(crate) enum Kept {
    /// A file, to be mapped.
    File(PackedFile),
    /// Nothing yet; a file can be written.
    Absent(Draft),
    /// Nothing, and nothing can be kept.
    Never(Unkept),
}

/// Why packed weights are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unkept {
    /// They are made of no files by which they would be known again: nobody expects it.
    NoFiles,
    /// Something is in the way.
    Because(String),
}

impl fmt::Display for Unkept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unkept::NoFiles => f.write_str("the model is in no files"),
            Unkept::Because(why) => f.write_str(why),
        }
    }
}

/// A file that is to be written.
pub(crate) struct Draft {
    folder: Arc<PackedFolder>,
    path: PathBuf,
    head: Head,
}

impl Keeping {
    /// Whether the model's weights are in files.
    pub fn has_files(&self) -> bool {
        !self.origins.is_empty()
    }

    /// What there is for these weights.
    pub(crate) fn find<'a>(&self, packings: impl Iterator<Item = &'a Packing> + Clone) -> Kept {
        if self.origins.is_empty() || packings.clone().next().is_none() {
            return Kept::Never(Unkept::NoFiles);
        }
        let folder = match &self.folder.status {
            Status::On(folder) => folder,
            Status::Off(why) => return Kept::Never(Unkept::Because(why.clone())),
        };
        let Some(head) = self.head(packings) else {
            return Kept::Never(Unkept::Because("a model file's path cannot be written down".to_owned()));
        };
        let path = folder.join(format!("{:032x}.{EXTENSION}", head.key));
        match PackedFile::open(&path, &head) {
            Ok(Some(file)) => return Kept::File(file),
            Ok(None) => {}
            Err(why) => {
                self.folder.say(&format!("{}: {why}; weights are packed anew", path.display()));
                // What cannot be removed is not trusted either: the new file takes its place.
                let _ = fs::remove_file(&path);
            }
        }
        Kept::Absent(Draft { folder: self.folder.clone(), path, head })
    }

    /// The head of the file that these weights make, without the chunks' hashes.
    fn head<'a>(&self, packings: impl Iterator<Item = &'a Packing>) -> Option<Head> {
        let mut hash = Xxh3::new();
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(&PACKING_VERSION.to_le_bytes());
        for origin in &self.origins {
            part(&origin.len.to_le_bytes());
            part(&origin.modified.to_le_bytes());
            part(&origin.sample.to_le_bytes());
        }
        let mut planes = Vec::new();
        for packing in packings {
            part(packing.source.format.name.as_bytes());
            for extent in &packing.source.shape {
                part(&extent.to_le_bytes());
            }
            for plane in &packing.planes {
                part(plane.name.as_bytes());
                part(plane.layout.name().as_bytes());
                let sums = vec![0; Entry::chunks(plane.len, plane.chunk_bytes) as usize];
                let (name, len, chunk_bytes) = (plane.name.clone(), plane.len, plane.chunk_bytes);
                planes.push(Entry { name, offset: 0, len, chunk_bytes, sums });
            }
        }
        let mut head = Head { key: hash.digest128(), origins: self.origins.clone(), planes };
        let mut end = head.encode()?.len() as u64;
        for plane in &mut head.planes {
            plane.offset = end.next_multiple_of(ALIGNMENT);
            end = plane.offset + plane.len;
        }
        Some(head)
    }
}

/// What became of a file that was to be written.
pub(crate) enum Written {
    /// It is there.
    Whole,
    /// Another process is writing it.
    Busy,
    /// It cannot be.
    Refused(Unkept),
}

impl Draft {
    /// Where the file will be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where planes will lie in it.
    pub(crate) fn planes(&self) -> &[Entry] {
        &self.head.planes
    }

    /// Writes the file before anybody reads it, without a trace in the page cache.
    ///
    /// # Errors
    /// The weights cannot be had.
    pub(crate) fn write_past_cache(mut self, chunks: ByWeight<'_>) -> Result<Written, Error> {
        self.folder.sweep();
        match write::write(&self.folder, &self.path, &mut self.head, Way::PastCache(chunks)) {
            Ok(()) => Ok(Written::Whole),
            Err(Refusal::Busy) => Ok(Written::Busy),
            Err(Refusal::Weights(error)) => Err(error),
            Err(refusal) => Ok(Written::Refused(self.why(&refusal))),
        }
    }

    /// Writes the file, if nothing is in the way; `chunks` gives the bytes of a chunk of a plane, numbered in the
    /// order of the weights. What is in the way is said once: the weights are in memory in any case.
    pub(crate) fn write(mut self, chunks: &mut Chunks<'_>) {
        self.folder.sweep();
        match write::write(&self.folder, &self.path, &mut self.head, Way::Cached(chunks)) {
            // Another process keeps them for us.
            Ok(()) | Err(Refusal::Busy) => {}
            Err(refusal) => self.folder.say_unkept(&self.why(&refusal)),
        }
    }

    /// What is in the way.
    fn why(&self, refusal: &Refusal) -> Unkept {
        let place = self.path.parent().unwrap_or(Path::new("")).display();
        Unkept::Because(match refusal {
            Refusal::Busy => format!("another process writes to {place}"),
            Refusal::Space { need, free } => {
                format!("{place} has {free} bytes free, and they take {need}")
            }
            Refusal::System(action, error) => format!("cannot {action} a file in {place}: {error}"),
            Refusal::Weights(error) => error.to_string(),
        })
    }
}
