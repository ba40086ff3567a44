//! Who brings weights into memory: in the order of their first use, on all cores, beside the first pass where the
//! device allows that; and who writes the packed file when they are there.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::pack::Packing;
use crate::device::{Device, Span};
use crate::error::Error;
use crate::os;
use crate::packed::{Draft, PackedFile, PackedFolder};
use crate::ready::{Ready, Settles};

/// Where a plane is to be.
pub(super) struct Place {
    pub(super) span: Span,
    /// Whether its bytes lie there already, and want only to be looked at.
    pub(super) is_filled: bool,
}

/// A weight that is to be brought into memory.
pub(super) struct Job {
    pub(super) packing: Packing,
    /// One place for each plane.
    pub(super) places: Vec<Place>,
    /// Where it was packed before.
    pub(super) file: Option<Arc<PackedFile>>,
    pub(super) ready: Ready,
}

impl Job {
    /// Brings one chunk of each plane there.
    fn fill(&self, device: &dyn Device, chunk: usize) -> Result<(), Error> {
        self.put(device, chunk, self.packed(chunk)?)
    }

    /// A chunk of each plane as its packing gives it; nothing of what is in its place already.
    fn packed(&self, chunk: usize) -> Result<Vec<Vec<u8>>, Error> {
        let Some(file) = &self.file else { return self.packing.chunk(chunk) };
        let planes = self.packing.planes.iter().zip(&self.places);
        let bytes = planes.map(|(plane, place)| {
            let bytes = file.chunk(&plane.name, chunk)?;
            Ok(if place.is_filled { Vec::new() } else { bytes.to_vec() })
        });
        bytes.collect()
    }

    fn put(&self, device: &dyn Device, chunk: usize, planes: Vec<Vec<u8>>) -> Result<(), Error> {
        for (plane, bytes) in planes.into_iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
            device.write(&self.part(plane, chunk), &bytes)?;
        }
        Ok(())
    }

    /// Where a chunk of a plane is in memory.
    fn part(&self, plane: usize, chunk: usize) -> Span {
        let (range, span) = (self.packing.range(plane, chunk), &self.places[plane].span);
        Span { mem: span.mem.clone(), offset: span.offset + range.start, len: range.end - range.start }
    }

    /// Brings all of it there.
    fn run(&self, device: &dyn Device) -> Result<(), Error> {
        let chunks = self.packing.chunks();
        if device.is_host() {
            (0..chunks).into_par_iter().try_for_each(|chunk| self.fill(device, chunk))?;
            return self.packing.source.check_whole();
        }
        // Copies to a device go one after another, from one thread; what they copy is made side by side.
        let step = rayon::current_num_threads() * 2;
        for first in (0..chunks).step_by(step) {
            let range = first..(first + step).min(chunks);
            let made: Vec<_> = range.clone().into_par_iter().map(|chunk| self.packed(chunk)).collect();
            for (chunk, planes) in range.zip(made) {
                self.put(device, chunk, planes?)?;
            }
        }
        self.packing.source.check_whole()
    }

    /// A chunk of a plane for the packed file: from memory where that is the host's, else packed once more, so that a
    /// device that computes is not asked.
    fn written(&self, device: &dyn Device, plane: usize, chunk: usize) -> Result<Vec<u8>, Error> {
        if !device.is_host() {
            return Ok(self.packing.chunk(chunk)?.swap_remove(plane));
        }
        let part = self.part(plane, chunk);
        let mut bytes = vec![0; part.len as usize];
        device.read(&part, &mut bytes)?;
        Ok(bytes)
    }
}

/// The threads that fill memory and write packed files.
#[derive(Default)]
pub(super) struct Stock {
    threads: Vec<JoinHandle<()>>,
    folder: Option<Arc<PackedFolder>>,
}

impl Stock {
    /// Fills the places of these weights, and then writes what is drafted: `beside` what the caller goes on with, or before
    /// this returns, but for what is written.
    pub(super) fn fill(
        &mut self,
        device: &Arc<dyn Device>,
        jobs: Vec<Job>,
        draft: Option<Draft>,
        folder: Option<Arc<PackedFolder>>,
        beside: bool,
    ) -> Result<(), Error> {
        if jobs.is_empty() {
            return Ok(());
        }
        self.folder = folder;
        let settles = Settles(jobs.iter().map(|job| job.ready.clone()).collect());
        let device = device.clone();
        if !beside {
            run(&*device, &jobs)?;
            if draft.is_none() {
                return Ok(());
            }
        }
        let work = move || {
            let settles = settles;
            if beside && run(&*device, &jobs).is_err() {
                return;
            }
            drop(settles);
            if let Some(draft) = draft {
                os::yield_to_others();
                write(&*device, &jobs, draft);
            }
        };
        self.threads.retain(|thread| !thread.is_finished());
        let thread = thread::Builder::new().name("jtllm-weights".to_owned()).spawn(work);
        match thread {
            Ok(thread) => self.threads.push(thread),
            // The closure is gone, and has said so to whoever waits.
            Err(error) => {
                return Err(Error::Pass { why: format!("the system refuses a thread: {error}") });
            }
        }
        Ok(())
    }
}

/// Brings weights into memory, one after another.
fn run(device: &dyn Device, jobs: &[Job]) -> Result<(), Error> {
    for job in jobs {
        let outcome = job.run(device);
        job.ready.settle(outcome.clone());
        outcome?;
    }
    Ok(())
}

fn write(device: &dyn Device, jobs: &[Job], draft: Draft) {
    let planes: Vec<(&Job, usize)> =
        jobs.iter().flat_map(|job| (0..job.places.len()).map(move |plane| (job, plane))).collect();
    draft.write(&mut |number, chunk| {
        let (job, plane) = planes[number];
        job.written(device, plane, chunk)
    });
}

impl Drop for Stock {
    /// Waits until packed files are written: a process that ends after one answer would never have one otherwise.
    fn drop(&mut self) {
        /// So long nobody need be told why the program does not end.
        const PATIENCE: Duration = Duration::from_secs(2);
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE && self.threads.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(Duration::from_millis(5));
        }
        if self.threads.iter().any(|thread| !thread.is_finished())
            && let Some(folder) = &self.folder
        {
            folder.say("packed weights are being written; Ctrl-C leaves that to the next start");
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on its way.
            let _panicked = thread.join();
        }
    }
}
