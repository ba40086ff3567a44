//! The files that weights are read from, each opened once.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jtllm_swap::store::Store;

use super::Open;
use crate::error::Error;

/// A file that is open, and what errors call it.
pub(crate) type Opened = (Arc<Path>, Arc<dyn Store>);

/// Files by their paths.
pub(crate) struct Files {
    open: Arc<Open>,
    known: Mutex<HashMap<Arc<Path>, Arc<dyn Store>>>,
}

impl Files {
    pub(super) fn new(open: Arc<Open>) -> Files {
        Files { open, known: Mutex::default() }
    }

    /// A file of so many bytes; with another length it is not the one that somebody looked at before.
    pub(crate) fn get(&self, path: &Arc<Path>, len: u64) -> Result<Opened, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = known.get(path) {
            return Ok((path.clone(), store.clone()));
        }
        let failed = |why: String| Error::File { file: path.to_path_buf(), why };
        let opened = (self.open)(path).and_then(|store| Ok((store.size()?, store)));
        let (found, store) = opened.map_err(|error| failed(format!("cannot be opened: {error}")))?;
        if found != len {
            return Err(failed(format!("it had {len} bytes and has {found} now")));
        }
        known.insert(path.clone(), store.clone());
        Ok((path.clone(), store))
    }
}
