//! Which nodes share a kernel.
//!
//! In this order: attention is matched whole; each remaining `Reduce` opens a group, which Maps join as
//! epilogue (over the same space) or as the rest of a row (over space and reduced axes), further reductions
//! over the same rows join, and sums that share their left operand merge where a Map needs both; a Write
//! is the store of the group that makes its value; every other Map is computed where it is used if that is
//! cheap or happens once, else it has a kernel of its own. Views never make a kernel, save those that keep a
//! version of a state that is about to be written over. A 16-bit number becomes an `f32` where it is read, so what
//! is rounded is stored in half the bytes.

use std::collections::{BTreeSet, HashMap, HashSet};

use jtllm_ir::graph::{Scan, axes};
use jtllm_ir::{DType, Expr, Graph, Node, Op, ScalarOp};

use crate::classify;
use crate::region::{Attend, Contraction, Partition, Region, Work};

/// A Map is computed again in each place that reads it if (operations + loads) times the number of reads of
/// each element stays within this; beyond, it is stored once. A load counts as one operation.
const RECOMPUTE_BUDGET: i64 = 8;

/// How many Maps may lie between a sum and the end of its epilogue.
const EPILOGUE_NODES: usize = 64;

/// Cuts a canonical graph into kernels.
pub fn partition(graph: &Graph) -> Partition {
    partition_apart(graph, &HashSet::new())
}

/// As [`partition`], but nothing is computed together with the sums in `alone`: their kernels would bind more
/// buffers than the target can.
pub fn partition_apart(graph: &Graph, alone: &HashSet<Node>) -> Partition {
    let mut cut = Cut::new(graph, alone);
    cut.match_attention();
    for node in graph.nodes() {
        cut.place(node);
    }
    cut.store_expensive_maps();
    cut.store_replaced_versions();
    cut.finish()
}

#[derive(Clone)]
enum GroupKind {
    Rows { full: Vec<Expr> },
    Contraction(Contraction),
    Attend(Attend),
    Scan(Node),
}

struct Group {
    kind: GroupKind,
    space: Vec<Expr>,
    reduces: Vec<Node>,
    members: Vec<Node>,
    /// Groups that this one has been merged into stand for it.
    merged_into: Option<usize>,
}

struct Cut<'g> {
    graph: &'g Graph,
    /// Sums that have a kernel for themselves.
    alone: &'g HashSet<Node>,
    users: Vec<Vec<Node>>,
    groups: Vec<Group>,
    /// The group that computes a node.
    group: HashMap<Node, usize>,
    /// Maps outside of groups that have a kernel of their own, and Views of what Writes replace.
    stored_maps: BTreeSet<Node>,
    /// For each node: the groups that its value depends on.
    reach: Vec<GroupSet>,
    /// For each node: whether it is made of weights and constants alone. Dequantisation is, and always
    /// joins its reader.
    fixed: Vec<bool>,
    /// Nodes inside attention patterns.
    claimed: HashSet<Node>,
    attention: HashMap<Node, Attend>,
}

impl<'g> Cut<'g> {
    fn new(graph: &'g Graph, alone: &'g HashSet<Node>) -> Cut<'g> {
        Cut {
            graph,
            alone,
            users: graph.users(),
            groups: Vec::new(),
            group: HashMap::new(),
            stored_maps: BTreeSet::new(),
            reach: vec![GroupSet::default(); graph.len()],
            fixed: fixed(graph),
            claimed: HashSet::new(),
            attention: HashMap::new(),
        }
    }

    fn match_attention(&mut self) {
        for node in self.graph.nodes() {
            if let Some(attend) = classify::attend(self.graph, node) {
                self.claimed.extend(classify::attend_interior(self.graph, &attend));
                self.attention.insert(node, attend);
            }
        }
    }

    /// The group that computes `node`, after merges.
    fn group_of(&self, node: Node) -> Option<usize> {
        let mut group = *self.group.get(&node)?;
        while let Some(into) = self.groups[group].merged_into {
            group = into;
        }
        Some(group)
    }

    fn resolve(&self, mut group: usize) -> usize {
        while let Some(into) = self.groups[group].merged_into {
            group = into;
        }
        group
    }

    fn open(&mut self, node: Node, kind: GroupKind, space: Vec<Expr>, reduces: Vec<Node>) {
        let group = self.groups.len();
        self.groups.push(Group { kind, space, reduces, members: vec![node], merged_into: None });
        self.group.insert(node, group);
    }

    fn place(&mut self, node: Node) {
        let operands = self.graph.op(node).operands();
        let mut reach = GroupSet::default();
        for x in &operands {
            reach.join(&self.reach[x.0 as usize]);
        }
        if let Some(attend) = self.attention.get(&node).cloned() {
            let space = self.graph.shape(node).to_vec();
            self.open(node, GroupKind::Attend(attend), space, Vec::new());
        } else if !self.claimed.contains(&node) {
            match self.graph.op(node) {
                Op::Reduce { .. } => self.place_reduce(node),
                Op::Map { .. } if !reach.is_empty() => self.place_map(node),
                Op::Write { value, .. } => self.place_write(node, *value),
                Op::Scan(scan) => self.place_scan(node, scan),
                Op::Result { scan, .. } => {
                    let group = self.group_of(*scan).expect("a scan is placed before its results");
                    self.join(node, group);
                }
                _ => {}
            }
        }
        if let Some(group) = self.group_of(node) {
            reach.insert(group);
        }
        self.reach[node.0 as usize] = reach;
    }

    /// Which open group members the operand tree of `node` meets, and through which coordinates.
    fn met(&self, node: Node) -> Vec<Met> {
        let mut met = Vec::new();
        for x in self.tree_operands(node) {
            // A sum reads whole rows.
            let reads = if matches!(self.graph.op(node), Op::Reduce { .. }) { x } else { node };
            self.walk(x, &axes(self.graph.shape(reads)), &mut met);
        }
        met
    }

    /// The operands that are read element by element.
    fn tree_operands(&self, node: Node) -> Vec<Node> {
        match self.graph.op(node) {
            Op::Write { value, .. } => vec![*value],
            op => op.operands(),
        }
    }

    fn walk(&self, node: Node, at: &[Expr], met: &mut Vec<Met>) {
        if let Some(group) = self.group_of(node) {
            met.push(Met { group, node, at: Some(at.to_vec()) });
            return;
        }
        match self.graph.op(node) {
            Op::Map { xs, .. } => xs.iter().for_each(|x| self.walk(*x, at, met)),
            Op::View { x, at: inner, extras, ok } => {
                let simple = extras.is_empty() && ok.is_none();
                let inner: Vec<Expr> = inner.iter().map(|e| e.at(at)).collect();
                let from = met.len();
                self.walk(*x, &inner, met);
                if !simple {
                    met[from..].iter_mut().for_each(|m| m.at = None);
                }
            }
            _ => {}
        }
    }

    /// Whether everything that `node` reads beside members of `group` is there before the group starts.
    fn independent(&self, node: Node, group: usize) -> bool {
        let waits = |x: Node| self.reach[x.0 as usize].iter().any(|reached| self.resolve(reached) == group);
        let before = |x: Node| self.group_of(x) == Some(group) || !waits(x);
        if let Op::Write { state, extras, .. } = self.graph.op(node) {
            // Whoever reads what the Write replaces comes before it.
            let replaced = self.users[state.0 as usize].iter().filter(|user| **user != node);
            if !before(*state) || extras.iter().copied().any(waits) || replaced.copied().any(waits) {
                return false;
            }
        }
        let mut open = self.tree_operands(node);
        let mut seen = HashSet::new();
        while let Some(x) = open.pop() {
            if !seen.insert(x) || self.group_of(x) == Some(group) {
                continue;
            }
            match self.graph.op(x) {
                _ if !waits(x) => {}
                _ if self.group_of(x).is_some() => return false,
                // What may get a buffer of its own, another Map or an output, would be read from there.
                Op::View { x: inner, extras, .. } if !self.is_output(x) => {
                    match extras.iter().any(|x| waits(*x)) {
                        true => return false,
                        false => open.push(*inner),
                    }
                }
                _ => return false,
            }
        }
        true
    }

    fn is_output(&self, node: Node) -> bool {
        self.graph.outputs.iter().any(|(_, out)| *out == node)
    }

    fn join(&mut self, node: Node, group: usize) {
        self.groups[group].members.push(node);
        self.group.insert(node, group);
    }

    fn place_reduce(&mut self, node: Node) {
        let Op::Reduce { x, axes: reduced, .. } = self.graph.op(node) else { return };
        let full = self.graph.shape(*x).to_vec();
        let space = self.graph.shape(node).to_vec();
        let trailing = reduced.iter().enumerate().all(|(at, axis)| *axis == space.len() + at);
        if self.is_block_sum(node) {
            return;
        }
        // Another reduction over the same rows.
        let met = self.met(node);
        if let [first, ..] = met.as_slice() {
            let group = first.group;
            let same_rows = met.iter().all(|m| m.group == group && self.on_rows(m, &space));
            let Group { kind, space: s, .. } = &self.groups[group];
            let rows = *s == space && matches!(kind, GroupKind::Rows { full: f } if *f == full);
            if trailing && same_rows && rows && self.independent(node, group) {
                self.groups[group].reduces.push(node);
                return self.join(node, group);
            }
        }
        let stop = |x: Node| self.group_of(x).is_some();
        let kind = match classify::contraction(self.graph, node, &stop) {
            Some(contraction) => GroupKind::Contraction(contraction),
            None => GroupKind::Rows { full },
        };
        let reduces = match &kind {
            GroupKind::Contraction(c) => c.sums[0].blocks.iter().map(|b| b.inner).chain([node]).collect(),
            _ => vec![node],
        };
        self.open(node, kind, space, reduces);
    }

    /// Whether a reduction is the inner level of a blocked sum, which claims it.
    fn is_block_sum(&self, node: Node) -> bool {
        let mut outer = node;
        while let [user] = self.users[outer.0 as usize].as_slice() {
            outer = *user;
            if !matches!(self.graph.op(outer), Op::Map { .. }) {
                break;
            }
        }
        let stop = |x: Node| self.group_of(x).is_some();
        outer != node
            && classify::contraction(self.graph, outer, &stop)
                .is_some_and(|c| c.sums[0].blocks.as_ref().is_some_and(|b| b.inner == node))
    }

    /// Whether a group's member is read at the row that is being computed.
    fn on_rows(&self, met: &Met, space: &[Expr]) -> bool {
        let shape = self.graph.shape(met.node);
        let here = axes(shape);
        met.at.as_ref().is_some_and(|at| *at == here)
            && shape.len() >= space.len()
            && shape[..space.len()] == *space
    }

    fn place_map(&mut self, node: Node) {
        if widens(self.graph, node) {
            return;
        }
        let met = self.met(node);
        let shape = self.graph.shape(node).to_vec();
        let mut candidates: Vec<usize> = met.iter().map(|m| m.group).collect();
        candidates.sort_unstable();
        candidates.dedup();
        self.merge_siblings(&candidates, &met, &shape);
        let met = self.met(node);
        // The newest group first: the older ones are there before it.
        candidates.iter_mut().for_each(|group| *group = self.resolve(*group));
        candidates.sort_unstable();
        candidates.dedup();
        for group in candidates.into_iter().rev() {
            let rounds = matches!(self.groups[group].kind, GroupKind::Attend(_))
                && self.rounds_member(node, group)
                && self.groups[group].space == shape;
            if (rounds || self.fits(&met, group, &shape)) && self.independent(node, group) {
                return self.join(node, group);
            }
        }
    }

    /// Whether a Map does nothing but round a member of a group to 16 bits.
    fn rounds_member(&self, node: Node, group: usize) -> bool {
        match self.graph.op(node) {
            Op::Map { op: ScalarOp::Cast(DType::F16 | DType::BF16), xs } => {
                self.group_of(xs[0]) == Some(group)
            }
            _ => false,
        }
    }

    /// Whether a Map of that shape can be computed inside a group.
    fn fits(&self, met: &[Met], group: usize, shape: &[Expr]) -> bool {
        let Group { kind, space, reduces, .. } = &self.groups[group];
        if reduces.iter().any(|sum| self.alone.contains(sum)) {
            return false;
        }
        let shaped = match kind {
            GroupKind::Rows { full } => shape == space || is_row(space, full, shape),
            GroupKind::Contraction(_) => shape == space,
            GroupKind::Attend(_) | GroupKind::Scan(_) => false,
        };
        let epilogue = matches!(kind, GroupKind::Contraction(_));
        shaped
            && met.iter().filter(|m| m.group == group).all(|m| {
                self.on_rows(m, &space[..space.len().min(shape.len())])
                    && (!epilogue || self.epilogue_end(m.node).is_some())
            })
    }

    /// The first node through which every use of `x` goes, if only Maps of its shape lie between: then `x`
    /// itself need not be stored once they are computed with it.
    fn epilogue_end(&self, x: Node) -> Option<Node> {
        let mut pending: BTreeSet<Node> = self.users[x.0 as usize].iter().copied().collect();
        let shape = self.graph.shape(x);
        for _ in 0..EPILOGUE_NODES {
            let next = *pending.first()?;
            if !matches!(self.graph.op(next), Op::Map { .. }) || self.graph.shape(next) != shape {
                return None;
            }
            if pending.len() == 1 {
                return Some(next);
            }
            pending.remove(&next);
            pending.extend(self.users[next.0 as usize].iter().copied());
        }
        None
    }

    /// Merges contractions with the same left operand over the same space, if one Map reads them all.
    fn merge_siblings(&mut self, candidates: &[usize], met: &[Met], shape: &[Expr]) {
        let [first, rest @ ..] = candidates else { return };
        for other in rest {
            if !self.fits(met, *first, shape) || !self.fits(met, *other, shape) {
                return;
            }
            let (a, b) = (&self.groups[*first], &self.groups[*other]);
            let (GroupKind::Contraction(x), GroupKind::Contraction(y)) = (&a.kind, &b.kind) else { return };
            let alike = x.sums[0].left == y.sums[0].left
                && x.sums[0].depth == y.sums[0].depth
                && x.sums[0].blocks.as_ref().map(|b| b.count) == y.sums[0].blocks.as_ref().map(|b| b.count)
                && x.right_axes == y.right_axes
                && a.space == b.space;
            let free = |of: usize, from: &Group| {
                from.members
                    .iter()
                    .all(|m| !self.reach[m.0 as usize].iter().any(|reached| self.resolve(reached) == of))
            };
            if !alike || !free(*first, b) || !free(*other, a) {
                return;
            }
            let Group { kind: GroupKind::Contraction(y), reduces, members, .. } = &self.groups[*other] else {
                return;
            };
            let (sums, reduces, members) = (y.sums.clone(), reduces.clone(), members.clone());
            self.groups[*other].merged_into = Some(*first);
            let into = &mut self.groups[*first];
            if let GroupKind::Contraction(x) = &mut into.kind {
                x.sums.extend(sums);
            }
            into.reduces.extend(reduces);
            into.members.extend(members);
        }
    }

    /// A Write is the store of the group whose member it writes.
    fn place_write(&mut self, node: Node, value: Node) {
        let Some(group) = self.group_of(value) else { return };
        let Group { kind, space, .. } = &self.groups[group];
        let joins = match kind {
            GroupKind::Contraction(_) => self.graph.shape(value) == space.as_slice(),
            GroupKind::Scan(_) => matches!(self.graph.op(value), Op::Result { .. }),
            GroupKind::Rows { .. } | GroupKind::Attend(_) => false,
        };
        if joins && self.independent(node, group) {
            self.join(node, group);
        }
    }

    /// A loop has a kernel of its own, over the axes of its results. What it reads in each step is computed
    /// before, not in the loop.
    fn place_scan(&mut self, node: Node, scan: &Scan) {
        let graph = self.graph;
        let rank = |carry: &Node| graph.shape(*carry).len();
        let space = match scan.result(graph, scan.carries.len()) {
            Some((mut shape, _)) => {
                shape.remove(scan.axis);
                shape
            }
            None => {
                let least = scan.carries.iter().copied().min_by_key(rank);
                graph.shape(least.expect("a loop without results carries something")).to_vec()
            }
        };
        self.open(node, GroupKind::Scan(node), space, Vec::new());
        for x in &scan.xs {
            let mut x = *x;
            while let Op::View { x: inner, .. } = graph.op(x) {
                x = *inner;
            }
            let map = matches!(graph.op(x), Op::Map { .. }) && !self.group.contains_key(&x);
            if map && !self.fixed[x.0 as usize] {
                self.stored_maps.insert(x);
            }
        }
    }

    fn store_expensive_maps(&mut self) {
        for node in self.graph.nodes() {
            let map = matches!(self.graph.op(node), Op::Map { .. });
            if !map || self.group.contains_key(&node) || self.claimed.contains(&node) {
                continue;
            }
            let output = self.is_output(node);
            if (self.fixed[node.0 as usize] || widens(self.graph, node)) && !output {
                continue;
            }
            let reads = self.reads(node);
            let shared = reads.count > 1 || reads.each > 1 || reads.gathered;
            let cost = self.cost(node) * reads.count.max(1) * reads.each;
            if output || (shared && cost > RECOMPUTE_BUDGET) {
                self.stored_maps.insert(node);
            }
        }
    }

    /// What a Write replaces is read into a buffer of its own before, so that no kernel reads what it or an
    /// earlier one has written over. Attention reads its cache in place: it needs no later version. So does a loop
    /// whose carry begins where it is written at the end: each element is one lane's own.
    fn store_replaced_versions(&mut self) {
        let graph = self.graph;
        let writes = graph.nodes().filter_map(|node| match graph.op(node) {
            Op::Write { state, .. } => Some(*state),
            _ => None,
        });
        let readers = writes.flat_map(|version| self.users[version.0 as usize].iter().copied());
        let views =
            readers.filter(|node| matches!(graph.op(*node), Op::View { .. }) && !self.claimed.contains(node));
        let views: Vec<Node> = views.filter(|view| !self.is_own_carry(*view)).collect();
        self.stored_maps.extend(views);
    }

    /// Whether a View of a state is the beginning of a loop's carry alone, and the carry's end is written to just
    /// those places.
    fn is_own_carry(&self, view: Node) -> bool {
        let graph = self.graph;
        let Op::View { x: state, at, ok: None, extras } = graph.op(view) else { return false };
        let mut carry = view;
        let (scan, index) = loop {
            let [user] = self.users[carry.0 as usize].as_slice() else { return false };
            match graph.op(*user) {
                Op::Map { .. } if !self.is_output(*user) => carry = *user,
                Op::Scan(scan) => match scan.carries.iter().position(|x| *x == carry) {
                    Some(index) if !scan.xs.contains(&carry) => break (*user, index),
                    _ => return false,
                },
                _ => return false,
            }
        };
        graph.nodes().any(|node| match graph.op(node) {
            Op::Write { state: old, at: to, extras: by, value, .. } => {
                old == state
                    && to == at
                    && by.starts_with(extras)
                    && *graph.op(*value) == (Op::Result { scan, index })
            }
            _ => false,
        })
    }

    /// How often an element of `node` is read: by how many readers, and how often by each at most.
    fn reads(&self, node: Node) -> Reads {
        let size = jtllm_ir::graph::element_count(self.graph.shape(node));
        let mut reads = Reads { count: 0, each: 1, gathered: false };
        let mut open: Vec<(Node, Expr)> = vec![(node, size.clone())];
        while let Some((x, _)) = open.pop() {
            for user in &self.users[x.0 as usize] {
                let count = jtllm_ir::graph::element_count(self.graph.shape(*user));
                match self.graph.op(*user) {
                    Op::View { extras, .. } if extras.contains(&x) => reads.gathered = true,
                    Op::Index { .. } => reads.gathered = true,
                    Op::View { .. } => open.push((*user, count)),
                    Op::Map { .. } if widens(self.graph, *user) => open.push((*user, count)),
                    _ => {
                        reads.count += 1;
                        let space = match self.graph.op(*user) {
                            Op::Reduce { x, .. } => jtllm_ir::graph::element_count(self.graph.shape(*x)),
                            Op::Write { value, .. } => {
                                jtllm_ir::graph::element_count(self.graph.shape(*value))
                            }
                            _ => count,
                        };
                        reads.each = reads.each.max(space.high() / size.high().max(1));
                    }
                }
            }
        }
        reads
    }

    /// Operations and loads for one element, down to what is stored.
    fn cost(&self, node: Node) -> i64 {
        if self.group.contains_key(&node) || self.stored_maps.contains(&node) {
            return 1;
        }
        match self.graph.op(node) {
            Op::Map { op: ScalarOp::Cast(_), xs } => self.cost(xs[0]),
            Op::Map { op, xs } => i64::from(op.row().cost) + xs.iter().map(|x| self.cost(*x)).sum::<i64>(),
            Op::View { x, .. } => self.cost(*x),
            Op::Const(_) | Op::Index { .. } => 0,
            _ => 1,
        }
    }

    fn finish(self) -> Partition {
        Assembly::new(&self).finish()
    }
}

/// Whether a shape is `space` with rows such as those of `full`, of another length perhaps.
fn is_row(space: &[Expr], full: &[Expr], shape: &[Expr]) -> bool {
    let rows =
        |shape: &[Expr]| shape.get(space.len()..).is_some_and(|row| row.iter().all(|n| n.as_int().is_some()));
    shape == full || (shape.len() == full.len() && shape.starts_with(space) && rows(shape) && rows(full))
}

/// Whether a node makes an `f32` of a 16-bit number.
fn widens(graph: &Graph, node: Node) -> bool {
    match graph.op(node) {
        Op::Map { op: ScalarOp::Cast(DType::F32), xs } => {
            matches!(graph.dtype(xs[0]), DType::F16 | DType::BF16)
        }
        _ => false,
    }
}

/// For each node, whether it is made of weights and constants alone.
fn fixed(graph: &Graph) -> Vec<bool> {
    let mut fixed = vec![false; graph.len()];
    for node in graph.nodes() {
        let all = |xs: &[Node]| xs.iter().all(|x| fixed[x.0 as usize]);
        fixed[node.0 as usize] = match graph.op(node) {
            Op::Weight { .. } | Op::Const(_) => true,
            Op::Index { extras, .. } => extras.is_empty(),
            Op::Map { xs, .. } => all(xs),
            Op::View { x, extras, .. } => extras.is_empty() && all(&[*x]),
            _ => false,
        };
    }
    fixed
}

/// A set of groups.
#[derive(Clone, Default)]
struct GroupSet(Vec<u64>);

impl GroupSet {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn insert(&mut self, group: usize) {
        self.0.resize(self.0.len().max(group / 64 + 1), 0);
        self.0[group / 64] |= 1 << (group % 64);
    }

    fn join(&mut self, other: &GroupSet) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.0.iter().enumerate();
        words.flat_map(|(at, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit)
        })
    }
}

struct Reads {
    count: i64,
    each: i64,
    gathered: bool,
}

/// A member of a group met in an operand tree.
struct Met {
    group: usize,
    node: Node,
    /// Where it is read; `None` if a condition or an extra stands between.
    at: Option<Vec<Expr>>,
}

/// Turns groups and stored Maps into regions.
struct Assembly<'c, 'g> {
    cut: &'c Cut<'g>,
    /// For each node, the region that computes it: groups first, then single nodes.
    home: HashMap<Node, usize>,
    roots: Vec<Vec<Node>>,
}

impl<'c, 'g> Assembly<'c, 'g> {
    fn new(cut: &'c Cut<'g>) -> Assembly<'c, 'g> {
        let mut home = HashMap::new();
        for node in cut.graph.nodes() {
            if let Some(group) = cut.group_of(node) {
                home.insert(node, group);
            }
        }
        let mut next = cut.groups.len();
        for node in cut.graph.nodes() {
            let write = matches!(cut.graph.op(node), Op::Write { .. }) && !home.contains_key(&node);
            if write || cut.stored_maps.contains(&node) || Self::bare_output(cut, node, &home) {
                home.insert(node, next);
                next += 1;
            }
        }
        Assembly { cut, home, roots: vec![Vec::new(); next] }
    }

    /// An output that nothing else computes into a buffer: a view or a leaf.
    fn bare_output(cut: &Cut<'_>, node: Node, home: &HashMap<Node, usize>) -> bool {
        cut.graph.outputs.iter().any(|(_, out)| *out == node)
            && !home.contains_key(&node)
            && matches!(cut.graph.op(node), Op::View { .. } | Op::Index { .. } | Op::Map { .. })
    }

    fn finish(mut self) -> Partition {
        let graph = self.cut.graph;
        let mut stored: BTreeSet<Node> = BTreeSet::new();
        for node in graph.nodes() {
            let Some(home) = self.home.get(&node) else { continue };
            if matches!(graph.op(node), Op::Write { .. }) || self.read_elsewhere(node, *home) {
                stored.insert(node);
            }
        }
        for node in &stored {
            self.roots[self.home[node]].push(*node);
        }
        let order = self.order(&stored);
        let regions = order.into_iter().map(|home| self.region(home)).collect();
        let stored = stored.into_iter().filter(|n| !matches!(graph.op(*n), Op::Write { .. })).collect();
        Partition { regions, stored }
    }

    /// Whether a node's value is needed outside of the region that computes it.
    fn read_elsewhere(&self, node: Node, home: usize) -> bool {
        let graph = self.cut.graph;
        if graph.outputs.iter().any(|(_, out)| *out == node) || self.cut.stored_maps.contains(&node) {
            return true;
        }
        let mut open = vec![node];
        let mut seen = HashSet::new();
        while let Some(x) = open.pop() {
            for user in &self.cut.users[x.0 as usize] {
                match self.home.get(user) {
                    Some(other) if *other != home => return true,
                    Some(_) => {}
                    None if seen.insert(*user) => open.push(*user),
                    None => {}
                }
            }
        }
        false
    }

    /// The regions in an order in which each follows those that it reads from; a region that writes a
    /// state follows those that read the version before.
    fn order(&self, stored: &BTreeSet<Node>) -> Vec<usize> {
        let mut before: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.roots.len()];
        for (region, roots) in self.roots.iter().enumerate() {
            let mut open = roots.clone();
            let mut seen = HashSet::new();
            while let Some(node) = open.pop() {
                if !seen.insert(node) {
                    continue;
                }
                match self.home.get(&node) {
                    Some(other) if *other != region && stored.contains(&node) => {
                        before[region].insert(*other);
                    }
                    _ => open.extend(self.cut.graph.op(node).operands()),
                }
            }
        }
        self.writes_after_reads(&mut before);
        let mut done = vec![false; self.roots.len()];
        let mut order = Vec::new();
        // Ready regions are taken in the order of their first root, so that layers stay together.
        let mut left: Vec<usize> = (0..self.roots.len()).filter(|r| !self.roots[*r].is_empty()).collect();
        left.sort_by_key(|region| self.roots[*region][0]);
        while !left.is_empty() {
            let ready = left.iter().position(|region| before[*region].iter().all(|b| done[*b]));
            let region = left.remove(ready.expect("groups are formed so that regions have no cycles"));
            done[region] = true;
            order.push(region);
        }
        order
    }

    fn writes_after_reads(&self, before: &mut [BTreeSet<usize>]) {
        let graph = self.cut.graph;
        for node in graph.nodes() {
            let Op::Write { state, .. } = graph.op(node) else { continue };
            let writer = self.home[&node];
            for user in &self.cut.users[state.0 as usize] {
                let mut open = vec![*user];
                while let Some(x) = open.pop() {
                    match self.home.get(&x) {
                        Some(reader) if *reader != writer => {
                            before[writer].insert(*reader);
                        }
                        Some(_) => {}
                        None => open.extend(self.cut.users[x.0 as usize].iter().copied()),
                    }
                }
            }
        }
    }

    fn region(&self, home: usize) -> Region {
        let graph = self.cut.graph;
        let roots = self.roots[home].clone();
        let Some(group) = self.cut.groups.get(home) else {
            let space = match graph.op(roots[0]) {
                Op::Write { value, .. } => graph.shape(*value).to_vec(),
                _ => graph.shape(roots[0]).to_vec(),
            };
            return Region { roots, reduces: Vec::new(), space, work: Work::Pointwise };
        };
        let many = |c: &Contraction| c.left_axes.iter().any(|axis| classify::is_many(&group.space[*axis]));
        let work = match &group.kind {
            GroupKind::Rows { .. } => Work::Rows,
            GroupKind::Contraction(c) if many(c) => Work::Gemm(c.clone()),
            GroupKind::Contraction(c) => Work::Gemv(c.clone()),
            GroupKind::Attend(attend) => Work::Attend(attend.clone()),
            GroupKind::Scan(scan) => Work::Scan(*scan),
        };
        Region { roots, reduces: group.reduces.clone(), space: group.space.clone(), work }
    }
}
