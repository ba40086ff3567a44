//! Golden files: `tests/files/ir/*/*.jt` at the root of the repository.
//!
//! * `build/`: each builder's graph, printed.
//! * `verify/`: graphs with faults; `# expect: <fault>` lines at the end.
//! * `parse/`: texts that are not graphs, and what the parser says.
//! * `interp/`: graphs with `# symbol T = 2`, `# input x = [1, 2]`, `# weight ...`, `# state ...` lines, and
//!   what a pass gives: outputs, states, or the error.
//!
//! `cargo xtask bless`, or `JTLLM_BLESS=1` in the environment, writes what is found over what was expected.
#![allow(clippy::unwrap_used)]

mod graphs;

use std::fs;
use std::path::{Path, PathBuf};

use jtllm_ir::interp::{Bindings, run};
use jtllm_ir::{DType, Expr, Graph, Op, Scalar, Tensor, parse, print, verify};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files/ir").join(name)
}

fn blesses() -> bool {
    std::env::var_os("JTLLM_BLESS").is_some_and(|value| value == "1")
}

/// Compares with the file, or writes it.
fn compare(path: &Path, found: &str) -> Result<(), String> {
    if blesses() {
        fs::write(path, found).unwrap();
        return Ok(());
    }
    let expected = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if expected.replace("\r\n", "\n") == found {
        return Ok(());
    }
    let differs = expected.lines().zip(found.lines()).position(|(a, b)| a != b);
    let line = differs.unwrap_or(expected.lines().count().min(found.lines().count()));
    let shown = |text: &str| text.lines().nth(line).unwrap_or("the end").to_owned();
    let (wanted, got) = (shown(&expected), shown(found));
    Err(format!("{}:{}:\n  expected {wanted}\n  found    {got}", path.display(), line + 1))
}

/// Runs `each` over the graph files of a folder: the text without expectations in, the expectations out.
fn over(name: &str, each: impl Fn(&str) -> Vec<String>) {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jt"));
    paths.sort();
    assert!(!paths.is_empty(), "no files in {name}");
    let mut failures = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap().replace("\r\n", "\n");
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("# expect")).collect();
        let mut found = kept.join("\n").trim_end().to_owned() + "\n";
        for line in each(&found) {
            found += &format!("# expect: {line}\n");
        }
        failures.extend(compare(&path, &found).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn golden_builders_print_as_their_files() {
    let graphs = graphs::all();
    let mut failures = Vec::new();
    for (name, graph) in &graphs {
        let path = folder("build").join(format!("{name}.jt"));
        failures.extend(compare(&path, &print(graph)).err());
    }
    let files = fs::read_dir(folder("build")).unwrap().count();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(files, graphs.len(), "each file in build/ belongs to a builder");
}

#[test]
fn what_is_printed_reads_back_as_the_same_graph() {
    for (name, graph) in graphs::all() {
        let text = print(&graph);
        let read = parse(&text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        assert_eq!(print(&read), text, "{name}");
        assert!(read == graph, "{name} differs once it is read back:\n{text}");
    }
}

#[test]
fn golden_verifier_lists_the_faults() {
    over("verify", |text| match parse(text).map(|graph| verify(&graph)) {
        Err(error) => vec![format!("no graph: {error}")],
        Ok(Ok(())) => vec!["no faults".to_owned()],
        Ok(Err(faults)) => faults.iter().map(ToString::to_string).collect(),
    });
}

#[test]
fn golden_parser_says_what_is_wrong_and_where() {
    over("parse", |text| match parse(text) {
        Err(error) => vec![error.to_string()],
        Ok(graph) => print(&graph).lines().map(str::to_owned).collect(),
    });
}

#[test]
fn golden_interpreter_gives_what_is_expected() {
    over("interp", |text| {
        let graph = match parse(text) {
            Err(error) => return vec![format!("no graph: {error}")],
            Ok(graph) => graph,
        };
        if let Err(faults) = verify(&graph) {
            return faults.iter().map(|fault| format!("fault {fault}")).collect();
        }
        let mut bindings = bindings(text, &graph);
        match run(&graph, &mut bindings) {
            Err(error) => vec![format!("error: {error}")],
            Ok(outputs) => {
                let outputs = outputs.iter().map(|(name, value)| format!("output {name} = {}", shown(value)));
                let states =
                    bindings.states.iter().map(|(name, value)| format!("state {name} = {}", shown(value)));
                outputs.chain(states).collect()
            }
        }
    });
}

fn shown(value: &Tensor) -> String {
    let element = |at| match value.get(at) {
        Scalar::Float(x) => format!("{x:?}"),
        Scalar::Int(x) => x.to_string(),
    };
    let elements: Vec<String> = (0..value.len()).map(element).collect();
    format!("{}{:?} [{}]", value.dtype, value.shape, elements.join(", "))
}

/// The values of `# symbol`, `# input`, `# weight` and `# state` lines. A tensor has the shape of its leaf,
/// unless the line gives another one: `# input x [2,2] = [...]`.
fn bindings(text: &str, graph: &Graph) -> Bindings {
    let mut bindings = Bindings::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# symbol ")) {
        let (name, value) = line.split_once('=').unwrap();
        bindings.symbols.insert(name.trim().to_owned(), value.trim().parse().unwrap());
    }
    for node in graph.nodes() {
        let (kind, name) = match graph.op(node) {
            Op::Weight { name } => ("weight", name),
            Op::Input { name, .. } => ("input", name),
            Op::State { name } => ("state", name),
            _ => continue,
        };
        let prefix = format!("# {kind} {name} ");
        let Some(line) = text.lines().find_map(|line| line.strip_prefix(&prefix)) else { continue };
        let (shape, values) = line.split_once('=').unwrap();
        let shape = match list(shape) {
            given if !given.is_empty() => given.iter().map(|n| *n as usize).collect(),
            _ => graph.shape(node).iter().map(|x| extent(x, &bindings)).collect::<Vec<usize>>(),
        };
        let value = tensor(graph.dtype(node), &shape, list(values));
        let table = match kind {
            "weight" => &mut bindings.weights,
            "input" => &mut bindings.inputs,
            _ => &mut bindings.states,
        };
        table.insert(name.clone(), value);
    }
    bindings
}

fn list(text: &str) -> Vec<f64> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    inner.split(',').filter(|x| !x.trim().is_empty()).map(|x| x.trim().parse().unwrap()).collect()
}

fn tensor(dtype: DType, shape: &[usize], values: Vec<f64>) -> Tensor {
    if dtype.is_float() {
        Tensor::floats(dtype, shape, values.into_iter().map(|x| x as f32).collect())
    } else {
        Tensor::ints(dtype, shape, values.into_iter().map(|x| x as i64).collect())
    }
}

fn extent(x: &Expr, bindings: &Bindings) -> usize {
    struct Sizes<'a>(&'a Bindings);
    impl jtllm_ir::expr::Environment for Sizes<'_> {
        fn axis(&self, _: u16) -> i64 {
            unreachable!("an extent has no axes")
        }
        fn symbol(&self, symbol: &jtllm_ir::Symbol) -> i64 {
            self.0.symbols[symbol.name()]
        }
        fn extra(&self, _: u32, _: &[i64]) -> i64 {
            unreachable!("an extent has no extras")
        }
    }
    x.evaluate(&Sizes(bindings)) as usize
}
