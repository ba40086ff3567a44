//! A download of 1 GB, checked, beside `curl` followed by `sha256sum` of the same file from the same server.
//!
//! `cargo bench --bench download [-- ROUNDS]`; wants `curl` and `sha256sum`.
#![allow(missing_docs)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

const SIZE: usize = 1 << 30;
const FILE: &str = "model.safetensors";

/// A listing of one file, and the file.
async fn answer(uri: Uri, listing: String, bytes: Bytes) -> Response {
    match uri.path() {
        path if path.starts_with("/api/models/") => listing.into_response(),
        path if path.ends_with(FILE) => Body::from(bytes).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn serve(bytes: Bytes) -> String {
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let listing = format!(
        "{{\"sha\": \"{}\", \"siblings\": [{{\"rfilename\": \"{FILE}\", \"size\": {SIZE}, \
         \"lfs\": {{\"sha256\": \"{hash}\", \"size\": {SIZE}}}}}]}}",
        "1".repeat(40)
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a listener that does not block");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().fallback(move |uri: Uri| answer(uri, listing.clone(), bytes.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, router).await
        })
    });
    format!("http://{address}")
}

fn timed(command: &mut Command) -> f64 {
    let _synced = Command::new("sync").status();
    let begin = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command:?}: {status:?}");
    begin.elapsed().as_secs_f64()
}

fn ours(url: &str, folder: &Path) -> f64 {
    let _absent = std::fs::remove_dir_all(folder.join("cache"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_jtllm"));
    command.args(["pull", "org/big"]).env("HF_ENDPOINT", url).env("HF_HUB_CACHE", folder.join("cache"));
    timed(command.env_remove("http_proxy").env_remove("HTTP_PROXY"))
}

fn theirs(url: &str, folder: &Path) -> f64 {
    let file = folder.join("file");
    let _absent = std::fs::remove_file(&file);
    let script = "curl --noproxy '*' -s -o \"$1\" \"$0\" && sha256sum \"$1\"";
    timed(Command::new("sh").args(["-c", script, &format!("{url}/org/big/resolve/main/{FILE}")]).arg(file))
}

fn main() {
    let rounds = std::env::args().filter_map(|text| text.parse().ok()).next().unwrap_or(5);
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state.to_le_bytes()
    };
    let bytes: Vec<u8> = (0..SIZE / 8).flat_map(|_| next()).collect();
    let url = serve(bytes.into());
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    println!("| round | jtllm pull | curl, then sha256sum | ratio |\n|---|---|---|---|");
    let mut ratios: Vec<f64> = (1..=rounds)
        .map(|round| {
            let (ours, theirs) = (ours(&url, folder.path()), theirs(&url, folder.path()));
            println!("| {round} | {ours:.2} s | {theirs:.2} s | {:.2} |", ours / theirs);
            ours / theirs
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ratios.len() / 2]);
}
