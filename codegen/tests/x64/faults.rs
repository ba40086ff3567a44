//! Faults planted in assembled code: the interpreter of x86-64 finds each, or what the code leaves behind differs.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use iced_x86::{Decoder, DecoderOptions, Encoder, Instruction, Mnemonic, OpKind, Register};
use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::target::Target;
use jtllm_fuzz::for_seconds;
use jtllm_ir::{DType, Symbol};
use jtllm_x64sim::{Program, Reason};

use crate::code::{STEPS_MAX, simulate};
use crate::common::{compiled, run_by, works};
use crate::hostile::tail;
use crate::native::groups;

/// Bytes by which a place is wrong.
const SHIFT: i64 = 64;
/// Kernels for a level, each with no more instructions in a run and no more bytes of parameters than these.
const KERNELS: usize = 12;
const FEW_STEPS: u64 = 3000;
const BYTES_MAX: usize = 20_000;

static SOUNDS: LazyLock<Vec<Sound>> =
    LazyLock::new(|| Level::ALL.into_iter().flat_map(|(level, _)| sounds(&X64::complete(level))).collect());

/// A kernel's code with what it runs on, and what it leaves behind.
struct Sound {
    kernel: Kernel,
    code: Vec<u8>,
    params: Vec<Vec<u8>>,
    symbols: Vec<i32>,
    groups: u64,
    after: Vec<Vec<u8>>,
    steps: u64,
}

impl Sound {
    fn new(target: &X64, kernel: &Kernel, params: Vec<Vec<u8>>, symbols: &[i32], groups: u64) -> Sound {
        let code = target.emit(kernel).unwrap().bytes;
        let mut after = params.clone();
        let program = Program::decode(&code).unwrap();
        let steps = simulate(&program, kernel, &mut after, symbols, 0..groups, STEPS_MAX).unwrap().steps;
        Sound { steps, kernel: kernel.clone(), code, params, symbols: symbols.to_vec(), groups, after }
    }

    /// What becomes of other code in its place.
    fn with(&self, code: &[u8]) -> Outcome {
        let Ok(program) = Program::decode(code) else { return Outcome::Refused };
        let mut params = self.params.clone();
        match simulate(&program, &self.kernel, &mut params, &self.symbols, 0..self.groups, 9 * self.steps) {
            Err(fault) => Outcome::Fault(fault.reason),
            Ok(_) if params != self.after => Outcome::Differs,
            Ok(_) => Outcome::Same,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    Fault(Reason),
    Differs,
    Same,
}

/// A change of one instruction, if it has what the change is about.
type Change = fn(&mut Instruction) -> bool;

const REMOVED: &str = "a removed instruction";
const UNMASKED: &str = "an access of all lanes";

const CHANGES: [(&str, Change); 5] = [
    (UNMASKED, |i| {
        let masked = i.op_mask() != Register::None && i.memory_base() != Register::None;
        i.set_op_mask(Register::None);
        i.set_zeroing_masking(false);
        masked
    }),
    ("a place further on", |i| {
        let displaced = i.memory_base() != Register::None && i.memory_displ_size() > 0;
        i.set_memory_displacement64(i.memory_displacement64().wrapping_add_signed(SHIFT));
        displaced
    }),
    ("exchanged operands", |i| {
        let (a, b) = (i.op_register(1), i.op_register(2));
        i.set_op_register(1, b);
        i.set_op_register(2, a);
        // Those of which it matters which comes first.
        use Mnemonic::{Vdivps, Vperm2f128, Vpermb, Vpsubd, Vshuff32x4, Vshufps, Vsubps};
        let ordered = [Vdivps, Vperm2f128, Vpermb, Vpsubd, Vshuff32x4, Vshufps, Vsubps];
        ordered.contains(&i.mnemonic()) && i.op2_kind() == OpKind::Register && a != b
    }),
    ("another register for the result", |i| {
        let first = Register::XMM0 as u32;
        let Some(number) = (i.op0_register() as u32).checked_sub(first).filter(|number| *number < 96) else {
            return false;
        };
        let other = if number % 32 == 9 { 8 } else { 9 };
        i.set_op0_register(Register::XMM0 + (number / 32 * 32 + other));
        i.op0_kind() == OpKind::Register
    }),
    (REMOVED, |_| true),
];

/// The code with each instruction changed in turn, where the change needs as many bytes.
fn planted(code: &[u8], what: &str, change: Change) -> Vec<Vec<u8>> {
    let program = Program::decode(code).unwrap();
    let mut found = Vec::new();
    for place in program.instructions() {
        let (start, end) = (place.offset, place.offset + place.size);
        let mut instruction =
            Decoder::with_ip(64, &code[start..end], start as u64, DecoderOptions::NONE).decode();
        if place.text.starts_with("nop") || !change(&mut instruction) {
            continue;
        }
        let mut bytes = vec![0x90; place.size];
        if what != REMOVED {
            let mut encoder = Encoder::new(64);
            match encoder.encode(&instruction, start as u64) {
                Ok(size) if size == place.size => bytes = encoder.take_buffer(),
                _ => continue,
            }
        }
        let mut changed = code.to_vec();
        changed[start..end].copy_from_slice(&bytes);
        found.push(changed);
    }
    found
}

/// Small kernels of every kind of instruction: two that copy tails, and the first of some cases.
fn sounds(target: &X64) -> Vec<Sound> {
    let mut found = Vec::new();
    let n = Symbol::new("n", 0, 40, 1);
    for dtype in [DType::F32, DType::U8] {
        let kernel = tail(target.caps().lanes, dtype, &n);
        let bytes = 21 * dtype.size();
        let params = vec![(0..bytes as u8).collect(), vec![0xaa; bytes], vec![0xaa; bytes]];
        found.push(Sound::new(target, &kernel, params, &[21], groups(&kernel, &[21])));
    }
    for case in works::cases() {
        let compilation = compiled(&case.graph, target.caps());
        run_by(&compilation, target.caps(), &mut case.bindings.clone(), &mut |mut launch| {
            let before = launch.params.to_vec();
            launch.interpret(target.caps());
            if before.iter().map(Vec::len).sum::<usize>() < BYTES_MAX {
                let sound = Sound::new(target, launch.kernel, before, launch.symbols, launch.groups);
                found.extend((sound.steps < FEW_STEPS).then_some(sound));
            }
        });
        if found.len() >= KERNELS {
            break;
        }
    }
    found
}

/// Nearly every fault shows: what does not is of no account with these numbers, such as the larger of a number and
/// itself.
#[test]
fn planted_faults_are_found() {
    let mut reasons = BTreeSet::new();
    for (what, change) in CHANGES {
        let (mut all, mut same) = (0, 0);
        for sound in SOUNDS.iter() {
            for code in planted(&sound.code, what, change) {
                let outcome = sound.with(&code);
                let is_told = matches!(outcome, Outcome::Refused | Outcome::Fault(_));
                assert!(what != UNMASKED || is_told, "{what}: {outcome:?}\n{}", sound.kernel);
                all += 1;
                same += usize::from(outcome == Outcome::Same);
                reasons.insert(outcome);
            }
        }
        assert!(all >= 10 && same * 10 < all, "{what}: {same} of {all} did not show");
    }
    for reason in [
        Reason::OutOfBounds,
        Reason::ReadOnly,
        Reason::Uninitialised,
        Reason::Convention,
        Reason::EndlessLoop,
    ] {
        assert!(reasons.contains(&Outcome::Fault(reason)), "{reason:?}");
    }
}

/// Whatever bytes a kernel's code becomes, it is refused, stopped or run; nothing panics.
#[test]
fn fuzz_damaged_code() {
    for_seconds("damaged code", |random| {
        let sound = &SOUNDS[random.below(SOUNDS.len())];
        let mut code = sound.code.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(code.len());
            code[at] = random.below(256) as u8;
        }
        let _outcome = sound.with(&code);
    });
}
