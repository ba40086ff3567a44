//! One process at a time writes a blob. The operating system lets go of a lock when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::cache::make;
use super::error::HubError;

/// Held until it is dropped.
pub(super) struct Lock(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

/// Locks a file, which is created for that; calls `wait` once if somebody else holds it.
pub(super) fn lock(path: &Path, wait: impl FnOnce()) -> Result<Lock, HubError> {
    if let Some(folder) = path.parent() {
        make(folder)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| HubError::io(path, "open", error))?;
    let locked = match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            wait();
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(()),
    };
    locked.map_err(|error| HubError::io(path, "lock", error))?;
    Ok(Lock(file))
}

/// Whether somebody holds a lock.
pub(super) fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}
