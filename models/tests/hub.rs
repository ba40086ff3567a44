//! Names of models, and where their files are found.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use jtllm_models::{LoadError, hub};

/// A cache with one repository: two revisions of which `refs/main` names one, and GGUF files in it.
fn cache() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("hub/models--Qwen--Qwen2-0.5B-Instruct");
    let snapshot = repository.join("snapshots/abc123");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repository.join("snapshots/def456")).unwrap();
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), "abc123\n").unwrap();
    for name in ["q-Q4_K_M.gguf", "q-Q4_K.gguf", "q-Q8_0-00001-of-00002.gguf", "q-Q8_0-00002-of-00002.gguf"] {
        std::fs::write(snapshot.join(name), []).unwrap();
    }
    (home, snapshot)
}

fn resolve(name: &str, key: &'static str, value: &Path) -> Result<PathBuf, LoadError> {
    let value = OsString::from(value);
    hub::resolve(name, |asked| (asked == key).then(|| value.clone()))
}

#[test]
fn a_repository_is_found_wherever_the_environment_puts_the_cache() {
    let (home, snapshot) = cache();
    let name = "Qwen/Qwen2-0.5B-Instruct";
    let model = snapshot.join("q-Q4_K_M.gguf");
    assert_eq!(
        resolve(name, "HF_HOME", home.path()).unwrap(),
        model,
        "the quantisation that is taken unasked"
    );
    assert_eq!(resolve(name, "HF_HUB_CACHE", &home.path().join("hub")).unwrap(), model);
    assert_eq!(resolve("qwen2", "HF_HOME", home.path()).unwrap(), model, "by its short name");
    assert_eq!(resolve("Qwen2:0.5B", "HF_HOME", home.path()).unwrap(), model, "and by its size");
    let user = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(user.path().join(".cache/huggingface")).unwrap();
    std::fs::rename(home.path().join("hub"), user.path().join(".cache/huggingface/hub")).unwrap();
    let found = resolve(name, "HOME", user.path()).unwrap();
    assert!(found.ends_with("snapshots/abc123/q-Q4_K_M.gguf"));
    std::fs::create_dir_all(user.path().join("jittor/.cache")).unwrap();
    std::fs::rename(user.path().join(".cache/huggingface"), user.path().join("jittor/.cache/huggingface"))
        .unwrap();
    assert!(resolve(name, "HOME", user.path()).is_err());
    let moved = resolve(name, "JITTOR_HOME", &user.path().join("jittor")).unwrap();
    assert!(moved.ends_with("snapshots/abc123/q-Q4_K_M.gguf"));
    std::fs::rename(user.path().join("jittor/.cache"), user.path().join(".cache")).unwrap();
    assert_eq!(resolve(name, "XDG_CACHE_HOME", &user.path().join(".cache")).unwrap(), found);
}

#[test]
fn a_gguf_file_is_chosen_by_name_or_quantisation() {
    let (home, snapshot) = cache();
    let choose =
        |choice: &str| resolve(&format!("Qwen/Qwen2-0.5B-Instruct:{choice}"), "HF_HOME", home.path());
    assert_eq!(choose("q-Q4_K_M.gguf").unwrap(), snapshot.join("q-Q4_K_M.gguf"));
    assert_eq!(choose("q4_k_m").unwrap(), snapshot.join("q-Q4_K_M.gguf"));
    assert_eq!(choose("Q4_K").unwrap(), snapshot.join("q-Q4_K.gguf"));
    assert_eq!(choose("Q8_0").unwrap(), snapshot.join("q-Q8_0-00001-of-00002.gguf"));
    let error = choose("Q5_0").unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("no GGUF file of this name"), "{error}");
    assert!(choose("q").unwrap_err().to_string().contains("3 GGUF files"));
    assert!(choose("../../../secret").is_err());
}

#[test]
fn a_path_that_exists_is_itself() {
    let (home, snapshot) = cache();
    let path = snapshot.join("q-Q4_K.gguf");
    assert_eq!(resolve(path.to_str().unwrap(), "HF_HOME", home.path()).unwrap(), path);
}

#[test]
fn an_unknown_name_gets_suggestions() {
    let (home, _) = cache();
    let error = resolve("qwen2-0.5b-instrct", "HF_HOME", home.path()).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let LoadError::NotFound { suggestions, why, .. } = error else { panic!("{error}") };
    assert_eq!(suggestions[0], "Qwen/Qwen2-0.5B-Instruct");
    assert!(suggestions.len() <= 3);
    assert!(why.ends_with("no name of a model"), "{why}");
    let error = resolve("smolm2", "HF_HOME", home.path()).unwrap_err();
    assert!(error.to_string().contains("similar: \"smollm2\""), "{error}");
    for name in
        ["", "zzzzzzzz", &"x".repeat(100_000), "llama2", "../..x", "a/b/c", "-/--", "a/..", "\u{1b}[2J"]
    {
        let error = hub::resolve(name, |_| None).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{name}");
        assert!(error.to_string().len() < 1000 && !error.to_string().contains('\u{1b}'));
    }
}

#[test]
fn a_damaged_cache_is_an_error_or_nothing() {
    let (home, snapshot) = cache();
    let repository = snapshot.parent().unwrap().parent().unwrap();
    let name = "Qwen/Qwen2-0.5B-Instruct";
    std::fs::write(repository.join("refs/main"), "../../..").unwrap();
    assert_eq!(resolve(name, "HF_HOME", home.path()).unwrap_err().exit_code(), 4);
    std::fs::write(repository.join("refs/main"), "0123").unwrap();
    assert_eq!(resolve(name, "HF_HOME", home.path()).unwrap_err().exit_code(), 3, "a revision that is gone");
    std::fs::remove_file(repository.join("refs/main")).unwrap();
    assert_eq!(
        resolve(name, "HF_HOME", home.path()).unwrap_err().exit_code(),
        3,
        "two revisions, none of them main"
    );
    std::fs::remove_dir(repository.join("snapshots/def456")).unwrap();
    assert_eq!(resolve(name, "HF_HOME", home.path()).unwrap(), snapshot.join("q-Q4_K_M.gguf"));
}

#[test]
fn a_size_that_there_is_not_names_those_that_there_are() {
    let settings = hub::Settings::from_environment(|_| None);
    let error = hub::Client::new(settings).pull("qwen2:3b", &|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(
        error.to_string().contains("qwen2 has no size 3b; similar: \"qwen2:0.5b\", \"qwen2:1.5b\""),
        "{error}"
    );
}

#[test]
fn a_snapshot_without_all_its_shards_is_not_found() {
    let (home, snapshot) = cache();
    let name = "Qwen/Qwen2-0.5B-Instruct";
    let index = "{\"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\", \"b\": \"model-00002-of-00002.safetensors\"}}";
    std::fs::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
    std::fs::write(snapshot.join("model-00001-of-00002.safetensors"), []).unwrap();
    assert_eq!(resolve(name, "HF_HOME", home.path()).unwrap_err().exit_code(), 3);
    std::fs::write(snapshot.join("model-00002-of-00002.safetensors"), []).unwrap();
    assert_eq!(resolve(name, "HF_HOME", home.path()).unwrap(), snapshot);
    assert_eq!(
        resolve("qwen2:Q8_0", "HF_HOME", home.path()).unwrap(),
        snapshot.join("q-Q8_0-00001-of-00002.gguf")
    );
    std::fs::remove_file(snapshot.join("q-Q8_0-00002-of-00002.gguf")).unwrap();
    assert!(resolve("qwen2:Q8_0", "HF_HOME", home.path()).is_err(), "half of a split model");
}

#[test]
fn models_of_modelscope_s_own_tools_are_found() {
    let home = tempfile::tempdir().unwrap();
    for folder in [
        "models/Qwen/Qwen2-0___5B-Instruct",
        "hub/models/Qwen/Qwen2-0___5B-Instruct",
        "models/Qwen--Qwen2-0.5B-Instruct/snapshots/master",
    ] {
        let folder = home.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        assert!(resolve("qwen2", "MODELSCOPE_CACHE", home.path()).is_err(), "an empty folder");
        std::fs::write(folder.join("model.safetensors"), []).unwrap();
        assert_eq!(resolve("qwen2", "MODELSCOPE_CACHE", home.path()).unwrap(), folder);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
