//! The kernels of the conformance suite in a real browser: its reader refuses what `naga` lets pass, such as
//! barriers that it cannot prove all lanes to reach, and its driver is another.
//!
//! Needs `chromium`, whose own software driver computes; skipped without.
#![allow(clippy::unwrap_used)]

#[path = "../../../codegen/tests/common/mod.rs"]
mod common;
mod server;

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::case::Case;
use common::works::{attention_cases, embedded, function, gate_and_up, linear_case, norm, stored, tail};
use common::{Outputs, difference, recurrence, works};
use jtllm_codegen::emit::wgsl::{Wgsl, dispatch};
use jtllm_codegen::schedule::Argument;
use jtllm_codegen::target::Target;
use jtllm_codegen::{Compilation, compile};
use jtllm_ir::DType;
use jtllm_ir::ScalarOp;
use jtllm_ir::format::{FORMATS, Format};
use serde_json::{Value, json};
use server::Server;

/// How long one case may take, compilation by a slow driver included.
const PATIENCE: Duration = Duration::from_secs(120);

/// What drivers' functions and quotients may add to a case's own tolerance.
const LOOSER: f32 = 4.0;

/// The browser, which ends with the test.
struct Browser {
    child: Child,
    /// Where it keeps what it knows; goes when it goes.
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn browser(address: &str) -> Option<Browser> {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("chromium");
    command.args(["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-webgpu"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).arg(address);
    // The browser brings its own driver.
    command.env_remove("VK_ICD_FILENAMES").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().ok().map(|child| Browser { child, _profile: profile })
}

/// A case, compiled, with what its launches bind.
struct Test {
    case: Case,
    target: Wgsl,
    /// Whether it is run; else only read.
    runs: bool,
    compilation: Compilation,
    memories: Vec<(Argument, Vec<u8>)>,
}

impl Test {
    /// None if a kernel binds more buffers than browsers allow: a loop that carries a matrix does.
    fn new(case: Case, target: &Wgsl, runs: bool) -> Option<Test> {
        let compilation = compile(&case.graph, target.caps(), &Default::default());
        let most = target.caps().max_bindings as usize;
        if compilation.kernels.iter().any(|kernel| kernel.params.len() > most) {
            assert!(case.graph.name.starts_with("matrices"), "{} binds too much", case.graph.name);
            return None;
        }
        let compilation = common::compiled(&case.graph, target.caps());
        let memories = common::memories(&compilation, target.caps(), &case.bindings);
        Some(Test {
            case,
            target: target.clone(),
            runs,
            compilation,
            memories: memories.into_iter().collect(),
        })
    }

    fn json(&self) -> Value {
        let kernels = self.compilation.kernels.iter().map(|kernel| {
            let code = String::from_utf8(self.target.emit(kernel).unwrap().bytes).unwrap();
            json!({ "code": code, "params": kernel.params.len() })
        });
        let steps = self.compilation.steps.iter().map(|step| {
            let kernel = &self.compilation.kernels[step.kernel];
            let place = |argument| self.memories.iter().position(|(known, _)| known == argument).unwrap();
            let groups = common::groups(kernel, &self.case.bindings).iter().map(|n| u64::from(*n)).product();
            let symbols = common::symbols(kernel, &self.case.bindings);
            let symbols: Vec<u8> = symbols.iter().flat_map(|x| x.to_le_bytes()).collect();
            json!({
                "kernel": step.kernel,
                "groups": dispatch(groups),
                "args": step.arguments.iter().map(place).collect::<Vec<_>>(),
                "symbols": base64(&symbols),
            })
        });
        json!({
            "name": self.case.graph.name,
            "runs": self.runs,
            "kernels": kernels.collect::<Vec<_>>(),
            "steps": steps.collect::<Vec<_>>(),
            "buffers": self.memories.iter().map(|(_, bytes)| base64(bytes)).collect::<Vec<_>>(),
        })
    }

    /// Compares what came back: the buffers, each as long as whole words make it.
    fn check(&self, result: &[u8]) {
        if !self.runs {
            return;
        }
        let mut rest = result;
        let mut memories = HashMap::new();
        for (argument, before) in &self.memories {
            let (bytes, behind) = rest.split_at(before.len().max(4).next_multiple_of(4));
            memories.insert(argument.clone(), bytes[..before.len()].to_vec());
            rest = behind;
        }
        assert!(rest.is_empty());
        let mut bindings = self.case.bindings.clone();
        let found: Outputs = common::outputs(&self.compilation, &mut bindings, &memories);
        self.case.compare("in a browser", &self.case.expected(), (&found, &bindings), difference);
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = char::from(LETTERS[(word >> (18 - 6 * at) & 63) as usize]);
            text.push(if at > chunk.len() { '=' } else { letter });
        }
    }
    text
}

/// Some of each kind: the browser's driver takes about a second to compile a large kernel.
fn selected() -> Vec<Case> {
    let mut cases: Vec<Case> =
        FORMATS.iter().map(|format| linear_case(format, [1, 37, 64 * (format.block / 32).max(1)])).collect();
    cases.extend(attention_cases());
    cases.extend(recurrence::cases());
    cases.extend([gate_and_up("q4_0", 32), norm(3, 100), embedded(), tail(173)]);
    cases.extend([ScalarOp::Exp, ScalarOp::Erf, ScalarOp::Cos].map(|op| function(op, 67)));
    cases.extend([DType::F16, DType::BF16, DType::I8, DType::Bool].map(|dtype| stored(dtype, 130)));
    cases
}

fn tests() -> Vec<Test> {
    // What browsers commonly allow; the driver of this one has subgroups of 4.
    let [shared, subgroups] =
        [None, Some(4)].map(|size| Wgsl::new(256, 16 << 10, 10, 128 << 20, size).for_browsers());
    let mut tests = Vec::new();
    for target in [&shared, &subgroups] {
        tests.extend(works::cases().into_iter().filter_map(|case| Test::new(case, target, false)));
        tests.extend(selected().into_iter().filter_map(|mut case| {
            case.tolerance *= LOOSER;
            Test::new(case, target, true)
        }));
    }
    // Products of many rows in groups of their own, larger than a subgroup.
    let tiles = subgroups.clone().with_tiles(256);
    let products = [linear_case(Format::find("bf16").unwrap(), [48, 72, 64]), gate_and_up("f16", 32)];
    tests.extend(products.into_iter().map(|mut case| {
        case.tolerance *= LOOSER;
        let test = Test::new(case, &tiles, true).unwrap();
        assert!(test.compilation.kernels.iter().any(|kernel| kernel.lanes == 64));
        test
    }));
    tests
}

#[test]
fn kernels_run_in_a_browser() {
    let server = Server::new();
    let Some(_browser) = browser(&server.address()) else {
        println!("skipped: chromium is not installed");
        return;
    };
    let tests = tests();
    let mut done = 0;
    while done < tests.len() {
        let request = server.wait(PATIENCE).unwrap_or_else(|| {
            panic!("the browser fell silent at {}", tests[done].case.graph.name);
        });
        let at = |path: &str| request.path.strip_prefix(path).map(|number| number.parse::<usize>().unwrap());
        if let Some(at) = at("/case/") {
            request.answer("application/json", tests[at].json().to_string().as_bytes());
        } else if let Some(at) = at("/result/") {
            tests[at].check(&request.body);
            done = at + 1;
            request.answer("text/plain", b"");
        } else if request.path == "/count" {
            request.answer("application/json", json!({ "count": tests.len() }).to_string().as_bytes());
        } else if request.path == "/error" {
            panic!("{}: {}", tests[done].case.graph.name, String::from_utf8_lossy(&request.body));
        } else if request.path == "/" {
            request.answer("text/html", include_bytes!("page.html"));
        } else {
            request.answer("text/plain", b"");
        }
    }
}
