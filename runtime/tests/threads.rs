//! The pool: every worker runs once a round, panics come back, nothing hangs.
#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jtllm_runtime::device::threads::{Pool, Threads};
use jtllm_runtime::os;

fn pool(count: usize) -> Pool {
    Pool::new(Threads { count, pin: true })
}

/// Rounds that a slow checker (valgrind, a sanitizer) also finishes; `JTLLM_TEST_ROUNDS` asks for more.
fn rounds() -> u64 {
    std::env::var("JTLLM_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

#[test]
fn every_worker_runs_once_a_round() {
    for count in 1..=8 {
        let pool = pool(count);
        assert_eq!(pool.count(), count);
        let runs: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
        for round in 0..rounds() {
            // The closure borrows a local of this round: a worker that came late would read a dead one.
            let seen: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
            pool.run(&|worker| {
                seen[worker].store(round + 1, Ordering::Relaxed);
                runs[worker].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                seen.iter().all(|seen| seen.load(Ordering::Relaxed) == round + 1),
                "{count} workers, round {round}"
            );
        }
        assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == rounds()));
    }
}

#[test]
fn plain_writes_are_visible_after_the_join_and_in_the_next_round() {
    const COUNT: usize = 4;
    struct Cells([std::cell::UnsafeCell<u64>; COUNT]);
    // SAFETY: in a round each worker writes its own cell; neighbours are read a round later.
    unsafe impl Sync for Cells {}
    let pool = pool(COUNT);
    let (even, odd) = (Cells(Default::default()), Cells(Default::default()));
    for round in 0..rounds() {
        let (from, to) = if round % 2 == 0 { (&even, &odd) } else { (&odd, &even) };
        pool.run(&|worker| {
            // Borrowed whole, so that the closure captures the `Sync` wrapper and not the cells inside it.
            let (from, to): (&Cells, &Cells) = (from, to);
            // SAFETY: `from` was written in the round before and is not written in this one; `to[worker]` is this
            // worker's own.
            unsafe { *to.0[worker].get() = *from.0[(worker + 1) % COUNT].get() + 1 };
        });
        // SAFETY: no round is running.
        assert!(to.0.iter().all(|cell| unsafe { *cell.get() } == round + 1));
    }
}

#[test]
fn sleeping_workers_wake_up() {
    let pool = pool(3);
    let runs = AtomicUsize::new(0);
    for _ in 0..20 {
        // Far longer than workers spin.
        std::thread::sleep(Duration::from_millis(5));
        pool.run(&|_| {
            runs.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(runs.into_inner(), 60);
}

#[test]
fn caller_waits_for_a_slow_worker() {
    let pool = pool(2);
    let finished = AtomicBool::new(false);
    pool.run(&|worker| {
        if worker == 1 {
            std::thread::sleep(Duration::from_millis(30));
            finished.store(true, Ordering::Relaxed);
        }
    });
    assert!(finished.into_inner());
}

#[test]
fn a_panic_comes_back_after_all_workers_have_finished() {
    let pool = pool(4);
    for bad in 0..4 {
        let finished = AtomicUsize::new(0);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|worker| {
                if worker == bad {
                    std::panic::panic_any(worker);
                }
                std::thread::sleep(Duration::from_millis(5));
                finished.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert_eq!(outcome.unwrap_err().downcast_ref::<usize>(), Some(&bad));
        assert_eq!(finished.into_inner(), 3, "run returned before the others had finished");
        // The pool goes on.
        let runs = AtomicUsize::new(0);
        pool.run(&|_| {
            runs.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(runs.into_inner(), 4);
    }
}

#[test]
fn every_worker_may_panic_at_once() {
    let pool = pool(4);
    let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(&|worker| panic!("worker {worker}"))));
    assert_eq!(
        outcome.unwrap_err().downcast_ref::<String>().unwrap(),
        "worker 0",
        "the caller's own comes first"
    );
    pool.run(&|_| ());
}

#[test]
fn a_fork_inside_work_is_refused() {
    for count in [1, 2] {
        let (outer, inner) = (pool(count), pool(1));
        let outcome = catch_unwind(AssertUnwindSafe(|| outer.run(&|_| inner.run(&|_| ()))));
        let message = *outcome.unwrap_err().downcast::<&str>().unwrap();
        assert!(message.contains("from inside the work of a pool"), "{message}");
        inner.run(&|_| ());
        outer.run(&|_| ());
    }
}

#[test]
fn callers_take_turns() {
    let pool = pool(2);
    let (inside, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..100 {
                    pool.run(&|_| {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 2, "two rounds at once");
                        total.fetch_add(1, Ordering::Relaxed);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 600);
}

#[test]
fn dropping_ends_the_threads() {
    let done = std::sync::Arc::new(());
    for count in 1..=8 {
        let pool = pool(count);
        // Some are dropped before their threads have started, some while they spin, some while they sleep.
        if count % 3 != 0 {
            let held = done.clone();
            pool.run(&move |_| assert!(std::sync::Arc::strong_count(&held) > 1));
        }
        if count % 3 == 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(std::sync::Arc::strong_count(&done), 1);
}

#[test]
fn workers_are_bound_to_cores_of_their_own() {
    let allowed = os::allowed_cpus();
    let pool = pool(allowed.len().min(4));
    if pool.count() == 1 {
        assert!(pool.cores().is_empty(), "one thread needs no binding");
        println!("skipped: one CPU only");
        return;
    }
    assert_eq!(pool.cores().len(), pool.count());
    assert!(pool.cores().iter().all(|core| allowed.contains(core)));
    let mut distinct = pool.cores().to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), pool.count());

    let places = Mutex::new(vec![Vec::new(); pool.count()]);
    {
        let _pinned = pool.pin_caller();
        pool.run(&|worker| places.lock().unwrap()[worker] = os::allowed_cpus());
    }
    assert_eq!(os::allowed_cpus(), allowed, "the caller is free again");
    if cfg!(target_os = "linux") {
        let wanted: Vec<Vec<usize>> = pool.cores().iter().map(|&core| vec![core]).collect();
        assert_eq!(places.into_inner().unwrap(), wanted);
    }
}

#[test]
fn a_pool_that_is_not_bound_leaves_threads_alone() {
    let pool = Pool::new(Threads { count: 2, pin: false });
    assert!(pool.cores().is_empty() && pool.refused().is_none());
    let allowed = os::allowed_cpus();
    let _pinned = pool.pin_caller();
    pool.run(&|_| assert_eq!(os::allowed_cpus(), allowed));
    assert_eq!(Pool::new(Threads { count: 0, pin: true }).count(), 1);
}

#[test]
fn more_threads_than_cores_do_not_stall() {
    let pool = pool(os::allowed_cpus().len() * 4);
    assert!(pool.cores().is_empty(), "a crowded pool is not bound");
    let start = Instant::now();
    for _ in 0..200 {
        pool.run(&|worker| {
            std::hint::black_box((0..1_000u64).fold(worker as u64, |sum, x| sum.wrapping_mul(31) ^ x));
        });
    }
    // Spinning through whole time slices would take 200 rounds x several slices of 3 ms and more; yielding takes
    // some 10 ms on a quiet machine.
    let took = start.elapsed();
    println!("crowded pool of {}: {:.1} us a round", pool.count(), took.as_secs_f64() * 1e6 / 200.0);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn cost_of_a_fork_and_join() {
    for count in [1, 2] {
        let pool = pool(count);
        let _pinned = pool.pin_caller();
        let mut costs: Vec<f64> = (0..200)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..50 {
                    pool.run(&|worker| {
                        std::hint::black_box(worker);
                    });
                }
                start.elapsed().as_secs_f64() / 50.0 * 1e6
            })
            .collect();
        costs.sort_by(f64::total_cmp);
        println!(
            "fork and join, {count} threads: min {:.2} us, median {:.2} us, p90 {:.2} us",
            costs[0], costs[100], costs[180]
        );
        assert!(costs[0] < 50_000.0, "the best of 200 took {} us", costs[0]);
    }
}
