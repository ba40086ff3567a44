//! Attention over a paged cache, for rows of two sequences.

use jtllm_ir::build::{Attention, Cache, attention, write_keys, write_values};
use jtllm_ir::expr::Symbol;
use jtllm_ir::{DType, Expr, Node, Tensor};

use super::case::{Case, int};

/// Pages of a sequence in most cases, and positions that its two sequences have before the pass.
const WIDTH: usize = 8;
const PAST: [usize; 2] = [70, 3];

/// The inputs that say where each row of a pass stands.
pub(crate) struct Places {
    /// The row's position in its sequence.
    pub(crate) position: Node,
    sequence: Node,
    slot: Node,
    table: Node,
    pages: Expr,
    /// How many pages there are.
    count: usize,
    many: bool,
    /// Slopes of ALiBi, `[heads]`.
    pub(crate) slopes: Option<Node>,
}

/// What those inputs hold.
struct Values {
    sequence: Vec<i64>,
    position: Vec<i64>,
    table: Vec<i64>,
    slot: Vec<i64>,
}

impl Values {
    fn of(tokens: usize, many: bool, past: [usize; 2], width: usize) -> Values {
        // Sequence 0 owns rows 0..16 of a chunk, sequence 1 the rest; decoding rows alternate.
        let sequence: Vec<i64> =
            (0..tokens).map(|r| if many { (r >= 16) as i64 } else { r as i64 % 2 }).collect();
        let position: Vec<i64> = (0..tokens)
            .map(|r| {
                let before = sequence[..r].iter().filter(|s| **s == sequence[r]).count() as i64;
                past[sequence[r] as usize] as i64 + before
            })
            .collect();
        let wide = width as i64;
        let table: Vec<i64> =
            (0..16 * wide).map(|at| (at * 7 + 5) % wide + if at / wide == 1 { wide } else { 0 }).collect();
        let slot = (0..tokens).map(|r| {
            if r + 1 == tokens && tokens > 1 {
                return -1;
            }
            table[(sequence[r] * wide + position[r] / 16) as usize] * 16 + position[r] % 16
        });
        let slot: Vec<i64> = slot.collect();
        Values { sequence, position, table, slot }
    }
}

impl Places {
    /// The places of `tokens` rows, of which there are `t`: ragged sequences, pages out of order.
    pub(crate) fn new(case: &mut Case, t: &Expr, tokens: usize) -> Places {
        Places::with(case, t, tokens, tokens > 16, (PAST, WIDTH))
    }

    /// The same, where `many` says whether the rows are a chunk, of which 16 belong to one sequence each.
    pub(crate) fn of(case: &mut Case, t: &Expr, tokens: usize, many: bool) -> Places {
        Places::with(case, t, tokens, many, (PAST, WIDTH))
    }

    /// The same with so many positions before the pass, and pages for a sequence.
    pub(crate) fn behind(case: &mut Case, t: &Expr, tokens: usize, past: [usize; 2], width: usize) -> Places {
        Places::with(case, t, tokens, tokens > 16, (past, width))
    }

    fn with(
        case: &mut Case,
        t: &Expr,
        tokens: usize,
        many: bool,
        (past, width): ([usize; 2], usize),
    ) -> Places {
        let count = 3 * width;
        let p = case.graph.symbol(&Symbol::new("P", 8, 64, 8));
        let pages = case.graph.symbol(&Symbol::new("pages", 1, 1 << 20, 1));
        case.bindings.symbols.insert("P".to_owned(), width as i64);
        case.bindings.symbols.insert("pages".to_owned(), count as i64);
        let Values { sequence, position, table, slot } = Values::of(tokens, many, past, width);
        let each = std::slice::from_ref(t);
        let position = case.ints("pos", each, &[tokens], (0, int(4096)), position);
        let sequence = case.ints("seq", each, &[tokens], (0, int(16)), sequence);
        let slot = case.ints("slot", each, &[tokens], (-1, pages.clone() * 16), slot);
        let table = case.ints("table", &[int(16), p], &[16, width], (0, pages.clone()), table);
        Places { position, sequence, slot, table, pages, count, many, slopes: None }
    }

    /// The attention of queries `[T, heads, width]` to what is in the cache, where keys and values
    /// `[T, key heads, width]` are put first.
    pub(crate) fn attend(
        &self,
        case: &mut Case,
        [q, k, v]: [Node; 3],
        dtype: DType,
        window: Option<i64>,
    ) -> Node {
        let shape = case.graph.shape(k);
        let [heads, width] = [1, 2].map(|axis| shape[axis].as_int().unwrap() as usize);
        let group = case.graph.shape(q)[1].as_int().unwrap() / heads as i64;
        for (name, shape) in
            [("keys", [self.count, heads, width, 16]), ("values", [self.count, heads, 16, width])]
        {
            let values = case.floats(shape.iter().product(), 1.0);
            case.bindings.states.insert(name.to_owned(), Tensor::floats(dtype, &shape, values));
        }
        let graph = &mut case.graph;
        let state = graph.state("keys", dtype, &[self.pages.clone(), int(heads), int(width), int(16)]);
        let keys = write_keys(graph, state, k, self.slot);
        let state = graph.state("values", dtype, &[self.pages.clone(), int(heads), int(16), int(width)]);
        let values = write_values(graph, state, v, self.slot);
        let spec = Attention {
            scale: 0.2,
            group,
            sequence: self.sequence,
            extras: &[self.position],
            row: &|t| if self.many { t.div_floor(16) * 16 } else { t },
            slopes: self.slopes,
            visible: &|c, token, j| {
                let position = c.extra(1, &[token]);
                let causal = j.at_most(&position);
                match window {
                    None => causal,
                    Some(window) => causal.and(&position.less_than(&(j + window))),
                }
            },
        };
        attention(graph, q, &Cache { keys, values, table: self.table }, &spec)
    }
}
