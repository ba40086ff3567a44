//! Random text never makes the parser panic, hang or run away; what it accepts prints and reads back.
#![allow(clippy::unwrap_used)]

mod graphs;

use jtllm_fuzz::{Random, for_seconds};
use jtllm_ir::{parse, print, verify};

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

/// At least one of `words`, with spaces between.
fn sentence(random: &mut Random, words: &[&str], count_max: usize) -> String {
    let words: Vec<&str> = (0..1 + random.below(count_max)).map(|_| *random.choice(words)).collect();
    words.join(" ")
}

/// What comes before the text under attack, so that it has a symbol and a node to speak of.
const HEAD: &str = "graph g\nsym T in 1..9\n%0 = input x in 0..4 : i32[T]\n";

#[test]
fn fuzz_any_text() {
    for_seconds("any text", |random| check(&random.value("\\PC{0,200}")));
}

#[test]
fn fuzz_words() {
    for_seconds("words", |random| {
        let words = sentence(random, WORDS, 60);
        check(&words);
        check(&format!("{HEAD}{words}"));
    });
}

#[test]
fn fuzz_expressions() {
    for_seconds("expressions", |random| {
        let expression = sentence(random, &WORDS[33..68], 40);
        check(&format!("{HEAD}%1 = index {{i,j -> {expression}}} with %0 : i32[T,4]"));
    });
}

#[test]
fn fuzz_damaged_graphs() {
    let texts: Vec<String> = graphs::all().iter().map(|(_, graph)| print(graph)).collect();
    for_seconds("damaged graphs", |random| {
        let mut text = random.choice(&texts).clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(text.len());
            let end = (at + random.below(12)).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                let word = *random.choice::<&str>(WORDS);
                text.replace_range(at..end, word);
            }
        }
        check(&text);
    });
}

#[test]
fn deep_and_wide_texts_are_errors_or_quick() {
    let index = |expression: &str| parse(&format!("{HEAD}%1 = index {{i -> {expression}}} with %0 : i32[T]"));
    let error = |expression: &str| index(expression).unwrap_err().expected;
    assert_eq!(error(&"(".repeat(100_000)), "an expression nested at most 24 deep");
    assert_eq!(error(&"$0[".repeat(100_000)), "an expression nested at most 24 deep");
    assert_eq!(error(&vec!["i"; 100_000].join(" + ")), "an expression of at most 512 parts");
    assert_eq!(error(&vec!["(i + T + 1)"; 60].join("*")), "a product of at most 256 terms");
    assert_eq!(error("i*99999999999999999999"), "an integer below 2^48");
    assert_eq!(error("i div 0"), "a positive constant");
    let nested = format!("{HEAD}%1 = {}", "map neg (".repeat(100_000));
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
