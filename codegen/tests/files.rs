//! The golden files of the passes, a folder of `tests/files` each: a file begins with `# test WHAT`, holds a
//! graph or a kernel, a line `# expect`, and what is expected.
//!
//! * `canon`, `rewrite`, `partition`: a graph; what the pass makes of it. Before `rewrite` and `partition` come
//!   the passes that come before them in [`jtllm_codegen::compile`].
//! * `schedule`: a graph; its kernels, with what a launch binds to their parameters.
//!
//!   Capabilities and the compute type may follow the names of these: `# test schedule matrix 128 bf16`.
//! * `kernel`: a kernel; what `print`, `verify` or `optimise` gives.
//! * `ptx`: a graph or a kernel; the text for a device of the capability that follows, `# test ptx 80`; `90a` is one
//!   whose units multiply for teams.
//! * `wgsl`: the same, for any adapter, or for browsers with subgroups of at least the size that follows,
//!   `# test wgsl subgroup 32`.
//!
//! `cargo xtask bless`, or `JTLLM_BLESS=1` in the environment, writes what came out in its place.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use jtllm_codegen::canon::{Canonical, canon};
use jtllm_codegen::compile;
use jtllm_codegen::emit::ptx::{Ptx, TEAMS};
use jtllm_codegen::emit::wgsl::Wgsl;
use jtllm_codegen::kernel::{Kernel, optimise, parse, verify};
use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::partition::partition;
use jtllm_codegen::rewrite::rewrite;
use jtllm_codegen::schedule::{Argument, Scheduled, schedule};
use jtllm_codegen::target::{Caps, Target, fits};
use jtllm_ir::Graph;
use jtllm_ir::print::line;

fn caps(words: &[&str]) -> Caps {
    match words {
        ["vector", lanes] => Caps::vector(lanes.parse().unwrap()),
        ["threads", lanes] => Caps::threads(lanes.parse().unwrap()),
        ["teams", lanes] => {
            Caps { shared_bytes: 223 << 10, ..caps(&["matrix", "128"]).with_teams(lanes.parse().unwrap()) }
        }
        ["matrix", lanes] => Caps::threads(lanes.parse().unwrap()).with_matrix(lanes.parse().unwrap()),
        other => panic!("capabilities such as `vector 8` expected, not {other:?}"),
    }
}

fn faults(kernel: &Kernel, caps: &Caps) -> String {
    match verify(kernel, caps) {
        Ok(()) => "ok\n".to_owned(),
        Err(faults) => faults.iter().map(|fault| format!("{fault}\n")).collect(),
    }
}

/// The graph of a file, which must be sound and print as the file has it.
fn graph(text: &str) -> Graph {
    let graph = jtllm_ir::parse(text).unwrap();
    jtllm_ir::verify(&graph).unwrap();
    assert_eq!(graph.to_string(), text, "a graph in the form that it is printed in");
    graph
}

/// A graph that a pass has made, which must be sound too.
fn sound(graph: Graph) -> Graph {
    if let Err(faults) = jtllm_ir::verify(&graph) {
        panic!("{faults:?}\n{graph}");
    }
    graph
}

fn canonical(Canonical { graph, gathers }: Canonical) -> String {
    let mut text = sound(graph).to_string();
    for gather in gathers {
        let (ids, weight, input) = (&gather.ids, &gather.weight, &gather.input);
        writeln!(text, "gather {input:?} = {weight}[{ids}] : {}[{}]", gather.dtype, gather.width).unwrap();
    }
    text
}

/// A graph rewritten for the capabilities and the compute type that follow a test's name: `vector 8 bf16`.
/// Without any: for a target without matrix units, in `f32`.
fn rewritten(text: &str, words: &[&str]) -> (Graph, Caps) {
    let compute = Compute::ALL.into_iter().find(|compute| words.last() == Some(&compute.name()));
    let words = if compute.is_some() { &words[..words.len() - 1] } else { words };
    let caps = if words.is_empty() { Caps::vector(8) } else { caps(words) };
    let options = Options { compute: compute.unwrap_or_default(), ..Options::default() };
    (sound(rewrite(&canon(&graph(text)).graph, &caps, &options)), caps)
}

/// The graph that is partitioned.
fn canonical_again(graph: &Graph) -> Graph {
    sound(canon(graph).graph)
}

/// The kernels of a graph's regions, as they leave the schedule; `positions` is what a session says of its past.
fn scheduled(graph: &Graph, caps: &Caps, positions: Option<u32>) -> String {
    let options = Options { positions, ..Options::default() };
    let partition = partition(graph);
    let mut text = String::new();
    for region in &partition.regions {
        for scheduled in schedule(graph, &partition.stored, region, caps, &options) {
            write_scheduled(&mut text, graph, &scheduled, caps);
        }
    }
    text
}

fn write_scheduled(text: &mut String, graph: &Graph, scheduled: &Scheduled, caps: &Caps) {
    assert_eq!(faults(&scheduled.kernel, caps), "ok\n", "{}", scheduled.kernel);
    reads_back(&scheduled.kernel);
    for (number, argument) in scheduled.arguments.iter().enumerate() {
        let bound = match argument {
            Argument::Weight(name) => format!("weight {name}"),
            Argument::Part(name, bytes) => format!("bytes {bytes:?} of weight {name}"),
            Argument::State(name) => format!("state {name}"),
            Argument::Input(name) => format!("input {name}"),
            Argument::Const(node) | Argument::Value(node) => line(graph, *node).to_string(),
            Argument::Scratch(_, bytes) => format!("scratch of {bytes} bytes"),
        };
        writeln!(text, "# p{number}: {bound}").unwrap();
    }
    write!(text, "{}", scheduled.kernel).unwrap();
}

/// Whatever prints, reads back and prints the same.
fn reads_back(kernel: &Kernel) {
    let text = kernel.to_string();
    assert_eq!(parse(&text).unwrap().to_string(), text);
}

/// The text of a kernel, or of the kernels of a graph.
fn emitted(input: &str, target: &dyn Target) -> String {
    let kernels = match input.lines().any(|line| line.starts_with("graph")) {
        true => compile(&graph(input), target.caps(), &Options::default()).kernels,
        false => vec![parse(input).unwrap()],
    };
    let mut text = String::new();
    for kernel in kernels {
        assert_eq!(faults(&kernel, target.caps()), "ok\n", "{kernel}");
        fits(&kernel, target.caps()).unwrap();
        let emitted = String::from_utf8(target.emit(&kernel).unwrap().bytes).unwrap();
        write!(text, "// {}\n{emitted}", kernel.name).unwrap();
    }
    text
}

/// What the file's test gives.
fn outcome(test: &str, input: &str) -> String {
    let words: Vec<&str> = test.split_whitespace().collect();
    match words.as_slice() {
        ["canon"] => canonical(canon(&graph(input))),
        ["rewrite", words @ ..] => rewritten(input, words).0.to_string(),
        ["partition", words @ ..] => {
            let graph = canonical_again(&rewritten(input, words).0);
            partition(&graph).display(&graph).to_string()
        }
        ["schedule", words @ .., "positions", count] => {
            let (graph, caps) = rewritten(input, words);
            scheduled(&canonical_again(&graph), &caps, Some(count.parse().unwrap()))
        }
        ["schedule", words @ ..] => {
            let (graph, caps) = rewritten(input, words);
            scheduled(&canonical_again(&graph), &caps, None)
        }
        ["print"] => match parse(input) {
            Ok(kernel) => {
                reads_back(&kernel);
                kernel.to_string()
            }
            Err(error) => format!("{error}\n"),
        },
        ["ptx", "90a"] => emitted(input, &Ptx::new(TEAMS, 227 << 10).with_teams()),
        ["ptx", capability] => emitted(input, &Ptx::new(capability.parse().unwrap(), 99 << 10)),
        ["wgsl"] => emitted(input, &Wgsl::least()),
        ["wgsl", "subgroup", size, "tiles"] => emitted(
            input,
            &Wgsl::new(256, 16 << 10, 8, 128 << 20, Some(size.parse().unwrap())).with_tiles(256),
        ),
        ["wgsl", "subgroup", size] => emitted(
            input,
            &Wgsl::new(256, 16 << 10, 8, 128 << 20, Some(size.parse().unwrap())).for_browsers(),
        ),
        ["verify", caps_words @ ..] => faults(&parse(input).unwrap(), &caps(caps_words)),
        ["optimise", caps_words @ ..] => {
            let (kernel, caps) = (parse(input).unwrap(), caps(caps_words));
            assert_eq!(faults(&kernel, &caps), "ok\n", "before");
            let optimised = optimise(&kernel);
            assert_eq!(faults(&optimised, &caps), "ok\n", "after");
            reads_back(&optimised);
            optimised.to_string()
        }
        other => panic!("a test expected, not {other:?}"),
    }
}

fn check(path: &Path, bless: bool) -> Result<(), String> {
    let text = fs::read_to_string(path).unwrap().replace("\r\n", "\n");
    let (first, rest) = text.split_once('\n').unwrap();
    let test = first.strip_prefix("# test ").unwrap();
    let (input, expected) = rest.split_once("# expect\n").unwrap_or((rest, ""));
    let got = outcome(test, input);
    if bless {
        fs::write(path, format!("{first}\n{input}# expect\n{got}")).unwrap();
    } else if got != expected {
        return Err(format!("{}:\n--- expected\n{expected}--- got\n{got}", path.display()));
    }
    Ok(())
}

/// Checks the files of a folder with this ending.
fn check_all(folder: &str, ending: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files").join(folder);
    let bless = std::env::var_os("JTLLM_BLESS").is_some_and(|value| value == "1");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    paths.sort();
    assert!(!paths.is_empty());
    let failures: Vec<String> = paths.iter().filter_map(|path| check(path, bless).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn golden_canonical_graphs() {
    check_all("canon", "jt");
}

#[test]
fn golden_rewritten_graphs() {
    check_all("rewrite", "jt");
}

#[test]
fn golden_partitions() {
    check_all("partition", "jt");
}

#[test]
fn golden_schedules() {
    check_all("schedule", "jt");
}

#[test]
fn golden_kernels() {
    check_all("kernel", "jk");
}

#[test]
fn golden_ptx() {
    check_all("ptx", "jt");
    check_all("ptx", "jk");
}

#[test]
fn golden_wgsl() {
    check_all("wgsl", "jt");
}
