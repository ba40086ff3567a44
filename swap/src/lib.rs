//! Keeps byte blobs where they are used, on tiers of memory within budgets, and knows when each is needed next.
//!
//! * A [`Blob`] is a run of bytes that rests and moves as a whole: a row range of weights, pages of a cache.
//! * A [`Ledger`] says on which [`Tier`] each blob has copies, which of them are current, and how many bytes
//!   of which kind that makes. It refuses what would exceed the [`Budget`].
//! * An [`Agenda`] holds the ticks at which each blob is used during one pass, and finds the next one.
//! * A [`Policy`] says which blobs stay, and how far ahead others are loaded.
//! * [`Traffic`] is these as one: it decides what moves when. It has neither clock nor bytes.
//! * [`sim`] runs traffic with a clock of its own, and so predicts what a pass costs.
//! * A [`store`] is a file read past the page cache; a [`reader`] moves bytes between stores and [`memory`] on threads;
//!   a swap [`file`](mod@file) takes what no other file has; [`fault`] is a store with which things go wrong.
//! * A [`Residency`] runs traffic with a reader: what an executor talks to.
//! * A [`Space`] divides a range of bytes (an arena, a file) into extents.
//!
//! # Invariants
//!
//! * The bytes on a tier never exceed its limit, not even for a moment: room is taken before bytes move, and bytes in
//!   flight lie in it.
//! * A pinned copy is neither dropped nor made stale, nor does it change its place.
//! * The only current copy of a blob's bytes is never dropped; bytes that exist in a file count as a copy, and are never
//!   written.
//! * Bytes that have a hash are compared with it before anybody sees them.
//! * Extents in use never overlap, and free neighbours are always joined.
//! * Memory that a request may write to is there until the request ends, even if that is after its residency.
//! * No pin waits for ever, and none allocates once tables have grown to their size.
//!
//! Everything below [`Traffic`] is a change of tables that moves no byte, so it can be tested without memory or disk.
//!
//! # How an executor uses it
//!
//! One thread executes; a residency is its own (every call that may move something takes `&mut self`). Once:
//! [`Residency::add_file`] for each file that is streamed, [`Residency::add`] for each blob of it in the order of use
//! (up to 32 MiB, with the hashes of its chunks where a packed file keeps them), [`Residency::add_own`] for each run of
//! pages, then [`Residency::arrange`] with the plan's steps as ticks, which refuses a limit that is too low, and
//! [`Residency::prefetch`] so that the first step finds bytes. For each step of each pass, with a tick that counts on:
//!
//! 1. [`Residency::pin`] the step's blobs: at once if they are there. Meanwhile what comes next is read, round the end
//!    of the pass, so that the disk does not rest between tokens.
//! 2. Give kernels the addresses of [`Residency::span`], which hold until the unpin; [`Residency::bytes_mut`] before a
//!    kernel writes pages, or [`Residency::change_part`] with what they write.
//! 3. [`Residency::unpin`] them when the kernels have ended: on devices that compute later than they are asked, pin the
//!    next step first and unpin this one when its end was seen.
//!
//! When another plan is to run (a prompt's chunk, then single tokens), [`Residency::arrange`] takes its steps and ticks
//! begin anew; bytes stay where they are, and the same blobs stay as long as they are first used in the same order.
//!
//! For a device, [`Residency::with`] takes a mover, and kernels get [`Residency::device_offset`] and
//! [`Residency::change`] instead of addresses on the host.
//!
//! [`Residency::counts`] after a pass has its stalls and bytes. A request that ended in an error is followed by
//! [`Residency::forgive`] before the next begins. `jtllm plan` runs [`sim::run`] on the same blobs, steps and limits.
//!
//! # What this crate does not know
//!
//! Tensors, types, models, kernels, devices. Bytes have a length and a kind's name, time is a count of ticks; what a
//! tick is, and what the bytes mean, is known to `runtime`. Between disk and host this crate moves bytes itself; how they
//! come to a device's memory and back, the runtime's [`residency::Mover`] knows.

pub mod agenda;
pub mod blob;
pub mod error;
pub mod fault;
pub mod file;
mod layout;
pub mod ledger;
pub mod memory;
pub mod os;
pub mod policy;
pub mod reader;
pub mod residency;
pub mod sim;
pub mod space;
pub mod store;
mod sync;
pub mod tier;
pub mod traffic;

pub use agenda::{Agenda, Tick};
pub use blob::{Blob, BlobId, Source};
pub use error::SwapError;
pub use ledger::Ledger;
pub use policy::Policy;
pub use residency::{Options, Origin, Residency};
pub use space::{Extent, Space};
pub use tier::{Budget, Tier};
pub use traffic::{Carrier, Move, Traffic};

#[cfg(test)]
#[path = "../tests/shuttle/mod.rs"]
mod shuttle_tests;
