//! Threads and what they wait on. The crate's own tests have `shuttle` choose which thread runs next at each of these
//! calls, which finds what a run on real cores finds once in a year.

#[cfg(test)]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};
#[cfg(not(test))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};

use std::sync::PoisonError;

/// Locks. A thread that panicked left sound tables behind: none is changed in two steps between which it can.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
