//! Products of teams: the emitted text beside the interpreter of kernels, and with every fault of order planted.

use std::fs;
use std::path::Path;

use jtllm_codegen::kernel::{Kernel, parse};
use jtllm_codegen::target::Target;
use jtllm_ir::Format;
use jtllm_ir::build::{linear, swiglu};
use jtllm_ptxsim::{Fault, Reason};

use crate::common::case::{Case, int, rows};
use crate::common::ptx::{both, compare, emulate_text, team_device};
use crate::common::{Launch, compiled, run_by};
use crate::faults::{bindings, graph, without};

/// Two teams of one kernel, as a golden file has it.
fn kernel() -> Kernel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files/ptx/team.jk");
    let file = fs::read_to_string(path).unwrap();
    let (_, rest) = file.split_once('\n').unwrap();
    parse(rest.split_once("# expect").unwrap().0).unwrap()
}

/// What the kernel's parameters are bound to.
fn bound() -> Vec<Vec<u8>> {
    let brain = |seed: usize| half::bf16::from_f32((seed as f32 * 0.73).sin()).to_le_bytes();
    let left = (0..4096).flat_map(brain).collect();
    let right = (6000..6512).flat_map(brain).collect();
    vec![left, right, vec![0; 8192]]
}

fn text() -> String {
    String::from_utf8(team_device().emit(&kernel()).unwrap().bytes).unwrap()
}

fn run(text: &str) -> Result<Vec<Vec<u8>>, Fault> {
    let (kernel, mut params, before) = (kernel(), bound(), bound());
    let launch = Launch { kernel: &kernel, params: &mut params, symbols: &[0; 64], groups: 1 };
    emulate_text(text, &launch, &before)
}

#[test]
fn products_of_teams_are_the_interpreters() {
    let (kernel, mut params) = (kernel(), bound());
    both(&team_device(), Launch { kernel: &kernel, params: &mut params, symbols: &[0; 64], groups: 1 });
}

/// The text must be at fault, for that reason, if `new` stands in the place of one `old`, whichever.
fn planted(old: &str, new: &str, reasons: &[Reason]) {
    let text = text();
    let places: Vec<usize> = text.match_indices(old).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{old}");
    for at in places {
        let text = format!("{}{new}{}", &text[..at], &text[at + old.len()..]);
        match run(&text) {
            Err(fault) => assert!(reasons.contains(&fault.reason), "{old}: {:?} {fault}", fault.reason),
            Ok(_) => panic!("{old} replaced by {new:?} was not noticed\n{text}"),
        }
    }
}

#[test]
fn faults_in_the_order_of_products_are_found() {
    run(&text()).unwrap();
    planted("fence.proxy.async.shared::cta;", "", &[Reason::ProxyFence]);
    planted("wgmma.fence.sync.aligned;", "", &[Reason::ProductFence]);
    planted("wgmma.commit_group.sync.aligned;", "", &[Reason::PendingProduct]);
    planted("wgmma.wait_group.sync.aligned 0;", "", &[Reason::PendingProduct]);
    planted(
        "wgmma.wait_group.sync.aligned 0;",
        "wgmma.wait_group.sync.aligned 1;",
        &[Reason::PendingProduct],
    );
    planted("cp.async.wait_group 0;", "", &[Reason::PendingCopy]);
    planted("bar.sync 0;", "", &[Reason::Race, Reason::Uninitialised, Reason::ProxyFence]);
    let late = "bar.sync 0; fence.proxy.async.shared::cta;";
    planted("fence.proxy.async.shared::cta;\n  bar.sync 0;", late, &[Reason::ProxyFence]);
    let soon = "fence.proxy.async.shared::cta; cp.async.wait_group 0;";
    planted("cp.async.wait_group 0;\n  fence.proxy.async.shared::cta;", soon, &[Reason::ProxyFence]);
}

#[test]
fn sums_and_operands_of_products_under_way_are_left_alone() {
    let commit = "wgmma.commit_group.sync.aligned;";
    let pending = &[Reason::PendingProduct];
    planted(commit, &format!("{commit} mov.f32 %f0, 0f00000000;"), pending);
    planted(commit, &format!("{commit} add.f32 %f8, %f5, %f5;"), pending);
    planted(commit, &format!("{commit} st.shared.b32 [shared], %r0;"), pending);
    // Waited for by its own warps, but another group's may still read.
    let wait = "wgmma.wait_group.sync.aligned 1;";
    planted(wait, &format!("{wait} st.shared.b32 [shared], %r0;"), &[Reason::PendingProduct, Reason::Race]);
}

#[test]
fn descriptors_are_taken_at_their_word() {
    // Bits of the upper word: a base offset, swizzling, and none that are known.
    for word in [8 | 1 << 17, 8 | 1 << 30, 8 | 1 << 20] {
        planted("mov.b32 %r13, 8;", &format!("mov.b32 %r13, {word};"), &[Reason::Descriptor]);
    }
    // Eight rows further lies something else; or nothing at all.
    let changed = |new: &str| run(&text().replace("mov.b32 %r13, 8;", new));
    let expected = run(&text()).unwrap();
    assert_ne!(changed("mov.b32 %r13, 4;").unwrap()[2], expected[2]);
    assert_eq!(changed("mov.b32 %r13, 4096;").unwrap_err().reason, Reason::OutOfBounds);
    planted("mov.b64 %rd7, {%r19, %r13};", "mov.b64 %rd7, {%r0, %r13};", &[Reason::Convergence]);
}

#[test]
fn warps_of_a_group_multiply_together() {
    let fence = "wgmma.fence.sync.aligned;";
    let skips =
        "{ .reg .pred %skip; setp.lt.u32 %skip, %r0, 32; @%skip bra L3END; } wgmma.fence.sync.aligned;";
    let end = "wgmma.wait_group.sync.aligned 1;";
    let text = text().replace(fence, skips).replace(end, &format!("L3END: {end}"));
    assert_eq!(run(&text).unwrap_err().reason, Reason::Convergence);
    let half =
        "{ .reg .pred %half; .reg .b32 %who; mov.u32 %who, %laneid; setp.lt.u32 %half, %who, 16; @%half ";
    planted(fence, &format!("{half}{fence} }}"), &[Reason::Convergence]);
}

#[test]
fn other_processors_have_no_such_products() {
    for target in ["sm_90", "sm_100", "sm_100a", "sm_120"] {
        let text = text().replace(".target sm_90a", &format!(".target {target}"));
        let error = jtllm_ptxsim::parse(&text).unwrap_err();
        assert!(error.to_string().contains("needs .target sm_90a"), "{error}");
    }
}

/// In how many places each of these lines of a scheduled kernel can be left out without harm: where the next one
/// orders the same, since sums are ordered among products and waits among each other.
const SPARE: &[(&str, usize, &[Reason])] = &[
    ("fence.proxy.async.shared::cta;", 0, &[Reason::ProxyFence]),
    ("cp.async.wait_group 0;", 0, &[Reason::PendingCopy]),
    ("cp.async.wait_group 1;", 0, &[Reason::PendingCopy]),
    ("bar.sync 0;", 0, &[Reason::Race, Reason::Uninitialised, Reason::ProxyFence, Reason::PendingProduct]),
    ("wgmma.fence.sync.aligned;", 2, &[Reason::ProductFence]),
    ("wgmma.commit_group.sync.aligned;", 1, &[Reason::PendingProduct]),
    ("wgmma.wait_group.sync.aligned 0;", 0, &[Reason::PendingProduct]),
    ("wgmma.wait_group.sync.aligned 1;", 1, &[Reason::PendingProduct]),
];

#[test]
fn faults_in_scheduled_products_are_found() {
    let (graph, target) = (graph("gemm_bf16_90a.jt"), team_device());
    let compilation = compiled(&graph, target.caps());
    let mut checked = 0;
    run_by(&compilation, target.caps(), &mut bindings(&graph, 160), &mut |mut launch| {
        let before = launch.params.to_vec();
        let text = String::from_utf8(target.emit(launch.kernel).unwrap().bytes).unwrap();
        if text.contains("wgmma") {
            emulate_text(&text, &launch, &before).unwrap();
            for (line, spare, reasons) in SPARE {
                let mut unnoticed = 0;
                for planted in without(&text, line, "a removed line", reasons) {
                    match emulate_text(&planted.text, &launch, &before) {
                        Err(fault) => assert!(planted.reasons.contains(&fault.reason), "{line}: {fault}"),
                        Ok(_) => unnoticed += 1,
                    }
                    checked += 1;
                }
                assert_eq!(unnoticed, *spare, "{line}");
            }
        }
        launch.interpret(target.caps());
    });
    assert!(checked >= 18, "{checked}");
}

/// Rows, columns and depth; tiles, steps and buffers that end elsewhere.
const SHAPES: [[usize; 3]; 5] = [[32, 64, 64], [160, 100, 96], [48, 64, 37], [144, 136, 200], [256, 64, 640]];

#[test]
fn products_of_every_shape_are_the_interpreters() {
    for (number, [tokens, width, depth]) in SHAPES.into_iter().enumerate() {
        let formats = [["bf16", "q4_0"], ["f16", "q8_0"]][number % 2];
        for name in formats.into_iter().filter(|name| name.ends_with("16") || depth % 32 == 0) {
            let mut case = Case::new(name);
            let t = rows(&mut case.graph, &mut case.bindings, tokens);
            let x = case.input("x", &[t, int(depth)], &[tokens, depth]);
            let [a, b] = ["a", "b"].map(|w| case.weight(Format::find(name).unwrap(), w, &[width, depth]));
            let [a, b] = [a, b].map(|w| linear(&mut case.graph, x, w, None));
            let y = swiglu(&mut case.graph, a, b);
            case.graph.output("y", y);
            assert_eq!(compare(&case.graph, &case.bindings), 1, "{name} {tokens}x{width}x{depth}");
        }
    }
}
