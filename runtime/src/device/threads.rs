//! The pool that runs the kernels of one CPU device.
//!
//! A decode pass is some 300 kernels, each of them a fork and a join, so those two may not cost a system call. Workers
//! are bound to cores of their own, spin for the next round and only then sleep; the caller is worker 0. All run one
//! function; how its work is shared out is the function's own affair: kernels have their groups counted out (`cpu.rs`),
//! and no bit of a result depends on who computes which.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::machine::Cores;
use crate::os;

/// Looks at the round counter before a worker sleeps, and at a worker's mark before the caller yields. Long enough to
/// bridge two kernels of a pass, short enough that an idle pool is soon quiet.
const SPINS: u32 = 5_000;

/// Times a crowded worker gives its core away before it sleeps.
const YIELDS: u32 = 8;

/// How many threads, and whether each gets a core of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Workers including the caller; 0 counts as 1.
    pub count: usize,
    /// Bind workers to distinct cores. Ignored where there are more workers than logical CPUs.
    pub pin: bool,
}

type Work = dyn Fn(usize) + Sync;
type Payload = Box<dyn Any + Send>;

/// A value on cache lines of its own (two, since x86 fetches lines in pairs).
#[repr(align(128))]
struct Line<T>(T);

/// What the caller says to the workers, on one line: a round costs one transfer of it to each of them.
struct Call {
    /// The number of the newest round. Work is published by raising it; it is also the word that sleepers wait on.
    round: AtomicU32,
    /// The newest round's work, none to end. Written by the caller between rounds, read by workers inside one.
    work: UnsafeCell<Option<*const Work>>,
}

struct Shared {
    call: Line<Call>,
    /// Workers that sleep or are about to.
    sleeping: Line<AtomicU32>,
    /// The last round that each worker finished; worker 1 is at index 0.
    done: Vec<Line<AtomicU32>>,
    /// Whether `panic` holds one, so that a round without needs no lock.
    panicked: AtomicBool,
    panic: Mutex<Option<Payload>>,
    crowded: bool,
}

// SAFETY: `call.work` is the only field that is not Send and Sync by itself. It is written only by the caller that holds
// `Pool::turn` (or owns the pool, to end it), when every worker has marked the last round done and none reads it before
// the next round is raised.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is bound to no thread.
unsafe impl Send for Shared {}

thread_local! {
    /// Set while this thread runs a pool's work.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A fixed set of threads that run one function together, again and again.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
    cores: Vec<usize>,
    refused: Option<io::Error>,
}

impl Pool {
    /// Starts `threads.count - 1` threads. Where the system refuses one, the pool is smaller: [`Pool::count`] tells the
    /// size and [`Pool::refused`] the reason.
    pub fn new(threads: Threads) -> Pool {
        let allowed = os::allowed_cpus();
        let count = threads.count.max(1);
        let crowded = count > allowed.len();
        let cores = if threads.pin && !crowded && count > 1 { places(allowed, count) } else { Vec::new() };
        let shared = Arc::new(Shared {
            call: Line(Call { round: AtomicU32::new(0), work: UnsafeCell::new(None) }),
            sleeping: Line(AtomicU32::new(0)),
            done: (1..count).map(|_| Line(AtomicU32::new(0))).collect(),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            crowded,
        });
        let mut pool = Pool { shared, workers: Vec::new(), turn: Mutex::new(()), cores, refused: None };
        for worker in 1..count {
            let (shared, core) = (pool.shared.clone(), pool.cores.get(worker).copied());
            let builder = thread::Builder::new().name(format!("jtllm-{worker}"));
            match builder.spawn(move || shared.serve(worker, core)) {
                Ok(handle) => pool.workers.push(handle),
                Err(error) => {
                    pool.refused = Some(error);
                    break;
                }
            }
        }
        pool
    }

    /// Workers, the caller included; at least 1. Work is divided by this number, not by the one asked for.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// The logical CPU of each worker, the caller first; empty where workers are not bound.
    pub fn cores(&self) -> &[usize] {
        &self.cores[..self.cores.len().min(self.count())]
    }

    /// Why the pool is smaller than asked for, if it is.
    pub fn refused(&self) -> Option<&io::Error> {
        self.refused.as_ref()
    }

    /// Runs `work(worker)` once for each worker in `0..count()`, worker 0 on the calling thread, and returns when all
    /// are done. Callers on several threads take turns.
    ///
    /// # Panics
    /// With the panic of a worker, after all of them have finished; the pool stays usable. And when called from inside
    /// work, of this pool or another: a worker that waits for workers would never end.
    pub fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        assert!(
            !INSIDE.get(),
            "Pool::run was called from inside the work of a pool; work may not fork again"
        );
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.workers.is_empty() {
            self.fork(work);
        }
        INSIDE.set(true);
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        INSIDE.set(false);
        self.join();
        let theirs = self.shared.take_panic();
        drop(turn);
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Binds the calling thread to worker 0's core until the guard is dropped. A caller left free may be put on the
    /// core of one of its own workers, where the two take turns; bind it for a whole pass, not for one kernel (two
    /// system calls). Threads that it starts meanwhile inherit the binding. Does nothing in a pool that is not bound.
    pub fn pin_caller(&self) -> PinnedCaller {
        let before = match self.cores.first() {
            Some(&core) => {
                let before = os::allowed_cpus();
                os::pin(&[core]).ok().map(|()| before)
            }
            None => None,
        };
        PinnedCaller { before, _same_thread: PhantomData }
    }

    fn fork(&self, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime is changed. The pointer is followed only inside the round raised below, and `run`
        // does not return before every worker has marked that round done.
        let work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Work>(work) };
        // SAFETY: `run` holds `turn` and has joined the round before.
        unsafe { self.shared.raise(Some(work)) };
    }

    fn join(&self) {
        let round = self.shared.call.0.round.load(Ordering::Relaxed);
        let patience = if self.shared.crowded { 0 } else { SPINS };
        for done in &self.shared.done[..self.workers.len()] {
            let mut spins = 0;
            while done.0.load(Ordering::Acquire) != round {
                if spins < patience {
                    spins += 1;
                    spin_loop();
                } else {
                    thread::yield_now();
                }
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: nobody else has the pool any more, and every `run` has joined its round.
        unsafe { self.shared.raise(None) };
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its work, so it ends well.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Publishes work as the next round, or the end.
    ///
    /// # Safety
    /// No round is running, nobody else calls this meanwhile, and the work lives until its round is joined.
    unsafe fn raise(&self, work: Option<*const Work>) {
        let call = &self.call.0;
        // SAFETY: every worker has marked the last round done and reads the cell next after it has seen the new round.
        unsafe { *call.work.get() = work };
        call.round.fetch_add(1, Ordering::SeqCst);
        // A worker counts itself asleep before its last look at the round, both sequentially consistent: either it sees
        // this round, or it is seen here.
        if self.sleeping.0.load(Ordering::SeqCst) > 0 {
            os::wake_all(&call.round);
        }
    }

    /// The life of one worker.
    fn serve(&self, worker: usize, core: Option<usize>) {
        if let Some(core) = core {
            // A refusal costs speed, never results.
            let _ = os::pin(&[core]);
        }
        INSIDE.set(true);
        let mut round = 0;
        loop {
            round = self.next_round(round);
            // SAFETY: this round's work was written before the round was raised, and stays alive and unchanged until
            // this worker marks the round done.
            let Some(work) = (unsafe { (*self.call.0.work.get()).map(|work| &*work) }) else { return };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(worker))) {
                self.keep_panic(payload);
            }
            self.done[worker - 1].0.store(round, Ordering::Release);
        }
    }

    /// Waits for the round after `seen`: by looking, then by sleeping.
    fn next_round(&self, seen: u32) -> u32 {
        for _ in 0..if self.crowded { YIELDS } else { SPINS } {
            let round = self.call.0.round.load(Ordering::Acquire);
            if round != seen {
                return round;
            }
            if self.crowded { thread::yield_now() } else { spin_loop() }
        }
        self.sleeping.0.fetch_add(1, Ordering::SeqCst);
        let mut round = self.call.0.round.load(Ordering::SeqCst);
        while round == seen {
            os::wait(&self.call.0.round, seen);
            round = self.call.0.round.load(Ordering::SeqCst);
        }
        self.sleeping.0.fetch_sub(1, Ordering::SeqCst);
        round
    }

    /// Keeps the first panic of a round for the caller.
    fn keep_panic(&self, payload: Payload) {
        let mut kept = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            *kept = Some(payload);
            // The mark of the finished round, stored later, carries this to the caller.
            self.panicked.store(true, Ordering::Relaxed);
        } else {
            // Dropping a payload may panic, which would end the worker and hang the caller; leaking it cannot.
            std::mem::forget(payload);
        }
    }

    /// The panic kept in the round just joined, if any.
    fn take_panic(&self) -> Option<Payload> {
        if !self.panicked.load(Ordering::Relaxed) {
            return None;
        }
        self.panicked.store(false, Ordering::Relaxed);
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Cores for `count` workers, beginning where the caller is now: it need not move, and two processes on one machine are
/// less likely to choose the same cores.
fn places(allowed: Vec<usize>, count: usize) -> Vec<usize> {
    let Cores { mut cpus, physical } = Cores::of(allowed);
    let here = os::current_cpu();
    if let Some(at) = cpus[..physical].iter().position(|&cpu| Some(cpu) == here) {
        cpus[..physical].rotate_left(at);
    }
    cpus.truncate(count);
    cpus
}

/// While it lives, the thread that made it stays on its core; then the thread may run where it could before.
pub struct PinnedCaller {
    before: Option<Vec<usize>>,
    /// Another thread must not drop it: it would change its own binding.
    _same_thread: PhantomData<*const ()>,
}

impl Drop for PinnedCaller {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = os::pin(before);
        }
    }
}
