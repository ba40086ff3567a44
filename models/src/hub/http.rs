//! Requests over HTTP: which redirections are followed, who gets to see a token, what a failure means.

use std::io::Read;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use ureq::config::Config;
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use super::endpoint::Endpoint;
use super::error::HubError;
use super::settings::Settings;

const REDIRECTS_MAX: usize = 10;

/// The longest answer of a hub's interface that is read; a listing of 10000 files has 4 MB.
const ANSWER_LEN_MAX: u64 = 32 << 20;

const AGENT: &str = concat!("jtllm/", env!("CARGO_PKG_VERSION"));

/// Makes requests.
pub(super) struct Http {
    settings: Settings,
    plain: OnceLock<Result<Agent, String>>,
    secure: OnceLock<Result<Agent, String>>,
}

/// What is asked for.
#[derive(Clone, Copy, Default)]
pub(super) struct Ask<'a> {
    /// The first byte wanted.
    pub(super) from: u64,
    /// The version of the file that `from` is meant for; of another the server sends all.
    pub(super) version: Option<&'a str>,
    /// Whether only the headers are wanted, those of a redirection that leads elsewhere included.
    pub(super) headers_only: bool,
}

/// An answer with one of the statuses 200 and 206; with `headers_only` also a redirection.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: Body,
}

impl Reply {
    /// A header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn into_reader(self) -> impl Read {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
}

impl Http {
    pub(super) fn new(settings: &Settings) -> Self {
        Http { settings: settings.clone(), plain: OnceLock::new(), secure: OnceLock::new() }
    }

    /// A short answer in JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        url: &str,
    ) -> Result<T, HubError> {
        let mut reply = self.get(endpoint, url, Ask::default())?;
        let text = reply.body.with_config().limit(ANSWER_LEN_MAX).read_to_vec();
        let text = text.map_err(|error| failure(url, error))?;
        serde_json::from_slice(&text)
            .map_err(|error| HubError::protocol(url, format!("the answer is not what was expected: {error}")))
    }

    /// Asks for a file, wherever redirections lead.
    pub(super) fn get(&self, endpoint: &Endpoint, url: &str, ask: Ask<'_>) -> Result<Reply, HubError> {
        let mut at: Uri = parsed(url)?;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(endpoint, &at, ask)?;
            let status = response.status().as_u16();
            if let (301..=303 | 307 | 308, Some(location)) =
                (status, response.headers().get(header::LOCATION))
            {
                let location =
                    location.to_str().map_err(|_| HubError::protocol(url, "unreadable redirection"))?;
                let next = follow(&at, location, endpoint.is_plain())?;
                if !(ask.headers_only && next.authority() != at.authority()) {
                    at = next;
                    continue;
                }
            } else if !matches!(status, 200 | 206) {
                let rest = response.headers().get(header::RETRY_AFTER);
                let rest = rest.and_then(|text| text.to_str().ok()?.parse().ok()).map(Duration::from_secs);
                return Err(endpoint.refusal(&at.to_string(), status, rest));
            }
            let (parts, body) = response.into_parts();
            return Ok(Reply { status, headers: parts.headers, body });
        }
        Err(HubError::protocol(url, format!("more than {REDIRECTS_MAX} redirections")))
    }

    fn send(&self, endpoint: &Endpoint, at: &Uri, ask: Ask<'_>) -> Result<Response<Body>, HubError> {
        let agent = self.agent(at)?;
        let mut request = if ask.headers_only { agent.head(at) } else { agent.get(at) };
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if endpoint.owns(at) {
            for (name, value) in endpoint.credentials() {
                request = request.header(name, value);
            }
        }
        if ask.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", ask.from));
            if let Some(version) = ask.version {
                request = request.header(header::IF_RANGE, version);
            }
        }
        request.call().map_err(|error| failure(&at.to_string(), error))
    }

    fn agent(&self, at: &Uri) -> Result<&Agent, HubError> {
        let secure = at.scheme_str() == Some("https");
        let made = match secure {
            true => self.secure.get_or_init(|| agent(&self.settings, true)),
            false => self.plain.get_or_init(|| agent(&self.settings, false)),
        };
        made.as_ref().map_err(|why| HubError::Unreachable { url: at.to_string(), why: why.clone() })
    }
}

fn agent(settings: &Settings, secure: bool) -> Result<Agent, String> {
    let patience = &settings.patience;
    let proxy = if secure { &settings.proxies.secure } else { &settings.proxies.plain };
    let proxy = proxy.as_deref().map(|url| proxy_with(url, settings.proxies.none_for.as_deref()));
    let mut config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(AGENT)
        .proxy(proxy.transpose()?)
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.stall))
        .timeout_per_read(Some(patience.stall))
        .input_buffer_size(256 << 10);
    if secure {
        config = config.tls_config(tls(settings)?);
    }
    Ok(config.build().new_agent())
}

fn proxy_with(url: &str, none_for: Option<&str>) -> Result<Proxy, String> {
    let fault = |error| format!("the proxy {url} cannot be used: {error}");
    let plain = Proxy::new(url).map_err(fault)?;
    let mut proxy = Proxy::builder(plain.protocol()).host(plain.host()).port(plain.port());
    if let Some(name) = plain.username() {
        proxy = proxy.username(name);
    }
    if let Some(password) = plain.password() {
        proxy = proxy.password(password);
    }
    for host in none_for.unwrap_or_default().split(',').map(str::trim).filter(|host| !host.is_empty()) {
        proxy = proxy.no_proxy(host);
    }
    proxy.build().map_err(fault)
}

fn tls(settings: &Settings) -> Result<TlsConfig, String> {
    let roots = match &settings.certificates {
        Some(file) => {
            let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let certificates = parse_pem(&text).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let certificates: Vec<_> = certificates.collect();
            match certificates.is_empty() {
                true => return Err(format!("{}: it holds no certificate", file.display())),
                false => RootCerts::new_with_certs(&certificates),
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            let found: Vec<_> = found.iter().map(|found| Certificate::from_der(found).to_owned()).collect();
            // A container may have no certificates at all: then those that Mozilla trusts are.
            if found.is_empty() { RootCerts::WebPki } else { RootCerts::new_with_certs(&found) }
        }
    };
    Ok(TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider()?).build())
}

/// Cryptography in Rust and assembly, for processors that have what it is written for.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn provider() -> Result<Arc<CryptoProvider>, String> {
    match crate::os::lacks_for_tls() {
        Some(feature) => Err(format!("https needs a processor with {feature}")),
        None => Ok(Arc::new(rustls_graviola::default_provider())),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn provider() -> Result<Arc<CryptoProvider>, String> {
    Err(format!(
        "https is not supported on {}; give an endpoint that begins with http://",
        std::env::consts::ARCH
    ))
}

/// The address that a redirection leads to. One that came from `http:` may lead to either protocol if `plain`,
/// one from `https:` only to itself.
fn follow(from: &Uri, location: &str, plain: bool) -> Result<Uri, HubError> {
    let base = format!(
        "{}://{}",
        from.scheme_str().unwrap_or_default(),
        from.authority().map_or("", |a| a.as_str())
    );
    let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let has_scheme = location.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    let text = match location {
        _ if has_scheme => location.to_owned(),
        _ if location.starts_with("//") => format!("{}:{location}", from.scheme_str().unwrap_or_default()),
        _ if location.starts_with('/') => format!("{base}{location}"),
        _ => format!("{base}{folder}/{location}"),
    };
    let refused =
        |why: &str| HubError::protocol(&from.to_string(), format!("redirection to {text:?} refused: {why}"));
    let next: Uri = text.parse().map_err(|_| refused("it is no address"))?;
    match next.scheme_str() {
        Some("https") => Ok(next),
        Some("http") if plain && from.scheme_str() == Some("http") => Ok(next),
        Some("http") => Err(refused("it is not encrypted")),
        _ => Err(refused("only https is followed")),
    }
}

fn parsed(url: &str) -> Result<Uri, HubError> {
    let uri: Uri = url.parse().map_err(|_| HubError::protocol(url, "it is no address"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(HubError::protocol(url, "expected an address that begins with https:// or http://")),
    }
}

fn failure(url: &str, error: ureq::Error) -> HubError {
    let why = match error {
        ureq::Error::Timeout(_) => "the server does not answer".to_owned(),
        ureq::Error::HostNotFound => "there is no such host".to_owned(),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::BodyExceedsLimit(limit) => {
            return HubError::protocol(url, format!("an answer of more than {limit} bytes"));
        }
        error => error.to_string(),
    };
    HubError::Unreachable { url: url.to_owned(), why }
}
