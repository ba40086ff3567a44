//! The programs in `examples/` do what they say.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;

/// Where cargo puts an example: in the folder `examples` beside the folder of this test's executable.
fn built(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().and_then(|folder| folder.parent()).unwrap();
    profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// Runs an example and looks for lines in what it prints.
fn check(name: &str, lines: &[&str]) {
    let program = built(name);
    if !program.exists() {
        // `cargo test` builds the examples as well; `cargo test --test examples` alone does not.
        println!("skipped: {} is not built (cargo build --examples does)", program.display());
        return;
    }
    let output = Command::new(program).output().unwrap();
    let (printed, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{printed}\n{complaints}", output.status);
    assert_eq!(complaints, "", "{name} complains");
    let mut rest = printed.lines();
    for line in lines {
        assert!(rest.any(|found| found.contains(line)), "{name} does not print `{line}` next:\n{printed}");
    }
}

#[test]
fn a_graph_is_built_interpreted_and_compiled() {
    check(
        "graph",
        &[
            "graph feed_forward",
            "sym T in 1..17",
            "%0 = input x : f32[T,64]",
            "output %37 as y",
            "read back, it is the same graph: true",
            "the interpreter says    y[0,0..4] = [",
            "machine code says       y[0,0..4] = [",
            "the largest difference is",
            "38 nodes became 3 kernels:",
        ],
    );
}

#[test]
fn an_operation_of_ones_own_joins_the_kernel_around_it() {
    check(
        "custom_op",
        &[
            "graph gated_tanh",
            "kernel pointwise",
            "= tanh v",
            "kernel pointwise",
            "1 kernel, no value in between is stored",
            "alone: [",
            "after two products: 1 kernel",
            "after two products: [",
        ],
    );
}

#[test]
fn a_model_of_ones_own_generates_the_same_compiled_and_interpreted() {
    check(
        "custom_model",
        &[
            "machine code generates      [",
            "the interpreter generates   [",
            "logits of the prompt's 21 tokens differ by at most",
        ],
    );
}
