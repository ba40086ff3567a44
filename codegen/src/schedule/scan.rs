//! A loop in time: groups over everything that the body never sums over, each with its carries at hand, and
//! the steps of time one after another.
//!
//! Lanes run over the last axis of the results. A carry of the results' shape is a register of each lane; one
//! with further axes, those that the body sums over, is a strip of shared memory that only its lane touches.
//! If all next carries are selected by one mask, what it hides is skipped, and time ends where it does.

use std::collections::HashMap;

use jtllm_ir::expr::Kind;
use jtllm_ir::graph::Scan;
use jtllm_ir::{DType, Expr, Graph, Monoid, Node, Op, ScalarOp};

use super::lower::Lower;
use super::{Scheduled, unflatten};
use crate::kernel::{CellId, Memory, ValueId};

/// Where a carry is between steps.
#[derive(Clone, Copy)]
enum Held {
    /// One value a lane.
    Cell(CellId),
    /// A strip for each lane.
    Strip(Memory),
}

struct Plan<'a> {
    scan: &'a Scan,
    node: Node,
    /// The body's inputs: first the carries', then the slices'.
    inputs: Vec<Node>,
    /// The coordinates of the results that a lane computes.
    at: Vec<Expr>,
    /// Whether they are its own to store.
    inside: Expr,
    /// The axes that carries have beyond.
    row: Vec<Expr>,
    lanes: i64,
    held: Vec<Held>,
    /// The slice that says where steps count, and the next carries behind it.
    mask: Option<Node>,
    next: Vec<Node>,
}

/// What the nodes of a body are at the step being computed.
struct Step {
    time: Expr,
    /// Sums that are known.
    sums: HashMap<Node, ValueId>,
}

pub(super) fn schedule(mut lower: Lower<'_>, node: Node) -> Scheduled {
    let graph = lower.graph;
    let Op::Scan(scan) = graph.op(node) else { panic!("{node} is no scan") };
    let space = lower.region.space.clone();
    let width = space.last().and_then(Expr::as_int).expect("the last axis of a scan's results is a constant");
    let most = i64::from(lower.caps.lanes);
    let lanes = if lower.caps.threads { most.min((width as u64).next_power_of_two() as i64) } else { most };
    let outer = &space[..space.len() - 1];
    let middle: i64 = outer.iter().skip(1).filter_map(Expr::as_int).product();
    let first = outer.first().cloned().unwrap_or(Expr::int(1));
    let chunks = (width + lanes - 1) / lanes;
    lower.grid(lanes as u32, [Expr::int(chunks), Expr::int(middle), first]);
    let mut at = match outer {
        [] => Vec::new(),
        _ => unflatten(outer, lower.b.grid(2), &lower.b.grid(1)),
    };
    let place = lower.b.grid(0) * lanes + lower.b.lane();
    // Lanes beyond the width compute with the last coordinate and store nothing.
    at.push(place.minimum(&Expr::int(width - 1)));
    let inside = place.less_than(&Expr::int(width));
    let mut plan = plan(&lower, scan, node, (at, inside), lanes);
    let count = count(&mut lower, &plan);
    let works = works(&mut lower, &plan, &count);
    lower.conditional(&works, |lower| {
        begin(lower, &mut plan);
        steps(lower, &plan, &count);
        end(lower, &plan);
    });
    lower.finish()
}

fn plan<'a>(
    lower: &Lower<'a>,
    scan: &'a Scan,
    node: Node,
    (at, inside): (Vec<Expr>, Expr),
    lanes: i64,
) -> Plan<'a> {
    let body = &scan.body;
    let inputs: Vec<Node> = body.nodes().filter(|x| matches!(body.op(*x), Op::Input { .. })).collect();
    let shapes = scan.carries.iter().map(|carry| lower.graph.shape(*carry));
    let row = shapes.max_by_key(|shape| shape.len()).map_or(Vec::new(), |shape| shape[at.len()..].to_vec());
    let (mask, next) = masked(lower.graph, scan, &inputs);
    Plan { scan, node, inputs, at, inside, row, lanes, held: Vec::new(), mask, next }
}

/// Puts the carries' first values where steps find them.
fn begin(lower: &mut Lower<'_>, plan: &mut Plan<'_>) {
    for carry in &plan.scan.carries {
        let dtype = lower.graph.dtype(*carry);
        let held = match lower.graph.shape(*carry).len() == plan.at.len() {
            true => {
                let value = lower.value(*carry, &plan.at);
                Held::Cell(lower.b.cell(value))
            }
            false => {
                let strip = lower.b.shared(dtype, (plan.depth() * plan.lanes) as u32);
                along_row(lower, plan, &mut |lower, place| {
                    let value = lower.value(*carry, &[&plan.at, place].concat());
                    let at = plan.strip_place(lower, place);
                    lower.b.store(strip, &at, value);
                });
                Held::Strip(strip)
            }
        };
        plan.held.push(held);
    }
}

/// The slice by which all next carries are selected, if there is one, and the next carries without it.
fn masked(graph: &Graph, scan: &Scan, inputs: &[Node]) -> (Option<Node>, Vec<Node>) {
    let body = &scan.body;
    let all: Vec<Node> = body.outputs.iter().take(scan.carries.len()).map(|(_, node)| *node).collect();
    let chosen = |(next, carry): (&Node, &Node)| match body.op(*next) {
        Op::Map { op: ScalarOp::Select, xs } if xs[2] == *carry => Some((through_views(body, xs[0]), xs[1])),
        _ => None,
    };
    let pairs: Option<Vec<(Node, Node)>> = all.iter().zip(inputs).map(chosen).collect();
    let Some(pairs) = pairs.filter(|pairs| !pairs.is_empty()) else { return (None, all) };
    let mask = pairs[0].0;
    let slice = inputs.iter().skip(scan.carries.len()).position(|input| *input == mask);
    let operand = slice.map(|slice| scan.xs[slice]);
    match operand {
        Some(operand)
            if matches!(graph.op(operand), Op::Index { .. })
                && graph.shape(operand).len() == scan.axis + 1
                && pairs.iter().all(|(other, _)| *other == mask) =>
        {
            (Some(operand), pairs.into_iter().map(|(_, next)| next).collect())
        }
        _ => (None, all),
    }
}

fn through_views(graph: &Graph, node: Node) -> Node {
    match graph.op(node) {
        Op::View { x, ok: None, .. } => through_views(graph, *x),
        _ => node,
    }
}

impl Plan<'_> {
    /// Elements of a carry's further axes.
    fn depth(&self) -> i64 {
        self.row.iter().map(|n| n.as_int().expect("what a body sums over has a constant extent")).product()
    }

    /// Where a lane's strip has the element at `place` of the further axes.
    fn strip_place(&self, lower: &Lower<'_>, place: &[Expr]) -> Expr {
        jtllm_ir::graph::row_major(&self.row, place) * self.lanes + lower.b.lane()
    }
}

/// Runs `body` for each place of the carries' further axes.
fn along_row<'a>(lower: &mut Lower<'a>, plan: &Plan<'_>, body: &mut dyn FnMut(&mut Lower<'a>, &[Expr])) {
    lower.repeat(&Expr::int(plan.depth()), |lower, flat| {
        let place = unflatten(&[&[Expr::int(1)], plan.row.as_slice()].concat(), Expr::int(0), &flat);
        body(lower, &place[1..]);
    });
}

/// How many steps there are.
fn count(lower: &mut Lower<'_>, plan: &Plan<'_>) -> Expr {
    let all = lower.graph.shape(plan.scan.xs[0])[plan.scan.axis].clone();
    let ends = plan.mask.and_then(|mask| last_step(lower, plan, mask));
    ends.map_or(all.clone(), |ends| ends.minimum(&all).maximum(&Expr::int(0)))
}

/// Whether the group has anything to do: a step, or a carry to store.
fn works(lower: &mut Lower<'_>, plan: &Plan<'_>, count: &Expr) -> Expr {
    let graph = lower.graph;
    let mut works = Expr::int(0).less_than(count);
    for root in lower.region.roots.clone() {
        let (value, ok, extras) = match graph.op(root) {
            Op::Write { value, ok: Some(ok), extras, .. } => (*value, ok.clone(), extras.as_slice()),
            Op::Write { value, .. } => (*value, Expr::int(1), [].as_slice()),
            _ => (root, Expr::int(1), [].as_slice()),
        };
        let carry = matches!(graph.op(value), Op::Result { index, .. } if *index < plan.scan.carries.len());
        // A condition on a carry's further axes is not known here.
        let further = ok.any(
            &mut |x| matches!(x.kind(), Kind::Axis { index, .. } if usize::from(*index) >= plan.at.len()),
        );
        if carry {
            let stores = if further { Expr::int(1) } else { lower.resolve(&ok, &plan.at, extras) };
            works = works.maximum(&stores);
        }
    }
    works
}

/// All steps of time.
fn steps(lower: &mut Lower<'_>, plan: &Plan<'_>, count: &Expr) {
    lower.repeat(count, |lower, time| {
        let live = match plan.mask.map(|mask| lower.graph.op(mask)) {
            Some(Op::Index { value, extras }) => {
                let at = [&plan.at[..plan.scan.axis], std::slice::from_ref(&time)].concat();
                lower.resolve(value, &at, extras)
            }
            _ => Expr::int(1),
        };
        lower.conditional(&live, |lower| step(lower, plan, time));
    });
}

/// Before which step the mask ends, if it is a comparison that says so.
fn last_step(lower: &mut Lower<'_>, plan: &Plan<'_>, mask: Node) -> Option<Expr> {
    let Op::Index { value, extras } = lower.graph.op(mask) else { return None };
    let time =
        |x: &Expr| matches!(x.kind(), Kind::Axis { index, .. } if usize::from(*index) == plan.scan.axis);
    let ends = value.conjuncts().into_iter().find_map(|conjunct| {
        let Kind::Lt(a, b) = conjunct.kind() else { return None };
        (time(a) && !b.any(&mut |x| time(x))).then(|| b.clone())
    })?;
    let at = [&plan.at[..plan.scan.axis], &[Expr::int(0)]].concat();
    Some(lower.resolve(&ends, &at, extras))
}

/// One step: sums, results, then the next carries.
fn step(lower: &mut Lower<'_>, plan: &Plan<'_>, time: Expr) {
    let body = &plan.scan.body;
    let mut step = Step { time, sums: HashMap::new() };
    for node in needed_sums(plan) {
        let Op::Reduce { monoid, x, .. } = body.op(node) else { continue };
        let value = sum(lower, plan, &step, node, *monoid, *x);
        step.sums.insert(node, value);
    }
    let carries = plan.scan.carries.len();
    for index in carries..body.outputs.len() {
        let value = value(lower, plan, &step, body.outputs[index].1, &plan.at);
        let mut at = plan.at.clone();
        at.insert(plan.scan.axis, step.time.clone());
        store(lower, plan, index, &at, value);
    }
    let cells: Vec<Option<ValueId>> = (0..carries)
        .map(|carry| match plan.held[carry] {
            Held::Cell(_) => Some(value(lower, plan, &step, plan.next[carry], &plan.at)),
            Held::Strip(_) => None,
        })
        .collect();
    if plan.held.iter().any(|held| matches!(held, Held::Strip(_))) {
        along_row(lower, plan, &mut |lower, place| {
            let at = [&plan.at, place].concat();
            let mut fresh = Vec::new();
            for (held, next) in plan.held.iter().zip(&plan.next) {
                let Held::Strip(strip) = held else { continue };
                fresh.push((*strip, value(lower, plan, &step, *next, &at)));
            }
            let place = plan.strip_place(lower, place);
            fresh.into_iter().for_each(|(strip, value)| lower.b.store(strip, &place, value));
        });
    }
    for (held, fresh) in plan.held.iter().zip(cells) {
        if let (Held::Cell(cell), Some(fresh)) = (held, fresh) {
            lower.b.set(*cell, fresh);
        }
    }
}

/// The body's reductions that something outside of a mask needs, operands first.
fn needed_sums(plan: &Plan<'_>) -> Vec<Node> {
    let body = &plan.scan.body;
    let mut needed = vec![false; body.len()];
    let results = body.outputs.iter().skip(plan.scan.carries.len()).map(|(_, node)| *node);
    results.chain(plan.next.iter().copied()).for_each(|node| needed[node.0 as usize] = true);
    for node in body.nodes().rev() {
        if needed[node.0 as usize] {
            body.op(node).operands().into_iter().for_each(|x| needed[x.0 as usize] = true);
        }
    }
    let sums = body.nodes().filter(|node| matches!(body.op(*node), Op::Reduce { .. }));
    sums.filter(|node| needed[node.0 as usize]).collect()
}

fn sum(lower: &mut Lower<'_>, plan: &Plan<'_>, step: &Step, node: Node, monoid: Monoid, x: Node) -> ValueId {
    let dtype = plan.scan.body.dtype(node);
    let neutral = lower.b.constant(dtype, monoid.neutral(dtype));
    let cell = lower.b.cell(neutral);
    along_row(lower, plan, &mut |lower, place| {
        let at = [&plan.at, place].concat();
        let before = lower.b.get(cell);
        let after = match plan.scan.body.op(x) {
            Op::Map { op: ScalarOp::Mul, xs } if monoid == Monoid::Add && dtype == DType::F32 => {
                let [a, b] = [xs[0], xs[1]].map(|x| value(lower, plan, step, x, &at));
                lower.b.scalar(ScalarOp::Fma, &[a, b, before])
            }
            _ => {
                let element = value(lower, plan, step, x, &at);
                lower.b.scalar(monoid.scalar(), &[before, element])
            }
        };
        lower.b.set(cell, after);
    });
    lower.b.get(cell)
}

/// The element at `at` of a node of the body.
fn value(lower: &mut Lower<'_>, plan: &Plan<'_>, step: &Step, node: Node, at: &[Expr]) -> ValueId {
    if let Some(value) = step.sums.get(&node) {
        return *value;
    }
    let body = &plan.scan.body;
    match body.op(node) {
        Op::Input { .. } => input(lower, plan, step, node, at),
        Op::Const(tensor) if tensor.shape.is_empty() => lower.b.constant(tensor.dtype, tensor.get(0)),
        Op::Index { value: x, extras } if extras.is_empty() => {
            let x = x.at(at);
            lower.b.index(body.dtype(node), &x)
        }
        Op::View { x, at: inner, ok: None, extras } if extras.is_empty() => {
            let inner: Vec<Expr> = inner.iter().map(|e| e.at(at)).collect();
            value(lower, plan, step, *x, &inner)
        }
        Op::Map { op, xs } => {
            let xs: Vec<ValueId> = xs.iter().map(|x| value(lower, plan, step, *x, at)).collect();
            lower.b.scalar(*op, &xs)
        }
        _ => panic!("{node} of the body of {} cannot be a step of a loop", plan.node),
    }
}

/// A carry or a slice.
fn input(lower: &mut Lower<'_>, plan: &Plan<'_>, step: &Step, node: Node, at: &[Expr]) -> ValueId {
    let which = plan.inputs.iter().position(|input| *input == node).expect("inputs lists them all");
    let Some(held) = plan.held.get(which) else {
        let mut at = at.to_vec();
        at.insert(plan.scan.axis, step.time.clone());
        return lower.value(plan.scan.xs[which - plan.held.len()], &at);
    };
    let own = at.len() >= plan.at.len() && at[..plan.at.len()] == plan.at;
    assert!(own, "a step of {} reads another lane's part of carry {which}", plan.node);
    match held {
        Held::Cell(cell) => lower.b.get(*cell),
        Held::Strip(strip) => {
            let place = plan.strip_place(lower, &at[plan.at.len()..]);
            lower.b.load(*strip, &place)
        }
    }
}

/// Stores the element of a result wherever the region stores it.
fn store(lower: &mut Lower<'_>, plan: &Plan<'_>, index: usize, at: &[Expr], value: ValueId) {
    let graph = lower.graph;
    for root in lower.region.roots.clone() {
        let stored = match graph.op(root) {
            Op::Write { value, .. } => *value,
            _ => root,
        };
        if *graph.op(stored) == (Op::Result { scan: plan.node, index }) {
            lower.bind(stored, value);
            lower.conditional(&plan.inside, |lower| lower.store_root(root, at, false));
        }
    }
}

/// Stores the last carries.
fn end(lower: &mut Lower<'_>, plan: &Plan<'_>) {
    for (index, held) in plan.held.iter().enumerate() {
        match held {
            Held::Cell(cell) => {
                let value = lower.b.get(*cell);
                store(lower, plan, index, &plan.at, value);
            }
            Held::Strip(strip) => along_row(lower, plan, &mut |lower, place| {
                let from = plan.strip_place(lower, place);
                let value = lower.b.load(*strip, &from);
                store(lower, plan, index, &[&plan.at, place].concat(), value);
            }),
        }
    }
}
