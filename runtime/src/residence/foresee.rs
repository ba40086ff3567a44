//! What limits must hold of plans that are not made yet: it is known before a byte of weights is packed or copied for them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use jtllm_swap::BlobId;

use super::count::Own;
use super::{Kept, Residence, State, blocks};
use crate::error::Error;

/// A run of a file's bytes that is a blob, or is going to be one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    /// The file, which perhaps nobody has written yet.
    pub(crate) file: Arc<Path>,
    pub(crate) at: u64,
    pub(crate) len: u64,
}

/// What a step of a plan is going to use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Used {
    /// Weights.
    Run(Run),
    /// Keys and values.
    Pages(BlobId),
}

impl Residence {
    /// Fails if the limits do not hold plans whose steps use this beside those that there are; `own` is what will then be in
    /// memory of the host, and of the device if it has its own, that does not come and go.
    ///
    /// # Errors
    /// They are too low.
    pub(crate) fn foresee(&self, own: Own, apart: Own, steps: &[HashSet<Used>]) -> Result<(), Error> {
        let state = self.lock();
        let mut counted = state.tally(self.limit.most);
        counted.own = own;
        let new: HashSet<&Run> = steps.iter().flatten().filter_map(|used| state.new_run(used)).collect();
        let longest = new.iter().map(|run| blocks(run.at, run.len)).max().unwrap_or(0);
        counted.all += new.iter().map(|run| blocks(run.at, run.len)).sum::<u64>();
        let step = |uses: &HashSet<Used>| uses.iter().map(|used| state.taken_by(used)).sum::<u64>();
        counted.step = counted.step.max(steps.iter().map(step).max().unwrap_or(0));
        if let Some(device) = &state.apart {
            device.tally(&counted, apart).left().map_err(Error::Limit)?;
            // One blob at a time comes and goes by way of the host.
            counted.step = state.blobs.iter().map(Kept::taken_most).max().unwrap_or(0).max(longest);
        }
        counted.left().map(|_| ()).map_err(Error::Limit)
    }
}

impl State {
    /// A run of bytes that is no blob yet.
    fn new_run<'a>(&self, used: &'a Used) -> Option<&'a Run> {
        let Used::Run(run) = used else { return None };
        let file = self.files.iter().position(|(path, _)| *path == run.file);
        let is_known = file.is_some_and(|file| self.known.contains_key(&(file, run.at, run.len)));
        (!is_known).then_some(run)
    }

    /// Bytes of memory that it takes, at its longest.
    fn taken_by(&self, used: &Used) -> u64 {
        match used {
            Used::Run(run) => blocks(run.at, run.len),
            Used::Pages(blob) => self.blobs[blob.0 as usize].taken_most(),
        }
    }
}
