//! Where a model runs: `--backend auto`, `--device`, `-ngl`, `--require-gpu`, and what the start line says.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use serde_json::Value;
use support::{FRANCE, answer, failure, fixture, json, jtllm, stderr, stdout};

fn start(arguments: &[&str]) -> String {
    let mut command = jtllm(&[&["run", "-p", FRANCE, "--temp", "0"], arguments].concat());
    let output = command.env("JTLLM_CPU", "cranelift").output().unwrap();
    assert_eq!(stdout(&output), "The capital of France is Paris.\n", "{}", stderr(&output));
    stderr(&output)
}

/// The binary where no driver of graphics can be found, neither by its files nor by Vulkan.
fn without_drivers(arguments: &[&str]) -> std::process::Output {
    let mut command = jtllm(arguments);
    let hidden = command
        .env("JTLLM_CPU", "cranelift")
        .env("VK_ICD_FILENAMES", "/nonexistent")
        .env("VK_DRIVER_FILES", "/nonexistent");
    hidden.output().unwrap()
}

#[test]
fn auto_takes_the_processor_where_there_is_nothing_else_and_says_why() {
    if cfg!(any(windows, target_os = "macos")) {
        return;
    }
    let output = without_drivers(&["run", "-p", FRANCE, "-t", "2"]);
    let text = stderr(&output);
    assert_eq!(stdout(&output), "The capital of France is Paris.\n", "{text}");
    assert!(text.contains("on the processor, 2 threads with cranelift (no CUDA device: NVIDIA's driver library was not found, no graphics adapter)"), "{text}");
    let output = without_drivers(&["run", "-p", FRANCE, "--require-gpu"]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert!(stderr(&output).contains("no graphics adapter") && stdout(&output).is_empty());
    let output = without_drivers(&["bench", "-p", "0", "-n", "1", "-r", "1", "--require-gpu"]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
}

#[test]
fn a_device_that_is_not_there_ends_with_status_7() {
    for backend in ["auto", "wgpu"] {
        let text = failure(&["run", "-p", FRANCE, "--backend", backend, "--device", "77"], 7);
        assert!(text.contains("77"), "{text}");
    }
    failure(&["verify", &fixture("gpt2-tiny"), "--backend", "wgpu", "--device", "77"], 7);
    failure(&["embed", &fixture("bert-minilm-mean-tiny"), "--device", "77", "-p", "x"], 7);
}

#[test]
fn layers_are_counted_from_the_head_backwards() {
    // The demo model has six layers; the interpreter stands for a device.
    let with = |layers: &str| start(&["--backend", "interp", "-ngl", layers, "-t", "1"]);
    assert!(with("1").contains(
        "; the head on interp, all layers on the processor, 1 thread with cranelift, products of f32; "
    ));
    assert!(with("2").contains(
        "; layer 5 and the head on interp, layers 0 to 4 on the processor, 1 thread with cranelift, products of f32; "
    ));
    assert!(with("6").contains(
        "; layers 1 to 5 and the head on interp, layer 0 on the processor, 1 thread with cranelift, products of f32; "
    ));
    assert!(with("0").contains(
        "; on the processor, 1 thread with cranelift (no layer was to be elsewhere), products of f32; "
    ));
    let whole = start(&["--backend", "interp", "--gpu-layers", "7"]);
    assert!(whole.contains("; on interp, products of f32; "), "{whole}");
}

#[test]
fn flags_that_want_a_device_do_not_go_with_the_processor() {
    for backend in ["cpu", "graph"] {
        for flags in [&["-ngl", "1"][..], &["--device", "0"], &["--require-gpu"]] {
            let text = failure(&[&["run", "-p", FRANCE, "--backend", backend], flags].concat(), 2);
            assert!(text.contains(backend), "{text}");
        }
    }
    failure(&["run", "-p", FRANCE, "--require-gpu", "-ngl", "0"], 2);
    assert!(failure(&["run", "-p", FRANCE, "-ngl", "some"], 2).contains("a number, all or auto"));
}

#[test]
fn threads_that_compute_nothing_are_told() {
    let told = |arguments: &[&str]| start(arguments).contains("-t 3 has no effect");
    assert!(told(&["--backend", "graph", "-t", "3"]));
    assert!(told(&["--backend", "interp", "-t", "3"]));
    assert!(!told(&["--backend", "interp", "-t", "3", "-ngl", "1"]));
    assert!(!told(&["--backend", "cpu", "-t", "3"]));
}

#[test]
fn more_threads_than_processors_are_told() {
    let told = |threads: &str| {
        start(&["--backend", "cpu", "-t", threads])
            .matches(" can run at once, more threads wait for each other")
            .count()
    };
    // Of a quota in parts of processors this counts whole ones only.
    let whole = std::thread::available_parallelism().unwrap().get();
    assert_eq!(told("1"), 0);
    assert_eq!(told(&(whole + 2).to_string()), 1);
}

#[test]
fn reports_name_the_device() {
    let folder = fixture("llama2-gqa-tiny");
    let found = json(&["verify", &folder, "--json", "--backend", "interp", "-ngl", "2"]);
    assert_eq!((&found["backend"], &found["device"]), (&Value::from("interp"), &Value::from("interp")));
    assert!(
        found["placement"].as_str().unwrap().starts_with("layer 2 and the head on interp, layers 0 to 1 on")
    );
    let found = json(&["verify", &folder, "--json"]);
    assert_eq!((&found["backend"], &found["device"]), (&Value::from("cpu"), &Value::from("the processor")));
    let bench = |backend| {
        let base = ["bench", "-p", "0", "-n", "1", "-r", "1", "-o", "json", "--backend", backend];
        json(&base)[0].take()
    };
    let (cpu, device) = (bench("cpu"), bench("interp"));
    assert_eq!((&cpu["backends"], &cpu["device"]), (&Value::from("CPU"), &Value::from("the processor")));
    assert_eq!((&device["backends"], &device["device"]), (&Value::from("INTERP"), &Value::from("interp")));
    assert!(cpu["limit_fraction"].is_number() && device["limit_fraction"].is_null());
    // What the doctor numbers is what --device takes.
    let doctor = json(&["doctor", "--json"]);
    for device in doctor["devices"].as_array().unwrap() {
        let number = device["number"].to_string();
        let backend = device["backend"].as_str().unwrap();
        let flags = ["--backend", backend, "--device", &number, "-ngl", "1", "--json"];
        let found = json(&[&["verify", folder.as_str()], &flags[..]].concat());
        assert_eq!(found["device"], device["name"]);
    }
}

#[test]
fn every_kind_of_model_passes_with_its_last_layer_elsewhere() {
    for name in ["llama2-gqa-tiny", "gemma3-text-tiny", "chatglm-6b-tiny", "pangu-alpha-tiny", "moss-tiny"]
        .iter()
        .chain(&["rwkv-4-tiny", "rwkv-6-tiny", "rwkv-7-tiny", "llava-1.5-tiny", "bert-minilm-mean-tiny"])
    {
        let table = answer(&["verify", &fixture(name), "--backend", "interp", "-ngl", "2"]);
        assert!(table.contains(" ok\n") && !table.contains("FAILED"), "{name}: {table}");
    }
}

/// What measures a GPU ends before it computes anything where there is none.
#[test]
fn a_machine_without_a_gpu_is_told_by_the_script_that_would_measure_it() {
    if !cfg!(target_os = "linux") || std::path::Path::new("/dev/nvidiactl").exists() {
        println!("skipped: the script is for Linux, and this is for machines without a GPU");
        return;
    }
    let packed = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = |word: &str| {
        let mut command = std::process::Command::new("bash");
        command.arg(support::root().join("benches/gpu.sh")).args([word, "packed"]);
        // A folder is told from where the caller stands.
        command.current_dir(packed.path()).env_remove("LD_LIBRARY_PATH");
        support::isolate(&mut command);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(if word == "run" { 1 } else { 2 }), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(script("walk").contains("benches/gpu.sh pack DIR"));
    let told = script("run");
    assert!(told.contains("packed has no jtllm: benches/gpu.sh pack"), "{told}");
    let folder = packed.path().join("packed");
    std::fs::create_dir(&folder).unwrap();
    for tool in ["jtllm", "xtask", "conformance"] {
        std::fs::hard_link(env!("CARGO_BIN_EXE_jtllm"), folder.join(tool)).unwrap();
    }
    let told = script("run");
    for part in
        ["NVIDIA's driver library was not found", "nothing was measured: this machine has no CUDA GPU"]
    {
        assert!(told.contains(part), "{told}");
    }
}
