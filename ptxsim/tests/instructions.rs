//! Each group of instructions against Rust's own arithmetic, on chosen and on random values.
#![allow(clippy::unwrap_used)]

mod common;

use common::Lanes;
use half::{bf16, f16};

const NOT_A_NUMBER: f32 = f32::NAN;

fn single(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn bits(x: f32) -> u64 {
    u64::from(x.to_bits())
}

/// Compares floats bit by bit, all NaN being alike.
fn alike(found: u64, expected: u64) -> bool {
    found == expected || single(found).is_nan() && single(expected).is_nan()
}

#[test]
fn integers_add_multiply_divide_and_shift() {
    let s = |x: u64| x as u32 as i32;
    let word = |x: i64| u64::from(x as u32);
    Lanes::words().check2("add.u32 %r0, %r1, %r2;", |a, b| word(a as i64 + b as i64));
    Lanes::words().check2("sub.s32 %r0, %r1, %r2;", |a, b| word(a as i64 - b as i64));
    Lanes::words().check2("mul.lo.s32 %r0, %r1, %r2;", |a, b| u64::from((a as u32).wrapping_mul(b as u32)));
    Lanes::words().check2("mul.hi.u32 %r0, %r1, %r2;", |a, b| (a * b) >> 32);
    Lanes::words()
        .check2("mul.hi.s32 %r0, %r1, %r2;", |a, b| word((i64::from(s(a)) * i64::from(s(b))) >> 32));
    Lanes::words().check2("mul.wide.u32 %rd0, %r1, %r2;", |a, b| a * b);
    Lanes::words().check2("mul.wide.s32 %rd0, %r1, %r2;", |a, b| (i64::from(s(a)) * i64::from(s(b))) as u64);
    Lanes::words().check3("mad.lo.s32 %r0, %r1, %r2, %r3;", |a, b, c| {
        u64::from((a as u32).wrapping_mul(b as u32).wrapping_add(c as u32))
    });
    Lanes::words().check2("div.u32 %r0, %r1, %r2;", |a, b| a.checked_div(b).unwrap_or(0xFFFF_FFFF));
    Lanes::words().check2("rem.u32 %r0, %r1, %r2;", |a, b| a.checked_rem(b).unwrap_or(a));
    Lanes::words().check2("div.s32 %r0, %r1, %r2;", |a, b| match s(b) {
        0 => 0xFFFF_FFFF,
        b => word(i64::from(s(a).wrapping_div(b))),
    });
    Lanes::words().check2("min.s32 %r0, %r1, %r2;", |a, b| word(i64::from(s(a).min(s(b)))));
    Lanes::words().check2("max.u32 %r0, %r1, %r2;", |a, b| a.max(b));
    Lanes::words().check2("shl.b32 %r0, %r1, %r2;", |a, b| if b < 32 { a << b & 0xFFFF_FFFF } else { 0 });
    Lanes::words().check2("shr.u32 %r0, %r1, %r2;", |a, b| if b < 32 { a >> b } else { 0 });
    Lanes::words().check2("shr.s32 %r0, %r1, %r2;", |a, b| word(i64::from(s(a) >> b.min(31))));
    Lanes::words().check1("neg.s32 %r0, %r1;", |a| word(-(a as i64)));
    Lanes::words().check1("abs.s32 %r0, %r1;", |a| word(i64::from(s(a).wrapping_abs())));
    Lanes::doubles().check2("add.s64 %rd0, %rd1, %rd2;", u64::wrapping_add);
    Lanes::doubles()
        .check2("mul.hi.u64 %rd0, %rd1, %rd2;", |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    Lanes::doubles()
        .check2("shr.s64 %rd0, %rd1, %r2;", |a, b| ((a as i64) >> (b & 0xFFFF_FFFF).min(63)) as u64);
}

#[test]
fn bits_are_counted_chosen_and_moved() {
    Lanes::words().check1("not.b32 %r0, %r1;", |a| !a & 0xFFFF_FFFF);
    Lanes::words().check1("popc.b32 %r0, %r1;", |a| u64::from(a.count_ones()));
    Lanes::words().check1("clz.b32 %r0, %r1;", |a| u64::from((a as u32).leading_zeros()));
    Lanes::words().check1("brev.b32 %r0, %r1;", |a| u64::from((a as u32).reverse_bits()));
    Lanes::words().check3("lop3.b32 %r0, %r1, %r2, %r3, 0xE8;", |a, b, c| a & b | a & c | b & c);
    Lanes::words().check3("lop3.b32 %r0, %r1, %r2, %r3, 0x96;", |a, b, c| a ^ b ^ c);
    Lanes::words().check2("prmt.b32 %r0, %r1, %r2, 0x7632;", |a, b| a >> 16 | b >> 16 << 16);
    Lanes::words().check2("prmt.b32 %r0, %r1, %r2, 0x888B;", |a, _| {
        let sign = |byte: u32| if a >> (byte * 8 + 7) & 1 == 1 { 0xFFu64 } else { 0 };
        sign(3) | sign(0) << 8 | sign(0) << 16 | sign(0) << 24
    });
    Lanes::words().check1("bfe.u32 %r0, %r1, 5, 9;", |a| a >> 5 & 0x1FF);
    Lanes::words().check1("bfe.s32 %r0, %r1, 5, 9;", |a| u64::from(((a as i32) << 18 >> 23) as u32));
    Lanes::words().check2("bfi.b32 %r0, %r1, %r2, 4, 8;", |a, b| b & !0xFF0 | (a & 0xFF) << 4);
    Lanes::words().check3("shf.l.wrap.b32 %r0, %r1, %r2, %r3;", |a, b, c| {
        (a | b << 32).rotate_left(0).checked_shl((c & 31) as u32).unwrap() >> 32
    });
    Lanes::words()
        .check3("shf.r.clamp.b32 %r0, %r1, %r2, %r3;", |a, b, c| (a | b << 32) >> c.min(32) & 0xFFFF_FFFF);
    Lanes::words().check3("dp4a.u32.s32 %r0, %r1, %r2, %r3;", |a, b, c| {
        let term = |at: u32| i32::from((a >> (8 * at)) as u8) * i32::from((b >> (8 * at)) as i8);
        u64::from((0..4).map(term).fold(c as i32, i32::wrapping_add) as u32)
    });
    Lanes::words().check3("dp4a.s32.s32 %r0, %r1, %r2, %r3;", |a, b, c| {
        let term = |at: u32| i32::from((a >> (8 * at)) as i8) * i32::from((b >> (8 * at)) as i8);
        u64::from((0..4).map(term).fold(c as i32, i32::wrapping_add) as u32)
    });
    Lanes::words().check2("mov.b64 %rd0, {%r1, %r2};", |a, b| a | b << 32);
    Lanes::doubles().check1("mov.b64 {%r0, _}, %rd1;", |a| a & 0xFFFF_FFFF);
    Lanes::words()
        .check1("{ .reg .b16 %low, %high; mov.b32 {%low, %high}, %r1; mov.b32 %r0, {%high, %low}; }", |a| {
            a >> 16 | (a & 0xFFFF) << 16
        });
}

#[test]
fn singles_are_rounded_as_the_language_says() {
    Lanes::floats().compare2("add.rn.f32 %f0, %f1, %f2;", |a, b| bits(single(a) + single(b)), alike);
    Lanes::floats().compare2("sub.f32 %f0, %f1, %f2;", |a, b| bits(single(a) - single(b)), alike);
    Lanes::floats().compare2("mul.f32 %f0, %f1, %f2;", |a, b| bits(single(a) * single(b)), alike);
    Lanes::floats().compare2("div.rn.f32 %f0, %f1, %f2;", |a, b| bits(single(a) / single(b)), alike);
    Lanes::floats().compare3(
        "fma.rn.f32 %f0, %f1, %f2, %f3;",
        |a, b, c| bits(single(a).mul_add(single(b), single(c))),
        alike,
    );
    Lanes::floats().compare2(
        "min.f32 %f0, %f1, %f2;",
        |a, b| bits(single(a).min(single(b))),
        |x, y| alike(x, y) || single(x) == single(y),
    );
    Lanes::floats().compare2(
        "max.NaN.f32 %f0, %f1, %f2;",
        |a, b| match single(a).is_nan() || single(b).is_nan() {
            true => bits(NOT_A_NUMBER),
            false => bits(single(a).max(single(b))),
        },
        |x, y| alike(x, y) || single(x) == single(y),
    );
    Lanes::floats().compare1("sqrt.rn.f32 %f0, %f1;", |a| bits(single(a).sqrt()), alike);
    Lanes::floats().compare1("rcp.rn.f32 %f0, %f1;", |a| bits(1.0 / single(a)), alike);
    Lanes::floats().compare1("ex2.approx.f32 %f0, %f1;", |a| bits(f64::from(single(a)).exp2() as f32), alike);
    Lanes::floats().compare1("neg.f32 %f0, %f1;", |a| a ^ 1 << 31, alike);
    Lanes::floats().compare1("abs.f32 %f0, %f1;", |a| a & !(1 << 31), alike);
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    Lanes::floats().compare2(
        "mul.ftz.f32 %f0, %f1, %f2;",
        |a, b| bits(flush(flush(single(a)) * flush(single(b)))),
        alike,
    );
    Lanes::floats().compare1(
        "add.sat.f32 %f0, %f1, 0f00000000;",
        |a| bits(if single(a).is_nan() { 0.0 } else { (single(a) + 0.0).clamp(0.0, 1.0) }),
        |x, y| single(x) == single(y),
    );
    let double = f64::from_bits;
    Lanes::doubles().compare2(
        "add.f64 %fd0, %fd1, %fd2;",
        |a, b| (double(a) + double(b)).to_bits(),
        |x, y| x == y || double(x).is_nan() && double(y).is_nan(),
    );
}

#[test]
fn halves_compute_and_convert() {
    let h = |x: u64| f16::from_bits(x as u16);
    let b = |x: u64| bf16::from_bits(x as u16);
    let nan16 = |x: u64, y: u64| x == y || h(x).is_nan() && h(y).is_nan();
    let nan_b = |x: u64, y: u64| x == y || b(x).is_nan() && b(y).is_nan();
    Lanes::words().compare1(
        "{ .reg .b16 %h; cvt.rn.f16.f32 %h, %f1; cvt.u32.u16 %r0, %h; }",
        |a| u64::from(f16::from_f32(single(a)).to_bits()),
        nan16,
    );
    Lanes::words().compare1(
        "{ .reg .b16 %h; cvt.rn.bf16.f32 %h, %f1; cvt.u32.u16 %r0, %h; }",
        |a| u64::from(bf16::from_f32(single(a)).to_bits()),
        nan_b,
    );
    Lanes::words().compare1(
        "{ .reg .b16 %h; cvt.u16.u32 %h, %r1; cvt.f32.f16 %f0, %h; }",
        |a| bits(h(a).to_f32()),
        alike,
    );
    Lanes::floats().compare2(
        "cvt.rn.bf16x2.f32 %r0, %f1, %f2;",
        |x, y| {
            u64::from(bf16::from_f32(single(y)).to_bits())
                | u64::from(bf16::from_f32(single(x)).to_bits()) << 16
        },
        |x, y| nan_b(x & 0xFFFF, y & 0xFFFF) && nan_b(x >> 16, y >> 16),
    );
    Lanes::floats().compare2(
        "cvt.rn.f16x2.f32 %r0, %f1, %f2;",
        |x, y| {
            u64::from(f16::from_f32(single(y)).to_bits())
                | u64::from(f16::from_f32(single(x)).to_bits()) << 16
        },
        |x, y| nan16(x & 0xFFFF, y & 0xFFFF) && nan16(x >> 16, y >> 16),
    );
    let both = move |x: u64, y: u64| nan16(x & 0xFFFF, y & 0xFFFF) && nan16(x >> 16, y >> 16);
    let sum = |a: u64, b: u64| u64::from((f16::from_f32(h(a).to_f32() + h(b).to_f32())).to_bits());
    Lanes::words().compare2("add.f16x2 %r0, %r1, %r2;", |a, b| sum(a, b) | sum(a >> 16, b >> 16) << 16, both);
    let fused = |x: u64, y: u64, z: u64| {
        u64::from(bf16::from_f64(b(x).to_f64().mul_add(b(y).to_f64(), b(z).to_f64())).to_bits())
    };
    Lanes::words().compare3(
        "fma.rn.bf16x2 %r0, %r1, %r2, %r3;",
        |a, b, c| fused(a, b, c) | fused(a >> 16, b >> 16, c >> 16) << 16,
        move |x, y| nan_b(x & 0xFFFF, y & 0xFFFF) && nan_b(x >> 16, y >> 16),
    );
}

#[test]
fn numbers_convert_with_rounding_and_saturation() {
    let s = |x: u64| i64::from(x as u32 as i32);
    Lanes::words().check1("cvt.s64.s32 %rd0, %r1;", |a| s(a) as u64);
    Lanes::words().check1("cvt.u64.u32 %rd0, %r1;", |a| a);
    Lanes::words().check1("cvt.s32.s8 %r0, %r1;", |a| u64::from(i32::from(a as i8) as u32));
    Lanes::words().check1("cvt.sat.s8.s32 %r0, %r1;", |a| u64::from((s(a).clamp(-128, 127)) as i32 as u32));
    Lanes::words().check1("cvt.sat.u8.s32 %r0, %r1;", |a| s(a).clamp(0, 255) as u64);
    Lanes::words().check1("cvt.rn.f32.s32 %f0, %r1;", |a| bits(s(a) as f32));
    Lanes::words().check1("cvt.rn.f32.u32 %f0, %r1;", |a| bits(a as f32));
    Lanes::floats().check1("cvt.rzi.s32.f32 %r0, %f1;", |a| u64::from(single(a) as i32 as u32));
    Lanes::floats()
        .check1("cvt.rni.s32.f32 %r0, %f1;", |a| u64::from(single(a).round_ties_even() as i32 as u32));
    Lanes::floats().check1("cvt.rmi.s32.f32 %r0, %f1;", |a| u64::from(single(a).floor() as i32 as u32));
    Lanes::floats().check1("cvt.rzi.u8.f32 %r0, %f1;", |a| u64::from(single(a) as u8));
    Lanes::floats().compare1("cvt.rpi.f32.f32 %f0, %f1;", |a| bits(single(a).ceil()), alike);
    Lanes::floats().compare1("cvt.rni.f32.f32 %f0, %f1;", |a| bits(single(a).round_ties_even()), alike);
    let double = |x: u64, y: u64| x == y || f64::from_bits(x).is_nan() && f64::from_bits(y).is_nan();
    Lanes::floats().compare1("cvt.f64.f32 %fd0, %f1;", |a| f64::from(single(a)).to_bits(), double);
    Lanes::doubles().compare1("cvt.rn.f32.f64 %f0, %fd1;", |a| bits(f64::from_bits(a) as f32), alike);
}

#[test]
fn comparisons_choose() {
    let choose = |x: bool| u64::from(x);
    for (name, f) in [
        ("lt", (|a, b| a < b) as fn(f32, f32) -> bool),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("eq", |a, b| a == b),
        ("ne", |a, b| !a.is_nan() && !b.is_nan() && a != b),
        ("ltu", |a, b| a < b || a.is_nan() || b.is_nan()),
        ("geu", |a, b| a >= b || a.is_nan() || b.is_nan()),
        ("neu", |a, b| a != b),
        ("equ", |a, b| a == b || a.is_nan() || b.is_nan()),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ] {
        let text = format!("setp.{name}.f32 %p1, %f1, %f2; selp.u32 %r0, 1, 0, %p1;");
        Lanes::floats().check2(&text, |a, b| choose(f(single(a), single(b))));
    }
    Lanes::words().check2("setp.lo.u32 %p1, %r1, %r2; selp.u32 %r0, 1, 0, %p1;", |a, b| choose(a < b));
    Lanes::words().check2("setp.ge.s32 %p1|%p2, %r1, %r2; selp.u32 %r0, 1, 0, %p2;", |a, b| {
        choose((a as i32) < (b as i32))
    });
    Lanes::words().check3(
        "setp.eq.u32 %p1, %r3, %r3; setp.ne.and.u32 %p2, %r1, %r2, !%p1; selp.u32 %r0, 1, 0, %p2;",
        |_, _, _| 0,
    );
    Lanes::words().check2("set.lt.u32.s32 %r0, %r1, %r2;", |a, b| {
        if (a as i32) < (b as i32) { 0xFFFF_FFFF } else { 0 }
    });
}

#[test]
fn lanes_talk_by_shuffles_and_votes() {
    let all = Lanes::words();
    let values = all.column(1).to_vec();
    let from = |at: usize| values[at];
    all.check_lanes("shfl.sync.bfly.b32 %r0, %r1, 5, 31, -1;", |lane| from(lane ^ 5));
    all.check_lanes("shfl.sync.up.b32 %r0, %r1, 3, 0, -1;", |lane| {
        from(if lane >= 3 { lane - 3 } else { lane })
    });
    all.check_lanes("shfl.sync.down.b32 %r0, %r1, 3, 31, -1;", |lane| {
        from(if lane < 29 { lane + 3 } else { lane })
    });
    all.check_lanes("shfl.sync.idx.b32 %r0, %r1, 7, 31, -1;", |_| from(7));
    // Segments of eight lanes.
    all.check_lanes("shfl.sync.idx.b32 %r0|%p1, %r1, 2, 0x181F, -1;", |lane| from(lane / 8 * 8 + 2));
    all.check_lanes("setp.lt.u32 %p1, %lane, 5; vote.sync.ballot.b32 %r0, %p1, -1;", |_| 31);
    all.check_lanes(
        "setp.lt.u32 %p1, %lane, 5; vote.sync.any.pred %p2, !%p1, -1; selp.u32 %r0, 1, 0, %p2;",
        |_| 1,
    );
    all.check_lanes(
        "setp.lt.u32 %p1, %lane, 5; vote.sync.all.pred %p2, %p1, -1; selp.u32 %r0, 1, 0, %p2;",
        |_| 0,
    );
    all.check_lanes("redux.sync.add.u32 %r0, %lane, -1;", |_| 31 * 16);
    all.check_lanes("redux.sync.max.s32 %r0, %lane, -1;", |_| 31);
    all.check_lanes("setp.lt.u32 %p1, %lane, 5; mov.u32 %r0, 0; @%p1 activemask.b32 %r0;", |lane| {
        if lane < 5 { 31 } else { 0 }
    });
    all.check_lanes("mov.u32 %r0, %laneid;", |lane| lane as u64);
    all.check_lanes("mov.u32 %r0, %lanemask_le;", |lane| (1 << (lane + 1)) - 1);
}

#[test]
fn lanes_part_and_meet_again() {
    let text = "
        setp.lt.u32 %p1, %lane, 16;
        mov.u32 %r0, 0;
        mov.u32 %r2, %lane;
      LOOP:
        setp.eq.u32 %p2, %r2, 0;
        @%p2 bra DONE;
        add.u32 %r0, %r0, %r2;
        sub.u32 %r2, %r2, 1;
        bra LOOP;
      DONE:
        @!%p1 bra OTHER;
        add.u32 %r0, %r0, 1000;
        bra END;
      OTHER:
        add.u32 %r0, %r0, 2000;
      END:
        bar.warp.sync -1;";
    let sum = |lane: u64| lane * (lane + 1) / 2;
    Lanes::words().check_lanes(text, |lane| sum(lane as u64) + if lane < 16 { 1000 } else { 2000 });
}

#[test]
fn local_memory_and_the_modules_arrays_are_read_and_written() {
    let local = "{ .local .align 8 .b8 own[16]; .reg .b64 %at;
        st.local.u32 [own+4], %r1; st.local.v2.u32 [own+8], {%r2, %r3};
        mov.u64 %at, own; cvta.local.u64 %at, %at; ld.u32 %r0, [%at+8]; }";
    Lanes::words().check3(local, |_, b, _| b);
    let table = "{ .reg .b64 %at; .reg .b32 %which; and.b32 %which, %lane, 3; mul.wide.u32 %at, %which, 4;
        { .reg .b64 %base; mov.u64 %base, TABLE; add.u64 %at, %at, %base; } ld.const.u32 %r0, [%at]; }";
    Lanes::words()
        .with_module(".const .align 4 .u32 TABLE[4] = {10, 20, 30, 40};")
        .check_lanes(table, |lane| 10 * (lane as u64 % 4 + 1));
}
