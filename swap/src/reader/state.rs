//! What a reader's threads share: the files, the jobs in their order, and what was reported.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::{Job, Outcome, Sums, Ticket};
use crate::SwapError;
use crate::error::Asked;
use crate::memory::{Memory, Span};
use crate::store::{Action, Store};

struct File {
    path: Arc<Path>,
    store: Arc<dyn Store>,
    len: u64,
    /// How it failed, if nothing more is to be read from it.
    failed: Option<String>,
}

struct Open {
    ticket: Ticket,
    job: Job,
    /// Bytes that requests were made of so far, and all of which they are made.
    next: usize,
    end: usize,
    /// Requests in flight.
    in_flight: usize,
    failed: Option<SwapError>,
}

impl Open {
    fn is_over(&self) -> bool {
        self.next >= self.end && self.in_flight == 0
    }
}

/// A request, or the check of all that a job's requests brought.
pub(super) struct Piece {
    /// Where its job stands.
    pub(super) slot: usize,
    pub(super) action: Action,
    pub(super) path: Arc<Path>,
    pub(super) store: Arc<dyn Store>,
    pub(super) at: u64,
    pub(super) span: Span,
    /// For a check alone.
    pub(super) sums: Option<Sums>,
}

#[derive(Default)]
pub(super) struct State {
    files: Vec<File>,
    /// Jobs that were not reported, and the slots that have none.
    jobs: Vec<Option<Open>>,
    vacant: Vec<usize>,
    /// Slots of the jobs of which requests are still to be made.
    queue: VecDeque<usize>,
    tickets: u64,
    pub(super) reported: Vec<Outcome>,
    /// Threads that are at work.
    pub(super) busy: usize,
    /// No more requests are made for now.
    pub(super) paused: bool,
    /// Threads are to end.
    pub(super) closing: bool,
    /// Memory that nobody but the threads has any more.
    pub(super) _kept: Option<Arc<Memory>>,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
}

impl State {
    pub(super) fn add(&mut self, path: Arc<Path>, store: Arc<dyn Store>, len: u64) -> u32 {
        self.files.push(File { path, store, len, failed: None });
        u32::try_from(self.files.len() - 1).expect("nobody opens so many files")
    }

    pub(super) fn submit(&mut self, job: Job, urgent: bool) -> Ticket {
        let wanted_end = job.wanted.0 + job.wanted.1;
        assert!(wanted_end <= job.span.len(), "{job:?} wants more than it has memory for");
        let there = self.files[job.file.0 as usize].len.saturating_sub(job.at);
        let end = match job.action {
            // Beyond what is wanted, only what the file has.
            Action::Read => job.span.len().min(usize::try_from(there).unwrap_or(usize::MAX)).max(wanted_end),
            _ => job.span.len(),
        };
        self.paused = false;
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.jobs.push(None);
            self.jobs.len() - 1
        });
        self.jobs[slot] = Some(Open { ticket, job, next: 0, end, in_flight: 0, failed: None });
        if end == 0 {
            self.report(slot, Ok(()));
        } else if urgent {
            self.queue.push_front(slot);
        } else {
            self.queue.push_back(slot);
        }
        ticket
    }

    /// The next request. Jobs of files that failed are reported on the way.
    pub(super) fn take(&mut self, most: u64) -> Option<Piece> {
        while let Some(&slot) = self.queue.front() {
            let open = self.jobs[slot].as_mut().expect("a job in the queue is open");
            let file = &self.files[open.job.file.0 as usize];
            if let Some(why) = &file.failed {
                self.queue.pop_front();
                open.next = open.end;
                let (path, why) = (file.path.clone(), why.clone());
                let error = open.failed.take().unwrap_or(SwapError::PreviousIo { path, why });
                if open.in_flight == 0 {
                    self.report(slot, Err(error));
                } else {
                    open.failed = Some(error);
                }
                continue;
            }
            let start = open.next;
            let len = (open.end - start).min(usize::try_from(most).unwrap_or(usize::MAX));
            open.next += len;
            open.in_flight += 1;
            if open.next == open.end {
                self.queue.pop_front();
            }
            return Some(Piece {
                slot,
                action: open.job.action,
                path: file.path.clone(),
                store: file.store.clone(),
                at: open.job.at + start as u64,
                span: open.job.span.part(start, len),
                sums: None,
            });
        }
        None
    }

    /// Notes how a request ended. Gives what is to be checked if all bytes of the job are there.
    pub(super) fn ended(&mut self, piece: &Piece, outcome: Result<(), SwapError>) -> Option<Piece> {
        match piece.action {
            Action::Write => self.bytes_written += piece.span.len() as u64,
            _ => self.bytes_read += piece.span.len() as u64,
        }
        let open = self.jobs[piece.slot].as_mut().expect("a job with requests in flight is open");
        open.in_flight -= 1;
        let file = open.job.file;
        if let Err(error) = outcome {
            if open.next < open.end {
                open.next = open.end;
                self.queue.retain(|slot| *slot != piece.slot);
            }
            // Where there is no room another time may have some.
            if !error.is_disk_full() {
                self.files[file.0 as usize].failed.get_or_insert(error.to_string());
            }
            let open = self.jobs[piece.slot].as_mut().expect("it was open just now");
            open.failed.get_or_insert(error);
        }
        let open = self.jobs[piece.slot].as_mut().expect("it was open just now");
        if !open.is_over() {
            return None;
        }
        if let Some(error) = open.failed.take() {
            self.report(piece.slot, Err(error));
            return None;
        }
        let Some(sums) = open.job.sums.take() else {
            self.report(piece.slot, Ok(()));
            return None;
        };
        let (skip, len) = open.job.wanted;
        Some(Piece {
            slot: piece.slot,
            action: piece.action,
            path: piece.path.clone(),
            store: piece.store.clone(),
            at: open.job.at + skip as u64,
            span: open.job.span.part(skip, len),
            sums: Some(sums),
        })
    }

    pub(super) fn report(&mut self, slot: usize, outcome: Result<(), SwapError>) {
        let open = self.jobs[slot].take().expect("a job is reported once");
        self.vacant.push(slot);
        self.reported.push((open.ticket, outcome));
    }

    /// What a job asks that has requests in flight: this one, else the first of them. If none has, one that has not begun.
    pub(super) fn in_flight(&self, ticket: Option<Ticket>) -> Option<Asked> {
        let rank = |open: &&Open| (open.in_flight == 0, Some(open.ticket) != ticket, open.ticket);
        let Open { job, .. } = self.jobs.iter().flatten().min_by_key(rank)?;
        let path = self.files[job.file.0 as usize].path.clone();
        let (skip, len) = job.wanted;
        Some(Asked { path, action: job.action, at: job.at + skip as u64, len: len as u64 })
    }

    pub(super) fn forgive(&mut self) {
        for file in &mut self.files {
            file.failed = None;
        }
    }
}
