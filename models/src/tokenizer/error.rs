//! Why a vocabulary could not be read or a text could not be encoded.

use std::fmt;

/// An error of this module. It names the file as users know it, and the field inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerError {
    /// A vocabulary file does not have the form that its format prescribes.
    Format {
        /// The file by its usual name, such as `tokenizer.json`.
        file: &'static str,
        /// The field, key or piece inside the file.
        field: String,
        /// What was found, and what was expected.
        why: String,
    },
    /// The file is sound, but asks for an algorithm that is not known here.
    Unsupported {
        /// The file by its usual name, such as `tokenizer.json`.
        file: &'static str,
        /// The field, key or piece inside the file.
        field: String,
        /// The value that is not known.
        value: String,
        /// The values that are.
        known: String,
    },
    /// A text could not be turned into token ids.
    Encode {
        /// The reason, as the algorithm gave it.
        why: String,
    },
    /// A stop string is empty: it would end every answer before its first character.
    EmptyStop {
        /// Its position in the list.
        index: usize,
    },
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenizerError::Format { file, field, why } => write!(f, "{file}: {field}: {why}"),
            TokenizerError::Unsupported { file, field, value, known } => {
                write!(f, "{file}: {field}: {value:?} is not known, expected one of {known}")
            }
            TokenizerError::Encode { why } => write!(f, "the text cannot be encoded: {why}"),
            TokenizerError::EmptyStop { index } => write!(f, "stop[{index}] is empty"),
        }
    }
}

impl std::error::Error for TokenizerError {}

impl TokenizerError {
    pub(crate) fn format(file: &'static str, field: impl Into<String>, why: impl fmt::Display) -> Self {
        TokenizerError::Format { file, field: field.into(), why: why.to_string() }
    }
}
