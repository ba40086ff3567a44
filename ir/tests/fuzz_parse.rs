//! Random text never makes the parser panic, hang or run away; what it accepts prints and reads back.
#![allow(clippy::unwrap_used)]

mod graphs;

use jtllm_ir::{parse, print, verify};
use proptest::prelude::*;

/// Words of the language, and some that are not.
const WORDS: &[&str] = &[
    "graph",
    "sym",
    "in",
    "..",
    "step",
    "input",
    "weight",
    "state",
    "const",
    "index",
    "map",
    "view",
    "reduce",
    "write",
    "scan",
    "over",
    "carry",
    "xs",
    "result",
    "opaque",
    "output",
    "as",
    "with",
    "ok",
    "next",
    "out",
    "add",
    "mul",
    "select",
    "f32",
    "i32",
    "u8",
    "bits_u32",
    "min",
    "max",
    "div",
    "mod",
    "and",
    "%0",
    "%1",
    "%x",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ":",
    ",",
    "->",
    "=",
    "==",
    "<",
    "<=",
    "+",
    "-",
    "*",
    "$0",
    "$1",
    "i",
    "j",
    "T",
    "0",
    "1",
    "2",
    "16",
    "281474976710655",
    "99999999999999999999",
    "1e-5",
    "0x7fc00000",
    "-",
    "\n",
    "\n",
    "\n",
    ";",
    "#",
    "\"",
    "\\",
    "{i,j ->",
    "{i ->",
    ": f32[2]",
    ": i32[T]",
    "graph g\n",
    "sym T in 1..9\n",
    "é",
    "%",
];

fn check(text: &str) {
    if let Ok(graph) = parse(text) {
        // Faults are fine, panics are not.
        let faults = verify(&graph).is_err();
        let printed = print(&graph);
        match parse(&printed) {
            Ok(read) => assert_eq!(print(&read), printed),
            // Only a graph with faults may have no text, such as a node of nine axes.
            Err(error) => assert!(faults, "{error}\n{printed}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fuzz_any_text(text in "\\PC{0,200}") {
        check(&text);
    }

    #[test]
    fn fuzz_words(words in prop::collection::vec(prop::sample::select(WORDS), 0..60)) {
        check(&words.join(" "));
        check(&format!("graph g\nsym T in 1..9\n%0 = input x in 0..4 : i32[T]\n{}", words.join(" ")));
    }

    #[test]
    fn fuzz_expressions(words in prop::collection::vec(prop::sample::select(&WORDS[33..68]), 1..40)) {
        let expression = words.join(" ");
        let head = "graph g\nsym T in 1..9\n%0 = input x in 0..4 : i32[T]\n";
        check(&format!("{head}%1 = index {{i,j -> {expression}}} with %0 : i32[T,4]"));
    }

    #[test]
    fn fuzz_damaged_graphs(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, prop::sample::select(WORDS)), 1..4),
    ) {
        let graphs = graphs::all();
        let mut text = print(&graphs[which.index(graphs.len())].1);
        for (at, length, word) in edits {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, word);
            }
        }
        check(&text);
    }
}

#[test]
fn deep_and_wide_texts_are_errors_or_quick() {
    let head = "graph g\nsym T in 1..9\n%0 = input x in 0..4 : i32[T]\n";
    let index = |expression: &str| parse(&format!("{head}%1 = index {{i -> {expression}}} with %0 : i32[T]"));
    let error = |expression: &str| index(expression).unwrap_err().expected;
    assert_eq!(error(&"(".repeat(100_000)), "an expression nested at most 24 deep");
    assert_eq!(error(&"$0[".repeat(100_000)), "an expression nested at most 24 deep");
    assert_eq!(error(&vec!["i"; 100_000].join(" + ")), "an expression of at most 512 parts");
    assert_eq!(error(&vec!["(i + T + 1)"; 60].join("*")), "a product of at most 256 terms");
    assert_eq!(error("i*99999999999999999999"), "an integer below 2^48");
    assert_eq!(error("i div 0"), "a positive constant");
    let nested = format!("{head}%1 = {}", "map neg (".repeat(100_000));
    assert_eq!(parse(&nested).unwrap_err().expected, "operations nested at most 32 deep");
    let scans = format!("graph g\n%0 = input x : f32[2]\n{}", "%1 = scan over 0 {\ngraph b\n".repeat(10));
    assert_eq!(parse(&scans).unwrap_err().expected, "scans nested at most 4 deep");
    // The deepest nesting of remainders that is accepted, each of a sum with the one before.
    let mut expression = "i".to_owned();
    for d in 0..23 {
        expression = format!("({expression} + T*{}) mod {}", d + 1, 1009 + d * 97);
    }
    assert!(index(&expression).is_ok());
    let huge = "graph g\n%0 = const [1] : f32[281474976710655,281474976710655]";
    assert!(parse(huge).unwrap_err().expected.starts_with("a constant with as many numbers"));
}
