//! One file's way into the cache: resumed, tried again, taken from another server, checked, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::cache::{CORRUPT, Folder, INCOMPLETE, make};
use super::digest::Hasher;
use super::endpoint::{Endpoint, RemoteFile};
use super::error::HubError;
use super::http::{Ask, Http, Reply};
use super::lock;
use super::settings::Patience;
use super::{Event, Watch};
use crate::os;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// A server that sent this much between two failures is not given up.
const PROGRESS: u64 = 1 << 20;

/// Where a file can be had.
pub(super) struct Source<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) url: String,
}

/// What it takes to fetch a file.
pub(super) struct Transfer<'a> {
    pub(super) http: &'a Http,
    pub(super) patience: &'a Patience,
    pub(super) folder: &'a Folder,
    pub(super) file: &'a RemoteFile,
    pub(super) watch: Watch<'a>,
}

/// A file on its way.
struct Part<'a> {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
    /// Whether its bytes came in several answers, which may not fit together.
    resumed: bool,
    remote: &'a RemoteFile,
    watch: Watch<'a>,
}

impl Transfer<'_> {
    /// Fetches the blob with this name unless the cache has it. The sources are asked in order; a part that one
    /// of them gave is continued by the next, for the hash tells whether they agree.
    pub(super) fn fetch(&self, blob: &str, sources: &[Source<'_>]) -> Result<(), HubError> {
        let target = self.folder.blob(blob);
        if self.is_there(&target) {
            return Ok(());
        }
        let busy = || {
            let note = format!("{}: another process downloads it; waiting", self.file.path);
            (self.watch)(Event::Note(note));
        };
        let _lock = lock::lock(&self.folder.lock(blob), busy)?;
        if self.is_there(&target) {
            return Ok(());
        }
        self.folder.note(blob)?;
        let mut part = Part::open(&target, self.file, self.watch)?;
        (self.watch)(Event::File { path: &self.file.path, size: self.file.size, from: part.len });
        let mut errors = Vec::new();
        for source in sources {
            match self.from(source, &mut part) {
                Ok(()) => return part.publish(&target),
                Err(error) if error.is_remote() => {
                    (self.watch)(Event::Note(error.to_string()));
                    errors.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        match errors.pop() {
            Some(only) if errors.is_empty() => Err(only),
            last => {
                errors.extend(last);
                Err(HubError::All { name: self.file.path.clone(), errors })
            }
        }
    }

    /// Whether the cache has the blob, as long as it has to be.
    fn is_there(&self, target: &Path) -> bool {
        let found = fs::metadata(target).ok().filter(fs::Metadata::is_file);
        found.is_some_and(|found| self.file.size.is_none_or(|size| size == found.len()))
    }

    /// All that is missing, from one server.
    fn from(&self, source: &Source<'_>, part: &mut Part<'_>) -> Result<(), HubError> {
        let mut failures = 0;
        let mut again = true;
        loop {
            let before = part.len;
            match self.attempt(source, part) {
                Ok(()) => match part.check()? {
                    None => return Ok(()),
                    Some(_) if part.resumed && again => {
                        again = false;
                        (self.watch)(Event::Note(format!(
                            "{}: the parts do not fit together",
                            self.file.path
                        )));
                        part.restart()?;
                    }
                    Some(found) => return Err(part.put_aside(found)?),
                },
                Err(error) if error.may_pass() => {
                    failures = if part.len >= before + PROGRESS { 1 } else { failures + 1 };
                    if failures >= self.patience.attempts {
                        return Err(error);
                    }
                    let pause = self.patience.pause.saturating_mul(1 << (failures - 1).min(16));
                    let pause = error.pause(pause);
                    (self.watch)(Event::Note(format!("{error}; trying again in {:.0?}", pause)));
                    std::thread::sleep(pause);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn attempt(&self, source: &Source<'_>, part: &mut Part<'_>) -> Result<(), HubError> {
        let Source { endpoint, url } = source;
        match self.file.size {
            Some(size) if part.len > size => part.restart()?,
            Some(size) if part.len == size && size > 0 => return Ok(()),
            _ => {}
        }
        // With a digest the contents are known; without one the server's version tells them apart.
        let version = self.file.etag.as_deref().filter(|_| self.file.digest.is_none());
        let reply = match self.http.get(endpoint, url, Ask { from: part.len, version, headers_only: false }) {
            Err(HubError::Status { status: 416, .. }) => {
                part.restart()?;
                self.http.get(endpoint, url, Ask { version, ..Ask::default() })?
            }
            reply => reply?,
        };
        self.agrees(&reply, url, part)?;
        part.resumed |= part.len > 0;
        self.receive(reply, url, part)
    }

    /// Whether the answer is what was asked for; of a server that sends all again, the part is dropped.
    fn agrees(&self, reply: &Reply, url: &str, part: &mut Part<'_>) -> Result<(), HubError> {
        let refuse = |why: String| Err(HubError::protocol(url, why));
        let length = reply.header("content-length").and_then(|text| text.parse::<u64>().ok());
        if reply.status == 206 {
            let range = reply.header("content-range").and_then(|text| text.strip_prefix("bytes "));
            let begin = range.and_then(|text| text.split_once('-')?.0.parse::<u64>().ok());
            if begin != Some(part.len) {
                return refuse(format!(
                    "asked for bytes from {} on, got {:?}",
                    part.len,
                    range.unwrap_or("no range")
                ));
            }
            let total = range.and_then(|text| text.rsplit_once('/')?.1.parse::<u64>().ok());
            return match (self.file.size, total) {
                (Some(size), Some(total)) if size != total => {
                    refuse(format!("the file has {total} bytes, the listing says {size}"))
                }
                _ => Ok(()),
            };
        }
        if part.len > 0 {
            part.restart()?;
        }
        match (self.file.size, length) {
            (Some(size), Some(length)) if size != length => {
                refuse(format!("the file has {length} bytes, the listing says {size}"))
            }
            _ => Ok(()),
        }
    }

    fn receive(&self, reply: Reply, url: &str, part: &mut Part<'_>) -> Result<(), HubError> {
        let unreachable = |why: String| HubError::Unreachable { url: url.to_owned(), why };
        let mut reader = reply.into_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match reader.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreachable(format!("cut off after {} bytes: {error}", part.len))),
            };
            match self.file.size {
                Some(size) if part.len + count as u64 > size => {
                    part.restart()?;
                    return Err(HubError::protocol(
                        url,
                        format!("more than the {size} bytes of the listing"),
                    ));
                }
                Some(size) if count == 0 && part.len < size => {
                    return Err(unreachable(format!("cut off after {} of {size} bytes", part.len)));
                }
                _ if count == 0 => return Ok(()),
                _ => part.write(&chunk[..count])?,
            }
        }
    }
}

impl<'a> Part<'a> {
    /// Opens what an earlier attempt left, or a new file.
    fn open(target: &Path, remote: &'a RemoteFile, watch: Watch<'a>) -> Result<Self, HubError> {
        let path = with_end(target, INCOMPLETE);
        if let Some(folder) = path.parent() {
            make(folder)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(|error| HubError::io(&path, "open", error))?;
        let hasher = Hasher::new(remote.digest.as_ref(), remote.size);
        let mut part = Part { path, file, hasher, len: 0, resumed: false, remote, watch };
        part.read_back()?;
        Ok(part)
    }

    /// Hashes what is there.
    fn read_back(&mut self) -> Result<(), HubError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match self.file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hasher.update(&chunk[..count]);
                    self.len += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(HubError::io(&self.path, "read", error)),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        if let Err(error) = self.file.write_all(bytes) {
            return Err(self.cannot_write(error));
        }
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        (self.watch)(Event::Bytes(bytes.len() as u64));
        Ok(())
    }

    fn cannot_write(&self, error: io::Error) -> HubError {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let folder = self.path.parent().unwrap_or(Path::new("")).to_owned();
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => HubError::Space {
                needed: self.remote.size.unwrap_or(self.len).saturating_sub(self.len),
                free: os::free_bytes(&folder).unwrap_or(0),
                folder,
            },
            _ => HubError::io(&self.path, "write", error),
        }
    }

    /// Drops what is there.
    fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|error| HubError::io(&self.path, "write", error))?;
        (self.watch)(Event::Dropped(self.len));
        self.hasher = Hasher::new(self.remote.digest.as_ref(), self.remote.size);
        self.len = 0;
        self.resumed = false;
        Ok(())
    }

    /// The hash of a whole file, if it is not the promised one.
    fn check(&mut self) -> Result<Option<String>, HubError> {
        let fresh = Hasher::new(self.remote.digest.as_ref(), self.remote.size);
        let found = std::mem::replace(&mut self.hasher, fresh).finish();
        let expected = self.remote.digest.as_ref();
        Ok(found.filter(|found| expected.is_some_and(|expected| expected.hex() != found)))
    }

    /// Keeps a wrong file for whoever wants to know why, and begins anew.
    fn put_aside(&mut self, found: String) -> Result<HubError, HubError> {
        let kept = self.path.with_extension(&CORRUPT[1..]);
        let fault = |error| HubError::io(&self.path, "rename", error);
        fs::rename(&self.path, &kept).map_err(fault)?;
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&self.path);
        self.file = file.map_err(|error| HubError::io(&self.path, "open", error))?;
        (self.watch)(Event::Dropped(self.len));
        (self.len, self.resumed) = (0, false);
        let expected = self.remote.digest.as_ref().map_or("", |digest| digest.hex()).to_owned();
        Ok(HubError::Corrupt { file: self.remote.path.clone(), expected, found, kept })
    }

    /// Gives the file its final name, so that it is either absent or whole whatever happens to the machine.
    fn publish(self, target: &Path) -> Result<(), HubError> {
        let written = self.file.sync_all();
        written.map_err(|error| self.cannot_write(error))?;
        fs::rename(&self.path, target).map_err(|error| HubError::io(target, "create", error))?;
        let folder = target.parent().unwrap_or(Path::new(""));
        os::sync_folder(folder).map_err(|error| HubError::io(folder, "write", error))?;
        let _absent = fs::remove_file(with_end(target, CORRUPT));
        (self.watch)(Event::Whole { checked: self.remote.digest.is_some() });
        Ok(())
    }
}

pub(super) fn with_end(blob: &Path, end: &str) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}
