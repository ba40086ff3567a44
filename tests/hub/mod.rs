//! A hub for tests: it speaks the protocols of Hugging Face and of ModelScope over one set of repositories, keeps
//! a record of what it was asked, and lies, stalls, cuts and redirects where a test tells it to.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

mod flow;

pub(crate) use flow::Flow;

/// A repository's files by their paths.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// How an answer about a file goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of the answer.
    Cut(usize),
    /// Nothing comes any more after so many bytes of the answer.
    Stall(usize),
    /// The whole file comes, whatever range was asked for.
    IgnoreRange,
    /// A byte of the answer is wrong.
    Corrupt,
    /// Another file of this length comes, then the connection ends.
    Other(usize),
    /// A refusal.
    Status(u16),
    /// A refusal for so many seconds.
    Busy(u64),
    /// A redirection.
    Redirect(String),
    /// Bytes come slowly: so many every millisecond.
    Slow(usize),
}

/// A request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) status: u16,
}

/// What the server has and does.
#[derive(Default)]
pub(crate) struct Behaviour {
    pub(crate) repositories: BTreeMap<String, Files>,
    /// Faults of the next answers about a file, or about a listing under the name `listing`.
    pub(crate) faults: BTreeMap<String, VecDeque<Fault>>,
    /// A fault of all answers about a file.
    pub(crate) always: BTreeMap<String, Fault>,
    /// Whether listings leave hashes and sizes out.
    pub(crate) hides_hashes: bool,
    /// Whether, without hashes, all files have the same version.
    pub(crate) one_version: bool,
    /// Whether they leave sizes out.
    pub(crate) hides_sizes: bool,
    /// Without this token everything is refused.
    pub(crate) token: Option<String>,
    /// Names that listings have beside the files.
    pub(crate) listed: Vec<String>,
    /// What listings say instead of the truth.
    pub(crate) raw_listing: Option<Vec<u8>>,
    pub(crate) asked: Vec<Asked>,
    /// Bytes of files that were handed to the network.
    pub(crate) sent: u64,
}

type Shared = Arc<Mutex<Behaviour>>;

/// A running server. It stops when it is dropped.
pub(crate) struct Hub {
    pub(crate) address: SocketAddr,
    behaviour: Shared,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let behaviour: Shared = Arc::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&behaviour));
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::select! {
                served = async { axum::serve(listener, router).await } => served.unwrap(),
                _ = stopped => {}
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(serve));
        Hub { address, behaviour, stop: Some(stop), thread: Some(thread) }
    }

    /// A server with one repository.
    pub(crate) fn with(repository: &str, files: Files) -> Self {
        let hub = Hub::start();
        hub.set().repositories.insert(repository.to_owned(), files);
        hub
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it does, to be read or changed.
    pub(crate) fn set(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    pub(crate) fn fault(&self, path: &str, fault: Fault) {
        self.set().faults.entry(path.to_owned()).or_default().push_back(fault);
    }

    pub(crate) fn always(&self, path: &str, fault: Fault) {
        self.set().always.insert(path.to_owned(), fault);
    }

    /// The requests about files with this text in their address, oldest first.
    pub(crate) fn asked(&self, part: &str) -> Vec<Asked> {
        self.set().asked.iter().filter(|asked| asked.path.contains(part)).cloned().collect()
    }

    pub(crate) fn sent(&self) -> u64 {
        self.set().sent
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _panicked = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// The files of a folder, subfolders included; what tests add for themselves is left out.
pub(crate) fn files_of(folder: &Path) -> Files {
    let mut files = Files::new();
    let mut open = vec![String::new()];
    while let Some(prefix) = open.pop() {
        for entry in std::fs::read_dir(folder.join(&prefix)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            } else if !name.starts_with("golden") {
                files.insert(path, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Git's name of a file.
pub(crate) fn git(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a file is kept as large ones are.
pub(crate) fn is_large(path: &str, bytes: &[u8]) -> bool {
    let ends = [".safetensors", ".bin", ".gguf", ".pth", ".pt", ".model"];
    bytes.len() > 1 << 20 || ends.iter().any(|end| path.ends_with(end))
}

/// The hash of a repository's revision.
pub(crate) fn commit(files: &Files) -> String {
    let all: String = files.iter().map(|(path, bytes)| format!("{path} {}\n", sha256(bytes))).collect();
    sha256(all.as_bytes())[..40].to_owned()
}

async fn answer(State(shared): State<Shared>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let of = |name: header::HeaderName| Some(headers.get(name)?.to_str().unwrap().to_owned());
    let mut asked = Asked {
        method: method.to_string(),
        path: uri.path_and_query().unwrap().to_string(),
        range: of(header::RANGE),
        if_range: of(header::IF_RANGE),
        authorization: of(header::AUTHORIZATION),
        status: 0,
    };
    let response = {
        let mut behaviour = shared.lock().unwrap();
        respond(&mut behaviour, &shared, &asked, uri.path(), uri.query().unwrap_or(""))
    };
    asked.status = response.status().as_u16();
    shared.lock().unwrap().asked.push(asked);
    response
}

fn respond(behaviour: &mut Behaviour, shared: &Shared, asked: &Asked, path: &str, query: &str) -> Response {
    if let Some(token) = &behaviour.token
        && asked.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let parts: Vec<&str> = path.trim_start_matches('/').splitn(5, '/').collect();
    let field = |name: &str| {
        let pair = query.split('&').filter_map(|pair| pair.split_once('='));
        pair.filter(|(key, _)| *key == name).map(|(_, value)| decoded(value)).next()
    };
    match parts.as_slice() {
        ["api", "models", owner, name, _] => listing(behaviour, &format!("{owner}/{name}")),
        ["api", "v1", "models", owner, rest] => match rest.split_once('/') {
            Some((name, "repo/files")) => {
                let recursive = field("Recursive").as_deref() == Some("True");
                let root = field("Root").unwrap_or_default();
                modelscope_listing(behaviour, &format!("{owner}/{name}"), &root, recursive)
            }
            Some((name, "repo")) => {
                let file = field("FilePath").unwrap_or_default();
                file_answer(behaviour, shared, asked, &format!("{owner}/{name}"), &file)
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        },
        [owner, name, "resolve", _, file] => {
            file_answer(behaviour, shared, asked, &format!("{owner}/{name}"), &decoded(file))
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match byte {
            b'%' => (u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap(), &after[2..]),
            _ => (byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).unwrap()
}

fn fault(behaviour: &mut Behaviour, name: &str) -> Option<Fault> {
    let next = behaviour.faults.get_mut(name).and_then(VecDeque::pop_front);
    next.or_else(|| behaviour.always.get(name).cloned())
}

fn busy(seconds: u64) -> Response {
    (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds.to_string())]).into_response()
}

fn plain_fault(fault: Option<Fault>) -> Option<Response> {
    match fault? {
        Fault::Status(status) => Some(StatusCode::from_u16(status).unwrap().into_response()),
        Fault::Busy(seconds) => Some(busy(seconds)),
        Fault::Redirect(to) => Some((StatusCode::FOUND, [(header::LOCATION, to)]).into_response()),
        other => panic!("a listing cannot have the fault {other:?}"),
    }
}

fn listing(behaviour: &mut Behaviour, repository: &str) -> Response {
    if let Some(response) = plain_fault(fault(behaviour, "listing")) {
        return response;
    }
    if let Some(raw) = behaviour.raw_listing.clone() {
        return raw.into_response();
    }
    let Some(files) = behaviour.repositories.get(repository) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let sibling = |(path, bytes): (&String, &Vec<u8>)| match is_large(path, bytes) {
        _ if behaviour.hides_hashes => json!({ "rfilename": path }),
        true => json!({
            "rfilename": path, "size": bytes.len(), "blobId": "0".repeat(40),
            "lfs": { "sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 135 }
        }),
        false => json!({ "rfilename": path, "size": bytes.len(), "blobId": git(bytes) }),
    };
    let mut siblings: Vec<Value> = files.iter().map(sibling).collect();
    if behaviour.hides_sizes {
        siblings.iter_mut().for_each(|sibling| drop(sibling.as_object_mut().unwrap().remove("size")));
    }
    siblings.extend(
        behaviour.listed.iter().map(|path| json!({ "rfilename": path, "size": 1, "blobId": git(b"x") })),
    );
    json_answer(&json!({ "id": repository, "sha": commit(files), "siblings": siblings }))
}

/// A list of everything is cut after this many entries, without a word.
pub(crate) const LIST_MAX: usize = 3;

fn modelscope_listing(behaviour: &mut Behaviour, repository: &str, root: &str, recursive: bool) -> Response {
    if let Some(response) = plain_fault(fault(behaviour, "listing")) {
        return response;
    }
    if let Some(raw) = behaviour.raw_listing.clone() {
        return raw.into_response();
    }
    let Some(files) = behaviour.repositories.get(repository) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let prefix = if root.is_empty() { String::new() } else { format!("{root}/") };
    let mut folders = BTreeSet::new();
    let mut entries = Vec::new();
    for (path, bytes) in files {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        if let Some((folder, _)) = rest.split_once('/')
            && folders.insert(folder.to_owned())
        {
            entries.push(json!({ "Path": format!("{prefix}{folder}"), "Type": "tree", "Size": 0 }));
        }
        if recursive || !rest.contains('/') {
            let hash = if behaviour.hides_hashes { Value::Null } else { sha256(bytes).into() };
            entries.push(json!({ "Path": path, "Type": "blob", "Size": bytes.len(), "Sha256": hash }));
        }
    }
    entries.extend(behaviour.listed.iter().map(|path| json!({ "Path": path, "Type": "blob", "Size": 1 })));
    if recursive {
        entries.truncate(LIST_MAX);
    }
    json_answer(&json!({ "Code": 200, "Data": { "Files": entries }, "Success": true }))
}

fn json_answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn file_answer(
    behaviour: &mut Behaviour,
    shared: &Shared,
    asked: &Asked,
    repository: &str,
    path: &str,
) -> Response {
    let Some(bytes) = behaviour.repositories.get(repository).and_then(|files| files.get(path)).cloned()
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let large = is_large(path, &bytes);
    let etag = match large {
        // Of a file without a known hash the tag is a version and nothing more.
        _ if behaviour.hides_hashes && behaviour.one_version => "\"v-1\"".to_owned(),
        _ if behaviour.hides_hashes => format!("\"v-{}\"", &sha256(&bytes)[..8]),
        true => format!("\"{}\"", sha256(&bytes)),
        false => format!("\"{}\"", git(&bytes)),
    };
    let fault = if asked.method == "HEAD" { None } else { fault(behaviour, path) };
    let start = asked
        .range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let same = asked.if_range.as_deref().is_none_or(|version| version == etag);
    let mut start: usize = start.filter(|_| same).unwrap_or(0);
    let (mut limit, mut then, mut slow) = (usize::MAX, flow::Then::End, None);
    let mut body = bytes;
    match fault {
        None => {}
        Some(Fault::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Busy(seconds)) => return busy(seconds),
        Some(Fault::Redirect(to)) => return (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
        Some(Fault::Cut(after)) => (limit, then) = (after, flow::Then::Cut),
        Some(Fault::Stall(after)) => (limit, then) = (after, flow::Then::Stall),
        Some(Fault::IgnoreRange) => start = 0,
        Some(Fault::Corrupt) => {
            let at = start + (body.len() - start) / 2;
            body[at] ^= 1;
        }
        Some(Fault::Other(after)) => {
            body.iter_mut().for_each(|byte| *byte = !*byte);
            (limit, then) = (after, flow::Then::Cut);
        }
        Some(Fault::Slow(bytes)) => slow = Some((bytes, Duration::from_millis(1))),
    }
    let total = body.len();
    if start > 0 && start >= total {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let length = total - start;
    let mut answer = Response::builder()
        .header("x-repo-commit", commit(&behaviour.repositories[repository]))
        .header(header::ETAG, etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, length);
    if start > 0 {
        let range = format!("bytes {start}-{}/{total}", total - 1);
        answer = answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
    }
    if asked.method == "HEAD" {
        return answer.body(Body::empty()).unwrap();
    }
    let flow = Flow::new(body.split_off(start).into(), limit, then, slow, Arc::clone(shared));
    answer.body(Body::from_stream(flow)).unwrap()
}
