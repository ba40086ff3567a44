//! What a function may not do, and code that nobody prints.
#![allow(clippy::unwrap_used)]

mod common;

use common::{at, load, mask, masked, pointers, refused, ret, run, run_bare, store};
use iced_x86::Register::{K1, R8, R8D, R9, RAX, RBX, RCX, RDI, RDX, RSI, RSP, YMM1, YMM2, ZMM0, ZMM1, ZMM2};
use iced_x86::{Code, Instruction, Register};
use jtllm_fuzz::for_seconds;
use jtllm_x64sim::{Buffer, Call, Program, Reason};

/// The fault of a function with 16 words to read, 16 to write and 3 bytes.
fn reason(instructions: &[Instruction]) -> Reason {
    run(instructions, &[1; 16], &mut [0; 16], &[1, 2, 3]).unwrap_err().reason
}

fn two(code: Code, a: Register, b: Register) -> Instruction {
    Instruction::with2(code, a, b).unwrap()
}

fn from(code: Code, to: Register, base: Register, offset: i64) -> Instruction {
    Instruction::with2(code, to, at(base, offset)).unwrap()
}

fn to(code: Code, base: Register, offset: i64, from: Register) -> Instruction {
    Instruction::with2(code, at(base, offset), from).unwrap()
}

#[test]
fn accesses_outside_are_told() {
    for offset in [-4, 4, 64, 1 << 20] {
        assert_eq!(
            reason(&[from(Code::EVEX_Vmovups_zmm_k1z_zmmm512, ZMM0, RAX, offset)]),
            Reason::OutOfBounds
        );
    }
    let fault = run(&[load(ZMM0, 1)], &[1; 16], &mut [0; 16], &[]).unwrap_err();
    assert_eq!(fault.why, "an access of 64 bytes at byte 64 of parameter 0, which has 64");
    assert!(fault.text.starts_with("vmovups"), "{fault}");
    // The table of addresses ends, and so do the symbols; both are only read.
    assert_eq!(reason(&[from(Code::Mov_r64_rm64, R8, RDI, 24)]), Reason::OutOfBounds);
    assert_eq!(reason(&[from(Code::Mov_r32_rm32, R8D, RSI, 8)]), Reason::OutOfBounds);
    assert_eq!(reason(&[to(Code::Mov_rm64_r64, RDI, 0, RAX)]), Reason::ReadOnly);
    assert_eq!(reason(&[to(Code::Mov_rm64_r64, RAX, 0, RAX)]), Reason::ReadOnly);
    assert_eq!(reason(&[to(Code::Mov_rm64_r64, RDX, 60, RAX)]), Reason::OutOfBounds);
    // Code is neither read nor written.
    let code = Instruction::with2(Code::Mov_r32_rm32, R8D, at(Register::RIP, 0)).unwrap();
    assert_eq!(reason(&[code]), Reason::OutOfBounds);
    // A mask that lets nobody take part makes any place good, but not one that does.
    let wrong = from(Code::EVEX_Vmovups_zmm_k1z_zmmm512, ZMM0, RAX, 64);
    let with = |bits| [mask(K1, bits).to_vec(), vec![masked(wrong, K1, true)]].concat();
    assert!(run(&with(0), &[1; 16], &mut [0; 16], &[]).is_ok());
    assert_eq!(reason(&with(0x8000)), Reason::OutOfBounds);
}

#[test]
fn what_nobody_wrote_is_told() {
    assert_eq!(reason(&[two(Code::Add_r64_rm64, RAX, R9)]), Reason::Uninitialised);
    assert_eq!(reason(&[store(ZMM2)]), Reason::Uninitialised);
    assert_eq!(reason(&[load(ZMM0, 0), masked(load(ZMM0, 0), K1, false)]), Reason::Uninitialised);
    // Lanes outside of the mask stay, so they must be something.
    let merge = [mask(K1, 1).to_vec(), vec![masked(load(ZMM0, 0), K1, false)]].concat();
    assert_eq!(reason(&merge), Reason::Uninitialised);
    // Only the lowest byte is set.
    let set = |rest: &[Instruction]| {
        let compare = two(Code::Cmp_r64_rm64, RAX, RDX);
        let set = Instruction::with1(Code::Sete_rm8, Register::R8L).unwrap();
        [&[compare, set], rest].concat()
    };
    assert_eq!(reason(&set(&[two(Code::Add_r64_rm64, RAX, R8)])), Reason::Uninitialised);
    let byte = two(Code::Movzx_r32_rm8, R8D, Register::R8L);
    assert!(run(&set(&[byte, two(Code::Add_r64_rm64, RAX, R8)]), &[], &mut [], &[]).is_ok());
    // The flags of a sum are those of no comparison.
    let sum = [two(Code::Add_r64_rm64, RAX, RDX), Instruction::with1(Code::Sete_rm8, Register::R8L).unwrap()];
    assert_eq!(reason(&sum), Reason::Uninitialised);
    let sub = Instruction::with2(Code::Sub_rm64_imm32, RSP, 64).unwrap();
    let read = [sub, from(Code::VEX_Vmovups_ymm_ymmm256, YMM1, RSP, 0)];
    assert_eq!(reason(&read), Reason::Uninitialised);
    // A register may be kept there whatever it is, and is no more than before when it comes back.
    let kept = [sub, to(Code::Mov_rm64_r64, RSP, 0, R9), from(Code::Mov_r64_rm64, R8, RSP, 0)];
    assert_eq!(reason(&[&kept[..], &[two(Code::Add_r64_rm64, RAX, R8)]].concat()), Reason::Uninitialised);
}

#[test]
fn the_stack_is_touched_page_by_page() {
    let sub = |bytes| Instruction::with2(Code::Sub_rm64_imm32, RSP, bytes).unwrap();
    let touch = |offset| Instruction::with2(Code::Or_rm32_imm8, at(RSP, offset), 0).unwrap();
    assert_eq!(reason(&[to(Code::Mov_rm64_r64, RSP, -8, RAX)]), Reason::Stack);
    assert_eq!(reason(&[to(Code::Mov_rm64_r64, RSP, 0, RAX)]), Reason::OutOfBounds);
    assert_eq!(reason(&[sub(8192), to(Code::Mov_rm64_r64, RSP, 0, RAX)]), Reason::Stack);
    let touched = [touch(-4096), touch(-8192), sub(8192), to(Code::Mov_rm64_r64, RSP, 0, RAX)];
    assert_eq!(reason(&touched), Reason::Convention);
}

#[test]
fn a_caller_finds_what_it_left() {
    let wide = [pointers(), vec![load(ZMM0, 0), ret()]].concat();
    let broken = |code: &[Instruction]| run_bare(code, &[1; 16], &mut [0; 16], &[]).unwrap_err();
    assert_eq!(broken(&wide).reason, Reason::Convention);
    let change = Instruction::with2(Code::Mov_r32_imm32, Register::EBX, 1).unwrap();
    assert_eq!(reason(&[change]), Reason::Convention);
    let [push, pop] = [Code::Push_r64, Code::Pop_r64].map(|code| Instruction::with1(code, RBX).unwrap());
    assert!(run(&[push, change, pop], &[], &mut [], &[]).is_ok());
    assert_eq!(reason(&[push]), Reason::Convention);
    let control = Instruction::with1(Code::VEX_Vldmxcsr_m32, at(RAX, 0)).unwrap();
    let word = |word: u32, more: &[Instruction]| {
        let code = [&[control], more].concat();
        run(&code, &[word; 16], &mut [0; 16], &[]).err().map(|fault| fault.reason)
    };
    assert_eq!(word(0x1f80, &[]), None);
    assert_eq!(word(0x9fc0, &[]), Some(Reason::Convention));
    assert_eq!(word(0x1f81, &[]), Some(Reason::Control));
    let add = Instruction::with3(Code::VEX_Vaddps_ymm_ymm_ymmm256, YMM1, YMM1, YMM1).unwrap();
    assert_eq!(
        word(0x9fc0, &[from(Code::VEX_Vmovups_ymm_ymmm256, YMM1, RAX, 0), add]),
        Some(Reason::Control)
    );
}

#[test]
fn loops_end() {
    let mut jump = Instruction::new();
    jump.set_code(Code::Jmp_rel32_64);
    jump.set_op0_kind(iced_x86::OpKind::NearBranch64);
    jump.set_near_branch64(0);
    let fault = run_bare(&[jump, ret()], &[], &mut [], &[]).unwrap_err();
    assert_eq!((fault.reason, fault.offset), (Reason::EndlessLoop, 0));
}

#[test]
fn what_nobody_prints_is_refused() {
    let three = |code, a, b, c| Instruction::with3(code, a, b, c).unwrap();
    let permute = three(Code::VEX_Vpermd_ymm_ymm_ymmm256, YMM1, YMM1, YMM2);
    let error = refused(&[permute, ret()]);
    assert_eq!(error.to_string(), "at 0x0, vpermd ymm1,ymm1,ymm2: an instruction that nobody prints");
    assert_eq!(refused(&[Instruction::with(Code::Nopd)]).why, "the code ends without a return");
    let mut rounded = three(Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er, ZMM0, ZMM1, ZMM2);
    rounded.set_rounding_control(iced_x86::RoundingControl::RoundDown);
    assert_eq!(refused(&[rounded, ret()]).why, "a prefix or a rounding that nobody prints");
    let scaled = Code::EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae;
    let scaled = Instruction::with3(scaled, ZMM0, ZMM1, 0x18u32).unwrap();
    assert_eq!(refused(&[scaled, ret()]).why, "an immediate that nobody prints");
    let partial = two(Code::Mov_rm8_r8, Register::AL, Register::CL);
    assert_eq!(refused(&[partial, ret()]).why, "a move to part of a register");
    let aligned = from(Code::VEX_Vmovaps_ymm_ymmm256, YMM1, RCX, 0);
    assert_eq!(refused(&[aligned, ret()]).why, "memory");
}

/// Whatever the bytes are, they are refused, run, or stopped; nothing panics.
#[test]
fn fuzz_bytes() {
    let sound = common::assembled(&[pointers(), vec![load(ZMM0, 0), store(ZMM0), ret()]].concat());
    for_seconds("bytes", |random| {
        let mut code = if random.below(2) == 0 { sound.clone() } else { random.bytes(64) };
        code.push(0xc3);
        for _ in 0..random.below(4) {
            let at = random.below(code.len());
            code[at] = random.below(256) as u8;
        }
        let Ok(program) = Program::decode(&code) else { return };
        let (read, mut written) = ([7; 64], [0; 64]);
        let buffers = vec![
            Buffer::Read { bytes: &read, element: 4 },
            Buffer::Write { bytes: &mut written, element: 4 },
        ];
        let _ = program.run(Call { buffers, symbols: &[1], first: 0, end: 2, steps_max: 1000 });
    });
}
