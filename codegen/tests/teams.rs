//! Products of teams on the loop-IR interpreter: sums, and every way to get the order wrong.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use jtllm_codegen::kernel::interp::{Buffer, InterpError, Memories, Options, Program, run};
use jtllm_codegen::kernel::{FragmentId, Kernel, Memory, Panel, Stmt, optimise, parse, verify};
use jtllm_codegen::target::Caps;
use jtllm_ir::{DType, Expr};

const DEPTH: usize = 32;
const COLUMNS: usize = 16;

fn caps() -> Caps {
    Caps::threads(128).with_matrix(128).with_teams(256)
}

/// Two teams with 64 rows each, and the 16 columns of both, over a depth of 32.
fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files/ptx/team.jk");
    let file = fs::read_to_string(path).unwrap().replace("\r\n", "\n");
    let (kernel, _) = file.split_once("# expect\n").unwrap();
    kernel.to_owned()
}

fn sound() -> Kernel {
    let kernel = parse(&text()).unwrap();
    assert_eq!(verify(&kernel, &caps()), Ok(()));
    kernel
}

fn number(seed: usize) -> f32 {
    half::bf16::from_f32((seed as f32 * 0.37).sin()).to_f32()
}

/// Runs a kernel on `left[128, 32]` and `right[16, 32]`.
fn product(kernel: &Kernel) -> Result<Vec<f32>, InterpError> {
    let brain = |seed: usize| half::bf16::from_f32(number(seed)).to_le_bytes();
    let left: Vec<u8> = (0..128 * DEPTH).flat_map(brain).collect();
    let right: Vec<u8> = (5000..5000 + COLUMNS * DEPTH).flat_map(brain).collect();
    let mut sums = vec![0; 128 * COLUMNS * 4];
    let params = vec![Buffer::Read(&left), Buffer::Read(&right), Buffer::Write(&mut sums)];
    run(kernel, &mut Memories { params, symbols: &[] }, Options { threads: true })?;
    Ok(sums.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect())
}

/// Takes away or changes statements, wherever they stand.
fn edit(body: &mut Vec<Stmt>, change: &mut dyn FnMut(Stmt) -> Option<Stmt>) {
    for stmt in std::mem::take(body) {
        let Some(mut stmt) = change(stmt) else { continue };
        if let Stmt::Loop { body, .. } | Stmt::If { body, .. } = &mut stmt {
            edit(body, change);
        }
        body.push(stmt);
    }
}

fn edited(mut change: impl FnMut(Stmt) -> Option<Stmt>) -> Kernel {
    let mut kernel = sound();
    edit(&mut kernel.body, &mut change);
    kernel
}

fn broken(change: impl FnMut(Stmt) -> Option<Stmt>) -> InterpError {
    product(&edited(change)).unwrap_err()
}

/// The kernel whose text has `new` where `old` stands.
fn rewritten(old: &str, new: &str) -> Kernel {
    let text = text();
    assert_eq!(text.matches(old).count(), 1, "{old}");
    parse(&text.replace(old, new)).unwrap()
}

/// What `verify` has to say, in one line.
fn faults(kernel: &Kernel) -> String {
    let faults = verify(kernel, &caps()).unwrap_err();
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn products_are_added_in_the_order_of_the_depth() {
    for kernel in [sound(), optimise(&sound())] {
        for (at, got) in product(&kernel).unwrap().into_iter().enumerate() {
            // Each warp leaves its 16 rows one after another.
            let (row, column) = (at / COLUMNS, at % COLUMNS);
            let terms = (0..DEPTH).map(|k| number(row * DEPTH + k) * number(5000 + column * DEPTH + k));
            assert_eq!(got.to_bits(), terms.fold(0f32, |sum, x| sum + x).to_bits(), "{row}, {column}");
        }
    }
}

#[test]
fn what_is_not_published_is_not_seen() {
    let error = broken(|stmt| (!matches!(stmt, Stmt::Publish)).then_some(stmt));
    assert!(matches!(error, InterpError::Unpublished { memory: Memory::Shared(0), .. }), "{error}");
    // Published too late: no barrier follows.
    let late = rewritten("  publish\n  barrier\n", "  barrier\n  publish\n");
    let error = product(&late).unwrap_err();
    assert!(matches!(error, InterpError::Unpublished { .. }), "{error}");
    // Published too soon: the copies have not arrived.
    let soon = rewritten("  stage_wait 0\n  publish\n", "  publish\n  stage_wait 0\n");
    let error = product(&soon).unwrap_err();
    assert!(matches!(error, InterpError::Unpublished { .. }), "{error}");
    let error = product(&rewritten("  publish\n  barrier\n", "  publish\n")).unwrap_err();
    assert!(matches!(error, InterpError::Race { does: "loads", .. }), "{error}");
    let error = broken(|stmt| (!matches!(stmt, Stmt::StageWait { .. })).then_some(stmt));
    assert!(matches!(error, InterpError::UnderWay { does: "loads", .. }), "{error}");
}

#[test]
fn sums_are_under_way_until_somebody_waits() {
    let kernel = edited(|stmt| (!matches!(stmt, Stmt::ProductWait { pending: 0 })).then_some(stmt));
    let error = product(&kernel).unwrap_err();
    assert!(matches!(error, InterpError::Unfinished { fragment: FragmentId(0), .. }), "{error}");
    let rule = "a product is waited for before its sums are used";
    assert!(faults(&kernel).contains(rule), "{}", faults(&kernel));
    // Sums that the loop's last round has begun are no cleaner in its next one.
    let kernel = rewritten("    product f0, f1 by", "    clear f0\n    product f0, f1 by");
    let error = product(&kernel).unwrap_err();
    assert!(matches!(error, InterpError::Unfinished { fragment: FragmentId(0), .. }), "{error}");
    assert!(faults(&kernel).contains(rule), "{}", faults(&kernel));
    let kernel = rewritten("    product_wait 1\n", "    product_wait 0\n");
    assert_eq!(verify(&kernel, &caps()), Ok(()));
    assert!(product(&kernel).is_ok());
}

#[test]
fn operands_of_a_product_under_way_stay_as_they_are() {
    let store = "    let v1 = load p0[lane + l5*256] : bf16\n    store s1[lane] = v1\n";
    let store = |wait: &str| {
        let old = "    product_wait 1\n";
        // Values are numbered in the order of the text.
        let text = text().replace("v0", "v2").replace(old, &format!("{wait}{store}")).replace("v1", "v0");
        product(&parse(&text.replace("v2", "v1")).unwrap()).unwrap_err()
    };
    let error = store("");
    assert!(matches!(error, InterpError::Multiplied { memory: Memory::Shared(1), .. }), "{error}");
    // Its own team's product is done, but nobody knows of the other's.
    let error = store("    product_wait 0\n");
    assert!(matches!(error, InterpError::Race { does: "stores", .. }), "{error}");
}

#[test]
fn places_are_checked() {
    let places = |place: fn(Expr) -> Expr| {
        edited(move |stmt| match stmt {
            Stmt::Product { sums, left, right, depth } => {
                Some(Stmt::Product { sums, left: Panel { at: place(left.at.clone()), ..left }, right, depth })
            }
            other => Some(other),
        })
    };
    let kernel = places(|at| at + 4);
    assert!(matches!(product(&kernel).unwrap_err(), InterpError::Misaligned { offset: 4, .. }));
    assert!(faults(&kernel).contains("multiples of 16 bytes"), "{}", faults(&kernel));
    let kernel = places(|at| at + 1032);
    assert!(matches!(product(&kernel).unwrap_err(), InterpError::OutOfBounds { .. }));
    assert!(faults(&kernel).contains("an access is in bounds"), "{}", faults(&kernel));
    let kernel = places(|at| at + Expr::axis(3, &Expr::int(256)).div_floor(32) * 8);
    assert!(matches!(product(&kernel).unwrap_err(), InterpError::Parted { lane: 32, .. }));
    assert!(faults(&kernel).contains("the same for all lanes of a team"), "{}", faults(&kernel));
}

#[test]
fn what_is_malformed_is_refused() {
    let refused = |plant: &dyn Fn(&mut Kernel)| {
        let mut kernel = sound();
        plant(&mut kernel);
        assert!(verify(&kernel, &caps()).is_err());
        assert!(matches!(Program::new(&kernel), Err(InterpError::Malformed { .. })));
    };
    let panel = |memory| Panel { memory, at: Expr::int(0), stride: 136 };
    let product = |sums: &[u32], right, depth| Stmt::Product {
        sums: sums.iter().map(|sum| FragmentId(*sum)).collect(),
        left: panel(Memory::Shared(0)),
        right: panel(right),
        depth,
    };
    let shared = Memory::Shared(1);
    refused(&|k| k.body.push(product(&[], shared, 16)));
    refused(&|k| k.body.push(product(&[0, 0], shared, 16)));
    refused(&|k| k.body.push(product(&[0, 2], shared, 16)));
    refused(&|k| k.body.push(product(&[0, 1], shared, 0)));
    refused(&|k| k.body.push(product(&[0, 1], shared, 24)));
    refused(&|k| k.body.push(product(&[0, 1], Memory::Shared(2), 16)));
    refused(&|k| k.body.push(product(&[0, 1], Memory::Param(1), 16)));
    refused(&|k| k.shared[1].dtype = DType::F16);
    refused(&|k| k.lanes = 64);
}

#[test]
fn targets_without_such_units_are_told_apart() {
    let plain = Caps::threads(128).with_matrix(256);
    let faults = verify(&sound(), &plain).unwrap_err();
    let rule = "the target has units that multiply for teams";
    assert!(faults.iter().any(|fault| fault.rule == rule), "{faults:?}");
}
