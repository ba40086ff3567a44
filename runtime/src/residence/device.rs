//! Weights in a device's own memory, and keys and values if they may leave it: they come up from the host's beside the
//! launches, and what launches have changed goes down.
//!
//! All blobs lie in one memory of the device, in as few pieces as it allows. Launches are asked for long before they
//! run, so what a step reads stays pinned until its [`Mark`] was seen; meanwhile the next steps are pinned and launched,
//! as far as there is room for what both read.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jtllm_swap::residency::{Copied, Mover};
use jtllm_swap::store::BLOCK_BYTES;
use jtllm_swap::traffic::Ended;
use jtllm_swap::{BlobId, Policy, Residency, SwapError};

use super::count::{Counted, Own, TooLow};
use super::pages::{self, Use};
use super::{Kept, Most, RING, Step, Uses};
use crate::device::{Device, Mark, Mem, Span};
use crate::error::{DeviceError, Error};

/// Why a copy failed, for whoever hears that it did.
type Failed = Arc<Mutex<Option<DeviceError>>>;

/// The memory of a device in which blobs lie.
#[derive(Clone)]
struct Arena {
    pieces: Vec<Mem>,
    piece_bytes: u64,
}

impl Arena {
    fn new(device: &dyn Device, bytes: u64) -> Result<Arena, DeviceError> {
        let piece_bytes = bytes.min(device.memory_max()) / BLOCK_BYTES * BLOCK_BYTES;
        let mut pieces = Vec::new();
        let mut left = bytes;
        while left > 0 && piece_bytes > 0 {
            pieces.push(device.alloc(left.min(piece_bytes))?);
            left -= left.min(piece_bytes);
        }
        Ok(Arena { pieces, piece_bytes })
    }

    /// Where bytes begin that lie together.
    fn place(&self, offset: u64) -> (&Mem, u64) {
        (&self.pieces[(offset / self.piece_bytes) as usize], offset % self.piece_bytes)
    }
}

/// Where the blobs of a step lie while it is launched.
pub(crate) struct Places<'a> {
    arena: &'a Arena,
    residency: &'a Residency,
    blobs: &'a [Kept],
}

impl Places<'_> {
    /// Part of a blob, of which `span` says where it begins there. A state may be shorter now than it can get.
    pub(crate) fn of(&self, blob: BlobId, span: &Span) -> Span {
        let begin = self.residency.device_offset(blob).expect("what is pinned is there");
        let (mem, offset) = self.arena.place(begin);
        let len = span.len.min(self.blobs[blob.0 as usize].len - span.offset);
        Span { mem: mem.clone(), offset: offset + span.offset, len }
    }
}

/// What is known of blobs while steps run.
#[derive(Clone, Copy)]
pub(super) struct Books<'a> {
    pub(super) plans: &'a [Vec<Uses>],
    pub(super) blobs: &'a [Kept],
    pub(super) pages: &'a Use,
}

/// What a device's limit leaves for blobs.
pub(super) struct Room {
    pub(super) bytes: u64,
    /// The most bytes that one step uses.
    step: u64,
}

impl Room {
    /// Bytes through which what does not stay comes and goes. A bus does not want to be asked for much at a time, as disks
    /// do: two steps are launched while two more come.
    fn ring(&self) -> u64 {
        (self.bytes / RING).max(4 * self.step).min(self.bytes / 2)
    }

    pub(super) fn policy(&self) -> Policy {
        Policy::Stream { ring_bytes: self.ring() }
    }

    /// Bytes of the host's memory that are enough for what is not on the device, of blobs of so many bytes, and for what
    /// is on its way there.
    pub(super) fn beside(&self, taken: u64) -> u64 {
        let ring = self.ring().max(2 * self.step);
        taken.saturating_sub(self.bytes).saturating_add(2 * ring).min(taken)
    }
}

/// A step that was launched and has perhaps not ended.
struct Held {
    step: Step,
    /// Bytes of what it reads that does not stay.
    bytes: u64,
    mark: Box<dyn Mark>,
}

/// A device's own memory, where blobs are used.
pub(super) struct Apart {
    device: Arc<dyn Device>,
    limit: u64,
    /// What else of the model is there.
    pub(super) own: Own,
    pub(super) counted: Option<Counted>,
    arena: Option<Arena>,
    failed: Failed,
    /// Steps that have perhaps not ended, in their order, and the bytes of them all.
    held: VecDeque<Held>,
    held_bytes: u64,
    /// Of each blob the bytes that it takes of what comes and goes: none if it stays.
    coming: Vec<u64>,
    /// Bytes that steps may hold together, as passes are arranged now.
    room: u64,
}

impl Apart {
    pub(super) fn new(device: Arc<dyn Device>, limit: u64) -> Apart {
        Apart {
            device,
            limit,
            own: Own::default(),
            counted: None,
            arena: None,
            failed: Failed::default(),
            held: VecDeque::new(),
            held_bytes: 0,
            coming: Vec::new(),
            room: 0,
        }
    }

    /// What the limit must hold, of blobs as many as the host has counted, beside all else of the model.
    pub(super) fn tally(&self, host: &Counted, own: Own) -> Counted {
        Counted { limit: Most::Device(self.limit), base: 0, own, ..host.clone() }
    }

    /// What is left for blobs, of which the host has counted how many there are.
    pub(super) fn count(&mut self, host: &Counted) -> Result<Room, TooLow> {
        let counted = self.tally(host, self.own);
        let (bytes, step) = (counted.left()? / BLOCK_BYTES * BLOCK_BYTES, counted.step);
        self.counted = Some(counted);
        Ok(Room { bytes, step })
    }

    /// Takes memory, and begins a thread that brings blobs there.
    pub(super) fn begin(&mut self, bytes: u64) -> Result<Box<dyn Mover>, Error> {
        let arena = Arena::new(&*self.device, bytes)?;
        let lift = Lift::new(self.device.clone(), arena.clone(), bytes, self.failed.clone())?;
        self.arena = Some(arena);
        Ok(Box::new(lift))
    }

    /// Gives the memory back. Whatever was launched has it as long as it needs it.
    pub(super) fn retire(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        self.arena = None;
    }

    /// Takes note of what stays.
    pub(super) fn arranged(&mut self, residency: &Residency, blobs: &[Kept]) {
        let coming = |(blob, number): (&Kept, u32)| match residency.stays(BlobId(number)) {
            true => 0,
            false => blob.taken(),
        };
        let all: u64 = blobs.iter().map(Kept::taken).sum();
        self.coming.clear();
        self.coming.extend(blobs.iter().zip(0..).map(coming));
        let staying = all - self.coming.iter().sum::<u64>();
        let bytes: u64 = self.arena.iter().flat_map(|arena| &arena.pieces).map(Mem::len).sum();
        // The other half is for what comes meanwhile.
        self.room = bytes.saturating_sub(staying) / 2;
    }

    /// Runs a step when what it uses is there, and holds that until it has ended.
    pub(super) fn step(
        &mut self,
        residency: &mut Residency,
        books: Books<'_>,
        step: Step,
        named: impl Fn(SwapError) -> Error,
        run: impl FnOnce(Option<&Places<'_>>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Books { plans, blobs, pages } = books;
        let Uses { blobs: used, changed } = step.uses(plans);
        let bytes = used.iter().map(|blob| self.coming[blob.0 as usize]).sum();
        while let Some(first) = self.held.front() {
            if self.held_bytes + bytes <= self.room && !first.mark.is_over()? {
                break;
            }
            self.let_go(residency, plans)?;
        }
        let mut pinned = residency.pin(step.tick, used);
        if let Err(SwapError::Full { .. }) = pinned {
            // Held blobs may leave room in pieces only. Alone, every step has enough.
            self.let_all_go(residency, plans)?;
            pinned = residency.pin(step.tick, used);
        }
        pinned.map_err(|error| self.why().map_or_else(|| named(error), Error::Device))?;
        let changing = pages::change(residency, blobs, pages, changed);
        let launched = changing.map_err(&named).and_then(|()| {
            let arena = self.arena.as_ref().expect("there is memory while there is a residency");
            run(Some(&Places { arena, residency, blobs }))
        });
        let marked = launched.and_then(|()| match used.is_empty() {
            true => Ok(None),
            false => Ok(self.device.mark()?),
        });
        match marked {
            Ok(Some(mark)) => {
                self.held.push_back(Held { step, bytes, mark });
                self.held_bytes += bytes;
                Ok(())
            }
            other => {
                residency.unpin(step.tick, used).map_err(Error::Swap)?;
                other.map(|_| ())
            }
        }
    }

    /// Waits until the first of the steps has ended, and lets go of what it used: of that of a step that failed, too.
    fn let_go(&mut self, residency: &mut Residency, plans: &[Vec<Uses>]) -> Result<(), Error> {
        let Some(Held { step, bytes, mark }) = self.held.pop_front() else { return Ok(()) };
        self.held_bytes -= bytes;
        let ended = mark.wait();
        residency.unpin(step.tick, &step.uses(plans).blobs).map_err(Error::Swap)?;
        Ok(ended?)
    }

    /// The same for all steps.
    pub(super) fn let_all_go(&mut self, residency: &mut Residency, plans: &[Vec<Uses>]) -> Result<(), Error> {
        let mut outcome = Ok(());
        while !self.held.is_empty() {
            outcome = outcome.and(self.let_go(residency, plans));
        }
        outcome
    }

    /// What the device said of a copy that failed; told once.
    pub(super) fn why(&self) -> Option<DeviceError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Step {
    /// The blobs that it uses.
    fn uses<'a>(&self, plans: &'a [Vec<Uses>]) -> &'a Uses {
        &plans[self.plan.0][self.number]
    }
}

/// Copies blobs to a device and back on a thread of its own: whoever launches does not wait for copies that he does not
/// need yet.
struct Lift {
    bytes: u64,
    device: Arc<dyn Device>,
    arena: Arena,
    failed: Failed,
    /// None when it is to end.
    jobs: Option<Sender<Copied>>,
    ended: Receiver<Ended>,
    thread: Option<JoinHandle<()>>,
}

impl Lift {
    fn new(device: Arc<dyn Device>, arena: Arena, bytes: u64, failed: Failed) -> Result<Lift, Error> {
        let (jobs, asked) = channel::<Copied>();
        let (tell, ended) = channel();
        let (to, pieces, told) = (device.clone(), arena.clone(), failed.clone());
        let work = move || {
            for copied in asked {
                // Somebody waits for the end of each copy, however it comes.
                let outcome = catch_unwind(AssertUnwindSafe(|| carry(&*to, &pieces, &copied)));
                let outcome = outcome.unwrap_or_else(|_| Err(panicked(&*to)));
                let outcome = outcome.map_err(|error| note(&told, copied.host.len() as u64, error));
                // Who does not listen any more is about to go.
                let _told = tell.send((copied.blob, outcome));
            }
        };
        let thread = thread::Builder::new().name("jtllm-lift".to_owned()).spawn(work);
        let thread =
            thread.map_err(|error| Error::Pass { why: format!("the system refuses a thread: {error}") })?;
        Ok(Lift { bytes, device, arena, failed, jobs: Some(jobs), ended, thread: Some(thread) })
    }
}

/// Keeps what the device said, of the first failure, and gives the error of blobs.
fn note(failed: &Failed, len: u64, error: DeviceError) -> SwapError {
    let why = error.to_string();
    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    SwapError::Memory { len, why }
}

fn panicked(device: &dyn Device) -> DeviceError {
    DeviceError::Run { device: device.info().name, why: "copying to it or from it panicked".to_owned() }
}

fn carry(device: &dyn Device, arena: &Arena, copied: &Copied) -> Result<(), DeviceError> {
    let (mem, offset) = arena.place(copied.offset);
    let span = Span { mem: mem.clone(), offset, len: copied.host.len() as u64 };
    match copied.up {
        // SAFETY: until the end of the copy is reported the bytes are there, and nobody writes to them.
        true => device.fill(&span, unsafe { copied.host.bytes() }),
        // SAFETY: until the end of the copy is reported nobody else touches the bytes.
        false => device.fetch(&span, unsafe { copied.host.bytes_mut() }),
    }
}

/// Zeros that are filled at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Mover for Lift {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn piece_bytes(&self) -> u64 {
        self.arena.piece_bytes
    }

    fn start(&mut self, copied: Copied) -> Result<(), SwapError> {
        let len = copied.host.len() as u64;
        let gone = || SwapError::Memory { len, why: "the thread that copies is gone".to_owned() };
        self.jobs.as_ref().and_then(|jobs| jobs.send(copied).ok()).ok_or_else(gone)
    }

    fn ended(&mut self, limit: Duration) -> Option<Ended> {
        self.ended.recv_timeout(limit).ok()
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<(), SwapError> {
        let (mem, begin) = self.arena.place(offset);
        let fill = |at: u64| {
            let part = (len - at).min(ZEROS.len() as u64);
            let span = Span { mem: mem.clone(), offset: begin + at, len: part };
            self.device.fill(&span, &ZEROS[..part as usize])
        };
        let mut filled = (0..len).step_by(ZEROS.len()).map(fill);
        filled.try_for_each(|filled| filled.map_err(|error| note(&self.failed, len, error)))
    }
}

impl Drop for Lift {
    fn drop(&mut self) {
        self.jobs = None;
        // A thread that panicked has said so on its way.
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}
