//! Rules about one source file. Each takes its text and gives one line for every breach.

use crate::lexer::{Kind, Token, code, lex};

/// The most lines of a file.
pub(crate) const FILE_LINES_MAX: usize = 800;
/// The most lines of a function, from its `fn` to its closing brace.
pub(crate) const FUNCTION_LINES_MAX: usize = 70;

/// The place just after the group that opens at `open` (any of the three brackets).
pub(crate) fn group_end(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.kind == Kind::Mark {
            match token.text {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// The place just after the item that starts at `at`: behind its body, or behind its semicolon.
fn item_end(tokens: &[Token<'_>], mut at: usize) -> usize {
    while at < tokens.len() {
        if tokens[at].is("{") {
            return group_end(tokens, at);
        }
        if tokens[at].is(";") {
            return at + 1;
        }
        at = if tokens[at].is("(") || tokens[at].is("[") { group_end(tokens, at) } else { at + 1 };
    }
    at
}

/// The file without the items that are compiled for tests alone.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let marks = tokens[at..].iter().take(7).map(|token| token.text);
        if tokens[at].is("#") && marks.eq(["#", "[", "cfg", "(", "test", ")", "]"]) {
            at += 7;
            while at < tokens.len() && tokens[at].is("#") {
                at = group_end(tokens, at + 1);
            }
            at = item_end(tokens, at);
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

/// The file is no longer than [`FILE_LINES_MAX`].
pub(crate) fn file_size(source: &str) -> Vec<String> {
    let lines = source.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!("{lines}: the file has {lines} lines, more than {FILE_LINES_MAX}")]
}

/// A function: its name, where it begins and ends, and whether it is a test.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function<'a> {
    /// The name.
    pub(crate) name: &'a str,
    /// The line of its `fn`.
    pub(crate) line: usize,
    /// How many lines it has.
    pub(crate) lines: usize,
    /// Whether it carries an attribute that ends in `test`.
    pub(crate) is_test: bool,
}

/// The functions that have a body.
pub(crate) fn functions(source: &str) -> Vec<Function<'_>> {
    let tokens = code(source);
    let mut found = Vec::new();
    for at in 0..tokens.len().saturating_sub(1) {
        // `fn(` is a type of functions, `fn $name` stands in a macro.
        let name = tokens[at + 1];
        if !tokens[at].is("fn") || name.kind != Kind::Word {
            continue;
        }
        let end = item_end(&tokens, at);
        if tokens[end - 1].is("}") {
            let lines = tokens[end - 1].line + 1 - tokens[at].line;
            let is_test = carries_test(&tokens[..at]);
            found.push(Function { name: name.text, line: tokens[at].line, lines, is_test });
        }
    }
    found
}

/// Whether the attributes at the end of `before` hold `#[test]`, perhaps with a path or arguments.
fn carries_test(before: &[Token<'_>]) -> bool {
    let mut end = before.len();
    while end > 0 && matches!(before[end - 1].text, "pub" | "async" | "const" | "unsafe" | "extern") {
        end -= 1;
    }
    while end > 0 && before[end - 1].is("]") {
        let mut open = end - 1;
        let mut depth = 1;
        while depth > 0 && open > 0 {
            open -= 1;
            depth += usize::from(before[open].is("]"));
            depth -= usize::from(before[open].is("["));
        }
        let path: Vec<_> = before[open + 1..end].iter().take_while(|token| !token.is("(")).collect();
        if path.iter().any(|token| token.is("test")) {
            return true;
        }
        end = open.saturating_sub(1);
    }
    false
}

/// No function is longer than [`FUNCTION_LINES_MAX`].
pub(crate) fn function_size(source: &str) -> Vec<String> {
    functions(source)
        .iter()
        .filter(|function| function.lines > FUNCTION_LINES_MAX)
        .map(|function| {
            let Function { name, line, lines, .. } = function;
            format!("{line}: `{name}` has {lines} lines, more than {FUNCTION_LINES_MAX}")
        })
        .collect()
}

/// Outside tests there is no `unwrap()`, and no macro of unfinished or half-debugged code.
pub(crate) fn finished(source: &str) -> Vec<String> {
    let tokens = without_tests(&code(source));
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let follows = |offset: usize, text: &str| tokens.get(at + offset).is_some_and(|next| next.is(text));
        let called = at > 0 && tokens[at - 1].is(".") && follows(1, "(") && follows(2, ")");
        if token.is("unwrap") && called {
            found.push(format!("{}: `unwrap()` outside tests", token.line));
        }
        if ["todo", "dbg", "unimplemented"].iter().any(|name| token.is(name)) && follows(1, "!") {
            found.push(format!("{}: `{}!` outside tests", token.line, token.text));
        }
    }
    found
}

/// No test is switched off.
pub(crate) fn no_ignored_test(source: &str) -> Vec<String> {
    let tokens = code(source);
    let mut found = Vec::new();
    for at in 1..tokens.len() {
        if tokens[at].is("[") && (tokens[at - 1].is("#")) {
            let attribute = &tokens[at + 1..group_end(&tokens, at)];
            let conditional = attribute.first().is_some_and(|token| token.is("cfg_attr"));
            let searched = if conditional { attribute } else { &attribute[..attribute.len().min(1)] };
            if searched.iter().any(|token| token.is("ignore")) {
                found.push(format!("{}: an ignored test", tokens[at].line));
            }
        }
    }
    found
}

/// No comment promises work that is not done.
pub(crate) fn no_promise(source: &str) -> Vec<String> {
    let words = ["TODO", "FIXME"];
    lex(source)
        .iter()
        .filter(|token| token.kind == Kind::Comment && words.iter().any(|word| token.text.contains(word)))
        .map(|token| format!("{}: a comment with an open task", token.line))
        .collect()
}

/// The heading that ends each crate's specification.
pub(crate) const IGNORANCE: &str = "//! # What this crate does not know";

/// The crate's documentation has the section about its limits, as the last one and not empty.
pub(crate) fn says_what_it_does_not_know(source: &str) -> Vec<String> {
    let mut rest = source.lines().skip_while(|line| line.trim_end() != IGNORANCE);
    if rest.next().is_none() {
        return vec![format!("1: the documentation lacks the section `{IGNORANCE}`")];
    }
    let section: Vec<_> = rest.take_while(|line| line.starts_with("//!")).collect();
    if section.iter().any(|line| line.starts_with("//! # ")) {
        return vec![format!("1: the section `{IGNORANCE}` is not the last one")];
    }
    if section.iter().all(|line| line.trim_end() == "//!") {
        return vec![format!("1: the section `{IGNORANCE}` is empty")];
    }
    Vec::new()
}

/// Roots of paths that mean something on one machine only.
const MACHINE_ROOTS: &[&str] =
    &["/work/", "/home/", "/root/", "/Users/", "/tmp/", "/mnt/", "/var/folders/", "C:\\"];

/// A Markdown file names no place of one machine.
pub(crate) fn no_machine_path(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in source.lines().enumerate() {
        for root in MACHINE_ROOTS {
            // Inside an address or a relative path the same letters mean something else.
            let absolute = line.match_indices(root).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|byte| byte.is_alphanumeric() || "./~}_-".contains(byte))
            });
            if absolute {
                found.push(format!("{}: a path of one machine, under `{root}`", index + 1));
            }
        }
    }
    found
}
