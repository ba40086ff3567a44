//! Keeps account of byte blobs on the tiers of memory within budgets, and knows when each is needed next.
//!
//! * A [`Blob`] is a run of bytes that rests and moves as a whole: weights, pages of a cache, an arena.
//! * A [`Ledger`] says on which [`Tier`] each blob has copies, which of them are current, and how many bytes
//!   of which kind that makes. It refuses what would exceed the [`Budget`].
//! * An [`Agenda`] holds the ticks at which each blob is used during one pass, and finds the next one.
//! * A [`Space`] divides a range of bytes (an arena, a pool, a file) into extents.
//!
//! # Invariants
//!
//! * The bytes on a tier never exceed its limit, not even for a moment: room is taken before bytes move.
//! * A pinned copy is neither dropped nor made stale.
//! * The only current copy of a blob's bytes is never dropped; bytes that exist in a file count as a copy.
//! * Extents in use never overlap, and free neighbours are always joined.
//!
//! Every call is a pure change of tables: none moves a byte, so each can be tested without memory or disk.
//!
//! # What this crate does not know
//!
//! Tensors, types, models, kernels, devices and files. Bytes have a length and a kind's name, time is a count
//! of ticks; what a tick is, who moves bytes and how is known to `runtime`.

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
