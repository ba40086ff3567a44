//! The text form under attack: whatever is read answers with a kernel or a place, and prints stably.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use jtllm_codegen::emit::interp::Interp;
use jtllm_codegen::kernel::interp::{Buffer, Memories, Options, Program, run};
use jtllm_codegen::kernel::{Kernel, optimise, parse, verify};
use jtllm_codegen::target::{Caps, Target};
use jtllm_fuzz::for_seconds;
use proptest::prelude::*;

fn corpus() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files/kernel");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let text = |path: &std::path::PathBuf| fs::read_to_string(path).unwrap();
    paths.iter().map(text).map(|text| text.split("# expect").next().unwrap().to_owned()).collect()
}

/// Reads a text; what is a kernel must survive every pass and print the same after a second reading.
fn read(text: &str) {
    let Ok(kernel) = parse(text) else { return };
    let printed = kernel.to_string();
    let again = parse(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}")).to_string();
    assert_eq!(printed, again);
    let program = Program::new(&kernel);
    for caps in [Caps::vector(16), Caps::threads(64).with_matrix(64)] {
        if verify(&kernel, &caps).is_ok() {
            assert!(program.is_ok(), "{printed}");
            assert_eq!(verify(&optimise(&kernel), &caps), Ok(()), "{printed}");
        }
    }
}

/// Words and marks from which hostile texts are made.
const PIECES: [&str; 56] = [
    "let",
    "set",
    "store",
    "loop",
    "if",
    "barrier",
    "lane",
    "g0",
    "g1",
    "l4",
    "l5",
    "v0",
    "v1",
    "c0",
    "p0",
    "p1",
    "s0",
    "load",
    "index",
    "const",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "+",
    "-",
    "*",
    "div",
    "mod",
    "<",
    "==",
    "and",
    "min(",
    ", ",
    "..",
    ": i32",
    "4503599627370496",
    "2147483648",
    "fragment f0: left bf16",
    "fragment f1: sum f32",
    "f0",
    "f1",
    "f2",
    "clear f2",
    "fetch f0 =",
    "stride 40",
    "mma f2, f0, f1",
    "spill s1",
    "stage s0",
    "stage_commit",
    "stage_wait 0",
    "f16",
    "bf16",
    "lane div 32",
];

/// Well-formed index expressions over everything that the kernel around them has.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0i64..40).prop_map(|x| x.to_string()),
        prop::sample::select(vec!["g0", "g1", "lane", "l4", "l5", "T", "v0", "v1"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 48, 3, |inner| {
        let divisor = prop::sample::select(vec![2i64, 3, 4, 8, 12, 16, 64]);
        let pair = (inner.clone(), inner.clone());
        let operator = prop::sample::select(vec!["+", "-", "+", "*", "<", "=="]);
        prop_oneof![
            (pair.clone(), operator).prop_map(|((a, b), op)| format!("(({a}) {op} ({b}))")),
            (inner.clone(), divisor.clone()).prop_map(|(a, d)| format!("({a}) div {d}")),
            (inner.clone(), divisor).prop_map(|(a, d)| format!("({a}) mod {d}")),
            (inner, 1i64..70).prop_map(|(a, c)| format!("({a})*{c}")),
            (pair.clone(), any::<bool>())
                .prop_map(|((a, b), min)| format!("{}({a}, {b})", if min { "min" } else { "max" })),
            pair.prop_map(|(a, b)| format!("(({a}) < 5 and ({b}) == 2)")),
        ]
    })
}

/// The stores of a kernel, made with the interpreter.
fn stores(kernel: &Kernel) -> Vec<u8> {
    let table: Vec<u8> = (0..8i32).flat_map(|i| (i * 5 % 7).to_le_bytes()).collect();
    let mut y = vec![0u8; 8 * 4 * 24];
    let params = vec![Buffer::Read(&table), Buffer::Write(&mut y)];
    run(kernel, &mut Memories { params, symbols: &[12] }, Options { threads: true }).unwrap();
    y
}

#[test]
fn fuzz_mutated_kernels() {
    let corpus = corpus();
    for_seconds("mutated kernels", |random| {
        let mut text = random.choice(&corpus).clone();
        for _ in 0..1 + random.below(5) {
            let at = random.below(text.len());
            let end = (at + random.below(12)).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                let piece = *random.choice::<&str>(&PIECES);
                text.replace_range(at..end, piece);
            }
        }
        read(&text);
    });
}

#[test]
fn fuzz_expressions_of_any_shape() {
    for_seconds("expressions of any shape", |random| {
        let x: Vec<&str> = (0..random.below(40)).map(|_| *random.choice(&PIECES)).collect();
        let x = x.join(" ");
        read(&format!(
            "kernel x grid=[7, T, 1] lanes=8 (sym: T@0 in 1..513 step 3, p0: read i32[8], p1: write i32[8]) {{\n\
             let v0 = load p0[lane] : i32 in 0..T\n loop l4 0..T {{ let v1 = index {x} : i32 }} }}"
        ));
    });
}

#[test]
fn fuzz_expressions_keep_their_value_and_their_text() {
    for_seconds("expressions in kernels", |random| {
        let x = random.value(expression());
        let text = format!(
            "kernel x grid=[2, 1, 1] lanes=8 (sym: T@0 in 12..25 step 12, p0: read i32[8], p1: write i32[192]) {{
               let v0 = load p0[lane] : i32 in 0..7
               let v1 = load p0[g0] : i32 in 0..T
               loop l4 0..4 {{
                 loop l5 0..3 {{
                   let v2 = index {x} : i32
                   store p1[(g0*12 + l4*3 + l5)*8 + lane] = v2
                 }}
               }}
             }}"
        );
        if let Ok(kernel) = parse(&text) {
            read(&text);
            let again = parse(&kernel.to_string()).unwrap();
            assert_eq!(stores(&kernel), stores(&again), "{text}");
            assert_eq!(stores(&kernel), stores(&optimise(&kernel)), "{text}");
        }
    });
}

#[test]
fn fuzz_any_text() {
    for_seconds("any text", |random| {
        let text = random.value("\\PC{0,200}");
        read(&text);
        read(&format!("kernel x grid=[1, 1, 1] lanes=4 (p0: write i32[8]) {{ {text} }}"));
    });
}

#[test]
fn deep_nesting_is_an_error() {
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
    for x in [nested("(", ")"), nested("min(", ", 1)"), "1 div 2 ".repeat(50_000), "lane*".repeat(99_999)] {
        let text = format!("kernel x grid=[1, 1, 1] lanes=4 () {{ let v0 = index {x} : i32 }}");
        assert!(parse(&text).is_err());
    }
    let text = format!("kernel x grid=[1, 1, 1] lanes=4 () {{ {} ", "if 1 {".repeat(100_000));
    assert!(parse(&text).is_err());
}

#[test]
fn a_product_of_sums_is_bounded() {
    let text = format!(
        "kernel x grid=[9, 9, 9] lanes=4 () {{ let v0 = index {} : i32 }}",
        ["(g0 + g1 + g2 + lane + 1)"; 24].join("*")
    );
    let error = parse(&text).unwrap_err();
    assert_eq!(error.line, 1, "{error}");
    assert!(error.message.contains("a smaller expression"), "{error}");
}

/// A kernel with loops, a cell, shared memory and a tail, as its author and as the target hand it over.
const DOT: &str = "
kernel dot grid=[3, 1, 1] lanes=8 (p0: read f32[300], p1: read f32[100], p2: write f32[3]) {
  shared s0: f32[8]
  cell c0: f32
  let v0 = const 0.0 : f32
  set c0 = v0
  loop l4 0..13 {
    if l4*8 + lane < 100 {
      let v1 = load p0[g0*100 + l4*8 + lane] : f32
      let v2 = load p1[l4*8 + lane] : f32
      let v3 = c0 : f32
      let v4 = fma v1, v2, v3 : f32
      set c0 = v4
    }
  }
  let v5 = c0 : f32
  store s0[7 - lane] = v5
  barrier
  let v6 = load s0[lane] : f32
  let v7 = lane_reduce add v6 : f32
  if lane == 0 {
    store p2[g0] = v7
  }
}";

#[test]
fn an_emitted_kernel_reads_back_and_gives_the_same_bits() {
    let kernel = parse(DOT).unwrap();
    let target = Interp::new(Caps::threads(32));
    assert_eq!(verify(&kernel, target.caps()), Ok(()));
    let emitted = target.emit(&optimise(&kernel)).unwrap().bytes;
    let back = parse(std::str::from_utf8(&emitted).unwrap()).unwrap();
    assert_eq!(back.canonical_text().as_bytes(), emitted);
    let floats: Vec<u8> = (0..300).flat_map(|i| (i as f32 * 0.7).sin().to_le_bytes()).collect();
    let results = [&kernel, &back].map(|kernel| {
        let mut y = vec![0u8; 12];
        let params = vec![Buffer::Read(&floats), Buffer::Read(&floats[..400]), Buffer::Write(&mut y)];
        run(kernel, &mut Memories { params, symbols: &[] }, Options { threads: true }).unwrap();
        y
    });
    assert_eq!(results[0], results[1]);
    assert_ne!(results[0], [0; 12]);
}
