//! Index expressions as text: `i32` arithmetic.

use std::fmt::Write;

use jtllm_ir::Expr;
use jtllm_ir::expr::Kind;

use crate::kernel::{GRID_AXIS, Kernel, LANE_AXIS};

/// An expression as an `i32`.
pub(super) fn index(kernel: &Kernel, x: &Expr) -> String {
    let of = |x: &Expr| index(kernel, x);
    match x.kind() {
        Kind::Int(value) => number(*value),
        Kind::Sym(symbol) => {
            let slot = kernel.symbols.iter().find(|(known, _)| known == symbol).map_or(0, |(_, slot)| *slot);
            format!("symbols[{}][{}]", slot / 4, slot % 4)
        }
        Kind::Axis { index, .. } => axis(*index),
        Kind::Extra { slot, .. } => format!("i32(v{slot})"),
        Kind::Sum(terms, constant) => {
            let mut text = String::from("(");
            for (at, (atom, coefficient)) in terms.iter().enumerate() {
                let sign = if at == 0 { "" } else { " + " };
                match coefficient {
                    1 => _ = write!(text, "{sign}{}", of(atom)),
                    _ => _ = write!(text, "{sign}{} * {}", of(atom), number(*coefficient)),
                }
            }
            if *constant != 0 {
                _ = write!(text, " + {}", number(*constant));
            }
            text.push(')');
            text
        }
        Kind::Product(atoms) => {
            let atoms: Vec<String> = atoms.iter().map(of).collect();
            format!("({})", atoms.join(" * "))
        }
        // Division rounds towards 0 in the language: the same where nothing is negative.
        Kind::Div(x, d) if x.low() >= 0 => format!("({} / {})", of(x), number(*d)),
        Kind::Div(x, d) => format!("div_floor({}, {})", of(x), number(*d)),
        Kind::Mod(x, d) if x.low() >= 0 => format!("({} % {})", of(x), number(*d)),
        Kind::Mod(x, d) => format!("rem_floor({}, {})", of(x), number(*d)),
        Kind::Min(a, b) => format!("min({}, {})", of(a), of(b)),
        Kind::Max(a, b) => format!("max({}, {})", of(a), of(b)),
        Kind::Lt(..) | Kind::Eq(..) | Kind::And(_) => format!("select(0, 1, {})", condition(kernel, x)),
    }
}

/// An expression as a `bool`: whether it is not 0.
pub(super) fn condition(kernel: &Kernel, x: &Expr) -> String {
    let of = |x: &Expr| index(kernel, x);
    match x.kind() {
        Kind::Lt(a, b) => format!("({} < {})", of(a), of(b)),
        Kind::Eq(a, b) => format!("({} == {})", of(a), of(b)),
        Kind::And(all) => {
            let all: Vec<String> = all.iter().map(|x| condition(kernel, x)).collect();
            format!("({})", all.join(" && "))
        }
        _ => format!("({} != 0)", of(x)),
    }
}

/// Whether browsers can see that an expression is the same for all lanes: it reads nothing but symbols, loops
/// and the group's place.
pub(super) fn evidently_uniform(x: &Expr) -> bool {
    !x.any(&mut |leaf| match leaf.kind() {
        Kind::Axis { index, .. } => *index == LANE_AXIS,
        Kind::Extra { .. } => true,
        _ => false,
    })
}

fn axis(axis: u16) -> String {
    match axis {
        LANE_AXIS => "lane".to_owned(),
        grid if grid < LANE_AXIS => format!("g{}", grid - GRID_AXIS),
        turn => format!("l{turn}"),
    }
}

fn number(value: i64) -> String {
    if value < 0 { format!("({value})") } else { value.to_string() }
}
