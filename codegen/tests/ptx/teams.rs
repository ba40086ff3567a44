//! Products of teams: the emitted text beside the interpreter of kernels, and with every fault of order planted.

use std::fs;
use std::path::Path;

use jtllm_codegen::kernel::{Kernel, parse};
use jtllm_codegen::target::Target;
use jtllm_ptxsim::{Fault, Reason};

use crate::common::Launch;
use crate::common::ptx::{both, emulate_text, team_device};

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
