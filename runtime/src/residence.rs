//! Weights that come and go within a limit: what a plan's steps read is there when they run.
//!
//! A [`Residence`] has a blob for each plane of weights and knows, for each plan, which of them every step reads. The
//! steps of a pass are the ticks of a [`jtllm_swap::Residency`], which keeps what fits and reads the rest in time, round
//! the end of the pass. How many bytes there are for blobs is counted when the first pass begins, and anew when plans
//! were added: what the process holds, what it is going to hold, and what is left of the limit.

mod count;
mod device;
mod files;
mod foresee;
pub mod outlook;
mod pages;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jtllm_swap::file::SwapFile;
use jtllm_swap::policy::SMALL_BYTES;
use jtllm_swap::reader::{FileId, Sums};
use jtllm_swap::store::{BLOCK_BYTES, FileStore, Store};
use jtllm_swap::{Agenda, BlobId, Options, Origin, Policy, Residency, SwapError, Tick};

use crate::device::{Device, Mem, lent};
use crate::error::Error;
use crate::packed::damaged;
use crate::plan::StandIn;
pub(crate) use count::held;
pub use count::{Counted, Own, TooLow};
pub(crate) use device::Places;
use device::{Apart, Books};
pub(crate) use files::{Files, Opened};
pub(crate) use foresee::{Run, Used};
pub use pages::{OpenSwap, Spill};
use pages::{Use, spilled};

/// The most that may be held of the host's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Most {
    /// No limit: weights are read where they lie in mapped files.
    #[default]
    Unlimited,
    /// So many bytes for the whole process.
    Process(u64),
    /// So many bytes for weights, whatever else there is.
    Weights(u64),
    /// So many bytes of a device's own memory, for weights and all else of the model that is there.
    Device(u64),
}

/// Opens a file that is to be read past the page cache.
pub type Open = dyn Fn(&Path) -> std::io::Result<Arc<dyn Store>> + Send + Sync;

/// The most bytes of weights that one launch reads under a limit, unless its weights cannot be cut: enough for a disk to
/// read at its full speed, and little beside what a model's cache and buffers take.
pub const RANGE_BYTES: u64 = 32 << 20;

/// What one hash covers of a run of bytes of which nobody keeps hashes.
const CHUNK_BYTES: u64 = 1 << 20;

/// A limit, and how files are opened that are read under it.
#[derive(Clone)]
pub struct Limit {
    /// The limit.
    pub most: Most,
    /// Whether it is only for a model that does not fit into it: files of one that does are mapped, without a limit.
    pub if_needed: bool,
    /// Launches that read more bytes of weights than this are cut, where they can be.
    pub range_bytes: u64,
    /// Opens files.
    pub open: Arc<Open>,
    /// Once this is set passes that wait for weights end with [`SwapError::Cancelled`], until it is taken back.
    pub cancel: Arc<AtomicBool>,
    /// Where keys and values go that do not fit, if they may leave memory at all.
    pub spill: Option<Spill>,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit::of(Most::Unlimited)
    }
}

impl Limit {
    /// The limit, for the files of this machine.
    pub fn of(most: Most) -> Limit {
        let open = Arc::new(|path: &Path| Ok(Arc::new(FileStore::open(path)?) as Arc<dyn Store>));
        Limit { most, if_needed: false, range_bytes: RANGE_BYTES, open, cancel: Arc::default(), spill: None }
    }
}

impl Limit {
    fn options(&self, left: u64) -> Options {
        Options { wait_max: WAIT_MAX, cancel: self.cancel.clone(), ..Options::new(left) }
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.most.fmt(f)
    }
}

/// Names a plan of a residence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlanId(usize);

/// Where a blob's bytes lie when they are in no memory.
enum Lies {
    /// A run of bytes of a file.
    File { file: usize, at: u64, sums: Sums },
    /// A state of pages of so many bytes: nowhere, or in the swap file.
    Paged { page_bytes: u64 },
}

/// A blob.
struct Kept {
    lies: Lies,
    /// Bytes; of a state those of the pages that it has now.
    len: u64,
    /// What kernels are given; it has an address while the blob is pinned.
    mem: Mem,
}

impl Kept {
    /// Bytes of memory that it takes.
    fn taken(&self) -> u64 {
        self.taking(self.len)
    }

    /// The same at its longest.
    fn taken_most(&self) -> u64 {
        self.taking(self.mem.len())
    }

    fn taking(&self, len: u64) -> u64 {
        match self.lies {
            Lies::File { at, .. } => blocks(at, len),
            Lies::Paged { .. } => blocks(0, len),
        }
    }

    fn is_paged(&self) -> bool {
        matches!(self.lies, Lies::Paged { .. })
    }
}

/// Bytes of memory for a run of a file's: they begin as far behind a block's border as in the file.
fn blocks(at: u64, len: u64) -> u64 {
    (at % BLOCK_BYTES + len).next_multiple_of(BLOCK_BYTES)
}

/// What a step uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uses {
    /// All of it.
    pub(crate) blobs: Vec<BlobId>,
    /// Those of them that it changes.
    pub(crate) changed: Vec<BlobId>,
}

/// The plans of which a pass consists, as they were arranged last.
#[derive(Default)]
struct Pass {
    /// Each plan and the tick of its first step.
    plans: Vec<(PlanId, Tick)>,
    /// Ticks in all.
    length: Tick,
}

#[derive(Default)]
struct State {
    files: Vec<(Arc<Path>, Arc<dyn Store>)>,
    /// Those that we have packed.
    packed: Vec<Arc<Path>>,
    blobs: Vec<Kept>,
    /// The blobs by file, place and length.
    known: HashMap<(usize, u64, u64), BlobId>,
    /// What each step of each plan uses.
    plans: Vec<Vec<Uses>>,
    /// The pages of states.
    pages: Use,
    /// The swap file, while there is no residency.
    swap: Option<SwapFile>,
    /// Nothing before the first pass, and when there is something new.
    residency: Option<Residency>,
    pass: Pass,
    /// The next step's.
    now: Tick,
    /// What the process held beside weights of its own when it was first counted, and what was added since then.
    base: Option<u64>,
    /// Bytes of cache, of buffers, and of weights that are in memory of their own.
    own: Own,
    /// Why packed weights are among those.
    unkept: Option<Arc<str>>,
    counted: Option<Counted>,
    /// What residencies before this one have cost.
    before: Traffic,
    /// The device's own memory, if it has one: then the host's is on the way there.
    apart: Option<Apart>,
}

/// What a limit has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read, of weights and of keys and values.
    pub bytes_read: u64,
    /// Bytes of keys and values that were written to the swap file.
    pub bytes_written: u64,
    /// How long the swap file is now.
    pub swap_bytes: u64,
    /// Bytes that were copied to a device's own memory and back, of weights and of keys and values.
    pub bytes_copied: u64,
    /// How often a step waited for weights.
    pub stalls: u64,
    /// How long in all.
    pub stall: Duration,
    /// Passes that began.
    pub passes: u64,
}

/// Weights within a limit, on a host or on a device.
pub struct Residence {
    limit: Limit,
    files: Files,
    is_apart: bool,
    spills: bool,
    state: Mutex<State>,
}

impl Residence {
    /// A residence without weights; none if there is no limit.
    ///
    /// # Errors
    /// The swap file cannot be made.
    pub(crate) fn new(limit: &Limit) -> Result<Option<Arc<Residence>>, Error> {
        if limit.most == Most::Unlimited {
            return Ok(None);
        }
        Ok(Some(Residence::with(limit, None)?))
    }

    /// The same for a device with so many bytes of memory of its own. The host's limit may be none: then all that is not
    /// on the device stays there.
    ///
    /// # Errors
    /// As [`Residence::new`].
    pub(crate) fn apart(limit: &Limit, device: Arc<dyn Device>, bytes: u64) -> Result<Arc<Residence>, Error> {
        Residence::with(limit, Some(Apart::new(device, bytes)))
    }

    fn with(limit: &Limit, apart: Option<Apart>) -> Result<Arc<Residence>, Error> {
        let files = Files::new(limit.open.clone());
        let (is_apart, spills) = (apart.is_some(), limit.spill.is_some());
        let mut state = State { apart, ..State::default() };
        state.swap = state.swap_file(limit)?;
        Ok(Arc::new(Residence { limit: limit.clone(), files, is_apart, spills, state: Mutex::new(state) }))
    }

    /// Whether blobs are used in a device's own memory.
    pub(crate) fn is_apart(&self) -> bool {
        self.is_apart
    }

    /// Whether files are read past the page cache, which a limit of the host's memory may count.
    pub fn limits_host(&self) -> bool {
        self.limit.most != Most::Unlimited
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a pass leaves pins behind at most, which keep bytes where they are said to be.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files that are read.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// The most bytes of weights that a launch reads, if its weights can be cut.
    pub(crate) fn range_bytes(&self) -> u64 {
        self.limit.range_bytes
    }

    /// Takes a run of a file's bytes in, if it is not known. Its memory may be read in a launch of a step that names it.
    pub(crate) fn add(
        &self,
        file: &Opened,
        at: u64,
        len: u64,
        sums: Option<Sums>,
    ) -> Result<(BlobId, Mem), Error> {
        let mut state = self.lock();
        let opened = state.files.iter().position(|(path, _)| *path == file.0);
        let file = opened.unwrap_or_else(|| {
            state.files.push(file.clone());
            state.files.len() - 1
        });
        if let Some(blob) = state.known.get(&(file, at, len)) {
            return Ok((*blob, state.blobs[blob.0 as usize].mem.clone()));
        }
        let mem = lent(len);
        // Nobody keeps hashes of models' own files: what is read first must come again.
        let sums = sums.unwrap_or_else(|| Sums::unknown(len, CHUNK_BYTES));
        let blob = state.take_in(Kept { lies: Lies::File { file, at, sums }, len, mem: mem.clone() })?;
        state.known.insert((file, at, len), blob);
        Ok((blob, mem))
    }

    /// Says that a file is one of packed weights: if it is damaged it is removed.
    pub(crate) fn is_packed(&self, path: Arc<Path>) {
        self.lock().packed.push(path);
    }

    /// Says why packed weights cannot come and go.
    pub(crate) fn cannot_keep(&self, why: &str) {
        self.lock().unkept = Some(why.into());
    }

    /// Takes a plan in whose steps use these blobs.
    pub(crate) fn register(&self, steps: Vec<Uses>) -> PlanId {
        let mut state = self.lock();
        state.plans.push(steps);
        PlanId(state.plans.len() - 1)
    }

    /// Gives the memory of blobs up, so that what else is taken can be measured.
    ///
    /// # Errors
    /// Keys and values cannot be written to the swap file, or a file hangs; then all stay where they are.
    pub(crate) fn retire(&self) -> Result<(), Error> {
        self.lock().retire()
    }

    /// Says what else is in memory, or is going to be: what is left for weights is counted anew before the next pass.
    ///
    /// # Errors
    /// As [`Residence::retire`].
    pub(crate) fn own(&self, own: Own, grown: u64) -> Result<(), Error> {
        let mut state = self.lock();
        state.base = state.base.map(|base| base + grown);
        state.own = own;
        state.retire()
    }

    /// Says that so much else is in memory now: blobs stay where they are if that leaves them neither less nor more.
    ///
    /// # Errors
    /// As [`Residence::retire`].
    pub(crate) fn own_for_a_while(&self, own: Own) -> Result<(), Error> {
        let mut state = self.lock();
        state.own = own;
        let counted = state.tally(self.limit.most);
        let left = |counted: &Counted| counted.left().ok();
        match &mut state.counted {
            Some(before) if left(before) == left(&counted) => {
                *before = counted;
                Ok(())
            }
            _ => state.retire(),
        }
    }

    /// Says what else is in the device's own memory, or is going to be.
    pub(crate) fn own_apart(&self, own: Own) {
        if let Some(apart) = &mut self.lock().apart {
            apart.own = own;
        }
    }

    /// Counts what the process holds, if nobody has: what a rehearsal touches would be in it, and is counted by itself.
    pub(crate) fn count_held(&self) {
        let mut state = self.lock();
        state.base = Some(state.base_bytes());
    }

    /// Runs a step of a plan on bytes that stand for its weights.
    pub(crate) fn rehearse(
        &self,
        plan: PlanId,
        number: usize,
        weights: &mut StandIn,
        run: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let state = self.lock();
        let used: Vec<&Kept> = state.used(&state.plans[plan.0][number]).collect();
        for kept in &used {
            let skew = match kept.lies {
                Lies::File { at, .. } => (at % BLOCK_BYTES) as usize,
                Lies::Paged { .. } => 0,
            };
            kept.mem.lend(weights.next(kept.taken_most() as usize).wrapping_add(skew));
        }
        let outcome = run();
        used.iter().for_each(|kept| kept.mem.lend(std::ptr::null_mut()));
        outcome
    }

    /// Bytes that a pass of these plans uses of weights and of states at their longest, and the most that one step of any
    /// plan does.
    pub(crate) fn bytes_of(&self, plans: &[PlanId]) -> [u64; 2] {
        let state = self.lock();
        let bytes = |uses: &Uses| state.used(uses).map(Kept::taken_most).sum();
        let all = plans.iter().flat_map(|plan| &state.plans[plan.0]).map(bytes).sum();
        [all, state.plans.iter().flatten().map(bytes).max().unwrap_or(0)]
    }

    /// Says which plans a pass consists of, and begins to read what they need first.
    ///
    /// # Errors
    /// The limit leaves too little for one of their steps.
    pub(crate) fn arrange(&self, plans: &[PlanId]) -> Result<(), Error> {
        let mut state = self.lock();
        state.settle(&self.limit)?;
        if !state.pass.plans.iter().map(|(plan, _)| plan).eq(plans) {
            state.arrange(plans)?;
        }
        Ok(())
    }

    /// Begins the steps of a plan, which no other plan may interrupt.
    ///
    /// # Errors
    /// As [`Residence::arrange`].
    pub(crate) fn enter(&self, plan: PlanId) -> Result<Turn<'_>, Error> {
        let mut state = self.lock();
        state.settle(&self.limit)?;
        if !state.pass.plans.iter().any(|(other, _)| *other == plan) {
            state.arrange(&[plan])?;
        }
        let State { pass, now, .. } = &mut *state;
        let start = pass.plans.iter().find(|(other, _)| *other == plan).map_or(0, |(_, start)| *start);
        // The next tick at which a pass comes to this plan.
        let ahead = (start + pass.length - *now % pass.length) % pass.length;
        *now += ahead;
        if start == 0 {
            state.before.passes += 1;
        }
        Ok(Turn { state, plan })
    }

    /// The files that are read by way of the system's page cache, since their file systems refuse to read past it; the swap
    /// file is one of them. Some refuse only when they are first asked.
    pub fn cached_files(&self) -> Vec<Arc<Path>> {
        let state = self.lock();
        let cached = state.files.iter().filter(|(_, store)| !store.is_direct());
        let swap = state.swap.as_ref().or_else(|| state.residency.as_ref()?.swap());
        let swap = swap.filter(|swap| !swap.store().is_direct()).map(|swap| Arc::from(swap.path()));
        cached.map(|(path, _)| path.clone()).chain(swap).collect()
    }

    /// The file that most of the weights come from, if any come and go, and where in it those lie that are not so short that
    /// they stay before all others.
    pub fn main_file(&self) -> Option<(Arc<Path>, Vec<Range<u64>>)> {
        let state = self.lock();
        let mut lie = vec![Vec::new(); state.files.len()];
        for kept in &state.blobs {
            if let Lies::File { file, at, .. } = kept.lies {
                lie[file].push(at..at + kept.len);
            }
        }
        let is_long = |range: &Range<u64>| range.end - range.start >= SMALL_BYTES;
        for ranges in lie.iter_mut().filter(|ranges| ranges.iter().any(is_long)) {
            ranges.retain(is_long);
        }
        let bytes =
            |ranges: &Vec<Range<u64>>| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        let files = state.files.iter().zip(lie);
        files.max_by_key(|(_, ranges)| bytes(ranges)).map(|((path, _), ranges)| (path.clone(), ranges))
    }

    /// What was counted against the host's limit, if a pass has begun.
    pub fn counted(&self) -> Option<Counted> {
        self.lock().counted.clone().filter(|counted| counted.limit != Most::Unlimited)
    }

    /// What was counted against a device's limit, if there is one and a pass has begun.
    pub fn counted_apart(&self) -> Option<Counted> {
        self.lock().apart.as_ref().and_then(|apart| apart.counted.clone())
    }

    /// Bytes of weights that stay where they are used, as passes are arranged now.
    pub fn staying(&self) -> u64 {
        self.lock().staying(|blob| !blob.is_paged())
    }

    /// Bytes of keys and values that stay in memory, of those that states have now; both are none where they all lie in
    /// memory of their own.
    pub fn pages_staying(&self) -> [u64; 2] {
        let state = self.lock();
        let all = state.blobs.iter().filter(|blob| blob.is_paged()).map(|blob| blob.len).sum();
        [state.staying(Kept::is_paged), all]
    }

    /// What it has cost so far.
    pub fn traffic(&self) -> Traffic {
        let state = self.lock();
        let swap_bytes = state.swap.as_ref().map_or(0, SwapFile::bytes);
        Traffic { swap_bytes, ..state.before }.and(state.residency.as_ref())
    }
}

impl Traffic {
    fn and(mut self, residency: Option<&Residency>) -> Traffic {
        if let Some(counts) = residency.map(Residency::counts) {
            self.bytes_read += counts.bytes_read;
            self.bytes_written += counts.bytes_written;
            self.swap_bytes = counts.swap_bytes;
            self.bytes_copied += counts.bytes_copied;
            self.stalls += counts.stalls;
            self.stall += counts.stall;
        }
        self
    }
}

impl State {
    /// Takes a blob in. A residency numbers blobs in the order in which they are added, and so do we.
    fn take_in(&mut self, blob: Kept) -> Result<BlobId, Error> {
        let number = u32::try_from(self.blobs.len()).map_err(|_| Error::Swap(SwapError::Exhausted))?;
        self.retire()?;
        self.blobs.push(blob);
        Ok(BlobId(number))
    }

    /// What a step uses.
    fn used<'a>(&'a self, uses: &'a Uses) -> impl Iterator<Item = &'a Kept> {
        uses.blobs.iter().map(|blob| &self.blobs[blob.0 as usize])
    }

    /// Bytes of some blobs that stay where they are used.
    fn staying(&self, is_meant: impl Fn(&Kept) -> bool) -> u64 {
        let Some(residency) = &self.residency else { return 0 };
        let blobs = self.blobs.iter().zip(0..).filter(|(blob, _)| is_meant(blob));
        blobs.filter(|(_, number)| residency.stays(BlobId(*number))).map(|(blob, _)| blob.len).sum()
    }

    /// Waits until nothing that was launched uses blobs.
    fn let_go(&mut self) -> Result<(), Error> {
        match (&mut self.apart, &mut self.residency) {
            (Some(apart), Some(residency)) => apart.let_all_go(residency, &self.plans),
            _ => Ok(()),
        }
    }

    /// Gives the memory of blobs up: how much there is must be counted anew. What the swap file has not goes there.
    fn retire(&mut self) -> Result<(), Error> {
        self.let_go()?;
        if let Some(residency) = self.residency.as_mut().filter(|_| self.blobs.iter().any(Kept::is_paged)) {
            // What failed for an earlier pass is tried once more.
            residency.forgive();
            let why = || self.apart.as_ref().and_then(Apart::why);
            residency.save().map_err(|error| why().map_or_else(|| spilled(error), Error::Device))?;
        }
        // A read that hangs would keep its memory beside what comes in its place.
        self.residency.as_mut().map_or(Ok(()), Residency::rest).map_err(Error::Swap)?;
        self.before = self.before.and(self.residency.as_ref());
        self.swap = self.residency.take().map_or(self.swap.take(), Residency::into_swap);
        if let Some(apart) = &mut self.apart {
            apart.retire();
        }
        self.pass = Pass::default();
        self.now = 0;
        Ok(())
    }

    /// Has memory for blobs, and forgives files that failed.
    fn settle(&mut self, limit: &Limit) -> Result<(), Error> {
        // What a device said of an earlier pass is not the reason of what fails now.
        let _told = self.apart.as_ref().and_then(Apart::why);
        match &mut self.residency {
            // What failed for an earlier pass, or was read ahead for this one, is tried once more.
            Some(residency) => residency.forgive(),
            None => self.begin(limit)?,
        }
        Ok(())
    }

    /// What the process holds beside weights of its own, which are counted by themselves: they are all in memory when they
    /// have been told.
    fn base_bytes(&self) -> u64 {
        self.base.unwrap_or_else(|| held().saturating_sub(self.own.copied))
    }

    /// What a limit must hold.
    fn count(&mut self, limit: Most) -> Counted {
        self.base = Some(self.base_bytes());
        self.tally(limit)
    }

    /// The same, with what the process holds now if that was never counted.
    fn tally(&self, limit: Most) -> Counted {
        let [paged, all] = [true, false].map(|is_paged| {
            let blobs = self.blobs.iter().filter(|blob| blob.is_paged() == is_paged);
            blobs.map(Kept::taken_most).sum()
        });
        let bytes = |blob: &BlobId| self.blobs[blob.0 as usize].taken_most();
        let steps = self.plans.iter().flatten();
        let step = steps.map(|uses| uses.blobs.iter().map(bytes).sum()).max().unwrap_or(0);
        let (base, unkept) = (self.base_bytes(), self.unkept.clone());
        Counted { limit, base, own: self.own, all, paged, step, unkept }
    }

    fn begin(&mut self, limit: &Limit) -> Result<(), Error> {
        let mut counted = self.count(limit.most);
        let most = counted.all + counted.paged;
        let mut room = None;
        if let Some(apart) = &mut self.apart {
            room = Some(apart.count(&counted).map_err(Error::Limit)?);
            // One blob at a time comes and goes by way of the host.
            counted.step = self.blobs.iter().map(Kept::taken_most).max().unwrap_or(0);
        }
        let left = counted.left().map_err(Error::Limit)?;
        let taken = self.lengthen(room.as_ref().map_or(left, |room| room.bytes) == most);
        if let Some(room) = &mut room {
            room.bytes = room.bytes.min(taken);
        }
        // What comes down takes the place of what is on its way up, unless there is room for all.
        let beside = room.as_ref().filter(|_| counted.paged == 0).map_or(taken, |room| room.beside(taken));
        let left = left.min(beside);
        let mut options = Options { policy: ring(left), swap_bytes: pages::SWAP_MAX, ..limit.options(left) };
        let swap = self.swap_file(limit)?;
        let mut mover = None;
        if let (Some(apart), Some(room)) = (&mut self.apart, room) {
            options.device_policy = room.policy();
            mover = Some(apart.begin(room.bytes)?);
        }
        let mut residency = Residency::with(&options, swap, mover).map_err(Error::Swap)?;
        let add_file = |(path, store): &(Arc<Path>, Arc<dyn Store>)| residency.add_file(path, store.clone());
        let files: Vec<FileId> =
            self.files.iter().map(add_file).collect::<Result<_, _>>().map_err(Error::Swap)?;
        for Kept { lies, len, .. } in &self.blobs {
            let added = match lies {
                Lies::File { file, at, sums } => {
                    let origin = Origin { file: files[*file], at: *at, len: *len, sums: Some(sums.clone()) };
                    residency.add("weights", origin)
                }
                Lies::Paged { .. } => residency.add_own("pages", *len),
            };
            added.map_err(Error::Swap)?;
        }
        self.residency = Some(residency);
        self.counted = Some(counted);
        Ok(())
    }

    fn arrange(&mut self, plans: &[PlanId]) -> Result<(), Error> {
        let mut pass = Pass::default();
        let mut uses = Vec::new();
        for plan in plans {
            pass.plans.push((*plan, pass.length));
            for step in &self.plans[plan.0] {
                uses.extend(step.blobs.iter().map(|blob| (*blob, pass.length)));
                pass.length += 1;
            }
        }
        // A plan without launches takes a tick all the same.
        pass.length = pass.length.max(1);
        let agenda = Agenda::new(pass.length, uses);
        self.let_go()?;
        let residency = self.residency.as_mut().expect("there is memory before anything is arranged");
        residency.arrange(agenda).and_then(|()| residency.prefetch(0)).map_err(Error::Swap)?;
        if let Some(apart) = &mut self.apart {
            apart.arranged(residency, &self.blobs);
        }
        self.pass = pass;
        self.now = 0;
        Ok(())
    }
}

/// The part of the memory through which weights go that do not stay, if one step does not need more. At the least it is
/// twice what is asked of a disk at a time, so that computing and reading have one half each.
const RING: u64 = 8;
const RING_MIN: u64 = 32 << 20;
const RING_MAX: u64 = 512 << 20;

/// How so many bytes of memory are used.
fn ring(left: u64) -> Policy {
    Policy::Stream { ring_bytes: (left / RING).clamp(RING_MIN, RING_MAX) }
}

/// So long a step waits for one blob: a disk that gives less than a blob in that time is taken for dead.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The steps of one plan, one after another.
pub(crate) struct Turn<'a> {
    state: MutexGuard<'a, State>,
    plan: PlanId,
}

impl Turn<'_> {
    /// Runs a step while what it uses is there, and tells it where that is if that is not where it was bound to.
    pub(crate) fn step(
        &mut self,
        number: usize,
        run: impl FnOnce(Option<&Places<'_>>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let State { residency, plans, blobs, packed, pages, now, apart, .. } = &mut *self.state;
        let residency = residency.as_mut().expect("nobody enters a plan without memory");
        let (tick, uses) = (*now, &plans[self.plan.0][number]);
        *now += 1;
        let named = |error: SwapError| match &error {
            SwapError::Corrupt { path, at, len } if packed.contains(path) => {
                damaged(path, &format!("the {len} bytes at byte {at} are not what was written"))
            }
            _ => spilled(error),
        };
        if let Some(apart) = apart {
            let books = Books { plans, blobs, pages };
            return apart.step(residency, books, Step { plan: self.plan, number, tick }, named, run);
        }
        residency.pin(tick, &uses.blobs).map_err(named)?;
        let changed = pages::change(residency, blobs, pages, &uses.changed).map_err(spilled);
        let outcome = changed.and_then(|()| {
            for blob in &uses.blobs {
                let span = residency.span(*blob).expect("what is pinned is there");
                blobs[blob.0 as usize].mem.lend(span.start());
            }
            let outcome = run(None);
            for blob in &uses.blobs {
                blobs[blob.0 as usize].mem.lend(std::ptr::null_mut());
            }
            outcome
        });
        residency.unpin(tick, &uses.blobs).map_err(Error::Swap)?;
        outcome
    }
}

/// One step of a plan, and when it runs.
#[derive(Clone, Copy)]
struct Step {
    plan: PlanId,
    number: usize,
    tick: Tick,
}
