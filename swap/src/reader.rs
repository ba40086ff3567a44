//! Moves bytes between stores and memory on threads of its own, several requests in flight.
//!
//! What is asked for is a *job*: a run of bytes of one file, read or written as a whole. Jobs are cut into requests of a
//! few MB, handed out in order, so that as many requests are in flight as there are threads while jobs end about in the
//! order in which they came. A job is reported once, by its ticket, when all its bytes are there and have their hashes.

mod state;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use crate::SwapError;
use crate::error::Asked;
use crate::memory::{Memory, Span};
use crate::store::{Action, Store, read_all, write_all};
use crate::sync::{Condvar, JoinHandle, Mutex, MutexGuard, lock, thread};
use state::{Piece, State};

/// How much is asked for at a time. The defaults are measured: `benches/RESULTS.md`, "Reading".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    /// How many are in flight, each on a thread of its own that sleeps in the system meanwhile.
    pub in_flight: usize,
    /// Bytes of each, a multiple of [`BLOCK_BYTES`](crate::store::BLOCK_BYTES).
    pub bytes: u64,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests { in_flight: 4, bytes: 4 << 20 }
    }
}

/// Names a file of one reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(u32);

/// Names a job of one reader; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The xxh3-64 of each chunk of a run of bytes. A hash may be [unknown](Sums::unknown) before the chunk is first read.
#[derive(Clone, Debug)]
pub struct Sums {
    /// Hashes, one after another; those of several runs may stand in one slice. 0: not known yet.
    pub all: Arc<[AtomicU64]>,
    /// Which is the hash of this run's first chunk.
    pub first: usize,
    /// Bytes of each chunk but the last, which may have fewer.
    pub chunk_bytes: u64,
}

impl Sums {
    /// The hashes of a run.
    pub fn of(bytes: &[u8], chunk_bytes: u64) -> Sums {
        let chunks = bytes.chunks(usize::try_from(chunk_bytes).unwrap_or(usize::MAX).max(1));
        Sums::known(chunks.map(xxh3_64), chunk_bytes)
    }

    /// These hashes, which somebody has kept.
    pub fn known(hashes: impl IntoIterator<Item = u64>, chunk_bytes: u64) -> Sums {
        Sums { all: hashes.into_iter().map(AtomicU64::new).collect(), first: 0, chunk_bytes }
    }

    /// Hashes of `len` bytes of which nobody has kept any: the first reading of each chunk is believed, and every later
    /// one must be the same.
    pub fn unknown(len: u64, chunk_bytes: u64) -> Sums {
        Sums::known((0..len.div_ceil(chunk_bytes.max(1))).map(|_| 0), chunk_bytes)
    }

    /// All hashes that are known by now.
    pub(crate) fn hashes(&self) -> Vec<u64> {
        self.all.iter().map(|hash| hash.load(Ordering::Relaxed)).collect()
    }

    /// Whether a chunk is what it should be; of one that is not known these are its bytes from now on.
    fn agree(&self, chunk: usize, bytes: &[u8]) -> bool {
        let Some(known) = self.all.get(self.first + chunk) else { return false };
        let found = xxh3_64(bytes);
        match known.load(Ordering::Relaxed) {
            0 => {
                known.store(found, Ordering::Relaxed);
                true
            }
            known => known == found,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Job {
    /// Whether bytes are read or written.
    pub action: Action,
    /// The file.
    pub file: FileId,
    /// Where in the file, best at a block's border.
    pub at: u64,
    /// Where in memory. If it reaches beyond the end of the file, its last bytes stay as they are.
    pub span: Span,
    /// The bytes of `span` that are wanted: where they begin and how many they are. What else is read of a file rounds
    /// them to whole blocks, and they must be in the file.
    pub wanted: (usize, usize),
    /// What the wanted bytes must hash to.
    pub sums: Option<Sums>,
}

/// What became of a job.
pub type Outcome = (Ticket, Result<(), SwapError>);

struct Shared {
    requests: Requests,
    state: Mutex<State>,
    /// There may be something to do.
    work: Condvar,
    /// A job was reported, or a thread has nothing to do.
    done: Condvar,
}

impl Shared {
    /// Waits for [`Shared::done`], but no longer than `limit`.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        match self.done.wait_timeout(state, limit) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }
}

/// Threads that read and write. Dropping it waits for the requests that are in flight, unless somebody said that they
/// [need not](Reader::leave) be waited for; other jobs are forgotten.
pub struct Reader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("requests", &self.shared.requests).finish_non_exhaustive()
    }
}

impl Reader {
    /// Starts the threads.
    ///
    /// # Panics
    /// If no requests, or requests of no bytes, are asked for; if the system has no threads left.
    pub fn new(requests: Requests) -> Reader {
        assert!(requests.in_flight > 0 && requests.bytes > 0, "{requests:?} would never read anything");
        let shared = Arc::new(Shared {
            requests,
            state: Mutex::new(State::default()),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let thread = |_| {
            let shared = shared.clone();
            thread::spawn(move || serve(&shared))
        };
        let threads = (0..requests.in_flight).map(thread).collect();
        Reader { shared, threads }
    }

    /// Takes a file into its tables; `path` is what errors call it.
    ///
    /// # Errors
    /// The store does not know its length.
    pub fn add(&self, path: &Path, store: Arc<dyn Store>) -> io::Result<FileId> {
        let len = store.size()?;
        Ok(FileId(lock(&self.shared.state).add(path.into(), store, len)))
    }

    /// Asks for a job, after those that were asked for before, or before them if it is `urgent`.
    ///
    /// # Safety
    /// Until the ticket is reported or the reader is dropped (if it did not [leave](Reader::leave) before), the memory of the
    /// span must be there, and nobody may write to it; nor read it, if the job does not write.
    pub unsafe fn submit(&self, job: Job, urgent: bool) -> Ticket {
        let ticket = lock(&self.shared.state).submit(job, urgent);
        self.shared.work.notify_all();
        ticket
    }

    /// Moves what was reported since the last call to the end of `into`, without waiting.
    pub fn reported(&self, into: &mut Vec<Outcome>) {
        into.append(&mut lock(&self.shared.state).reported);
    }

    /// The same, waiting for a report first if there is none, but no longer than `limit` (or a little less).
    pub fn wait(&self, into: &mut Vec<Outcome>, limit: Duration) {
        let mut state = lock(&self.shared.state);
        if state.reported.is_empty() {
            state = self.shared.wait(state, limit);
        }
        into.append(&mut state.reported);
    }

    /// What is in flight: of this job if any of it is, else of the one that has been asked for first.
    pub fn in_flight(&self, ticket: Option<Ticket>) -> Option<Asked> {
        lock(&self.shared.state).in_flight(ticket)
    }

    /// Makes no more requests before another job is asked for or [`Reader::resume`] is called, and says whether none is in
    /// flight any more, after about so long at the most.
    pub fn pause(&self, limit: Duration) -> bool {
        let begin = Instant::now();
        let mut state = lock(&self.shared.state);
        state.paused = true;
        while state.busy > 0 {
            let left = limit.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return false;
            }
            state = self.shared.wait(state, left);
        }
        true
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        if std::mem::take(&mut lock(&self.shared.state).paused) {
            self.shared.work.notify_all();
        }
    }

    /// Ends the reader without waiting for the requests that are in flight, which the system may never end. The last of its
    /// threads drops the memory and the stores.
    ///
    /// # Safety
    /// All jobs that were not reported have their bytes in this memory.
    pub unsafe fn leave(&mut self, memory: Arc<Memory>) {
        let mut state = lock(&self.shared.state);
        state.closing = true;
        state._kept = Some(memory);
        drop(state);
        self.shared.work.notify_all();
        // Nobody waits for threads without a handle.
        self.threads.clear();
    }

    /// Lets files that failed be tried again.
    pub fn forgive(&self) {
        lock(&self.shared.state).forgive();
    }

    /// Bytes read and bytes written so far, whatever became of them.
    pub fn traffic(&self) -> (u64, u64) {
        let state = lock(&self.shared.state);
        (state.bytes_read, state.bytes_written)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        lock(&self.shared.state).closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; its requests are over in any case.
            let _ = thread.join();
        }
    }
}

/// What each thread does until the reader is dropped.
fn serve(shared: &Shared) {
    let mut state = lock(&shared.state);
    while !state.closing {
        let next = if state.paused { None } else { state.take(shared.requests.bytes) };
        let Some(piece) = next else {
            // Jobs of a failed file may just have been reported.
            shared.done.notify_all();
            state = shared.work.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            continue;
        };
        state.busy += 1;
        drop(state);
        let outcome = carry(&piece);
        state = lock(&shared.state);
        if let Some(check) = state.ended(&piece, outcome) {
            drop(state);
            let outcome = verify(&check);
            state = lock(&shared.state);
            state.report(check.slot, outcome);
        }
        state.busy -= 1;
        shared.done.notify_all();
    }
}

/// Does one request.
fn carry(piece: &Piece) -> Result<(), SwapError> {
    // SAFETY: whoever asked for the job left these bytes to it, and no other request of it has any of them.
    let outcome = unsafe {
        match piece.action {
            Action::Write => write_all(&*piece.store, piece.at, piece.span.bytes()),
            _ => read_all(&*piece.store, piece.at, piece.span.bytes_mut()),
        }
    };
    outcome.map_err(|error| io_error(piece, piece.at, &error))
}

fn io_error(piece: &Piece, at: u64, error: &io::Error) -> SwapError {
    let (path, action) = (piece.path.clone(), piece.action);
    SwapError::Io { path, action, at, kind: error.kind(), why: error.to_string() }
}

/// Compares all chunks of a job with their hashes. One that differs is read once more: what a bus or a cable did is
/// gone then, what is on the disk is not.
fn verify(check: &Piece) -> Result<(), SwapError> {
    let Some(sums) = &check.sums else { return Ok(()) };
    let step = usize::try_from(sums.chunk_bytes).unwrap_or(usize::MAX).max(1);
    let len = check.span.len();
    for (chunk, start) in (0..len).step_by(step).enumerate() {
        let part = check.span.part(start, step.min(len - start));
        // SAFETY: whoever asked for the job left these bytes to it, and all its requests are over.
        let bytes = unsafe { part.bytes_mut() };
        if sums.agree(chunk, bytes) {
            continue;
        }
        let at = check.at + start as u64;
        read_all(&*check.store, at, bytes).map_err(|error| io_error(check, at, &error))?;
        if !sums.agree(chunk, bytes) {
            let (path, len) = (check.path.clone(), bytes.len() as u64);
            return Err(SwapError::Corrupt { path, at, len });
        }
    }
    Ok(())
}
