//! The threads that run kernels: pinned, spinning between kernels, asleep between tokens.
//!
//! A pass runs hundreds of kernels of some microseconds, so a fork and join must cost a fraction of one:
//! workers look for work about [`SPINS`] times before they sleep on a futex.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::os;

/// How often a worker looks for work before it sleeps.
const SPINS: u32 = 5000;

/// How many threads, and whether each stays on a processor of its own.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// Threads that compute, the caller included.
    pub count: usize,
    /// Whether workers are pinned (the caller never is).
    pub pin: bool,
}

type Work = dyn Fn(usize) + Sync;

struct Shared {
    /// Changes with each piece of work.
    generation: AtomicU32,
    /// Workers that have not finished the current piece.
    busy: AtomicU32,
    /// Workers that sleep or are about to.
    sleeping: AtomicU32,
    stop: AtomicBool,
    work: Mutex<Option<&'static Work>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// More threads than processors: spinning would keep others from working.
    crowded: bool,
}

/// A pool of threads for kernels.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One piece of work at a time.
    turn: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Starts the workers. If the system refuses some, the pool is smaller; [`Pool::count`] tells.
    pub fn new(threads: Threads) -> Pool {
        let processors = os::allowed_processors();
        let shared = Arc::new(Shared {
            generation: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            sleeping: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            work: Mutex::new(None),
            panic: Mutex::new(None),
            crowded: threads.count > processors.len(),
        });
        let start = |worker: usize| {
            let shared = shared.clone();
            let processor = processors.get(worker).copied().filter(|_| threads.pin);
            let body = move || {
                if let Some(processor) = processor {
                    os::pin_to(processor);
                }
                shared.serve(worker);
            };
            std::thread::Builder::new().name(format!("kernel-{worker}")).spawn(body).ok()
        };
        let workers = (1..threads.count.max(1)).map_while(start).collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that compute, the caller included.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work(n)` once for each `n` in `0..count`, on that many threads; the caller is number 0. If one
    /// panics, the others finish, and the panic goes on in the caller. Must not be called from inside.
    pub fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return work(0);
        }
        let _turn = lock(&self.turn);
        // SAFETY: the reference is used by workers only until `busy` has fallen to 0, which this function
        // waits for, also when `work` panics here; so it never outlives the borrow.
        let forever: &'static Work = unsafe { std::mem::transmute(work) };
        *lock(&self.shared.work) = Some(forever);
        self.shared.busy.store(self.workers.len() as u32, Ordering::Release);
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        if self.shared.sleeping.load(Ordering::SeqCst) > 0 {
            os::wake_all(&self.shared.generation);
        }
        let mine = catch_unwind(AssertUnwindSafe(|| work(0)));
        let mut spins = 0;
        while self.shared.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins > SPINS || self.shared.crowded {
                std::thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
        }
        *lock(&self.shared.work) = None;
        let theirs = lock(&self.shared.panic).take();
        if let Some(panic) = mine.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            seen = self.next(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let work = *lock(&self.work);
            if let Some(work) = work {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(worker))) {
                    *lock(&self.panic) = Some(panic);
                }
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a generation other than `seen`.
    fn next(&self, seen: u32) -> u32 {
        for _ in 0..if self.crowded { 1 } else { SPINS } {
            let now = self.generation.load(Ordering::Acquire);
            if now != seen {
                return now;
            }
            std::hint::spin_loop();
        }
        loop {
            self.sleeping.fetch_add(1, Ordering::SeqCst);
            if self.generation.load(Ordering::SeqCst) == seen {
                os::wait_while(&self.generation, seen);
            }
            self.sleeping.fetch_sub(1, Ordering::SeqCst);
            let now = self.generation.load(Ordering::Acquire);
            if now != seen {
                return now;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        os::wake_all(&self.shared.generation);
        for worker in self.workers.drain(..) {
            let _panicked = worker.join();
        }
    }
}
