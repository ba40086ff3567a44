//! A command that is not understood does nothing and says what is.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn what_is_not_understood_is_refused() {
    for arguments in [&[][..], &["chek"], &["fuzz"], &["fuzz", "soon"], &["fuzz", "0"], &["check", "twice"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("usage: cargo xtask check | bless | fuzz SECONDS"), "{said}");
    }
}
