//! What can go wrong between a name and a loaded model.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::hub::HubError;

/// Why a model, or a part of it, could not be loaded. Each variant says where (file, and tensor, offset or
/// field) and what was expected there; text that comes from a file is printed escaped and shortened.
#[derive(Debug)]
pub enum LoadError {
    /// Nothing has this name.
    NotFound {
        /// The name or path as the user gave it.
        name: String,
        /// What was looked for, as a sentence without its full stop.
        why: String,
        /// Up to three names that look alike.
        suggestions: Vec<String>,
    },
    /// The operating system refused.
    Io {
        /// The file or folder in question.
        file: PathBuf,
        /// What was tried: "open", "map", "read".
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The path leads to a directory, a pipe, a socket or a device where a file was expected.
    NotRegular {
        /// The path.
        file: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// A file's header or structure breaks a rule of its format.
    Header {
        /// The file.
        file: PathBuf,
        /// The byte at which the fault was found.
        offset: u64,
        /// The broken rule, with the value found and the value expected.
        why: String,
    },
    /// One tensor's description breaks a rule, or contradicts the rest of the checkpoint.
    Tensor {
        /// The file that describes the tensor.
        file: PathBuf,
        /// The tensor's name as the file spells it.
        name: String,
        /// The broken rule, with the value found and the value expected.
        why: String,
    },
    /// A field of a configuration file, or of GGUF metadata, has a value that cannot be meant.
    Field {
        /// The file.
        file: PathBuf,
        /// The field, with the objects around it: `rope_scaling.factor`.
        field: String,
        /// What was expected: "a whole number from 1 to 1048576".
        expected: String,
        /// What was found, as JSON; "nothing" where the field is missing.
        found: String,
    },
    /// Parts that must be there are not: all of them at once.
    Missing {
        /// The file or folder that needs them.
        file: PathBuf,
        /// What they are: "shards", "tensors", "split files".
        what: &'static str,
        /// Their names.
        names: Vec<String>,
    },
    /// A folder holds nothing that weights are read from.
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The names of files of which one would do.
        names: Vec<String>,
    },
    /// A file ends before the data that its header promises.
    Truncated {
        /// The file.
        file: PathBuf,
        /// The least length, in bytes, that the header asks for.
        expected: u64,
        /// The length found.
        found: u64,
    },
    /// A file changed after it was opened.
    Changed {
        /// The file.
        file: PathBuf,
        /// What is different now.
        why: String,
    },
    /// The model is not here, and could not be downloaded.
    Hub(HubError),
    /// The file is well-formed, but of a kind that this version does not read.
    Unsupported {
        /// The file or folder.
        file: PathBuf,
        /// What it is.
        what: String,
        /// What is supported instead.
        supported: String,
    },
}

impl LoadError {
    /// The exit status of a program that ends with this error: 3 the model was not found or could not be
    /// downloaded, 4 it is damaged,
    /// inconsistent or not supported, 1 the operating system failed.
    pub fn exit_code(&self) -> i32 {
        match self {
            LoadError::Hub(HubError::Unsupported { .. } | HubError::Refused { .. }) => 4,
            LoadError::NotFound { .. } | LoadError::Hub(_) => 3,
            LoadError::Io { .. } => 1,
            _ => 4,
        }
    }

    /// Wraps an error of the operating system; a missing file becomes [`LoadError::NotFound`].
    pub(crate) fn io(file: &Path, action: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            return LoadError::NotFound {
                name: file.display().to_string(),
                why: "there is no such file or folder".to_owned(),
                suggestions: Vec::new(),
            };
        }
        LoadError::Io { file: file.to_owned(), action, source }
    }

    pub(crate) fn header(file: &Path, offset: u64, why: impl Into<String>) -> Self {
        LoadError::Header { file: file.to_owned(), offset, why: why.into() }
    }

    pub(crate) fn tensor(file: &Path, name: &str, why: impl Into<String>) -> Self {
        LoadError::Tensor { file: file.to_owned(), name: name.to_owned(), why: why.into() }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Io { source, .. } => Some(source),
            LoadError::Hub(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::NotFound { name, why, suggestions } => {
                write!(f, "{} not found: {why}", quoted(name))?;
                match suggestions.as_slice() {
                    [] => Ok(()),
                    names => write!(f, "; similar: {}", list(names)),
                }
            }
            LoadError::Io { file, action, source } => {
                write!(f, "{}: cannot {action}: {source}", file.display())
            }
            LoadError::NotRegular { file, kind } => {
                write!(f, "{}: not a regular file but {kind}", file.display())
            }
            LoadError::Header { file, offset, why } => {
                write!(f, "{}: at byte {offset}: {why}", file.display())
            }
            LoadError::Tensor { file, name, why } => {
                write!(f, "{}: tensor {}: {why}", file.display(), quoted(name))
            }
            LoadError::Field { file, field, expected, found } => {
                write!(f, "{}: field {field}: expected {expected}, found {found}", file.display())
            }
            LoadError::Missing { file, what, names } => {
                write!(f, "{}: {} {what} missing: {}", file.display(), names.len(), list(names))
            }
            LoadError::NoWeights { folder, names } => {
                write!(f, "{}: no weights here: expected one of {}", folder.display(), list(names))
            }
            LoadError::Truncated { file, expected, found } => {
                write!(f, "{}: truncated: expected {expected}, found {found} bytes", file.display())
            }
            LoadError::Changed { file, why } => {
                write!(f, "{}: changed since it was opened: {why}", file.display())
            }
            LoadError::Hub(error) => error.fmt(f),
            LoadError::Unsupported { file, what, supported } => {
                write!(f, "{}: {what} is not supported; {supported}", file.display())
            }
        }
    }
}

/// Text out of a file, fit for a terminal: control characters escaped, at most 120 characters.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 120;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Names for an error: all that a person may want to read, but no flood from a hostile file.
fn list(names: &[String]) -> String {
    const MOST: usize = 256;
    let mut shown: Vec<String> = names.iter().take(MOST).map(|name| quoted(name)).collect();
    if let Some(more) = names.len().checked_sub(MOST).filter(|&more| more > 0) {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}
