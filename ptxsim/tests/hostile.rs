//! Texts that are not PTX, or not all of it: refused with a line, whatever they are.
#![allow(clippy::unwrap_used)]

mod common;

use jtllm_fuzz::for_seconds;
use jtllm_ptxsim::{Launch, Memory, parse};

const HEAD: &str = ".version 7.0\n.target sm_80\n.address_size 64\n";

fn refused(body: &str) -> String {
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 a) {{\n.reg .b32 %r<4>; .reg .f32 %f<4>; .reg .b64 %w<4>;\n.reg .pred %p<2>;\n{body}\nret; }}"
    );
    let error = parse(&text).expect_err(body);
    assert_eq!(error.line, 7, "{error}");
    error.to_string()
}

#[test]
fn what_is_not_known_is_refused_with_its_line() {
    for (body, words) in [
        ("frobnicate.f32 %f1, %f2;", "not known"),
        ("add.f32.wild %f1, %f2, %f3;", "modifier .wild"),
        ("add.rz.f32 %f1, %f2, %f3;", "modifier .rz"),
        ("add.f32 %f1, %f2;", "2 operands, expected 3"),
        ("add.f32 %f1, %f2, %w1;", "register %w1 is Bits(8), expected F32"),
        ("add.u32 %r1, %r2, %w1;", "expected Unsigned(4)"),
        ("add.f32 %f1, %f9, %f2;", "'%f9' is no register"),
        ("mov.f32 %f1, 1;", "a number that is no F32"),
        ("bra NOWHERE;", "there is no label NOWHERE"),
        ("@%r1 ret;", "is no predicate"),
        ("ld.param.u64 %w1, [b];", "is no parameter"),
        ("bar.sync 1;", "only barrier 0"),
        ("cvt.s32.f32 %r1, %f1;", "how it rounds"),
        ("fma.f32 %f1, %f1, %f1, %f1;", "only rounding to nearest"),
        ("mul.u32 %r1, %r2, %r3;", "say which part"),
        ("ld.global.v4.u64 {%w0, %w1, %w2, %w3}, [%w1];", "more than 16 bytes"),
        ("mma.sync.aligned.m16n8k4.row.col.f32.f16.f16.f32 {%f0}, {%r0}, {%r0}, {%f0};", "shape"),
        ("add.bf16x2 %r1, %r2, %r3;", "needs .target sm_90"),
        ("shl.b32 %r1, {%r1, {%r2}}, 2;", "a vector inside a vector"),
        ("cp.async.cg.shared.global [%r1], [%w1], 8;", "copies of 8 bytes"),
    ] {
        let error = refused(body);
        assert!(error.contains(words), "{body}: {error}");
    }
}

#[test]
fn an_older_target_lacks_what_came_later() {
    let text = |target: &str, version: &str| {
        format!(
            ".version {version}\n.target {target}\n.address_size 64\n.visible .entry k() {{\n cp.async.commit_group;\n}}"
        )
    };
    assert!(parse(&text("sm_80", "7.0")).is_ok());
    assert!(parse(&text("sm_75", "7.0")).unwrap_err().why.contains("needs .target sm_80"));
    assert!(parse(&text("sm_80", "6.5")).unwrap_err().why.contains("needs .version 7.0"));
    let module = parse(&text("sm_90a", "8.0")).unwrap();
    assert_eq!((module.target, module.exact, module.version), (90, true, (8, 0)));
}

#[test]
fn large_numbers_take_no_memory() {
    for body in [
        ".reg .b32 %x<4000000000>;",
        ".reg .b32 %x<65536>;",
        ".shared .b8 x[4000000000];",
        ".local .b8 x[99999999999999999999];",
        ".shared .align 1073741824 .b8 x[4];",
    ] {
        refused(body);
    }
    assert!(parse(&format!("{HEAD}.const .b64 x[1000000000] = {{0}};")).is_err());
    assert!(parse(&format!("{HEAD}.entry k(.param .b8 x[1000000000]) {{}}")).is_err());
}

const SOUND: &str = ".version 7.0
.target sm_80
.address_size 64
.const .align 4 .u32 table[3] = {1, 0x2, 3};
.visible .entry k(.param .u64 out, .param .align 8 .b8 more[8])
.maxntid 64
{
  .reg .b32 %r<9>; .reg .b64 %w<4>; .reg .pred %p, %q; .reg .f32 %f<6>;
  .shared .align 16 .b8 mem[512];
  ld.param.u64 %w1, [out]; // a comment
  mov.u32 %r1, %tid.x; /* another */
  setp.lt.and.u32 %p|%q, %r1, 8, !%p;
LOOP: @%p bra.uni END;
  { .reg .b32 %r9; mov.u32 %r9, mem; st.shared.v2.u32 [%r9+8], {%r1, %r1}; }
  cp.async.cg.shared.global [%r1], [%w1+16], 16;
  ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r2, %r3}, [%r1];
  mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r2,%r3}, {%r4}, {%f0,%f1,%f2,%f3};
  shfl.sync.bfly.b32 %r5|%p, %r1, 1, 31, -1;
  mov.b64 %w2, {%r1, %r2}; mov.b64 {%r3, _}, %w2; mov.f32 %f1, 0f3F800000;
  bar.sync 0;
END: ret;
}
";

#[test]
fn fuzz_ptx_text() {
    parse(SOUND).unwrap();
    let words: Vec<&str> = SOUND.split_inclusive(&[' ', ',', ';', '\n', '.'][..]).collect();
    for_seconds("ptx text", |random| {
        let text = match random.below(3) {
            0 => String::from_utf8_lossy(&random.mutated(SOUND.as_bytes())).into_owned(),
            1 => random.text(&words, 200),
            _ => {
                let mut words = words.clone();
                for _ in 0..1 + random.below(4) {
                    let (a, b) = (random.below(words.len()), random.below(words.len()));
                    words.swap(a, b);
                }
                words.concat()
            }
        };
        // What is accepted also runs, to a fault or to its end.
        if let Ok(module) = parse(&text) {
            for kernel in module.kernels() {
                let parameters = vec![0; kernel.parameter_bytes() as usize];
                let launch =
                    Launch { steps_max: 1000, ..Launch::new(kernel, [2, 1, 1], [33, 1, 1], &parameters) };
                let _fault_or_not = launch.run(&Memory::new());
            }
        }
    });
}
