//! NVIDIA's assembler.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where it is, if it is anywhere; else says that the test is skipped.
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

/// Assembles a text for a processor; gives what the assembler says of registers and memory.
pub(crate) fn assemble(ptxas: &PathBuf, text: &[u8], capability: u32) -> Result<String, String> {
    let mut process = Command::new(ptxas)
        .args(["-v", "-o", "/dev/null", &format!("-arch=sm_{capability}"), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(text).unwrap();
    let output = process.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(words) } else { Err(words) }
}
