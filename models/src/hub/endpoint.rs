//! A hub's address, and the two protocols that hubs speak.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Uri;

use super::digest::{Digest, sha256};
use super::error::HubError;
use super::http::{Ask, Http};
use crate::checkpoint::index::stays_inside;

/// The most files of a repository that are looked at.
const FILES_MAX: usize = 20_000;

/// The most folders of a repository that are listed, one request each.
const FOLDERS_MAX: usize = 64;

/// How a hub is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// As huggingface.co is.
    HuggingFace,
    /// As modelscope.cn is.
    ModelScope,
}

/// A hub.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// How it is asked.
    pub protocol: Protocol,
    /// Its address, without a slash at the end.
    base: String,
    /// Tells it who asks. No other host gets to see it.
    token: Option<String>,
}

/// A repository's files as of one revision.
#[derive(Debug)]
pub(super) struct Listing {
    /// The revision's hash; of ModelScope, that of the list.
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    /// From the repository's root, with slashes.
    pub(super) path: String,
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
    /// What the server calls this version, if it names no digest.
    pub(super) etag: Option<String>,
}

impl RemoteFile {
    /// The name that the file's contents have in the cache. A server's name for a version tells versions of one
    /// file apart, not files: many make it of time and size.
    pub(super) fn blob(&self) -> Option<String> {
        let version = || {
            let text = format!("{}\n{:?}\n{}", self.path, self.size, self.etag.as_deref()?);
            Some(sha256(text.as_bytes())[..32].to_owned())
        };
        self.digest.as_ref().map(|digest| digest.hex().to_owned()).or_else(version)
    }
}

impl Endpoint {
    /// A hub at this address; one without a scheme is asked by https.
    pub fn new(protocol: Protocol, address: &str, token: Option<String>) -> Self {
        let base = address.trim_end_matches('/');
        let base = if base.contains("://") { base.to_owned() } else { format!("https://{base}") };
        Endpoint { protocol, base, token }
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// Whether the user chose an address that is not encrypted.
    pub(super) fn is_plain(&self) -> bool {
        self.base.starts_with("http://")
    }

    /// Whether an address lies on this very server.
    pub(super) fn owns(&self, at: &Uri) -> bool {
        let own: Option<Uri> = self.base.parse().ok();
        own.is_some_and(|own| own.scheme() == at.scheme() && own.authority() == at.authority())
    }

    /// The headers that tell who asks.
    pub(super) fn credentials(&self) -> Vec<(&'static str, String)> {
        match (&self.token, self.protocol) {
            (None, _) => Vec::new(),
            (Some(token), Protocol::HuggingFace) => vec![("authorization", format!("Bearer {token}"))],
            (Some(token), Protocol::ModelScope) => vec![
                ("authorization", format!("Bearer {token}")),
                ("cookie", format!("m_session_id={token}")),
            ],
        }
    }

    /// What a status other than success means; `rest` is how long the server wants to be left alone.
    pub(super) fn refusal(&self, url: &str, status: u16, rest: Option<Duration>) -> HubError {
        let url = url.to_owned();
        if !matches!(status, 401 | 403) {
            return HubError::Status { url, status, rest };
        }
        let variable = match self.protocol {
            Protocol::HuggingFace => "HF_TOKEN",
            Protocol::ModelScope => "MODELSCOPE_API_TOKEN",
        };
        let page = self.page(&url);
        HubError::Gated { url, status, page, token: self.token.is_none().then_some(variable) }
    }

    /// The page for people of the repository that an address belongs to.
    fn page(&self, url: &str) -> String {
        let rest = url.strip_prefix(&self.base).unwrap_or_default();
        let rest = rest.strip_prefix("/api/v1").or(rest.strip_prefix("/api")).unwrap_or(rest);
        let rest = rest.strip_prefix("/models").unwrap_or(rest);
        let mut parts = rest.split('/').filter(|part| !part.is_empty());
        let (owner, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match self.protocol {
            Protocol::HuggingFace => format!("{}/{owner}/{name}", self.base),
            Protocol::ModelScope => format!("{}/models/{owner}/{name}", self.base),
        }
    }

    /// A repository's files.
    pub(super) fn list(&self, http: &Http, repository: &str) -> Result<Listing, HubError> {
        let listing = match self.protocol {
            Protocol::HuggingFace => self.list_hugging_face(http, repository)?,
            Protocol::ModelScope => self.list_modelscope(http, repository)?,
        };
        match listing.files.iter().find(|file| !stays_inside(&file.path)) {
            Some(file) => {
                Err(HubError::UnsafePath { repository: repository.to_owned(), path: file.path.clone() })
            }
            None => Ok(listing),
        }
    }

    /// Where a file is, as of a revision that [`Endpoint::list`] gave.
    pub(super) fn file_url(&self, repository: &str, commit: &str, path: &str) -> String {
        match self.protocol {
            Protocol::HuggingFace => {
                format!("{}/{repository}/resolve/{commit}/{}", self.base, encoded(path, b"/"))
            }
            Protocol::ModelScope => format!(
                "{}/api/v1/models/{repository}/repo?Revision=master&FilePath={}",
                self.base,
                encoded(path, b"")
            ),
        }
    }

    /// Asks for what the listing did not say of a file.
    pub(super) fn complete(
        &self,
        http: &Http,
        repository: &str,
        commit: &str,
        file: &mut RemoteFile,
    ) -> Result<(), HubError> {
        // Git's hash is one of the length too.
        let is_known = |file: &RemoteFile| match file.digest {
            Some(Digest::Sha256(_)) => true,
            Some(Digest::Git(_)) => file.size.is_some(),
            None => false,
        };
        if is_known(file) {
            return Ok(());
        }
        let url = self.file_url(repository, commit, &file.path);
        let reply = http.get(self, &url, Ask { headers_only: true, ..Ask::default() })?;
        let first = |names: [&str; 2]| names.iter().find_map(|name| reply.header(name)).map(str::to_owned);
        let size = || first(["x-linked-size", "content-length"])?.parse().ok();
        file.size = file.size.or_else(size);
        if file.digest.is_none() {
            file.etag = first(["x-linked-etag", "etag"]);
            let hex = file.etag.as_deref().map(|text| text.trim_start_matches("W/").trim_matches('"'));
            file.digest = hex.and_then(Digest::of_hex);
        }
        match is_known(file) || (file.digest.is_none() && file.etag.is_some()) {
            true => Ok(()),
            false => {
                Err(HubError::protocol(&url, "the server names neither a hash with a length nor a version"))
            }
        }
    }

    fn list_hugging_face(&self, http: &Http, repository: &str) -> Result<Listing, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Sibling {
            rfilename: String,
            size: Option<u64>,
            blob_id: Option<String>,
            lfs: Option<Lfs>,
        }
        #[derive(Deserialize)]
        struct Lfs {
            sha256: Option<String>,
            size: Option<u64>,
        }
        let url = format!("{}/api/models/{repository}/revision/main?blobs=true", self.base);
        let Answer { sha, siblings } = http.json(self, &url)?;
        if sha.len() != 40 || !sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(HubError::protocol(&url, "the revision is no hash"));
        }
        if siblings.len() > FILES_MAX {
            return Err(HubError::protocol(&url, format!("more than {FILES_MAX} files")));
        }
        let files = siblings.into_iter().map(|sibling| {
            let (name, size) = match &sibling.lfs {
                Some(lfs) => (lfs.sha256.as_deref(), lfs.size.or(sibling.size)),
                None => (sibling.blob_id.as_deref(), sibling.size),
            };
            let digest = name.and_then(Digest::of_hex);
            RemoteFile { path: sibling.rfilename, size, digest, etag: None }
        });
        Ok(Listing { commit: sha, files: files.collect() })
    }

    /// Folder by folder: a list of everything is cut without a word where it gets too long.
    fn list_modelscope(&self, http: &Http, repository: &str) -> Result<Listing, HubError> {
        let mut files: BTreeMap<String, RemoteFile> = BTreeMap::new();
        let mut open = vec![String::new()];
        let mut seen: BTreeSet<String> = open.iter().cloned().collect();
        while let Some(folder) = open.pop() {
            for entry in self.folder(http, repository, &folder)? {
                match entry.kind.as_deref() {
                    Some("tree") => {
                        if seen.insert(entry.path.clone()) && seen.len() <= FOLDERS_MAX {
                            open.push(entry.path);
                        }
                    }
                    _ => {
                        let file = entry.file(repository)?;
                        files.insert(file.path.clone(), file);
                    }
                }
            }
            if files.len() > FILES_MAX {
                let why = format!("more than {FILES_MAX} files");
                return Err(HubError::NoModel { repository: repository.to_owned(), why });
            }
        }
        let names: String = files.values().map(|file| format!("{} {:?}\n", file.path, file.digest)).collect();
        Ok(Listing {
            commit: sha256(names.as_bytes())[..40].to_owned(),
            files: files.into_values().collect(),
        })
    }

    fn folder(&self, http: &Http, repository: &str, folder: &str) -> Result<Vec<Entry>, HubError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            data: Option<Files>,
            message: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Files {
            files: Option<Vec<Entry>>,
        }
        let root = if folder.is_empty() { String::new() } else { format!("&Root={}", encoded(folder, b"")) };
        let url = format!(
            "{}/api/v1/models/{repository}/repo/files?Revision=master&Recursive=False{root}",
            self.base
        );
        let answer: Answer = http.json(self, &url)?;
        match answer.data.and_then(|data| data.files) {
            Some(files) => Ok(files),
            None => {
                let why = answer.message.unwrap_or_else(|| "the answer names no files".to_owned());
                Err(HubError::protocol(&url, why.escape_debug().take(200).collect::<String>()))
            }
        }
    }
}

/// A file or folder as ModelScope lists it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    path: String,
    #[serde(rename = "Type")]
    kind: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
}

impl Entry {
    fn file(self, repository: &str) -> Result<RemoteFile, HubError> {
        let digest = self.sha256.as_deref().and_then(Digest::of_hex);
        if digest.is_none() && self.size.is_none() {
            let why = format!("the hub gives neither size nor hash of {:?}", self.path);
            return Err(HubError::NoModel { repository: repository.to_owned(), why });
        }
        Ok(RemoteFile { path: self.path, size: self.size, digest, etag: None })
    }
}

/// Text as part of an address; characters of `kept` stay.
fn encoded(text: &str, kept: &[u8]) -> String {
    let mut out = String::new();
    for &byte in text.as_bytes() {
        match byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || kept.contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
