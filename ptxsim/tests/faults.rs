//! Each kind of fault is found, named, and not found where there is none.
#![allow(clippy::unwrap_used)]

mod common;

use common::{run, run_with};
use jtllm_ptxsim::{Fault, Reason};

/// A kernel of these instructions; `%out` is the first buffer, `%t` the thread, `%r`, `%p` and `%w` are registers.
fn kernel(shared: u32, body: &str) -> String {
    format!(
        ".version 7.0\n.target sm_80\n.address_size 64
.visible .entry k(.param .u64 out, .param .u64 in) {{
.reg .b32 %r<20>; .reg .b64 %w<10>; .reg .pred %p<5>; .reg .b64 %out, %in; .reg .b32 %t;
.shared .align 16 .b8 mem[{shared}];
ld.param.u64 %out, [out]; ld.param.u64 %in, [in]; mov.u32 %t, %tid.x; shl.b32 %r0, %t, 2;
{body}
ret; }}"
    )
}

fn fault(block: u32, body: &str) -> Fault {
    run(&kernel(1024, body), 2, block, &[vec![0; 1024], vec![0; 1024]]).map(|_| ()).expect_err(body)
}

#[track_caller]
fn caught(block: u32, body: &str, reason: Reason, words: &str) {
    let found = fault(block, body);
    assert_eq!(found.reason, reason, "{found}");
    assert!(found.to_string().contains(words), "{found}");
    assert!(found.line >= 7 && found.kernel == "k", "{found}");
}

#[track_caller]
fn sound(block: u32, body: &str) {
    run(&kernel(1024, body), 2, block, &[vec![0; 1024], vec![0; 1024]]).unwrap();
}

#[test]
fn accesses_outside_of_buffers_name_the_buffer() {
    sound(32, "st.global.u32 [%out+1020], %t;");
    caught(32, "st.global.u32 [%out+1024], %t;", Reason::OutOfBounds, "of a buffer of 1024 bytes, 4 too far");
    caught(32, "ld.global.u32 %r1, [%out+1024];", Reason::OutOfBounds, "at byte 1024");
    caught(32, "ld.global.u32 %r1, [%out+-4];", Reason::OutOfBounds, "4 bytes before a buffer of");
    caught(32, "mov.u64 %w1, 16; ld.global.u32 %r1, [%w1];", Reason::OutOfBounds, "there is no buffer");
    // Between the two buffers nothing is mapped.
    caught(32, "ld.global.u32 %r1, [%out+1200];", Reason::OutOfBounds, "180 too far");
    let found = fault(64, "setp.eq.u32 %p1, %t, 37; @%p1 st.global.u32 [%out+2000], %t;");
    assert_eq!(found.thread, Some(37));
    caught(
        64,
        "mov.u32 %r1, mem; add.u32 %r1, %r1, 1024; st.shared.u32 [%r1], %t;",
        Reason::OutOfBounds,
        "1024 of",
    );
}

#[test]
fn misaligned_accesses_are_found() {
    caught(32, "ld.global.u32 %r1, [%out+2];", Reason::Misaligned, "4 bytes");
    caught(32, "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%out+8];", Reason::Misaligned, "16 bytes");
    caught(1, "st.shared.u16 [mem+1], %r0;", Reason::Misaligned, "2 bytes");
    sound(32, "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%out+16];");
}

#[test]
fn races_between_warps_are_found() {
    let write = "mov.u32 %r1, mem; add.u32 %r1, %r1, %r0; st.shared.u32 [%r1], %t;";
    let neighbour = "xor.b32 %r2, %t, 32; shl.b32 %r2, %r2, 2; mov.u32 %r3, mem; add.u32 %r2, %r2, %r3;";
    let read = "ld.shared.u32 %r4, [%r2];";
    sound(64, &format!("{write} {neighbour} bar.sync 0; {read}"));
    // Before the other warp has written, there is nothing to read.
    caught(64, &format!("{write} {neighbour} {read}"), Reason::Uninitialised, "before anything is written");
    let again = format!("{write} bar.sync 0; {neighbour} {read} st.shared.u32 [%r1], %t;");
    caught(64, &again, Reason::Race, "warp 1");
    let first = "and.b32 %r1, %t, 31; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [mem], %t;";
    caught(64, first, Reason::Race, "warp 1 lane 0 writes what warp 0 lane 0 wrote");
    sound(64, &format!("{write} bar.sync 0; {neighbour} {read} bar.sync 0; st.shared.u32 [%r1], %t;"));
    // Atomic operations do not race with each other, but with everything else.
    let begin = "setp.eq.u32 %p1, %t, 0; @%p1 st.shared.u32 [mem], 0; bar.sync 0;";
    sound(64, &format!("{begin} atom.shared.add.u32 %r1, [mem], 1; bar.sync 0; ld.shared.u32 %r1, [mem];"));
    caught(
        64,
        &format!("{begin} red.shared.add.u32 [mem], 1; ld.shared.u32 %r1, [mem];"),
        Reason::Race,
        "atomic",
    );
}

#[test]
fn races_between_lanes_of_a_warp_are_found() {
    let write = "mov.u32 %r1, mem; add.u32 %r1, %r1, %r0; st.shared.u32 [%r1], %t;";
    let read = "xor.b32 %r2, %r1, 4; ld.shared.u32 %r4, [%r2];";
    caught(32, &format!("{write} {read}"), Reason::Race, "reads what warp 0 lane");
    sound(32, &format!("{write} bar.warp.sync -1; {read}"));
    sound(32, &format!("{write} bar.sync 0; {read}"));
    // A shuffle orders no memory.
    caught(
        32,
        &format!("{write} shfl.sync.bfly.b32 %r3, %t, 1, 31, -1; {read}"),
        Reason::Race,
        "with no barrier",
    );
    caught(
        32,
        &format!("{write} bar.warp.sync -1; {read} st.shared.u32 [%r1], %t;"),
        Reason::Race,
        "writes what",
    );
    // What was read before the lanes met does not matter, nor what a lane itself has read.
    sound(32, &format!("{write} bar.warp.sync -1; {read} bar.warp.sync -1; st.shared.u32 [%r1], %t;"));
    sound(32, &format!("{write} ld.shared.u32 %r4, [%r1]; st.shared.u32 [%r1], %r4;"));
    // All lanes may store one value; it is theirs to read only after they met.
    sound(32, "mov.u32 %r1, 7; st.shared.u32 [mem], %r1; bar.warp.sync -1; ld.shared.u32 %r2, [mem];");
    caught(32, "st.shared.u32 [mem], %t;", Reason::Race, "writes what");
    // Halves of a word belong to two lanes.
    let half = "mov.u32 %r1, mem; shl.b32 %r2, %t, 1; add.u32 %r1, %r1, %r2; st.shared.u16 [%r1], %t;";
    sound(32, &format!("{half} ld.shared.u16 %r3, [%r1]; bar.warp.sync -1; ld.shared.u32 %r4, [mem];"));
    caught(32, &format!("{half} and.b32 %r1, %r1, -4; ld.shared.u32 %r3, [%r1];"), Reason::Race, "reads");
}

#[test]
fn barriers_must_be_reached_by_all() {
    caught(32, "setp.lt.u32 %p1, %t, 16; @%p1 bar.sync 0;", Reason::Barrier, "is not among those");
    caught(64, "setp.lt.u32 %p1, %t, 32; @%p1 bar.sync 0;", Reason::Barrier, "left the kernel");
    caught(64, "setp.lt.u32 %p1, %t, 40; @%p1 ret; bar.sync 0;", Reason::Barrier, "");
    let two = "setp.lt.u32 %p1, %t, 32; @%p1 bra A; bar.sync 0; bra B; A: bar.sync 0; B:";
    caught(64, two, Reason::Barrier, "other threads wait at the barrier of line");
    sound(48, "bar.sync 0; bar.sync 0;");
}

#[test]
fn the_named_lanes_must_take_part() {
    let divergent = "setp.lt.u32 %p1, %t, 16; @%p1 shfl.sync.bfly.b32 %r1, %t, 1, 31, -1;";
    caught(32, divergent, Reason::Convergence, "lane 16: the lane is named in 0xffffffff");
    sound(32, "setp.lt.u32 %p1, %t, 16; @%p1 shfl.sync.bfly.b32 %r1, %t, 1, 31, 0xFFFF;");
    caught(32, "vote.sync.ballot.b32 %r1, %p1, 15;", Reason::Convergence, "takes part");
    caught(32, "bar.warp.sync %t;", Reason::Convergence, "it names the lanes");
    let inactive = "setp.lt.u32 %p1, %t, 16; @%p1 shfl.sync.bfly.b32 %r1, %t, 16, 31, 0xFFFF;";
    caught(32, inactive, Reason::InactiveLane, "reads lane 16");
    let matrix = "setp.lt.u32 %p1, %t, 31; mov.u32 %r1, mem;
        @%p1 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];";
    caught(32, matrix, Reason::Convergence, "whole warp");
    caught(16, "shfl.sync.bfly.b32 %r1, %t, 1, 31, -1;", Reason::Convergence, "never was");
}

#[test]
fn nothing_is_read_before_it_is_written() {
    caught(32, "add.u32 %r1, %r7, 1;", Reason::Uninitialised, "%r7 is read before");
    let one = "setp.lt.u32 %p1, %t, 16; @%p1 mov.u32 %r1, 1; add.u32 %r2, %r1, 1;";
    caught(32, one, Reason::Uninitialised, "lane 16: %r1");
    sound(32, "setp.lt.u32 %p1, %t, 16; @%p1 mov.u32 %r1, 1; @%p1 add.u32 %r2, %r1, 1;");
    caught(32, "ld.shared.u32 %r1, [mem+512];", Reason::Uninitialised, "byte 512");
    caught(32, "@%p1 ret;", Reason::Uninitialised, "%p1");
    caught(
        32,
        "{ .local .b8 own[8]; st.local.u32 [own], %t; ld.local.u32 %r1, [own+4]; }",
        Reason::Uninitialised,
        "",
    );
    // Every block begins anew.
    let first = "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [mem], 1;
        bar.sync 0; ld.shared.u32 %r2, [mem];";
    let found = fault(1, first);
    assert_eq!((found.reason, found.block), (Reason::Uninitialised, [1, 0, 0]), "{found}");
}

#[test]
fn copies_must_be_waited_for() {
    let begin = "mov.u32 %r1, mem; shl.b32 %r2, %t, 4; add.u32 %r1, %r1, %r2; cvt.u64.u32 %w1, %r2;
        add.u64 %w2, %in, %w1; cp.async.cg.shared.global [%r1], [%w2], 16; cp.async.commit_group;";
    let read = "ld.shared.u32 %r3, [%r1];";
    sound(32, &format!("{begin} cp.async.wait_group 0; {read}"));
    sound(32, &format!("{begin} cp.async.wait_all; bar.sync 0; ld.shared.u32 %r3, [mem];"));
    caught(32, &format!("{begin} {read}"), Reason::PendingCopy, "is not waited for");
    caught(32, &format!("{begin} cp.async.wait_group 1; {read}"), Reason::PendingCopy, "is not waited for");
    caught(
        32,
        &format!("{begin} bar.sync 0; ld.shared.u32 %r3, [mem];"),
        Reason::PendingCopy,
        "thread 0 began",
    );
    // Who waits makes nothing visible to others.
    caught(
        32,
        &format!("{begin} cp.async.wait_all; xor.b32 %r2, %r1, 16; ld.shared.u32 %r3, [%r2];"),
        Reason::Race,
        "",
    );
    caught(
        32,
        "mov.u32 %r1, mem; cp.async.ca.shared.global [%r1], [%in+1024], 4;",
        Reason::OutOfBounds,
        "4 too far",
    );
    // Without a source nothing is read, and zeros are written.
    let empty = "mov.u32 %r1, mem; add.u32 %r1, %r1, %r0; mov.u32 %r4, 0;
        cp.async.ca.shared.global [%r1], [%in+1024], 4, %r4; cp.async.wait_all;";
    sound(
        32,
        &format!("{empty} st.shared.u32 [%r1], %t;")
            .replace("cp.async.wait_all;", "cp.async.commit_group; cp.async.wait_group 0;"),
    );
}

#[test]
fn endless_loops_end() {
    let found = run_with(&kernel(16, "L: bra L;"), 1, 32, &[vec![0; 16], vec![0; 16]], |launch| {
        launch.steps_max = 10_000;
    });
    assert_eq!(found.unwrap_err().reason, Reason::EndlessLoop);
    caught(32, "trap;", Reason::Trap, "trap");
}

#[test]
fn launches_must_fit_the_kernel() {
    let source = kernel(16, "").replace("out, .param .u64 in) {", "out, .param .u64 in)\n.maxntid 64\n{");
    let buffers = [vec![0; 16], vec![0; 16]];
    assert!(run(&source, 1, 64, &buffers).is_ok());
    assert_eq!(run(&source, 1, 65, &buffers).unwrap_err().reason, Reason::Launch);
    assert_eq!(run(&source, 0, 64, &buffers).unwrap_err().reason, Reason::Launch);
    assert_eq!(run(&source, 1, 32, &buffers[..1]).unwrap_err().reason, Reason::Launch);
}

/// A kernel of 128 threads, each with 16 bytes of `mem` that it fills with zeros; `%rd1` says that eight rows of
/// 16 bytes are followed by the next eight, and that 1024 bytes on is what comes next along the depth.
fn group(before: &str, product: &str, after: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64
.visible .entry k(.param .u64 out) {{
.reg .b32 %r<9>; .reg .b64 %rd<3>; .reg .pred %p<3>; .reg .f32 %f<6>; .reg .b64 %out; .reg .b32 %t;
.shared .align 16 .b8 mem[4096];
ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mov.u32 %r1, mem; mad.lo.s32 %r2, %t, 16, %r1; mov.b32 %r3, 0;
mov.f32 %f0, 0f00000000; mov.f32 %f1, 0f00000000; mov.f32 %f2, 0f00000000; mov.f32 %f3, 0f00000000;
mov.pred %p1, 1; shr.u32 %r4, %r1, 4; add.s32 %r4, %r4, 4194304; mov.b32 %r5, 8; mov.b64 %rd1, {{%r4, %r5}};
st.shared.v4.b32 [%r2], {{%r3, %r3, %r3, %r3}};
{before}
{product}
{after}
st.global.f32 [%out], %f0;
ret; }}"
    )
}

const SHOWN: &str = "fence.proxy.async.shared::cta;\nbar.sync 0;\nwgmma.fence.sync.aligned;";
const PRODUCT: &str =
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %rd1, %rd1, %p1, 1, 1, 0, 0;";
const WAITED: &str = "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;";

#[track_caller]
fn group_fault(threads: u32, text: &str, reason: Reason, words: &str) {
    let found = run(text, 1, threads, &[vec![0; 16]]).map(|_| ()).expect_err(text);
    assert_eq!(found.reason, reason, "{found}");
    assert!(found.to_string().contains(words), "{found}");
}

#[test]
fn faults_of_warp_groups_are_found() {
    run(&group(SHOWN, PRODUCT, WAITED), 1, 128, &[vec![0; 16]]).unwrap();
    let changed = |old: &str, new: &str| {
        let text = group(SHOWN, PRODUCT, WAITED);
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    };
    let hidden = "no fence.proxy.async of thread";
    group_fault(128, &changed("fence.proxy.async.shared::cta;", ""), Reason::ProxyFence, hidden);
    let late = changed(SHOWN, "bar.sync 0;\nfence.proxy.async.shared::cta;\nwgmma.fence.sync.aligned;");
    group_fault(128, &late, Reason::ProxyFence, "no barrier since");
    group_fault(128, &changed("wgmma.fence.sync.aligned;", ""), Reason::ProductFence, "no wgmma.fence since");
    group_fault(128, &changed(WAITED, ""), Reason::PendingProduct, "not waited for");
    group_fault(
        128,
        &changed("wgmma.commit_group.sync.aligned;", ""),
        Reason::PendingProduct,
        "not waited for",
    );
    let written = changed(WAITED, &format!("st.shared.b32 [%r2], %r3;\n{WAITED}"));
    group_fault(128, &written, Reason::PendingProduct, "written while a product");
    let swizzled = changed("mov.b32 %r5, 8;", "mov.b32 %r5, 1073741832;");
    group_fault(128, &swizzled, Reason::Descriptor, "swizzled");
    let endless = changed(PRODUCT, &format!("L0:\n{PRODUCT}\nbra.uni L0;"));
    group_fault(128, &endless, Reason::PendingProduct, "more than 512 products");
    // Warps 4 and 5 are half of a group.
    group_fault(192, &group(SHOWN, PRODUCT, WAITED), Reason::Convergence, "do not multiply the same");
}

#[test]
fn products_of_warp_groups_that_are_not_known_are_refused() {
    let refused = |old: &str, new: &str, words: &str| {
        let text = group(SHOWN, PRODUCT, WAITED).replace(old, new);
        let error = jtllm_ptxsim::parse(&text).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    refused("sm_90a", "sm_90", "needs .target sm_90a");
    refused(".version 8.0", ".version 7.8", "needs .version 8.0");
    refused("m64n8k16", "m64n12k16", "12 columns");
    refused("m64n8k16", "m64n16k16", "has 4 registers, expected 8");
    refused("m64n8k16", "m32n8k16", "no shape");
    refused(".f32.bf16.bf16", ".f16.f16.f16", "these types");
    refused("1, 1, 0, 0;", "-1, 1, 0, 0;", "must be a number");
    refused("1, 1, 0, 0;", "1, 1, 0, 1;", "transposed");
    refused(".sync.aligned.m64", ".aligned.m64", "no kind");
}
