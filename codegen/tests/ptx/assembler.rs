//! NVIDIA's assembler, and what it says of kernels.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::codegen::emit::ptx::Ptx;
use crate::codegen::kernel::Kernel;
use crate::codegen::target::Target;

/// Kernels that one process assembles: starting it takes as long as a few small kernels.
const TOGETHER: usize = 24;

/// Processes at a time.
const AT_ONCE: usize = 2;

/// Where the assembler is, if it is anywhere; else says that the test is skipped.
pub(crate) fn find() -> Option<PathBuf> {
    let given = std::env::var_os("JTLLM_PTXAS").map(PathBuf::from);
    let assets =
        std::env::var_os("JTLLM_TEST_ASSETS").map(|assets| PathBuf::from(assets).join("ptxas/ptxas"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join("ptxas"));
    let found = given.into_iter().chain(assets).chain(installed).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: no ptxas, NVIDIA's assembler for PTX");
    }
    found
}

/// Distinct kernels, by the text that the interpreter reads.
#[derive(Default)]
pub(crate) struct Kernels(BTreeMap<String, Kernel>);

impl Kernels {
    pub(crate) fn add(&mut self, kernels: &[Kernel]) {
        for kernel in kernels {
            self.0.insert(kernel.canonical_text(), kernel.clone());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Assembles the kernels for a device; those that compute sums of products must keep them in registers.
    pub(crate) fn assemble(&self, ptxas: &Path, target: &Ptx, processor: &str) {
        let kernels: Vec<&Kernel> = self.0.values().collect();
        let batches = Mutex::new(kernels.chunks(TOGETHER));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let Some(batch) = batches.lock().unwrap().next() else { return };
                        assemble_batch(ptxas, target, processor, batch);
                    }
                });
            }
        });
    }
}

fn assemble_batch(ptxas: &Path, target: &Ptx, processor: &str, kernels: &[&Kernel]) {
    let texts = kernels.iter().map(|kernel| target.emit(kernel).unwrap().bytes);
    let texts: Vec<String> = texts.map(|bytes| String::from_utf8(bytes).unwrap()).collect();
    let words = match assemble(ptxas, &joined(&texts), processor) {
        Ok(words) => words,
        Err(_) => {
            // Which one, and why.
            let refused = texts.iter().find_map(|text| Some((text, assemble(ptxas, text, processor).err()?)));
            let (text, words) = refused.expect("a text that is refused among others is refused alone");
            panic!("sm_{processor}: {words}\n{text}");
        }
    };
    for (at, kernel) in kernels.iter().enumerate() {
        let (_, report) = words.split_once(&format!("'k{at}'")).unwrap();
        let spills = report.lines().find(|line| line.contains("bytes spill stores")).unwrap();
        let keeps = ["gemv", "gemm", "attend"].contains(&kernel.name.as_str());
        let none = spills.contains(" 0 bytes spill stores, 0 bytes spill loads");
        assert!(none || !keeps, "sm_{processor} {}: {spills}\n{kernel}", kernel.name);
    }
}

/// One text of many: each entry gets a name of its own, the header that of the newest.
fn joined(texts: &[String]) -> String {
    let mut header = String::new();
    let mut extern_shared = "";
    let mut bodies = String::new();
    for (at, text) in texts.iter().enumerate() {
        let start = text.find(".visible .entry main(").unwrap();
        let own = text[..start].lines().take(3).map(|line| format!("{line}\n")).collect::<String>();
        if text[..start].contains(".extern") {
            extern_shared = ".extern .shared .align 16 .b8 shared[];\n";
        }
        // Versions and processors ascend as text.
        header = header.max(own);
        _ = write!(bodies, "{}", text[start..].replacen("main", &format!("k{at}"), 1));
    }
    format!("{header}{extern_shared}{bodies}")
}

/// Assembles a text for a processor, such as `80` or `90a`; gives what the assembler says of registers and
/// memory. What it warns of is an error: that it must make products wait for each other, for one.
pub(crate) fn assemble(ptxas: &Path, text: &str, processor: &str) -> Result<String, String> {
    let mut process = Command::new(ptxas)
        .args(["-v", "-o", "/dev/null", &format!("-arch=sm_{processor}"), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let warns = words.contains("warning") || words.contains("Potential Performance Loss");
    if output.status.success() && !warns { Ok(words) } else { Err(words) }
}
