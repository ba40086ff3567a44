//! Instructions that AVX2 has not, so that no processor without AVX-512 checks them: what the manual says of each.
#![allow(clippy::unwrap_used)]

mod common;

use common::{LANES, at, load, mask, masked, run, store};
use iced_x86::Register::{K1, K2, RAX, RCX, RDX, ZMM0, ZMM1, ZMM2, ZMM3};
use iced_x86::{Code, Instruction, MemoryOperand, Register};

/// Numbers of every kind: of every size, and at the borders of what operations tell apart.
fn noise(seed: u32) -> Vec<u32> {
    let special = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000];
    let mut state = u64::from(seed) * 2 + 1;
    (0..LANES)
        .map(|lane| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let word = (state >> 32) as u32;
            if lane % 4 == 3 { special[word as usize % special.len()] } else { word >> (word % 29) }
        })
        .collect()
}

/// What an instruction makes of `zmm1`, `zmm2` and `zmm3`, in `zmm1`.
fn applied(instruction: Instruction, operands: [&[u32]; 3]) -> Vec<u32> {
    let read = operands.concat();
    let mut written = vec![0; LANES];
    let code = [load(ZMM1, 0), load(ZMM2, 1), load(ZMM3, 2), instruction, store(ZMM1)];
    run(&code, &read, &mut written, &[]).unwrap();
    written
}

fn binary(code: Code) -> Instruction {
    Instruction::with3(code, ZMM1, ZMM2, ZMM3).unwrap()
}

fn unary(code: Code) -> Instruction {
    Instruction::with2(code, ZMM1, ZMM2).unwrap()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn bytes_go_anywhere() {
    for seed in 0..20 {
        let (places, x) = (noise(seed), noise(seed + 100));
        let found = applied(binary(Code::EVEX_Vpermb_zmm_k1z_zmm_zmmm512), [&[0; 16], &places, &x]);
        let expected: Vec<u8> =
            bytes(&places).iter().map(|place| bytes(&x)[usize::from(place & 63)]).collect();
        assert_eq!(bytes(&found), expected);
    }
}

#[test]
fn fours_are_picked_of_both() {
    let (x, y): (Vec<u32>, Vec<u32>) = ((0..16).collect(), (100..116).collect());
    for pick in 0..=255u32 {
        let code = Code::EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8;
        let instruction = Instruction::with4(code, ZMM1, ZMM2, ZMM3, pick).unwrap();
        let found = applied(instruction, [&[0; 16], &x, &y]);
        let four = |of: &[u32], at: u32| of[(pick >> at & 3) as usize * 4..][..4].to_vec();
        assert_eq!(found, [four(&x, 0), four(&x, 2), four(&y, 4), four(&y, 6)].concat());
    }
}

#[test]
fn integers_and_floats_without_a_sign() {
    for seed in 0..50 {
        let x = noise(seed);
        let found = applied(unary(Code::EVEX_Vcvtudq2ps_zmm_k1z_zmmm512b32_er), [&[0; 16], &x, &x]);
        assert_eq!(found, x.iter().map(|x| (*x as f32).to_bits()).collect::<Vec<_>>());
        let floats: Vec<u32> = [-1.0f32, -0.9, -0.0, 0.9, 1.5, 4_294_967_040.0, 4_294_967_296.0, f32::NAN]
            .map(f32::to_bits)
            .repeat(2);
        let found = applied(unary(Code::EVEX_Vcvttps2udq_zmm_k1z_zmmm512b32_sae), [&[0; 16], &floats, &x]);
        let all = u32::MAX;
        assert_eq!(found[..8], [all, 0, 0, 0, 1, 4_294_967_040, all, all]);
    }
}

/// Products of bytes, wrapping; the second operand's have signs.
#[test]
fn products_of_bytes() {
    for seed in 0..50 {
        let [sum, x, y] = [0, 100, 200].map(|more| noise(seed + more));
        let found = applied(binary(Code::EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32), [&sum, &x, &y]);
        for lane in 0..LANES {
            let product =
                |at: usize| i64::from(bytes(&x)[4 * lane + at]) * i64::from(bytes(&y)[4 * lane + at] as i8);
            let expected = i64::from(sum[lane] as i32) + (0..4).map(product).sum::<i64>();
            assert_eq!(found[lane], expected as u32);
        }
    }
}

/// The upper halves' product is added first; what is below the least normal number is 0, before and after.
#[test]
fn products_of_pairs() {
    let word = |upper: f32, lower: f32| upper.to_bits() & 0xffff_0000 | lower.to_bits() >> 16;
    let least = f32::MIN_POSITIVE;
    let cases = [
        (word(2.0, 3.0), word(5.0, 7.0), 1.0, 32.0),
        // The sum of the first swallows the second where they are added one after the other.
        (word(16_777_216.0, 1.0), word(1.0, 1.0), 0.0, 16_777_216.0),
        (word(1.0, 16_777_216.0), word(1.0, 1.0), 0.0, 16_777_216.0),
        (word(least / 2.0, 0.0), word(4.0, 0.0), 0.0, 0.0),
        (word(least, 0.0), word(0.5, 0.0), 0.0, 0.0),
        (word(least, 0.0), word(1.0, 0.0), -least / 2.0, least),
        (word(0.0, 0.0), word(1.0, 1.0), least / 2.0, 0.0),
    ];
    for (x, y, sum, expected) in cases {
        let operands = [[sum.to_bits(); 16], [x; 16], [y; 16]];
        let code = Code::EVEX_Vdpbf16ps_zmm_k1z_zmm_zmmm512b32;
        let found = applied(binary(code), [&operands[0], &operands[1], &operands[2]]);
        assert_eq!(f32::from_bits(found[0]), expected, "{x:#x} {y:#x} {sum}");
    }
}

#[test]
fn masks_choose_lanes() {
    let [x, y, z] = [1, 2, 3].map(noise);
    let read = [x.clone(), y.clone(), z.clone()].concat();
    let bits = 0b1010_0110_0101_1001;
    let chosen = |yes: &dyn Fn(usize) -> u32, no: &dyn Fn(usize) -> u32| -> Vec<u32> {
        (0..LANES).map(|lane| if bits >> lane & 1 == 1 { yes(lane) } else { no(lane) }).collect()
    };
    let add = binary(Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32);
    let blend = binary(Code::EVEX_Vblendmps_zmm_k1z_zmm_zmmm512b32);
    let sum = |lane: usize| y[lane].wrapping_add(z[lane]);
    for (instruction, expected) in [
        (masked(add, K1, false), chosen(&sum, &|lane| x[lane])),
        (masked(add, K1, true), chosen(&sum, &|_| 0)),
        (masked(blend, K1, false), chosen(&|lane| z[lane], &|lane| y[lane])),
    ] {
        let mut code = mask(K1, bits).to_vec();
        code.extend([load(ZMM1, 0), load(ZMM2, 1), load(ZMM3, 2), instruction, store(ZMM1)]);
        let mut written = vec![0; LANES];
        run(&code, &read, &mut written, &[]).unwrap();
        assert_eq!(written, expected);
    }
}

/// Lanes outside of a mask are not there: neither the loads nor the stores of them.
#[test]
fn masked_accesses_touch_nothing_else() {
    let from = at(RAX, -8);
    let load = masked(Instruction::with2(Code::EVEX_Vmovups_zmm_k1z_zmmm512, ZMM0, from).unwrap(), K1, true);
    let store = |code| masked(Instruction::with2(code, at(RDX, 0), ZMM0).unwrap(), K1, false);
    let mut code = mask(K1, 0b1100).to_vec();
    code.extend([load, store(Code::EVEX_Vmovups_zmmm512_k1z_zmm)]);
    let mut written = vec![9; 4];
    run(&code, &[5, 6], &mut written, &[]).unwrap();
    assert_eq!(written, [9, 9, 5, 6]);
    let mut narrow = mask(K1, 0b1100).to_vec();
    narrow.extend([load, store(Code::EVEX_Vpmovdw_ymmm256_k1z_zmm)]);
    let mut written = vec![9; 2];
    run(&narrow, &[5, 6], &mut written, &[]).unwrap();
    assert_eq!(written, [9, 6 << 16 | 5]);
    narrow[3] = store(Code::EVEX_Vpmovdb_xmmm128_k1z_zmm);
    let mut written = vec![9];
    run(&narrow, &[5, 6], &mut written, &[]).unwrap();
    assert_eq!(written, [6 << 24 | 5 << 16 | 9]);
}

#[test]
fn comparisons_make_masks() {
    for seed in 0..20 {
        let (x, y) = (noise(seed), noise(seed + 50));
        let read = [x.clone(), y.clone()].concat();
        let pairs = || x.iter().zip(&y);
        let bits = |holds: &dyn Fn(u32, u32) -> bool| {
            pairs().enumerate().fold(0, |bits, (lane, (x, y))| bits | u32::from(holds(*x, *y)) << lane)
        };
        let imm = |code, way: u32| Instruction::with4(code, K2, ZMM1, ZMM2, way).unwrap();
        let (signed, unsigned) =
            (Code::EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8, Code::EVEX_Vpcmpud_kr_k1_zmm_zmmm512b32_imm8);
        let floats = Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae;
        for (instruction, expected) in [
            (imm(signed, 1), bits(&|x, y| (x as i32) < y as i32)),
            (imm(unsigned, 1), bits(&|x, y| x < y)),
            (imm(floats, 1), bits(&|x, y| f32::from_bits(x) < f32::from_bits(y))),
            (imm(floats, 4), bits(&|x, y| f32::from_bits(x) != f32::from_bits(y))),
            (masked(imm(unsigned, 1), K1, false), bits(&|x, y| x < y) & 0xff),
        ] {
            let mut code = mask(K1, 0xff).to_vec();
            let out = Instruction::with2(Code::VEX_Kmovw_r32_kr, Register::R9D, K2).unwrap();
            let keep = Instruction::with2(Code::Mov_rm32_r32, at(RDX, 0), Register::R9D).unwrap();
            code.extend([load(ZMM1, 0), load(ZMM2, 1), instruction, out, keep]);
            let mut written = vec![0];
            run(&code, &read, &mut written, &[]).unwrap();
            assert_eq!(written[0], expected);
        }
    }
}

/// Elements come from where the indices say and go there, the last one staying where several meet; the mask is used up.
#[test]
fn elements_at_places_of_their_own() {
    let indices: Vec<u32> = (0..16).map(|lane| (lane * 5) % 8).collect();
    let read = [(100..116).collect::<Vec<u32>>(), indices.clone()].concat();
    let place = |base, index| MemoryOperand::new(base, index, 4, 0, 0, false, Register::None);
    let gather = Instruction::with2(Code::EVEX_Vpgatherdd_zmm_k1_vm32z, ZMM0, place(RAX, ZMM1)).unwrap();
    let scatter = Instruction::with2(Code::EVEX_Vpscatterdd_vm32z_k1_zmm, place(RDX, ZMM1), ZMM0).unwrap();
    let mut code = mask(K1, 0x0fff).to_vec();
    code.extend([load(ZMM0, 0), load(ZMM1, 1), masked(gather, K1, false)]);
    // Nobody takes part any more.
    code.push(masked(scatter, K1, false));
    let mut written = vec![1; 8];
    run(&code, &read, &mut written, &[]).unwrap();
    assert_eq!(written, [1; 8]);
    code.pop();
    code.extend(mask(K2, 0xffff));
    code.push(masked(scatter, K2, false));
    run(&code, &read, &mut written, &[]).unwrap();
    let mut expected = vec![0; 8];
    for lane in 0..16usize {
        let element = if lane < 12 { 100 + indices[lane] } else { 100 + lane as u32 };
        expected[indices[lane] as usize] = element;
    }
    assert_eq!(written, expected);
}

/// A word around an element of one byte may reach over a buffer's ends, one of four bytes may not.
#[test]
fn words_around_small_elements() {
    let place = |scale| MemoryOperand::new(RCX, ZMM1, scale, 0, 0, false, Register::None);
    let gather = |scale| {
        let instruction = Instruction::with2(Code::EVEX_Vpgatherdd_zmm_k1_vm32z, ZMM0, place(scale)).unwrap();
        let mut code = mask(K1, 1).to_vec();
        code.extend([load(ZMM0, 0), load(ZMM1, 1), masked(instruction, K1, false), store(ZMM0)]);
        code
    };
    // The buffer begins one byte behind a multiple of 4.
    let read = [vec![0; 16], vec![-1i32 as u32; 16]].concat();
    let mut written = vec![0; 16];
    run(&gather(1), &read, &mut written, &[0x11, 0x22]).unwrap();
    assert_eq!(written[0] >> 8 & 0xffff, 0x2211);
    assert!(run(&gather(4), &read, &mut written, &[0x11, 0x22]).is_err());
}
