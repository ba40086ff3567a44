//! The mock driver for a process: a folder with its library under the name of NVIDIA's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Says to a process that it runs on the mock driver.
const INSIDE: &str = "JTLLM_TEST_INSIDE";

/// The mock driver with nothing special about it.
pub(crate) const FOUND: &[(&str, &str)] = &[];

/// What a process finds as its driver.
pub(crate) struct Driver {
    folder: Option<PathBuf>,
    variables: Vec<(String, String)>,
}

/// The folder in which the mock is called `libcuda.so`.
fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let beside = std::env::current_exe().unwrap();
        let library = beside.parent().unwrap().join("libmockcuda.so");
        assert!(library.exists(), "{}: built with this test", library.display());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mock-driver");
        std::fs::create_dir_all(&folder).unwrap();
        // Other tests may run the old one meanwhile: it is replaced, not changed.
        let fresh = folder.join(format!("fresh-{}", std::process::id()));
        std::fs::copy(&library, &fresh).unwrap();
        std::fs::rename(&fresh, folder.join("libcuda.so")).unwrap();
        folder
    };
    FOLDER.get_or_init(make).clone()
}

impl Driver {
    /// The mock with these variables.
    pub(crate) fn new(variables: &[(&str, &str)]) -> Driver {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Driver { folder: Some(folder()), variables: owned.collect() }
    }

    /// No driver at all.
    pub(crate) fn none() -> Driver {
        Driver { folder: None, variables: Vec::new() }
    }

    /// Makes it that of a process that is to be started.
    pub(crate) fn give(&self, command: &mut Command) {
        match &self.folder {
            Some(folder) => command.env("LD_LIBRARY_PATH", folder),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }
}

/// Runs a test's body in a process of its own that finds the mock: a process looks for libraries where its environment
/// said when it began.
pub(crate) fn inside(test: &str, variables: &[(&str, &str)], body: fn()) {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == test) {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, test);
    let log = tempfile::NamedTempFile::new().unwrap();
    command.env("MOCKCUDA_LOG", log.path());
    Driver::new(variables).give(&mut command);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
}
