//! Downloads over TLS, with a certificate of the tests' own: D14's redirection to an unencrypted address.
//!
//! `tests/tls` holds an authority's certificate, valid for a hundred years, and the certificate and key of a server
//! on localhost that it signed; the authority's key was thrown away.
#![allow(clippy::unwrap_used)]
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jtllm_models::LoadError;
use jtllm_models::hub::{Client, Endpoint, HubError, Protocol, Settings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const WEIGHTS: &[u8] = b"pretend that these are weights";

fn tls(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Answers requests until the tests end: a listing, and of its one file the weights or a redirection.
fn serve(redirection: Option<&'static str>) -> String {
    let certificates =
        CertificateDer::pem_file_iter(tls("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(tls("server-key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            // A client that refuses the certificate ends the connection, which is no fault of this server.
            let _ended = answer(&mut stream, redirection);
        }
    });
    format!("https://localhost:{port}")
}

fn answer(
    stream: &mut StreamOwned<ServerConnection, std::net::TcpStream>,
    redirection: Option<&str>,
) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(&mut *stream);
    while !request.ends_with("\r\n\r\n") {
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
    }
    let listing = format!(
        "{{\"sha\": \"{}\", \"siblings\": [{{\"rfilename\": \"model.safetensors\", \"size\": {}, \"blobId\": \"{}\"}}]}}",
        "1".repeat(40),
        WEIGHTS.len(),
        "486bf820e345e2fa3dd503b8743c1d7df497d399"
    );
    let (status, header, body) = match redirection {
        _ if request.starts_with("GET /api/") => ("200 OK", String::new(), listing.as_bytes()),
        Some(to) => ("302 Found", format!("Location: {to}\r\n"), &b""[..]),
        None => ("200 OK", String::new(), WEIGHTS),
    };
    let head =
        format!("HTTP/1.1 {status}\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn pull(url: &str, trusted: bool) -> (tempfile::TempDir, Result<PathBuf, LoadError>) {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().as_os_str().to_owned();
    let certificates = tls("ca.pem").into_os_string();
    let mut settings = Settings::from_environment(|key| match key {
        "HF_HUB_CACHE" => Some(cache.clone()),
        "SSL_CERT_FILE" if trusted => Some(certificates.clone()),
        _ => None,
    });
    settings.endpoints = vec![Endpoint::new(Protocol::HuggingFace, url, None)];
    settings.patience.pause = Duration::from_millis(1);
    let found = Client::new(settings).pull("org/model", &|_| ());
    (home, found)
}

#[test]
fn a_file_comes_over_tls_from_a_server_that_is_trusted() {
    let url = serve(None);
    let (_home, path) = pull(&url, true);
    assert_eq!(std::fs::read(path.unwrap().join("model.safetensors")).unwrap(), WEIGHTS);
}

#[test]
fn an_unknown_authority_is_not_trusted() {
    let url = serve(None);
    let (_home, path) = pull(&url, false);
    let LoadError::Hub(HubError::Unreachable { why, .. }) = path.unwrap_err() else { panic!() };
    assert!(why.contains("certificate"), "{why}");
}

#[test]
fn d14_a_redirection_out_of_tls_is_refused() {
    for to in ["http://localhost/model.safetensors", "http://huggingface.co/x", "file:///etc/passwd"] {
        let url = serve(Some(to));
        let (_home, path) = pull(&url, true);
        let LoadError::Hub(HubError::Protocol { why, .. }) = path.unwrap_err() else { panic!("{to}") };
        assert!(why.contains("refused"), "{to}: {why}");
    }
}
