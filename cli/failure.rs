//! What ends the program early, and with which exit status.

use std::fmt;

use jtllm_models::{LanguageError, LoadError};
use jtllm_runtime::DeviceError;
use jtllm_serve::EngineError;

/// The command line asks for something that cannot be.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// There is less memory than something takes, or the limit leaves less.
#[derive(Debug)]
pub(crate) struct NoRoom(pub(crate) String);

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoRoom {}

/// Nobody reads the output any more. That is no fault: the program ends quietly.
#[derive(Debug)]
pub(crate) struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the output was closed")
    }
}

impl std::error::Error for OutputClosed {}

/// Ctrl-C.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// An error with its causes, each told once: many say what caused them themselves.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Exit status after Ctrl-C: 128 and the number of the signal.
pub(crate) const INTERRUPTED: i32 = 130;

/// The exit status: 1 it failed while running, 2 it was asked wrongly, 3 the model was not found, 4 a file
/// is damaged or not supported, 5 the model does not fit, 7 there is no such device, 130 interrupted; 0 if only the reader of the output left.
pub(crate) fn exit_status(error: &anyhow::Error) -> i32 {
    for cause in error.chain() {
        if cause.is::<OutputClosed>() {
            return 0;
        }
        if cause.is::<Interrupted>() {
            return INTERRUPTED;
        }
        if cause.is::<Usage>() {
            return 2;
        }
        if cause.is::<NoRoom>() {
            return 5;
        }
        if let Some(error) = cause.downcast_ref::<LoadError>() {
            return error.exit_code();
        }
        match cause.downcast_ref::<EngineError>() {
            Some(EngineError::Load(error)) => return error.exit_code(),
            Some(EngineError::Stop(_) | EngineError::CannotSpill(_)) => return 2,
            Some(EngineError::TooLarge(_)) => return 5,
            Some(EngineError::Runtime(jtllm_runtime::Error::Device(DeviceError::TooSmall { .. }))) => {
                return 5;
            }
            Some(EngineError::Runtime(jtllm_runtime::Error::Limit(_))) => return 5,
            Some(EngineError::Runtime(jtllm_runtime::Error::Packed { .. })) => return 4,
            Some(EngineError::NoDevice(_)) => return 7,
            _ => {}
        }
        match cause.downcast_ref::<LanguageError>() {
            Some(LanguageError::Load(error)) => return error.exit_code(),
            Some(LanguageError::Tokenizer { .. } | LanguageError::NoTokenizer { .. }) => return 4,
            _ => {}
        }
    }
    1
}
