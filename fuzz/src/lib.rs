//! The loop of fuzz tests, for tests only: a property is repeated on random input until its time is over.
//!
//! ```
//! jtllm_fuzz::for_seconds("numbers", |random| {
//!     let bytes = random.bytes(64);
//!     let _ = std::str::from_utf8(&bytes); // an error is welcome, a panic is not
//! });
//! ```
//!
//! Two variables of the environment steer it. `JTLLM_FUZZ_SECONDS` is the time for each test; without it a
//! test runs for one second on the same input each time, so that an ordinary test run can be repeated. With
//! it the input is new each time. `JTLLM_FUZZ_SEED` is the seed of the first case: a failing case prints it.
//!
//! # Invariants
//!
//! * A case depends on its seed alone.
//! * At least one case runs, and a case that takes longer than [`CASE_SECONDS_MAX`] fails; one that still
//!   runs after twice that time ends the process, since nothing else ends an endless loop.
//!
//! # What this crate does not know
//!
//! What is tested. It knows time, seeds and random values.

use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The longest that one case may take, in seconds: input of a few kilobytes never needs more.
pub const CASE_SECONDS_MAX: u64 = 20;

/// The source of a case's random values.
pub struct Random {
    runner: TestRunner,
}

impl Random {
    /// The source that belongs to `seed`.
    pub fn new(seed: u64) -> Random {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Random { runner: TestRunner::new_with_rng(Config::default(), rng) }
    }

    /// A value of a proptest strategy. The strategy must not reject all it makes.
    pub fn value<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(&mut self.runner).expect("a strategy of a fuzz test yields values").current()
    }

    /// A number from 0 to below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.value(0..end.max(1))
    }

    /// One of `choices`, which are not empty.
    pub fn choice<'a, T: Debug>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// At most `len_max` random bytes, short sequences as likely as long ones.
    pub fn bytes(&mut self, len_max: usize) -> Vec<u8> {
        let len = self.below(len_max + 1);
        self.value(proptest::collection::vec(proptest::num::u8::ANY, len))
    }

    /// At most `count_max` of `pieces` in random order: text that a grammar half accepts.
    pub fn text(&mut self, pieces: &[&str], count_max: usize) -> String {
        (0..self.below(count_max + 1)).map(|_| *self.choice(pieces)).collect()
    }

    /// `valid` with one to four faults: bits turned, bytes replaced by telling ones, a stretch removed or
    /// repeated, the end cut off.
    pub fn mutated(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(16)).min(bytes.len());
            match self.below(6) {
                _ if bytes.is_empty() => bytes = self.bytes(16),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = *self.choice(b"\0\x01\x7F\x80\xFF\"{}[]:,-09e. \n\\"),
                2 => bytes[at..end].fill(0xFF),
                3 => drop(bytes.drain(at..end)),
                4 => bytes.extend_from_within(at..end),
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}

/// Prints how to repeat the case if it ends in a panic.
struct Case<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: fails with JTLLM_FUZZ_SEED={}", self.name, self.seed);
        }
    }
}

/// The number in a variable of the environment. One that is no number must not pass for absent.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, a whole number was expected")))
}

/// Repeats `property` on random input until the time is over, and prints how often it ran.
///
/// # Panics
///
/// If `property` does, or if a case takes longer than [`CASE_SECONDS_MAX`].
pub fn for_seconds(name: &str, property: impl Fn(&mut Random)) {
    let seconds = number("JTLLM_FUZZ_SECONDS");
    let fixed = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let fresh = || RandomState::new().build_hasher().finish();
    let first = number("JTLLM_FUZZ_SEED").unwrap_or_else(|| if seconds.is_some() { fresh() } else { fixed });
    let cases = run(name, first, Duration::from_secs(seconds.unwrap_or(1)), property);
    println!("{name}: {cases} cases from JTLLM_FUZZ_SEED={first}");
}

/// Ends the process when a case does not end.
fn watch(name: &str, current: &AtomicU64, ended: &Receiver<()>) {
    let mut before = None;
    while ended.recv_timeout(Duration::from_secs(CASE_SECONDS_MAX)) == Err(RecvTimeoutError::Timeout) {
        let seed = current.load(Ordering::Relaxed);
        if before.replace(seed) == Some(seed) {
            // Not by `eprintln!`: what a test prints is lost when its process ends.
            let _ = writeln!(std::io::stderr(), "{name}: does not end with JTLLM_FUZZ_SEED={seed}");
            std::process::exit(101);
        }
    }
}

fn run(name: &str, first: u64, time: Duration, property: impl Fn(&mut Random)) -> u64 {
    let start = Instant::now();
    let current = Arc::new(AtomicU64::new(first));
    // Closed when this function is left in any way, which ends the watch.
    let (_running, ended) = channel();
    let watched = (name.to_owned(), Arc::clone(&current));
    std::thread::spawn(move || watch(&watched.0, &watched.1, &ended));
    let mut cases = 0;
    while cases == 0 || start.elapsed() < time {
        let case = Case { name, seed: first.wrapping_add(cases) };
        current.store(case.seed, Ordering::Relaxed);
        let begin = Instant::now();
        property(&mut Random::new(case.seed));
        let taken = begin.elapsed();
        assert!(taken < Duration::from_secs(CASE_SECONDS_MAX), "{name}: one case took {taken:?}");
        cases += 1;
    }
    cases
}
