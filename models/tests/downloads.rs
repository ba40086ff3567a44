//! Downloads from a hub that lies, stalls, cuts and redirects: D01 to D16 of the acceptance list, as far as one
//! process shows them.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/hub/mod.rs"]
mod hub;

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hub::{Fault, Files, Hub, commit, git, sha256};
use jtllm_models::LoadError;
use jtllm_models::hub::{Client, Endpoint, Event, HubError, Patience, Protocol, Settings};

const NAME: &str = "org/model";
const WEIGHTS: &str = "model.safetensors";
const SIZE: usize = 8 << 20;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn files() -> Files {
    Files::from([
        ("config.json".to_owned(), b"{\"model_type\": \"llama\"}".to_vec()),
        ("README.md".to_owned(), b"not needed".to_vec()),
        ("pytorch_model.bin".to_owned(), noise(1000, 1)),
        ("1_Pooling/config.json".to_owned(), b"{}".to_vec()),
        (WEIGHTS.to_owned(), noise(SIZE, 2)),
    ])
}

/// A client with a cache of its own.
struct Bench {
    client: Client,
    home: tempfile::TempDir,
    notes: RefCell<Vec<String>>,
}

fn quick(settings: &mut Settings) {
    settings.patience = Patience {
        connect: Duration::from_secs(2),
        stall: Duration::from_secs(10),
        attempts: 6,
        pause: Duration::from_millis(1),
    };
}

fn bench_of(endpoints: Vec<Endpoint>, change: impl FnOnce(&mut Settings)) -> Bench {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().as_os_str().to_owned();
    let mut settings = Settings::from_environment(|key| (key == "HF_HUB_CACHE").then(|| cache.clone()));
    settings.endpoints = endpoints;
    settings.pip = false;
    quick(&mut settings);
    change(&mut settings);
    Bench { client: Client::new(settings), home, notes: RefCell::default() }
}

fn bench(hubs: &[&Hub]) -> Bench {
    bench_of(hubs.iter().map(|hub| hugging_face(hub)).collect(), |_| {})
}

fn hugging_face(hub: &Hub) -> Endpoint {
    Endpoint::new(Protocol::HuggingFace, &hub.url(), None)
}

impl Bench {
    fn pull(&self, name: &str) -> Result<PathBuf, LoadError> {
        self.client.pull(name, &|event| {
            if let Event::Note(note) = event {
                self.notes.borrow_mut().push(note);
            }
        })
    }

    fn blobs(&self) -> PathBuf {
        self.home.path().join("models--org--model/blobs")
    }

    fn blob(&self, bytes: &[u8], end: &str) -> PathBuf {
        self.blobs().join(format!("{}{end}", sha256(bytes)))
    }

    /// Fails as it should, and leaves no file under a final name that is not right.
    fn fails(&self, name: &str) -> HubError {
        let error = self.pull(name).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        let LoadError::Hub(error) = error else { panic!("{error}") };
        self.nothing_is_wrong();
        error
    }

    /// Each file with a final name has the hash that it is named after.
    fn nothing_is_wrong(&self) {
        for entry in std::fs::read_dir(self.blobs()).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert!(name.contains('.') || [sha256(&bytes), git(&bytes)].contains(&name.to_owned()), "{name}");
        }
    }

    fn gets(&self, name: &str, files: &Files) -> PathBuf {
        let path = self.pull(name).unwrap_or_else(|error| panic!("{error}; {:?}", self.notes.borrow()));
        for (file, bytes) in files {
            if !["README.md", "pytorch_model.bin"].contains(&file.as_str()) {
                assert_eq!(&std::fs::read(path.join(file)).unwrap(), bytes, "{file}");
            }
        }
        self.nothing_is_wrong();
        path
    }
}

#[test]
fn a_model_comes_with_the_files_that_it_needs_and_no_others() {
    let hub = Hub::with(NAME, files());
    let bench = bench(&[&hub]);
    let path = bench.gets(NAME, &files());
    assert!(!path.join("README.md").exists() && !path.join("pytorch_model.bin").exists());
    assert_eq!(hub.asked("").len(), 4, "a listing and three files: {:?}", hub.asked(""));
    let sent = hub.sent();
    assert_eq!(bench.pull(NAME).unwrap(), path);
    assert_eq!(hub.sent(), sent, "what is there is not fetched again");
    assert_eq!(bench.client.open(NAME, &|_| ()).unwrap(), path);
    assert_eq!(hub.asked("").len(), 5, "a model that is there is opened without asking");
}

#[test]
fn modelscope_is_walked_folder_by_folder() {
    let hub = Hub::with("Qwen/Qwen3-0.6B", files());
    let endpoint = Endpoint::new(Protocol::ModelScope, &hub.url(), Some("secret".to_owned()));
    let bench = bench_of(vec![endpoint], |_| {});
    let path = bench.gets("qwen3", &files());
    assert!(files().len() > hub::LIST_MAX, "a list of everything would be cut");
    assert!(path.starts_with(bench.home.path().join("models--Qwen--Qwen3-0.6B/snapshots")));
    assert_eq!(hub.asked("")[0].authorization.as_deref(), Some("Bearer secret"));
}

#[test]
fn d01_a_cut_download_goes_on_where_it_stopped() {
    let hub = Hub::with(NAME, files());
    hub.fault(WEIGHTS, Fault::Cut(SIZE * 2 / 5));
    let first = bench_of(vec![hugging_face(&hub)], |settings| settings.patience.attempts = 1);
    let error = first.fails(NAME).to_string();
    assert!(error.contains("cut off after"), "{error}");
    let part = std::fs::metadata(first.blob(&files()[WEIGHTS], ".incomplete")).unwrap().len();
    assert!(part as usize > SIZE / 3, "{part}");
    first.gets(NAME, &files());
    let asked = hub.asked(WEIGHTS);
    assert_eq!(asked.last().unwrap().range, Some(format!("bytes={part}-")));
    assert!(hub.sent() as f64 <= 1.01 * SIZE as f64 + 1000.0, "{} of {SIZE}", hub.sent());
    assert!(!first.blob(&files()[WEIGHTS], ".incomplete").exists());
}

#[test]
fn d01_cuts_are_survived_within_one_download_too() {
    let hub = Hub::with(NAME, files());
    for _ in 0..5 {
        hub.fault(WEIGHTS, Fault::Cut(200_000));
    }
    bench(&[&hub]).gets(NAME, &files());
    assert_eq!(hub.asked(WEIGHTS).len(), 6);
}

#[test]
fn d02_a_server_without_ranges_is_asked_from_the_start() {
    let hub = Hub::with(NAME, files());
    hub.fault(WEIGHTS, Fault::Cut(SIZE / 2));
    hub.fault(WEIGHTS, Fault::IgnoreRange);
    bench(&[&hub]).gets(NAME, &files());
    assert!(hub.sent() as usize >= SIZE * 3 / 2 - 1000);
}

#[test]
fn d03_a_part_of_another_version_is_dropped() {
    let (mut old, mut new) = (files(), files());
    old.insert(WEIGHTS.to_owned(), noise(SIZE, 7));
    new.insert(WEIGHTS.to_owned(), noise(SIZE + 5, 8));
    for hides_hashes in [false, true] {
        let hub = Hub::with(NAME, old.clone());
        hub.set().hides_hashes = hides_hashes;
        hub.fault(WEIGHTS, Fault::Cut(SIZE / 2));
        let bench = bench_of(vec![hugging_face(&hub)], |settings| settings.patience.attempts = 1);
        bench.pull(NAME).unwrap_err();
        hub.set().repositories.insert(NAME.to_owned(), new.clone());
        let path = bench.pull(NAME).unwrap();
        assert_eq!(std::fs::read(path.join(WEIGHTS)).unwrap(), new[WEIGHTS]);
        let left = std::fs::read_dir(bench.blobs()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<OsString> = left.filter(|name| name.to_str().unwrap().contains('.')).collect();
        assert!(left.is_empty(), "nothing remains of the old version: {left:?}");
    }
}

#[test]
fn d03_a_version_that_changes_within_a_download_begins_anew() {
    let hub = Hub::with(NAME, files());
    // Half of another file comes first: the rest does not fit, as the hash tells.
    hub.fault(WEIGHTS, Fault::Other(SIZE / 2));
    let bench = bench(&[&hub]);
    bench.gets(NAME, &files());
    assert!(bench.notes.borrow().iter().any(|note| note.contains("do not fit together")));
    // Without a hash the server is asked whether the version is still the same.
    hub.set().hides_hashes = true;
    hub.fault(WEIGHTS, Fault::Cut(SIZE / 2));
    let other = self::bench(&[&hub]);
    other.pull(NAME).unwrap();
    let version = format!("\"v-{}\"", &sha256(&files()[WEIGHTS])[..8]);
    assert_eq!(hub.asked(WEIGHTS).last().unwrap().if_range, Some(version));
}

#[test]
fn d03_a_version_belongs_to_one_file() {
    let hub = Hub::with(NAME, files());
    hub.set().hides_hashes = true;
    hub.set().one_version = true;
    let bench = bench(&[&hub]);
    let path = bench.pull(NAME).unwrap();
    for name in ["config.json", "1_Pooling/config.json", WEIGHTS] {
        assert_eq!(std::fs::read(path.join(name)).unwrap(), files()[name], "{name}");
    }
}

#[test]
fn d04_a_wrong_file_is_put_aside_and_the_next_mirror_asked() {
    let (liar, honest) = (Hub::with(NAME, files()), Hub::with(NAME, files()));
    liar.always(WEIGHTS, Fault::Corrupt);
    let alone = bench(&[&liar]);
    let HubError::Corrupt { file, expected, kept, .. } = alone.fails(NAME) else { panic!() };
    assert_eq!((file.as_str(), expected), (WEIGHTS, sha256(&files()[WEIGHTS])));
    assert_eq!(kept, alone.blob(&files()[WEIGHTS], ".corrupt"));
    assert_eq!(std::fs::metadata(kept).unwrap().len() as usize, SIZE);
    assert_eq!(liar.asked(WEIGHTS).len(), 1, "the same server is not asked again");
    let both = bench(&[&liar, &honest]);
    both.gets(NAME, &files());
    assert_eq!(honest.asked(WEIGHTS).len(), 1);
    assert!(honest.asked("api/models").is_empty(), "one hash holds for all mirrors");
}

#[test]
fn d05_a_silent_server_is_asked_again_six_times() {
    let hub = Hub::with(NAME, files());
    hub.fault(WEIGHTS, Fault::Stall(SIZE / 2));
    hub.fault(WEIGHTS, Fault::Stall(0));
    let impatient = || {
        bench_of(vec![hugging_face(&hub)], |settings| settings.patience.stall = Duration::from_millis(400))
    };
    let patient = impatient();
    patient.gets(NAME, &files());
    assert_eq!(hub.asked(WEIGHTS).len(), 3);
    assert!(hub.sent() as usize <= SIZE + SIZE / 50, "stalls cost no bytes");
    hub.always(WEIGHTS, Fault::Stall(0));
    let begin = Instant::now();
    let error = impatient().fails(NAME);
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert_eq!(hub.asked(WEIGHTS).len(), 3 + 6);
    assert!(begin.elapsed() > Duration::from_millis(6 * 400), "each time it was waited for");
}

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let hub = Hub::with(NAME, files());
    hub.fault("listing", Fault::Busy(1));
    hub.fault(WEIGHTS, Fault::Busy(1));
    let begin = Instant::now();
    bench(&[&hub]).gets(NAME, &files());
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!((hub.asked("api/models").len(), hub.asked(WEIGHTS).len()), (2, 2));
}

#[test]
fn d06_hf_endpoint_is_the_only_host() {
    let of = |pairs: &[(&str, &str)]| {
        let found = |key: &str| Some(OsString::from(pairs.iter().find(|(name, _)| *name == key)?.1));
        let settings = Settings::from_environment(found);
        let addresses: Vec<String> = settings.endpoints.iter().map(|e| e.address().to_owned()).collect();
        (addresses, settings.pip)
    };
    let all = (vec!["https://huggingface.co".to_owned(), "https://www.modelscope.cn".to_owned()], true);
    assert_eq!(of(&[]), all);
    let mirror = "https://mirror.example";
    assert_eq!(of(&[("HF_ENDPOINT", "https://mirror.example/")]), (vec![mirror.to_owned()], false));
    let several = of(&[("HF_ENDPOINT", "https://mirror.example, http://b:8080/x/")]).0;
    assert_eq!(several, [mirror, "http://b:8080/x"]);
    let both = of(&[("HF_ENDPOINT", mirror), ("MODELSCOPE_DOMAIN", "www.modelscope.ai")]).0;
    assert_eq!(both, [mirror, "https://www.modelscope.ai"]);
    let turned = of(&[("VLLM_USE_MODELSCOPE", "True")]).0;
    assert_eq!(turned, ["https://www.modelscope.cn", "https://huggingface.co"]);
}

#[test]
fn d07_a_mirror_that_refuses_is_passed_over() {
    for status in [403, 404, 410, 500, 503] {
        let (first, second) = (Hub::with(NAME, files()), Hub::with(NAME, files()));
        first.always("listing", Fault::Status(status));
        bench(&[&first, &second]).gets(NAME, &files());
        assert_eq!(first.asked("api/models").len(), if status >= 500 { 3 } else { 1 });
        // It lists its files and then does not give them: those that it gave are not fetched twice.
        let (first, second) = (Hub::with(NAME, files()), Hub::with(NAME, files()));
        first.always(WEIGHTS, Fault::Status(status));
        bench(&[&first, &second]).gets(NAME, &files());
        assert!(second.asked("config.json").is_empty() && second.asked(WEIGHTS).len() == 1);
    }
    let (gone, second) =
        (Endpoint::new(Protocol::HuggingFace, "http://127.0.0.1:9", None), Hub::with(NAME, files()));
    bench_of(vec![gone, hugging_face(&second)], |_| {}).gets(NAME, &files());
    let (one, two) = (Hub::start(), Hub::start());
    let error = bench(&[&one, &two]).fails(NAME).to_string();
    assert!(error.contains(&one.url()) && error.contains(&two.url()), "each is told of: {error}");
}

#[test]
fn d07_another_hub_gives_the_rest_under_the_same_hash() {
    let repository = "Qwen/Qwen3-0.6B";
    let (first, second) = (Hub::with(repository, files()), Hub::with(repository, files()));
    first.fault(WEIGHTS, Fault::Cut(SIZE / 2));
    first.always(WEIGHTS, Fault::Status(404));
    let modelscope = |hub: &Hub| Endpoint::new(Protocol::ModelScope, &hub.url(), None);
    let bench = bench_of(vec![hugging_face(&first), modelscope(&second)], |_| {});
    bench.gets("qwen3", &files());
    let asked = second.asked("");
    assert!(asked.len() == 1 && asked[0].range.is_some(), "only what was missing: {asked:?}");
    // A repository that only has the same name may be somebody else's.
    let (first, second) = (Hub::start(), Hub::with(NAME, files()));
    bench_of(vec![hugging_face(&first), modelscope(&second)], |_| {}).fails(NAME);
    assert!(second.asked("").is_empty());
}

#[test]
fn d08_offline_nothing_is_asked() {
    let hub = Hub::with(NAME, files());
    let home = bench(&[&hub]);
    let path = home.gets(NAME, &files());
    let before = hub.asked("").len();
    let offline = |cache: &Path| {
        let cache = cache.as_os_str().to_owned();
        let mut settings = Settings::from_environment(|key| match key {
            "HF_HUB_CACHE" => Some(cache.clone()),
            "HF_HUB_OFFLINE" => Some("1".into()),
            _ => None,
        });
        settings.endpoints = vec![hugging_face(&hub)];
        Client::new(settings)
    };
    assert_eq!(offline(home.home.path()).open(NAME, &|_| ()).unwrap(), path);
    std::fs::remove_file(path.join(WEIGHTS)).unwrap();
    let empty = tempfile::tempdir().unwrap();
    for (cache, file) in [(home.home.path(), WEIGHTS), (empty.path(), "config.json")] {
        let error = offline(cache).open(NAME, &|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let error = error.to_string();
        assert!(error.contains(file) && error.contains("HF_HUB_OFFLINE"), "{error}");
    }
    assert_eq!(hub.asked("").len(), before);
}

#[test]
fn d09_a_gated_model_names_the_token_and_the_page() {
    let hub = Hub::with(NAME, files());
    hub.set().token = Some("right".to_owned());
    let error = bench(&[&hub]).fails(NAME).to_string();
    assert!(error.contains("HF_TOKEN") && error.contains(&format!("{}/{NAME}", hub.url())), "{error}");
    let with = |token: &str| {
        bench_of(vec![Endpoint::new(Protocol::HuggingFace, &hub.url(), Some(token.to_owned()))], |_| {})
    };
    let error = with("wrong").fails(NAME).to_string();
    assert!(error.contains("account of your token") && error.contains("licence"), "{error}");
    with("right").gets(NAME, &files());
    hub.always(WEIGHTS, Fault::Status(403));
    let error = with("right").fails(NAME).to_string();
    assert!(error.contains("403") && error.contains(&format!("{}/{NAME}", hub.url())), "{error}");
}

#[test]
fn d09_a_token_is_shown_to_its_hub_alone() {
    let (hub, elsewhere) = (Hub::with(NAME, files()), Hub::with(NAME, files()));
    hub.always(WEIGHTS, Fault::Redirect(format!("{}/{NAME}/resolve/main/{WEIGHTS}", elsewhere.url())));
    let endpoint = Endpoint::new(Protocol::HuggingFace, &hub.url(), Some("secret".to_owned()));
    bench_of(vec![endpoint], |_| {}).gets(NAME, &files());
    assert!(hub.asked("").iter().all(|asked| asked.authorization.is_some()));
    assert_eq!(elsewhere.asked("").len(), 1);
    assert!(elsewhere.asked("").iter().all(|asked| asked.authorization.is_none()));
}

#[test]
fn d10_a_disk_without_room_is_told_before_anything_is_fetched() {
    let hub = Hub::with(NAME, files());
    let mut bench = bench(&[&hub]);
    bench.client.free_bytes = |_| Some(1000);
    let HubError::Space { needed, free, folder } = bench.fails(NAME) else { panic!() };
    assert!(needed as usize > SIZE && free == 1000 && folder.starts_with(bench.home.path()));
    assert_eq!(hub.sent(), 0);
    bench.client.free_bytes = |_| Some(SIZE as u64 + 1000);
    bench.gets(NAME, &files());
}

#[test]
fn d13_names_that_lead_out_of_the_folder_are_refused() {
    for path in ["../evil.json", "/etc/evil.json", "a/../../evil", "C:\\evil", "a\\..\\evil", ""] {
        for protocol in [Protocol::HuggingFace, Protocol::ModelScope] {
            let hub = Hub::with("Qwen/Qwen3-0.6B", files());
            hub.set().listed = vec![path.to_owned()];
            let bench = bench_of(vec![Endpoint::new(protocol, &hub.url(), None)], |_| {});
            let error = bench.fails("qwen3");
            assert!(matches!(&error, HubError::UnsafePath { path: found, .. } if found == path), "{error}");
            assert_eq!(hub.sent(), 0);
        }
    }
    let hub = Hub::start();
    for name in ["../..", "org/..", "a/b/c", "org/na--me", "o/\u{1b}"] {
        assert!(matches!(bench(&[&hub]).pull(name), Err(LoadError::NotFound { .. })), "{name}");
    }
    assert!(hub.asked("").is_empty());
}

#[test]
fn d14_redirections_are_followed_only_where_they_may_lead() {
    for to in ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://x", "http://"] {
        let hub = Hub::with(NAME, files());
        hub.always(WEIGHTS, Fault::Redirect(to.to_owned()));
        let error = bench(&[&hub]).fails(NAME);
        assert!(matches!(&error, HubError::Protocol { why, .. } if why.contains("refused")), "{to}: {error}");
    }
    let hub = Hub::with(NAME, files());
    hub.always(WEIGHTS, Fault::Redirect(format!("/{NAME}/resolve/main/{WEIGHTS}")));
    let error = bench(&[&hub]).fails(NAME).to_string();
    assert!(error.contains("more than 10 redirections"), "{error}");
    assert_eq!(hub.asked(WEIGHTS).len(), 11);
}

#[test]
fn a_model_that_cannot_be_run_is_refused_before_its_weights_come() {
    let mut files = files();
    files.insert("config.json".to_owned(), b"{\"architectures\": [\"OtherForCausalLM\"]}".to_vec());
    let (first, second) = (Hub::with(NAME, files.clone()), Hub::with(NAME, files));
    let error = bench(&[&first, &second]).pull(NAME).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("\"OtherForCausalLM\" are not supported"), "{error}");
    assert_eq!((first.asked("resolve").len(), second.asked("").len()), (1, 0), "one small file of one hub");
}

#[test]
fn a_mistyped_path_is_no_repository() {
    let hub = Hub::with("./model", files());
    for path in ["./model", "../model", ".hidden/model", "./gone/model"] {
        let error = bench(&[&hub]).pull(path).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
    }
    assert!(hub.asked("").is_empty(), "nobody is asked for it");
}

#[test]
fn a_configuration_that_cannot_be_run_is_refused_before_its_weights_come() {
    let mut files = files();
    let config = br#"{"architectures": ["ChatGLMModel"], "vocab_size": 150528, "hidden_size": 64, "num_attention_heads": 4}"#;
    files.insert("config.json".to_owned(), config.to_vec());
    let hub = Hub::with(NAME, files);
    let error = bench(&[&hub]).pull(NAME).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let error = error.to_string();
    assert!(error.contains("vocab_size") && error.ends_with("its weights were not downloaded"), "{error}");
    assert_eq!(hub.asked("resolve").len(), 1, "the configuration alone");
}

#[test]
fn a_size_that_the_listing_leaves_out_is_asked_for() {
    let hub = Hub::with(NAME, files());
    hub.set().hides_sizes = true;
    hub.always("config.json", Fault::Corrupt);
    let error = bench(&[&hub]).fails(NAME);
    assert!(matches!(&error, HubError::Corrupt { file, .. } if file == "config.json"), "{error}");
    hub.set().always.clear();
    bench(&[&hub]).gets(NAME, &files());
    assert!(hub.asked("config.json").iter().any(|asked| asked.method == "HEAD"));
    assert!(hub.asked(WEIGHTS).iter().all(|asked| asked.method == "GET"), "its size stands with its hash");
}

#[test]
fn a_renamed_repository_is_found_by_its_old_name() {
    let (hub, name) = (Hub::with("new/model", files()), "org/model");
    hub.fault("listing", Fault::Redirect("/api/models/new/model/revision/main?blobs=true".to_owned()));
    hub.set().repositories.insert(name.to_owned(), files());
    bench(&[&hub]).gets(name, &files());
    assert_eq!(hub.asked("/api/models/new/model").len(), 1);
}

#[test]
fn d15_the_cache_has_the_layout_of_huggingface_hub() {
    let hub = Hub::with(NAME, files());
    let bench = bench(&[&hub]);
    bench.gets(NAME, &files());
    let root = bench.home.path();
    let folder = root.join("models--org--model");
    let revision = std::fs::read_to_string(folder.join("refs/main")).unwrap();
    assert_eq!(revision, commit(&files()));
    let weights = folder.join("snapshots").join(&revision).join(WEIGHTS);
    let pooling = folder.join("snapshots").join(&revision).join("1_Pooling/config.json");
    // A large file's blob is named by its SHA-256, a small one's by git.
    assert!(folder.join("blobs").join(sha256(&files()[WEIGHTS])).is_file());
    assert!(folder.join("blobs").join(git(&files()["config.json"])).is_file());
    if cfg!(unix) {
        let blob = Path::new("../../blobs").join(sha256(&files()[WEIGHTS]));
        assert_eq!(std::fs::read_link(&weights).unwrap(), blob);
        assert_eq!(std::fs::read_link(&pooling).unwrap(), Path::new("../../../blobs").join(git(b"{}")));
    }
    assert!(root.join(".locks/models--org--model").is_dir());
    let mut left: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    // What this program has fetched is noted beside what every other reader of the cache knows.
    assert_eq!(left, [".jtllm", "blobs", "refs", "snapshots"]);
}

#[test]
fn d16_a_cache_that_cannot_be_written_can_be_read() {
    let hub = Hub::with(NAME, files());
    let bench = bench(&[&hub]);
    let path = bench.gets(NAME, &files());
    let tree = |write: bool| {
        let mut found = Vec::new();
        let mut open = vec![bench.home.path().to_owned()];
        while let Some(folder) = open.pop() {
            let mut mode = std::fs::metadata(&folder).unwrap().permissions();
            mode.set_readonly(!write);
            #[cfg(unix)]
            if write {
                std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
            }
            std::fs::set_permissions(&folder, mode).unwrap();
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    open.push(path.clone());
                }
                found.push((path.clone(), path.symlink_metadata().unwrap().modified().unwrap()));
            }
        }
        found.sort();
        found
    };
    let before = tree(false);
    assert_eq!(bench.client.open(NAME, &|_| ()).unwrap(), path);
    assert_eq!(std::fs::read(path.join(WEIGHTS)).unwrap(), files()[WEIGHTS]);
    assert_eq!(bench.client.list().len(), 1);
    assert_eq!(tree(true), before, "reading leaves no trace");
}

/// The name of a file that must come to be nowhere.
const ASTRAY: &str = "jtllm-listing-that-leads-astray";

/// A listing as a hub would give it, with damage in its bytes or its structure.
fn damaged_listing(random: &mut jtllm_fuzz::Random, protocol: Protocol) -> Vec<u8> {
    let [above, beside_cache] = ["..", "../../../.."].map(|up| format!("{up}/{ASTRAY}"));
    let names = [
        "config.json",
        "model.safetensors",
        &above,
        &beside_cache,
        "a/b/../c",
        "",
        "tokenizer.json",
        "\u{202e}x",
        "m.gguf",
        "m-00001-of-99999.gguf",
    ];
    let numbers = ["0", "7", "-1", "18446744073709551615", "1e300", "null", "\"7\"", "[]"];
    let hashes = [git(b"x"), sha256(b"x"), "0".repeat(63), "../../x".to_owned(), String::new()];
    let mut pick = |count: usize| random.below(count);
    let entries: Vec<String> = (0..pick(6))
        .map(|_| {
            let (name, number, hash) = (names[pick(names.len())], numbers[pick(numbers.len())], &hashes[pick(hashes.len())]);
            match protocol {
                Protocol::HuggingFace => format!("{{\"rfilename\": {name:?}, \"size\": {number}, \"blobId\": {hash:?}}}"),
                Protocol::ModelScope => {
                    let kind = ["tree", "blob"][pick(2)];
                    format!("{{\"Path\": {name:?}, \"Type\": \"{kind}\", \"Size\": {number}, \"Sha256\": {hash:?}}}")
                }
            }
        })
        .collect();
    let list = entries.join(",");
    let text = match protocol {
        Protocol::HuggingFace => format!("{{\"sha\": \"{}\", \"siblings\": [{list}]}}", git(b"y")),
        Protocol::ModelScope => format!("{{\"Data\": {{\"Files\": [{list}]}}}}"),
    };
    let mut bytes = text.into_bytes();
    if pick(2) == 0 {
        for _ in 0..=pick(3) {
            let at = pick(bytes.len());
            bytes[at] = pick(256) as u8;
        }
        bytes.truncate(pick(bytes.len()) + 1);
    }
    bytes
}

#[test]
fn fuzz_listings() {
    let hub = Hub::with("Qwen/Qwen3-0.6B", files());
    jtllm_fuzz::for_seconds("listings", |random| {
        for protocol in [Protocol::HuggingFace, Protocol::ModelScope] {
            hub.set().raw_listing = Some(damaged_listing(random, protocol));
            let mut bench = bench_of(vec![Endpoint::new(protocol, &hub.url(), None)], |settings| {
                settings.patience.attempts = 1;
            });
            bench.client.free_bytes = |_| Some(1 << 30);
            match bench.pull("qwen3") {
                Ok(path) => assert!(path.starts_with(bench.home.path())),
                Err(error) => assert_eq!(error.exit_code(), 3, "{error}"),
            }
            bench.nothing_is_wrong();
            // Names that lead upwards lead to a file of this name, in the cache or beside it.
            assert!(!entries(bench.home.path()).iter().any(|path| path.ends_with(ASTRAY)));
            assert!(!bench.home.path().parent().unwrap().join(ASTRAY).exists());
        }
    });
}

/// All files and folders below one.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in found.clone() {
        if path.is_dir() && !path.is_symlink() {
            found.extend(entries(&path));
        }
    }
    found
}
