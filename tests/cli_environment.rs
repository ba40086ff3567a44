//! The variables that JittorLLMs' users have set mean what they expect; flags win; nothing is ignored silently.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::process::{Command, Output};

use support::{FRANCE, jtllm, stderr, stdout};

const ASKED: [&str; 6] = ["run", "-p", FRANCE, "--temp", "0", "-t"];

fn with(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command: Command = jtllm(arguments);
    command.env("JTLLM_CPU", "cranelift").envs(variables.iter().copied()).output().unwrap()
}

/// What a run that answers says.
fn said(flags: &[&str], variables: &[(&str, &str)]) -> String {
    let output = with(&[&ASKED[..], &["1"], flags].concat(), variables);
    assert_eq!(stdout(&output), "The capital of France is Paris.\n", "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn a_limit_of_the_device_leaves_layers_on_the_processor() {
    // The demo model has six layers; the interpreter stands for a device.
    let limited = |limit: &str| said(&["--backend", "interp", "--vram-limit", limit], &[]);
    let some = limited("6MB");
    assert!(
        some.contains("; layers 4 to 5 and the head on interp, layers 0 to 3 on the processor"),
        "{some}"
    );
    assert!(some.contains("(interp may hold 6.0 MB, and all take 8.5 MB)"), "{some}");
    assert!(limited("-1").contains("; on interp"), "{}", limited("-1"));
    let by_variable = [("device_mem_limit", "6000000")];
    let same = said(&["--backend", "interp"], &by_variable);
    assert_eq!(same.lines().next(), Some("device_mem_limit=6000000: --vram-limit is 6.0 MB"));
    let place = |text: &str| text[text.find("; ").unwrap()..text.find("products").unwrap()].to_owned();
    assert_eq!(place(&same), place(&some));
    // A flag wins, and then the variable is not even looked at.
    let whole = said(&["--backend", "interp", "--vram-limit", "1GB"], &[("device_mem_limit", "nonsense")]);
    assert!(whole.contains("; on interp") && !whole.contains("device_mem_limit"), "{whole}");
    // The processor is no device, whatever the variable says.
    assert!(!said(&["--backend", "cpu"], &by_variable).contains("device_mem_limit"));
}

/// The demo model as files: what is part of the program cannot come and go.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");

#[test]
fn layers_that_are_asked_for_beyond_a_limit_of_the_device_come_and_go() {
    let run = |command: &str, flags: &[&str]| {
        with(
            &[&[command, DEMO, "-p", "x", "-n", "3", "--temp", "0", "--backend", "interp"], flags].concat(),
            &[],
        )
    };
    let expected = run("run", &[]);
    let limited = run("run", &["--vram-limit", "4.5MB", "--n-gpu-layers", "all"]);
    assert_eq!(stdout(&limited), stdout(&expected), "{}", stderr(&limited));
    let text = stderr(&limited);
    assert!(
        text.contains("on interp within 4.5 MB, products") && text.contains("copied to the device"),
        "{text}"
    );
    assert!(text.contains("interp: 4.5 MB limit: weights "), "{text}");
    // Some layers, and what all layers take beside their weights.
    let limited = run("run", &["--vram-limit", "4.5MB", "--n-gpu-layers", "6", "--mem-limit", "200MB"]);
    assert_eq!(stdout(&limited), stdout(&expected), "{}", stderr(&limited));
    let text = stderr(&limited);
    assert!(text.contains("the head on interp within 4.5 MB, layer 0 on the processor"), "{text}");
    let refused = run("run", &["--vram-limit", "1MB", "--n-gpu-layers", "all"]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("are missing on the device: its limit is 1.0 MB"),
        "{}",
        stderr(&refused)
    );
    let refused = run("run", &["--vram-limit", "100kB"]);
    assert_eq!(refused.status.code(), Some(5));
    assert!(stderr(&refused).contains("with -ngl all weights come and go there"), "{}", stderr(&refused));
    // Nobody knows yet what that costs, and nobody says it.
    let plan = ["plan", DEMO, "--backend", "interp", "--vram-limit", "4.5MB", "--n-gpu-layers", "all"];
    let output = with(&plan, &[]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""));
    assert!(
        stderr(&output).contains("on interp within 4.5 MB: what that costs is not foreseen"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_limit_of_the_device_that_holds_no_layer_is_refused() {
    let output = with(&["run", "-p", "x", "--backend", "interp", "--vram-limit", "1kB"], &[]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("may hold 0.0 MB") && text.contains("no layer fits there"), "{text}");
    // Who asks for layers does not get fewer.
    let arguments = ["run", "-p", "x", "--backend", "interp", "--vram-limit", "6MB", "--n-gpu-layers", "all"];
    let output = with(&arguments, &[]);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("-ngl 3 fits"), "{}", stderr(&output));
    let output = with(&["run", "-p", "x", "--backend", "cpu", "--vram-limit", "1GB"], &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn s15_the_variables_of_jittor_behave_as_flags() {
    let text = said(&[], &[("cpu_mem_limit", "2147483648"), ("JT_SAVE_MEM", "1")]);
    assert_eq!(text.matches("cpu_mem_limit").count(), 1, "{text}");
    assert!(text.contains("cpu_mem_limit=2147483648: --mem-limit is 2.1 GB"), "{text}");
    // As `set` of Windows' shell leaves it, and without the switch that its users often forget.
    let text = said(&[], &[("cpu_mem_limit", " \"2147483648\" ")]);
    assert!(text.contains("--mem-limit is 2.1 GB"), "{text}");
    // And what is computed within is what the flag has computed within.
    let own = ["run", "-p", "x", "-n", "2", "--json", "--backend", "cpu"];
    let memory = |flags: &[&str], variables: &[(&str, &str)]| {
        let output = with(&[&own[..], flags].concat(), variables);
        assert!(output.status.success(), "{}", stderr(&output));
        let told = stderr(&output).lines().filter(|line| line.starts_with("memory: ")).collect::<String>();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // What the program itself holds differs a little.
        let words: Vec<&str> = told.split(", all else").take(1).collect();
        (answer["memory"]["weights"].clone(), words.concat())
    };
    let by_flag = memory(&["--mem-limit", "1GB"], &[]);
    assert!(by_flag.0.as_u64().is_some() && by_flag.1.starts_with("memory: 1.0 GB limit"), "{by_flag:?}");
    assert_eq!(memory(&[], &[("cpu_mem_limit", "1000000000")]), by_flag);
    // There limits had no effect without the switch: who turns it off means that.
    let text = said(&[], &[("cpu_mem_limit", "5"), ("JT_SAVE_MEM", "0")]);
    assert!(text.contains("cpu_mem_limit is not kept: JT_SAVE_MEM=0"), "{text}");
    for none in ["-1", "", "0"] {
        let text = said(&[], &[("cpu_mem_limit", none), ("device_mem_limit", none)]);
        assert!(!text.contains("mem_limit"), "{text}");
    }
    assert!(!said(&["--mem-limit", "3GB"], &[("cpu_mem_limit", "nonsense")]).contains("cpu_mem_limit"));
}

#[test]
fn a_value_without_meaning_is_an_error_that_names_its_variable() {
    let tiny = |variables: &[(&str, &str)]| {
        let output = with(&["run", "-p", "x", "-n", "1"], variables);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    for (name, value) in [("cpu_mem_limit", "2 Gigs"), ("cpu_mem_limit", "-2"), ("device_mem_limit", "all")] {
        let text = tiny(&[(name, value)]);
        assert!(text.contains(&format!("{name}={value}: expected a number of bytes")), "{text}");
    }
    let text = tiny(&[("cpu_mem_limit", "3GB"), ("JT_SAVE_MEM", "yes")]);
    assert!(text.contains("JT_SAVE_MEM=yes: expected 0 or 1"), "{text}");
    for home in ["/no/such/folder", "relative"] {
        let text = tiny(&[("JITTOR_HOME", home), ("JTLLM_CACHE", "")]);
        assert!(text.contains(&format!("JITTOR_HOME={home}: expected the path of a folder")), "{text}");
    }
    let output = with(&["run", "-p", "x", "--mem-limit", "2 Gigs"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("expected a number of bytes"), "{}", stderr(&output));
}

#[test]
fn caches_move_with_the_home_of_jittor_unless_they_have_one() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().to_str().unwrap();
    let text = said(&[], &[("JITTOR_HOME", folder), ("JTLLM_CACHE", "")]);
    assert!(
        text.starts_with(&format!("JITTOR_HOME={folder}: caches are below its folder .cache\n")),
        "{text}"
    );
    assert!(home.path().join(".cache/jtllm/kernels").is_dir());
    let mut command = jtllm(&["list"]);
    let output = command.env("JITTOR_HOME", folder).env_remove("HF_HUB_CACHE").output().unwrap();
    assert!(stderr(&output).contains("models are below its folder"), "{}", stderr(&output));
    // Both have places of their own in the tests: then the variable means nothing and is not judged either.
    assert!(!said(&[], &[("JITTOR_HOME", "/no/such/folder")]).contains("JITTOR_HOME"));
}
