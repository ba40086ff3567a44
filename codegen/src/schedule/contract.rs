//! Sums of products with a left operand (activations) and right operands (weights).
//!
//! A group computes a tile of `rows x columns` sums. Where the right operand's planes interleave rows, lanes
//! run over columns (output rows of the weight): no horizontal sum, terms added one by one along the depth.
//! Else lanes run over the depth, and one `LaneReduce` ends each sum. Either way the order of additions
//! depends on the depth and the lanes, not on the tile.

use std::ops::Range;

use jtllm_ir::{DType, Expr, Node, Op, Scalar, ScalarOp};

use super::lower::Lower;
use super::{Scheduled, layout, pairs, parts};
use crate::access::{read_coordinates, spans, visit_reads};
use crate::kernel::{CellId, Memory, ValueId};
use crate::region::{Contraction, Product, Sum};

/// Products that are written out one after another inside the innermost loop, if no format asks for more.
const UNROLL: i64 = 4;

/// Numbers that a lane takes at a time at most, where it takes several words.
const CHUNK_MAX: i64 = 32;

/// A format's words may hold this many numbers at most; larger spans become loops.
const UNROLL_MAX: i64 = 16;

/// Rows of the left operand that share one pass over the right operand's tile.
const TILE_ROWS: i64 = 4;

/// The same where lanes run over columns and there are registers for so many sums: what is unpacked serves more rows.
const TILE_ROWS_MANY: i64 = 8;
const ACCUMULATORS_MANY: i64 = 24;

/// Groups of interleaved rows that a tile reads side by side: while one waits at the border of a memory page,
/// where the processor's prefetch starts anew, the other goes on.
const STREAMS: i64 = 2;

/// Groups in which a stream goes on at most: some ten thousand bytes of it, and what a group writes stays near.
const RUN: i64 = 16;

/// What one group computes.
struct Tile {
    /// Rows of the left operand.
    rows: i64,
    /// Columns (times lanes, if lanes run over columns).
    columns: i64,
    /// Whether lanes run over columns.
    lanes_over_columns: bool,
}

pub(super) fn schedule(mut lower: Lower<'_>, contraction: &Contraction) -> Scheduled {
    let space = lower.region.space.clone();
    let left = extents(&space, &contraction.left_axes);
    let right = extents(&space, &contraction.right_axes);
    let count = left.iter().fold(Expr::int(1), |product, n| product * n.clone());
    let width = width(&lower, contraction);
    let tile = choose(&lower, contraction, &count, width);
    let lanes = i64::from(lower.caps.lanes);
    let step = tile.columns * if tile.lanes_over_columns { lanes } else { 1 };
    let part = lower.part.clone().unwrap_or(0..width);
    let steps = (part.end - part.start + step - 1) / step;
    let grid = [count.div_floor(tile.rows), Expr::int(steps), Expr::int(1)];
    lower.grid(lanes as u32, grid);

    let row = lower.b.grid(0) * tile.rows;
    let order = Order::of(&mut lower, contraction, &tile, &part);
    let columns: Vec<Expr> = (0..tile.columns)
        .map(|c| match tile.lanes_over_columns {
            true => order.column(&Expr::int(c * lanes)) + lower.b.lane(),
            false => order.column(&Expr::int(c)),
        })
        .collect();
    let place = |r: &Expr, column: &Expr| {
        let mut at = vec![Expr::int(0); space.len()];
        spread(&mut at, &contraction.left_axes, &left, &(row.clone() + r.clone()));
        spread(&mut at, &contraction.right_axes, &right, column);
        at
    };
    // Columns beyond the last one read the last one's operands; packed planes are padded instead.
    let last = Expr::int(part.end - 1);
    let padded = tile.lanes_over_columns && is_padded(&lower, contraction);
    let reading = |column: &Expr| if padded { column.clone() } else { column.minimum(&last) };
    let places: Vec<Vec<Vec<Expr>>> = (0..tile.rows)
        .map(|r| columns.iter().map(|column| place(&Expr::int(r), &reading(column))).collect())
        .collect();

    let sums: Vec<Vec<Vec<ValueId>>> =
        contraction.sums.iter().map(|sum| accumulate(&mut lower, sum, &tile, &places)).collect();
    let end = Expr::int(part.end);
    if is_side_by_side(&lower, &tile, width) {
        let memories: Vec<Memory> = sums.iter().map(|values| together(&mut lower, values)).collect();
        let count = tile.rows * tile.columns;
        for start in (0..count).step_by(lanes as usize) {
            let flat = Expr::int(start) + lower.b.lane();
            let [r, c] = [flat.clone().div_floor(tile.columns), flat.clone().modulo(tile.columns)];
            let column = order.column(&c);
            let inside = flat.less_than(&Expr::int(count)).and(&column.less_than(&end));
            let at = place(&r, &column);
            lower.conditional(&inside, |lower| {
                for (sum, memory) in contraction.sums.iter().zip(&memories) {
                    let value = lower.b.load(*memory, &flat);
                    lower.bind(sum.root, value);
                }
                lower.store_roots(space.len(), &at, false);
            });
        }
        return lower.finish();
    }
    for r in 0..tile.rows as usize {
        for (c, column) in columns.iter().enumerate() {
            for (sum, values) in contraction.sums.iter().zip(&sums) {
                lower.bind(sum.root, values[r][c]);
            }
            let inside = column.less_than(&end);
            let at = place(&Expr::int(r as i64), column);
            lower.conditional(&inside, |lower| lower.store_roots(space.len(), &at, !tile.lanes_over_columns));
        }
    }
    lower.finish()
}

/// Which columns groups take.
///
/// A group reads several rows of the right operand side by side (or several groups of interleaved rows), one behind the
/// other only in its own time. Each is a stream, which the processor's prefetch follows if it does not end soon: so a
/// stream goes on, in the next group, where it was, and neighbours are `run` groups apart.
struct Order {
    group: Expr,
    /// The first column of all.
    start: i64,
    streams: i64,
    /// Columns that a stream takes in a group.
    unit: i64,
    /// Groups in which a stream goes on.
    run: i64,
}

impl Order {
    fn of(lower: &mut Lower<'_>, contraction: &Contraction, tile: &Tile, part: &Range<i64>) -> Order {
        let lanes = i64::from(lower.caps.lanes);
        let (step, unit) = match tile.lanes_over_columns {
            true => {
                let step = tile.columns * lanes;
                (step, i64::from(lower.caps.interleave.unwrap_or(1)).max(lanes).min(step))
            }
            false => (tile.columns, 1),
        };
        let (start, width) = (part.start, part.end - part.start);
        let is_whole = !lower.caps.threads && width % step == 0;
        let run = (1..=RUN).rev().find(|run| is_whole && width / step % run == 0).unwrap_or(1);
        if lower.part.is_some() && run > 1 {
            lower.rows = parts::rows(lower, contraction, part);
        }
        Order { group: lower.b.grid(1), start, streams: step / unit, unit, run }
    }

    /// Column `c` of those that a group takes.
    fn column(&self, c: &Expr) -> Expr {
        let Order { start, streams, unit, run, .. } = *self;
        let [stream, inside] = [c.clone().div_floor(unit), c.clone().modulo(unit)];
        let [turn, place] = [self.group.clone().div_floor(run), self.group.clone().modulo(run)];
        (turn * (streams * run) + stream * run + place) * unit + inside + start
    }
}

/// Columns of a contraction.
pub(super) fn width(lower: &Lower<'_>, contraction: &Contraction) -> i64 {
    let right = extents(&lower.region.space, &contraction.right_axes);
    right.iter().map(|n| n.as_int().expect("classify: right axes are constant")).product()
}

/// Whether a region's sums end in a state.
pub(super) fn writes_state(lower: &Lower<'_>) -> bool {
    lower.region.roots.iter().any(|root| matches!(lower.graph.op(*root), Op::Write { .. }))
}

/// Whether what becomes of a tile's sums is computed for several of them at a time: on register machines, where all
/// lanes would else compute the same for each. A place in a state that rows tell cannot be shown to be a lane's own.
fn is_side_by_side(lower: &Lower<'_>, tile: &Tile, width: i64) -> bool {
    let several = tile.rows * tile.columns > 1 && width >= tile.columns;
    several && !tile.lanes_over_columns && !lower.caps.threads && !writes_state(lower)
}

/// The sums of a tile in memory, row by row, for lanes to take.
fn together(lower: &mut Lower<'_>, sums: &[Vec<ValueId>]) -> Memory {
    let count = sums.iter().map(Vec::len).sum::<usize>();
    let memory = lower.b.shared(DType::F32, count as u32);
    for (at, sum) in sums.iter().flatten().enumerate() {
        lower.store(memory, &Expr::int(at as i64), *sum, true);
    }
    lower.b.barrier();
    memory
}

pub(super) fn extents(space: &[Expr], of: &[usize]) -> Vec<Expr> {
    of.iter().map(|axis| space[*axis].clone()).collect()
}

/// Sets the coordinates of some axes from their flattened index.
pub(super) fn spread(at: &mut [Expr], of: &[usize], extents: &[Expr], flat: &Expr) {
    let mut inner = 1;
    for (place, (axis, extent)) in of.iter().zip(extents).enumerate().rev() {
        let whole = flat.clone().div_floor(inner);
        at[*axis] = match (place, extent.as_int()) {
            (0, _) => whole,
            (_, Some(extent)) => whole.modulo(extent),
            (_, None) => panic!("only the first of several axes may be symbolic"),
        };
        inner *= extent.as_int().unwrap_or(1);
    }
}

fn choose(lower: &Lower<'_>, contraction: &Contraction, count: &Expr, width: i64) -> Tile {
    let caps = lower.caps;
    let lanes_over_columns = reads_interleaved(lower, &contraction.sums[0]);
    // Sibling sums are accumulated one after another, each with all registers.
    let budget = i64::from(caps.accumulators);
    let many = lanes_over_columns && budget >= ACCUMULATORS_MANY && !caps.threads;
    let mut rows = if many { TILE_ROWS_MANY } else { TILE_ROWS.min(budget) };
    while count.divisor() % rows != 0 {
        rows -= 1;
    }
    let lanes = i64::from(caps.lanes);
    let interleave = i64::from(caps.interleave.unwrap_or(1));
    let most = if lanes_over_columns { STREAMS * (interleave / lanes).max(1) } else { 8 };
    // Interleaved planes are padded to whole groups of rows, not to pairs of groups.
    let fits = |columns: i64| {
        !lanes_over_columns
            || columns * lanes <= interleave
            || (width + interleave - 1) / interleave % STREAMS == 0
    };
    let mut columns = 1;
    while columns * 2 <= most && columns * 2 * rows <= budget && columns < width && fits(columns * 2) {
        columns *= 2;
    }
    Tile { rows, columns, lanes_over_columns }
}

pub(super) fn reads_interleaved(lower: &Lower<'_>, sum: &Sum) -> bool {
    let mut found = false;
    let at = jtllm_ir::graph::axes(lower.graph.shape(sum.right));
    let stop = |node| lower.is_stored(node);
    visit_reads(lower.graph, sum.right, &at, &stop, &mut |node, _| {
        if let Op::Weight { name } = lower.graph.op(node) {
            let layout = layout(name, lower.graph.shape(node).len(), lower.caps);
            found |= layout != jtllm_ir::Layout::RowMajor;
        }
    });
    found
}

/// Whether columns may be read beyond the last one: all that depends on the column lies in interleaved planes,
/// which have rows to spare.
fn is_padded(lower: &Lower<'_>, contraction: &Contraction) -> bool {
    let stop = |node| lower.is_stored(node);
    let mut padded = true;
    let mut visit = |node: Node, at: &[Expr]| {
        let by_column = |x: &Expr| contraction.right_axes.iter().any(|axis| x.mentions_axis(*axis as u16));
        let interleaved = match lower.graph.op(node) {
            Op::Weight { name } => {
                layout(name, lower.graph.shape(node).len(), lower.caps) != jtllm_ir::Layout::RowMajor
            }
            Op::Index { .. } => true,
            _ => false,
        };
        padded &= interleaved || !at.iter().any(by_column);
    };
    for sum in &contraction.sums {
        let (each, inner) = sum.blocks.as_ref().map(|blocks| (blocks.each, blocks.inner)).unzip();
        for node in [Some(sum.right), each].into_iter().flatten() {
            let at = jtllm_ir::graph::axes(lower.graph.shape(node));
            visit_reads(lower.graph, node, &at, &stop, &mut |node, at| {
                if Some(node) != inner {
                    visit(node, at);
                }
            });
        }
    }
    padded
}

/// The sums of a tile: `[row][column]`.
fn accumulate(lower: &mut Lower<'_>, sum: &Sum, tile: &Tile, places: &[Vec<Vec<Expr>>]) -> Vec<Vec<ValueId>> {
    let cells = zeros(lower, tile);
    match tile.lanes_over_columns {
        true => along_depth(lower, sum, places, &cells),
        false => across_depth(lower, sum, places, &cells),
    }
    let finished = |lower: &mut Lower<'_>, cell: CellId| {
        let value = lower.b.get(cell);
        if tile.lanes_over_columns { value } else { lower.b.lane_reduce(jtllm_ir::Monoid::Add, value) }
    };
    cells.into_iter().map(|row| row.into_iter().map(|cell| finished(lower, cell)).collect()).collect()
}

fn zeros(lower: &mut Lower<'_>, tile: &Tile) -> Vec<Vec<CellId>> {
    let zero = lower.b.float(0.0);
    (0..tile.rows).map(|_| (0..tile.columns).map(|_| lower.b.cell(zero)).collect()).collect()
}

/// Lanes over columns: a serial loop over blocks, words and numbers.
fn along_depth(lower: &mut Lower<'_>, sum: &Sum, places: &[Vec<Vec<Expr>>], cells: &[Vec<CellId>]) {
    let Some(blocks) = &sum.blocks else {
        let levels = levels(lower, sum, sum.depth);
        return serial(lower, &levels, sum.depth, Expr::int(0), &mut |lower, ks| {
            let ks: Vec<Vec<Expr>> = ks.iter().map(|k| vec![k.clone()]).collect();
            multiply(lower, sum, places, cells, &ks);
        });
    };
    let levels = levels(lower, sum, sum.depth);
    lower.repeat(&Expr::int(blocks.count), |lower, block| {
        let parts = block_sums(lower, sum, cells);
        serial(lower, &levels, sum.depth, Expr::int(0), &mut |lower, ks| {
            let ks: Vec<Vec<Expr>> = ks.iter().map(|k| vec![block.clone(), k.clone()]).collect();
            multiply(lower, sum, places, &parts, &ks);
        });
        add_blocks(lower, sum, places, &parts, cells, &block);
    });
}

/// The spans of the depth that the right operand's format has, as nested loops: each divides the one before.
fn levels(lower: &Lower<'_>, sum: &Sum, depth: i64) -> Vec<i64> {
    let shape = lower.graph.shape(sum.right);
    let stop = |node| lower.is_stored(node);
    let coordinates = read_coordinates(lower.graph, sum.right, &jtllm_ir::graph::axes(shape), &stop);
    let mut levels = Vec::new();
    let mut outer = depth;
    for span in spans(&coordinates, shape.len() as u16 - 1) {
        // Once what is left is short enough it is written out, so that shifts are by constants.
        if outer > UNROLL_MAX && span < outer && outer % span == 0 {
            levels.push(span);
            outer = span;
        }
    }
    if outer > UNROLL_MAX {
        let unroll = (1..=UNROLL).rev().find(|n| outer % n == 0).unwrap_or(1);
        levels.push(unroll);
    }
    levels
}

fn serial<'a>(
    lower: &mut Lower<'a>,
    levels: &[i64],
    extent: i64,
    start: Expr,
    body: &mut dyn FnMut(&mut Lower<'a>, &[Expr]),
) {
    let Some((span, inner)) = levels.split_first() else {
        let places: Vec<Expr> = (0..extent).map(|k| start.clone() + k).collect();
        return body(lower, &places);
    };
    lower.repeat(&Expr::int(extent / span), |lower, step| {
        serial(lower, inner, *span, start + step * *span, body);
    });
}

/// What a lane takes of the depth at a time: some words of some numbers.
pub(super) struct Chunk {
    pub(super) word: i64,
    pub(super) words: i64,
}

/// One word, or as many as the target loads at once, if they lie side by side. All lanes take part in a chunk
/// before one takes more, and blocks are made of whole chunks.
pub(super) fn chunk(lower: &Lower<'_>, sum: &Sum) -> Chunk {
    // What is added for a block need not be a multiple of its sum: then a block is not shared out.
    if sum.blocks.as_ref().is_some_and(|blocks| blocks.scale(lower.graph).is_none()) {
        return Chunk { word: sum.depth, words: 1 };
    }
    if pairs::fit(lower, sum) {
        return Chunk { word: 1, words: 2 };
    }
    let packed = packed(lower, sum);
    let word = levels(lower, sum, sum.depth).last().copied().filter(|_| packed).unwrap_or(1);
    let total = sum.depth * sum.blocks.as_ref().map_or(1, |blocks| blocks.count);
    let mut words = match element_bytes(lower, sum, packed) {
        Some(size) => (i64::from(lower.caps.vector_bytes) / size).max(1),
        None => 1,
    };
    let fits = |words: i64| {
        let chunk = words * word;
        chunk <= CHUNK_MAX && sum.depth % chunk == 0 && total / chunk >= i64::from(lower.caps.lanes)
    };
    while words > 1 && !fits(words) {
        words /= 2;
    }
    Chunk { word, words }
}

/// Bytes of the words of the right operand, or of its numbers where they are not packed, if those of a row
/// follow each other: weights whose last axis is the depth.
fn element_bytes(lower: &Lower<'_>, sum: &Sum, packed: bool) -> Option<i64> {
    let shape = lower.graph.shape(sum.right);
    let depth = Expr::axis(shape.len() as u16 - 1, &shape[shape.len() - 1]);
    let stop = |node| lower.is_stored(node);
    let mut sizes = Vec::new();
    let mut visit = |node: Node, at: &[Expr]| {
        let side_by_side =
            packed || at.last().is_some_and(|last| (last.clone() - depth.clone()).as_int() == Some(0));
        if matches!(lower.graph.op(node), Op::Weight { .. }) {
            sizes.push(side_by_side.then_some(lower.graph.dtype(node).size() as i64));
        }
    };
    visit_reads(lower.graph, sum.right, &jtllm_ir::graph::axes(shape), &stop, &mut visit);
    // The words of a packed format are its largest elements.
    sizes.into_iter().collect::<Option<Vec<i64>>>()?.into_iter().max()
}

/// Lanes over the depth: each lane takes one chunk at a time.
fn across_depth(lower: &mut Lower<'_>, sum: &Sum, places: &[Vec<Vec<Expr>>], cells: &[Vec<CellId>]) {
    let lanes = lower.b.lanes();
    let Chunk { word, words } = chunk(lower, sum);
    let blocks = sum.blocks.as_ref().map_or(1, |blocks| blocks.count);
    let chunks = sum.depth * blocks / (word * words);
    let whole = Expr::int(chunks / lanes);
    if chunks >= lanes {
        lower.repeat(&whole, |lower, at| {
            let index = at * lanes + lower.b.lane();
            across(lower, sum, places, cells, index);
        });
    }
    let index = whole * lanes + lower.b.lane();
    let inside = index.less_than(&Expr::int(chunks));
    lower.conditional(&inside, |lower| across(lower, sum, places, cells, index));
}

/// Adds the products of one chunk of the depth for each lane, by the chunk's index.
pub(super) fn across(
    lower: &mut Lower<'_>,
    sum: &Sum,
    places: &[Vec<Vec<Expr>>],
    cells: &[Vec<CellId>],
    index: Expr,
) {
    let Chunk { word, words } = chunk(lower, sum);
    // Several rows share what is unpacked, so loads are few beside sums: a loop keeps the code short.
    let (turns, written_out) = if places.len() > 1 && word > 1 { (words, word) } else { (1, word * words) };
    let first = index * (word * words);
    if sum.blocks.is_none() {
        return lower.repeat(&Expr::int(turns), |lower, turn| {
            let first = first.clone() + turn * word;
            let ks: Vec<Vec<Expr>> = (0..written_out).map(|u| vec![first.clone() + u]).collect();
            multiply(lower, sum, places, cells, &ks);
        });
    }
    let parts = block_sums(lower, sum, cells);
    let block = first.clone().div_floor(sum.depth);
    lower.repeat(&Expr::int(turns), |lower, turn| {
        let first = first.clone() + turn * word;
        let ks: Vec<Vec<Expr>> =
            (0..written_out).map(|u| vec![block.clone(), (first.clone() + u).modulo(sum.depth)]).collect();
        multiply(lower, sum, places, &parts, &ks);
    });
    add_blocks(lower, sum, places, &parts, cells, &block);
}

/// Whether the right operand's numbers come several to a word.
pub(super) fn packed(lower: &Lower<'_>, sum: &Sum) -> bool {
    let shape = lower.graph.shape(sum.right);
    let stop = |node| lower.is_stored(node);
    let coordinates = read_coordinates(lower.graph, sum.right, &jtllm_ir::graph::axes(shape), &stop);
    !spans(&coordinates, shape.len() as u16 - 1).is_empty()
}

/// Adds some products to each cell of a tile, in the order of `ks`: coordinates behind the region's space, of which
/// neighbours are multiplied together where that is possible.
/// A single row takes one column at a time, so that one word of each weight is held, not one of all; several
/// rows share each unpacked weight.
fn multiply(
    lower: &mut Lower<'_>,
    sum: &Sum,
    places: &[Vec<Vec<Expr>>],
    cells: &[Vec<CellId>],
    ks: &[Vec<Expr>],
) {
    let columns = places[0].len();
    let paired = pairs::fit(lower, sum);
    let ks: Vec<Vec<Expr>> = ks.iter().step_by(if paired { 2 } else { 1 }).cloned().collect();
    let groups: Vec<(Range<usize>, &[Vec<Expr>])> = match places {
        [_] => (0..columns).map(|c| (c..c + 1, ks.as_slice())).collect(),
        _ => ks.iter().map(|k| (0..columns, std::slice::from_ref(k))).collect(),
    };
    for (columns, ks) in groups {
        for k in ks {
            multiply_one(lower, (sum, paired), places, cells, columns.clone(), k);
        }
    }
}

/// An operand's number, or two neighbours as a word.
pub(super) fn factor(lower: &mut Lower<'_>, paired: bool, node: Node, at: &[Expr]) -> ValueId {
    match paired {
        true => pairs::load(lower, node, at),
        false => lower.value(node, at),
    }
}

/// What adds a product to a sum.
pub(super) fn product(sum: &Sum, paired: bool) -> ScalarOp {
    match sum.product {
        Product::Floats if paired => ScalarOp::Dot2,
        Product::Floats => ScalarOp::Fma,
        Product::Bytes => ScalarOp::Dot4,
        Product::SignedBytes => ScalarOp::Dot4Signed,
    }
}

/// Adds one product to each cell of some columns, or those of two neighbours.
fn multiply_one(
    lower: &mut Lower<'_>,
    (sum, paired): (&Sum, bool),
    places: &[Vec<Vec<Expr>>],
    cells: &[Vec<CellId>],
    columns: Range<usize>,
    k: &[Expr],
) {
    let right: Vec<ValueId> = places[0][columns.clone()]
        .iter()
        .map(|at| factor(lower, paired, sum.right, &[at.as_slice(), k].concat()))
        .collect();
    let product = product(sum, paired);
    for (row, cells) in places.iter().zip(cells) {
        let left = factor(lower, paired, sum.left, &[row[0].as_slice(), k].concat());
        for (right, cell) in right.iter().zip(&cells[columns.clone()]) {
            let before = lower.b.get(*cell);
            // The weight first: it is used up here, and two-address machines overwrite the first operand.
            let after = lower.b.scalar(product, &[*right, left, before]);
            lower.b.set(*cell, after);
        }
    }
}

/// Zeros for the sums inside a block.
fn block_sums(lower: &mut Lower<'_>, sum: &Sum, cells: &[Vec<CellId>]) -> Vec<Vec<CellId>> {
    let zero = match sum.product {
        Product::Floats => lower.b.float(0.0),
        Product::Bytes | Product::SignedBytes => lower.b.constant(DType::I32, Scalar::Int(0)),
    };
    cells.iter().map(|row| row.iter().map(|_| lower.b.cell(zero)).collect()).collect()
}

/// Adds what each block's sum becomes.
fn add_blocks(
    lower: &mut Lower<'_>,
    sum: &Sum,
    places: &[Vec<Vec<Expr>>],
    parts: &[Vec<CellId>],
    cells: &[Vec<CellId>],
    block: &Expr,
) {
    let Some(blocks) = &sum.blocks else { return };
    for (r, row) in places.iter().enumerate() {
        for (c, at) in row.iter().enumerate() {
            let part = lower.b.get(parts[r][c]);
            lower.bind(blocks.inner, part);
            let before = lower.b.get(cells[r][c]);
            let at = [at.as_slice(), std::slice::from_ref(block)].concat();
            let after = add(lower, blocks.each, &at, before);
            lower.b.set(cells[r][c], after);
        }
    }
}

/// `before` and the value of a node, summand by summand; products are fused.
fn add(lower: &mut Lower<'_>, node: Node, at: &[Expr], before: ValueId) -> ValueId {
    match lower.graph.op(node) {
        Op::Map { op: ScalarOp::Add, xs } => {
            let before = add(lower, xs[0], at, before);
            add(lower, xs[1], at, before)
        }
        Op::Map { op: ScalarOp::Mul, xs } => {
            let (a, b) = (lower.value(xs[0], at), lower.value(xs[1], at));
            lower.b.scalar(ScalarOp::Fma, &[a, b, before])
        }
        _ => {
            let value = lower.value(node, at);
            lower.b.scalar(ScalarOp::Add, &[before, value])
        }
    }
}
