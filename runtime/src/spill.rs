//! The folder of swap files: where bytes go that memory has no room for and no other file has.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use jtllm_swap::SwapError;
use jtllm_swap::file::{Abandoned, SwapFile, abandoned};

use crate::cache::{CacheError, Size, Status, default_folder};
use crate::os;

/// The folder, or the reason why there is none. Files that processes use have no names in it, where the system allows
/// that, and else locks: what is found here is what processes left that died in the wrong moment.
#[derive(Debug)]
pub struct SwapFolder(Status);

impl SwapFolder {
    /// The given folder, or the folder `swap` beside that of kernels (see
    /// [`KernelCache::open`](crate::cache::KernelCache::open)). It is not created: whoever needs it does that.
    pub fn open(folder: Option<PathBuf>) -> SwapFolder {
        SwapFolder::open_in(folder, |name| std::env::var_os(name))
    }

    /// As [`SwapFolder::open`], with the environment given by a function.
    pub fn open_in(folder: Option<PathBuf>, environment: impl Fn(&str) -> Option<OsString>) -> SwapFolder {
        match folder.or_else(|| default_folder("swap", environment)) {
            Some(folder) => SwapFolder(Status::On(folder)),
            None => SwapFolder(Status::Off("none of JTLLM_CACHE, XDG_CACHE_HOME and HOME is set".to_owned())),
        }
    }

    /// Where it is, or why there is none.
    pub fn status(&self) -> &Status {
        &self.0
    }

    /// Makes the folder, if it is not a given one, and tries whether it takes files: said before anything is loaded.
    ///
    /// # Errors
    /// `Folder`: why it does not.
    pub fn ready(folder: Option<PathBuf>) -> Result<PathBuf, SwapError> {
        let is_given = folder.is_some();
        let refused = |path: &Path, why: String| SwapError::Folder { path: path.into(), why };
        let folder = match SwapFolder::open(folder).0 {
            Status::On(folder) => folder,
            Status::Off(why) => return Err(refused(Path::new("swap"), why)),
        };
        if !is_given {
            os::create_private_folder(&folder).map_err(|error| refused(&folder, error.to_string()))?;
        }
        SwapFile::create(&folder, 0)?;
        Ok(folder)
    }

    /// Counts what dead processes have left.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn size(&self) -> Result<Size, CacheError> {
        let mut size = Size::default();
        self.left(|file| {
            size.entries += 1;
            size.bytes += file.bytes();
            Ok(())
        })?;
        Ok(size)
    }

    /// Removes what dead processes have left.
    ///
    /// # Errors
    /// The folder cannot be listed, or a file cannot be removed.
    pub fn clear(&self) -> Result<(), CacheError> {
        self.left(|file| {
            let path = file.path().to_owned();
            file.remove().map_err(|source| CacheError { path, action: "remove", source })
        })
    }

    /// Does something with each file that dead processes have left.
    fn left(&self, mut deal: impl FnMut(Abandoned) -> Result<(), CacheError>) -> Result<(), CacheError> {
        let Status::On(folder) = &self.0 else { return Ok(()) };
        let failed = |source| CacheError { path: folder.clone(), action: "list", source };
        let files = match abandoned(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(failed)?,
        };
        for file in files {
            deal(file.map_err(failed)?)?;
        }
        Ok(())
    }
}
