//! What tells that a file is the one that a hub promised.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// The name of a file's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// The SHA-256 of the bytes: large files, and all files of ModelScope.
    Sha256(String),
    /// Git's name of a file: the SHA-1 of `blob`, its length and its bytes. Hugging Face has it for small files.
    Git(String),
}

impl Digest {
    /// A digest of so many hexadecimal digits as one of the kinds has.
    pub(super) fn of_hex(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match text.len() {
            64 if is_hex => Some(Digest::Sha256(text)),
            40 if is_hex => Some(Digest::Git(text)),
            _ => None,
        }
    }

    pub(super) fn hex(&self) -> &str {
        match self {
            Digest::Sha256(hex) | Digest::Git(hex) => hex,
        }
    }
}

/// Computes the digest of bytes as they come.
pub(super) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
    /// Nothing was promised that could be compared.
    None,
}

impl Hasher {
    /// For a file of `len` bytes that is to have this digest. Git hashes the length first, so without it the
    /// digest cannot be computed.
    pub(super) fn new(expected: Option<&Digest>, len: Option<u64>) -> Self {
        match (expected, len) {
            (Some(Digest::Sha256(_)), _) => Hasher::Sha256(Sha256::new()),
            (Some(Digest::Git(_)), Some(len)) => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {len}\0"));
                Hasher::Git(hash)
            }
            _ => Hasher::None,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::Git(hash) => hash.update(bytes),
            Hasher::None => {}
        }
    }

    /// The digest of all bytes; `None` if none was asked for.
    pub(super) fn finish(self) -> Option<String> {
        match self {
            Hasher::Sha256(hash) => Some(hex(&hash.finalize())),
            Hasher::Git(hash) => Some(hex(&hash.finalize())),
            Hasher::None => None,
        }
    }
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
