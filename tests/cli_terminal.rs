//! The chat on a terminal of its own.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rexpect::session::{PtySession, spawn_command};
use support::FRANCE;

const TIMEOUT: u64 = 30_000;

/// The binary on a terminal, with a history of its own.
fn session(home: &Path, arguments: &[&str]) -> PtySession {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jtllm"));
    command.args(arguments);
    support::isolate(&mut command);
    command.env("JTLLM_CACHE", home).env("TERM", "xterm");
    spawn_command(command, Some(TIMEOUT)).unwrap()
}

fn chat(arguments: &[&str]) -> (PtySession, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let mut session = session(home.path(), &[&["run"], arguments].concat());
    session.exp_string(">>> ").unwrap();
    (session, home)
}

/// Sends a line, and gives what comes before the next prompt.
fn say(session: &mut PtySession, line: &str) -> String {
    session.send_line(line).unwrap();
    session.exp_string("\r\n").unwrap();
    session.exp_string(">>> ").unwrap()
}

/// The exit status; `None` after a signal.
fn status(session: &PtySession) -> Option<i32> {
    // The type of this value has no public name: `Exited(Pid(17), 0)`.
    let ended = format!("{:?}", session.process().wait().unwrap());
    let numbers = ended.strip_prefix("Exited(Pid(")?.strip_suffix(')')?;
    numbers.split_once("), ")?.1.parse().ok()
}

#[test]
fn two_rounds_and_a_farewell() {
    let (mut session, home) = chat(&[]);
    assert!(say(&mut session, FRANCE).contains("The capital of France is Paris."));
    let second = say(&mut session, "What is 7 * 8?");
    assert!(second.contains("7 * 8 = 56."), "{second}");
    let stats = say(&mut session, "/stats");
    // The first turn's keys and values are not computed again.
    assert!(!stats.contains("(0 cached)") && stats.contains(" cached)"), "{stats}");
    assert!(stats.contains("positions"), "{stats}");
    assert!(say(&mut session, "/clear").contains("forgotten"));
    assert!(say(&mut session, "/stats").contains("context: 0 of"), "nothing is held after /clear");
    assert!(say(&mut session, "/?").contains("/clear"));
    assert!(say(&mut session, "/nothing").contains("there is no /nothing"));
    session.send_line("/bye").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), Some(0));
    let history = std::fs::read_to_string(home.path().join("history")).unwrap();
    assert!(history.contains(FRANCE), "{history}");
}

#[test]
fn a_message_of_several_lines() {
    let (mut session, _home) = chat(&[]);
    for line in ["\"\"\"", FRANCE] {
        session.send_line(line).unwrap();
        session.exp_string("... ").unwrap();
    }
    let answer = say(&mut session, "\"\"\"");
    assert!(answer.contains("The capital of France is Paris."), "the fences are not part of it: {answer}");
    session.send_control('d').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), Some(0));
}

#[test]
fn ctrl_c_stops_the_answer_only() {
    let (mut session, _home) = chat(&["--ignore-eos", "--context-shift", "-c", "128"]);
    session.send_line("Count to 10.").unwrap();
    session.exp_string("1, 2, 3, 4, 5, 6, 7, 8, 9, 10.").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("stopped").unwrap();
    session.exp_string(">>> ").unwrap();
    assert!(say(&mut session, "/stats").contains("tokens/s"), "the chat goes on");
    session.send_control('d').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), Some(0));
}

#[test]
fn ctrl_c_twice_at_the_prompt_leaves() {
    let (mut session, _home) = chat(&[]);
    session.send_control('c').unwrap();
    session.exp_string("Ctrl-D or /bye leaves").unwrap();
    session.exp_string(">>> ").unwrap();
    std::thread::sleep(Duration::from_millis(2200));
    session.send_control('c').unwrap();
    session.exp_string("Ctrl-D or /bye leaves").unwrap();
    session.exp_string(">>> ").unwrap();
    session.send_control('c').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), Some(130));
}

#[test]
fn ctrl_c_ends_a_single_answer_with_130() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["run", "-p", "Count to 10.", "--ignore-eos", "--context-shift", "-c", "128"];
    let mut session = session(home.path(), &arguments);
    session.exp_string("9, 10.").unwrap();
    session.send_control('c').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), Some(130));
}

#[test]
fn a_single_turn_leaves_after_the_first_answer() {
    let (mut session, _home) = chat(&["-st"]);
    session.send_line(FRANCE).unwrap();
    assert!(session.exp_eof().unwrap().contains("The capital of France is Paris."));
    assert_eq!(status(&session), Some(0));
}

#[test]
fn a_full_context_does_not_end_the_chat() {
    let (mut session, _home) = chat(&["-c", "40"]);
    let first = say(&mut session, "Tell me a story about a fox.");
    assert!(first.contains("the context is full") && first.contains("/clear makes room"), "{first}");
    assert!(say(&mut session, FRANCE).contains("the context is full"));
    say(&mut session, "/clear");
    assert!(say(&mut session, FRANCE).contains("The capital of France is Paris."));
    session.send_control('d').unwrap();
    session.exp_eof().unwrap();
}

#[test]
fn rwkv_takes_the_commands_of_chatrwkv() {
    let (_folder, model) = support::rwkv();
    let (mut session, _home) = chat(&[&model, "--top-k", "1", "-n", "12"]);
    assert!(say(&mut session, "/?").contains("+gen TEXT"));
    assert!(say(&mut session, "+").contains("no answer yet"));
    let hello = say(&mut session, "hello");
    assert!(!hello.trim().is_empty());
    assert_eq!(say(&mut session, "+"), hello, "the likeliest answer is the same again");
    let other = say(&mut session, "hello");
    let stats = say(&mut session, "/stats");
    assert!(!stats.contains("(0 cached)") && stats.contains(" cached)"), "the state goes on: {stats}");
    assert_ne!(other, hello, "the first answer is part of the conversation");
    let free = say(&mut session, "+gen hello");
    assert_ne!(free, hello);
    assert_eq!(say(&mut session, "++"), free);
    assert!(!say(&mut session, "+qa hello").trim().is_empty());
    assert!(say(&mut session, "+reset").contains("Chat reset."));
    assert_eq!(say(&mut session, "hello -temp=3 -top_p=0.5"), hello, "options are not part of a message");
    assert!(say(&mut session, "hello -temp=x").contains("expected a number"));
    session.send_control('d').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(status(&session), Some(0));
}

#[test]
fn other_models_take_no_commands() {
    let (mut session, _home) = chat(&[]);
    assert!(!say(&mut session, "/?").contains("+gen"));
    assert!(!say(&mut session, "+reset").contains("Chat reset."));
    session.send_control('d').unwrap();
    session.exp_eof().unwrap();
}

#[test]
fn a_chat_cannot_be_raw_or_json() {
    for flag in ["--raw", "--json"] {
        let home = tempfile::tempdir().unwrap();
        let mut session = session(home.path(), &["run", flag]);
        assert!(session.exp_eof().unwrap().contains("wants a prompt"));
        assert_eq!(status(&session), Some(2));
    }
}

#[test]
fn c03_colours_come_on_a_terminal_unless_they_are_declined() {
    let home = tempfile::tempdir().unwrap();
    let output = |variable: Option<(&str, &str)>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jtllm"));
        command.args(["run", "-p", FRANCE]);
        support::isolate(&mut command);
        command.env("JTLLM_CACHE", home.path()).env("TERM", "xterm");
        command.envs(variable);
        spawn_command(command, Some(TIMEOUT)).unwrap().exp_eof().unwrap()
    };
    assert!(output(None).contains("\x1b["));
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let text = output(Some(variable));
        assert!(!text.contains('\x1b') && text.contains("Paris."), "{variable:?}: {text:?}");
    }
}
