//! A server for one page, on a port of this machine's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// One request: its path and its body.
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    stream: TcpStream,
}

impl Request {
    pub(crate) fn answer(mut self, kind: &str, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        // A browser that has gone is noticed by the next wait.
        let _gone = self.stream.write_all(head.as_bytes()).and_then(|()| self.stream.write_all(body));
    }
}

pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) fn new() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Server(listener)
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}/", self.0.local_addr().unwrap())
    }

    /// The next request; none if it takes longer.
    pub(crate) fn wait(&self, patience: Duration) -> Option<Request> {
        let begin = Instant::now();
        while begin.elapsed() < patience {
            match self.0.accept() {
                Ok((stream, _)) => {
                    if let Some(request) = read(stream) {
                        return Some(request);
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        None
    }
}

/// A request; none if whoever connected says nothing sensible.
fn read(stream: TcpStream) -> Option<Request> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split_whitespace().nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().ok()?
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { path, body, stream })
}
