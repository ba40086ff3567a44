//! What a layer carries through time.

use jtllm_ir::build::{self, broadcast};
use jtllm_ir::{DType, Expr, Graph, Node, ScalarOp};

use super::{Block, Rwkv, SEQUENCES, Version, beginning, blend, sigmoid};
use crate::arch::Architecture;
use crate::arch::build::Build;
use crate::error::LoadError;

/// The exponent of version 4's sums before anything came: less than any that comes.
const NOTHING: f32 = -1e30;

/// `exp(-0.5)` to the digits that version 7 was trained with.
const HALF_DECAY: f32 = 0.606_531;

/// The parts of a pass that all layers share.
pub(super) struct Time<'a> {
    pub(super) model: &'a Rwkv,
    /// The rows that results pass through on their way back into the flat pass.
    pub(super) place: Node,
    /// The first layer's values, which later ones mix in (version 7).
    first_values: Option<Node>,
}

/// Keys, values and the like of one layer, `[T, width]` each.
pub(super) struct Rows {
    pub(super) receptance: Node,
    pub(super) key: Node,
    pub(super) value: Node,
}

impl<'a> Time<'a> {
    pub(super) fn new(model: &'a Rwkv, graph: &mut Graph) -> Time<'a> {
        let most = Expr::int(model.chunk() as i64);
        let width = Expr::int(model.width / model.heads);
        let shape = match model.version {
            Version::V4 => vec![most, width],
            _ => vec![most, Expr::int(model.heads), width],
        };
        Time { model, place: graph.state("flat rows", DType::F32, &shape), first_values: None }
    }

    /// A layer's part that looks back in time, on the normed rows `x`.
    pub(super) fn mix(
        &mut self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        x: Node,
    ) -> Result<Node, LoadError> {
        let previous = self.model.shifted(build, block, "time", x);
        let out = match self.model.version {
            Version::V4 => self.vectors(build, block, [x, previous])?,
            Version::V5 | Version::V5_1 | Version::V5_2 => self.matrices(build, block, [x, previous])?,
            Version::V6 => self.dependent(build, block, [x, previous])?,
            Version::V7 => self.delta(build, block, [x, previous])?,
        };
        self.model.linear(build, out, block, "att.output", [self.model.width; 2])
    }

    /// A projection of the mixture of a token and the one before.
    fn projected(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        pair: [Node; 2],
        [mix, matrix]: [&str; 2],
    ) -> Result<Node, LoadError> {
        let x = self.model.mixed(build, block, pair, mix)?;
        self.model.linear(build, x, block, matrix, [self.model.width; 2])
    }

    pub(super) fn state(&self, graph: &mut Graph, block: &Block<'_>, name: &str, inner: &[i64]) -> Node {
        let shape: Vec<Expr> = [SEQUENCES].iter().chain(inner).map(|n| Expr::int(*n)).collect();
        graph.state(&format!("layers.{}.{name}", block.layer), DType::F32, &shape)
    }

    /// Version 4: sums of values, weighted by powers of e that are kept in reach by their largest exponent.
    fn vectors(
        &mut self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        pair: [Node; 2],
    ) -> Result<Node, LoadError> {
        let model = self.model;
        let key = self.projected(build, block, pair, ["att.time_mix_k", "att.key"])?;
        let value = self.projected(build, block, pair, ["att.time_mix_v", "att.value"])?;
        let gate = self.projected(build, block, pair, ["att.time_mix_r", "att.receptance"])?;
        let gate = sigmoid(&mut build.graph, gate);
        let decay = build.vector(&model.tensor(block, "att.time_decay"), model.width)?;
        let bonus = build.vector(&model.tensor(block, "att.time_first"), model.width)?;
        let graph = &mut build.graph;
        let decay = graph.map(ScalarOp::Exp, &[decay]);
        let decay = graph.map(ScalarOp::Neg, &[decay]);
        let sequences = block.sequences;
        let xs = [
            sequences.rows(graph, key),
            sequences.rows(graph, value),
            sequences.constant(graph, decay),
            sequences.constant(graph, bonus),
        ];
        let names = [("above", 0.0), ("below", 0.0), ("exponent", NOTHING)];
        let states = names.map(|(name, first)| (self.state(graph, block, name, &[model.width]), first));
        let carries = states.map(|(state, first)| {
            let kept = sequences.kept(graph, state, &[1]);
            beginning(graph, block.fresh, first, kept)
        });
        let (last, results) = sequences.scan(graph, &carries, &xs, weighted_sums);
        for ((state, _), last) in states.iter().zip(last) {
            sequences.keep(graph, *state, last, &[1]);
        }
        let out = sequences.flat(graph, &mut self.place, results[0]);
        Ok(build::mul(graph, gate, out))
    }

    /// Version 5: for each head `S' = k^T v + diag(w) S`, seen as `r (diag(u) k^T v + S)`.
    fn matrices(
        &mut self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        pair: [Node; 2],
    ) -> Result<Node, LoadError> {
        let model = self.model;
        let rows = Rows {
            receptance: self.projected(build, block, pair, ["att.time_mix_r", "att.receptance"])?,
            key: self.projected(build, block, pair, ["att.time_mix_k", "att.key"])?,
            value: self.projected(build, block, pair, ["att.time_mix_v", "att.value"])?,
        };
        let head = model.width / model.heads;
        let gate = match model.version {
            Version::V5 => None,
            _ => Some(self.projected(build, block, pair, ["att.time_mix_g", "att.gate"])?),
        };
        let decay_name = model.tensor(block, "att.time_decay");
        let each = |build: &mut Build<'_>, name: &str, whole: bool| {
            let (shape, kept) =
                if whole { (vec![model.heads, head], vec![0, 1]) } else { (vec![model.heads], vec![0]) };
            let weight = build.weight(name, &shape)?;
            let space = [Expr::int(model.heads), Expr::int(head)];
            Ok::<Node, LoadError>(broadcast(&mut build.graph, weight, &space, &kept))
        };
        let whole = model.version == Version::V5_2;
        let decay = each(build, &decay_name, whole)?;
        // Version 5.2 renamed the bonus when it stopped being a logarithm.
        let bonus = match whole {
            true => each(build, &model.tensor(block, "att.time_faaaa"), true)?,
            false => {
                let logarithm = each(build, &model.tensor(block, "att.time_first"), false)?;
                build.graph.map(ScalarOp::Exp, &[logarithm])
            }
        };
        let decay = twice_exponential(&mut build.graph, decay);
        let decay = block.sequences.constant(&mut build.graph, decay);
        let seen = self.looked_up(build, block, &rows, decay, bonus);
        self.closed(build, block, seen, gate)
    }

    /// Version 6: as version 5, with mixtures and decays that each token makes for itself.
    fn dependent(
        &mut self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        [x, previous]: [Node; 2],
    ) -> Result<Node, LoadError> {
        let model = self.model;
        let mixes = self.own_mixtures(build, block, [x, previous])?;
        let inputs: Result<Vec<Node>, LoadError> = ["w", "k", "v", "r", "g"]
            .iter()
            .zip(mixes)
            .map(|(part, own)| {
                let mix = model.vector(build, block, &format!("att.time_maa_{part}"))?;
                let graph = &mut build.graph;
                let space = graph.shape(own).to_vec();
                let mix = broadcast(graph, mix, &space, &[1]);
                let mix = build::add(graph, mix, own);
                let difference = graph.map(ScalarOp::Sub, &[previous, x]);
                Ok(graph.map(ScalarOp::Fma, &[difference, mix, x]))
            })
            .collect();
        let inputs = inputs?;
        let square = [model.width; 2];
        let rows = Rows {
            key: model.linear(build, inputs[1], block, "att.key", square)?,
            value: model.linear(build, inputs[2], block, "att.value", square)?,
            receptance: model.linear(build, inputs[3], block, "att.receptance", square)?,
        };
        let gate = model.linear(build, inputs[4], block, "att.gate", square)?;
        let rank = model.ranks.decay;
        let low = self.narrow(build, block, inputs[0], "att.time_decay_w1", [rank, model.width])?;
        let low = build.graph.map(ScalarOp::Tanh, &[low]);
        let own = self.narrow(build, block, low, "att.time_decay_w2", [model.width, rank])?;
        let decay = model.vector(build, block, "att.time_decay")?;
        let space = build.graph.shape(own).to_vec();
        let decay = broadcast(&mut build.graph, decay, &space, &[1]);
        let decay = build.add(decay, own);
        let decay = twice_exponential(&mut build.graph, decay);
        let decay = self.by_head(build, decay);
        let decay = block.sequences.rows(&mut build.graph, decay);
        let bonus = build
            .weight(&model.tensor(block, "att.time_faaaa"), &[model.heads, model.width / model.heads])?;
        let seen = self.looked_up(build, block, &rows, decay, bonus);
        self.closed(build, block, seen, Some(gate))
    }

    /// How much of the token before comes into each of the five projections: `[T, width]` each.
    fn own_mixtures(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        [x, previous]: [Node; 2],
    ) -> Result<Vec<Node>, LoadError> {
        let model = self.model;
        let rank = model.ranks.mixture;
        let mix = model.vector(build, block, "att.time_maa_x")?;
        let mixed = blend(&mut build.graph, x, previous, mix);
        let low = self.narrow(build, block, mixed, "att.time_maa_w1", [5 * rank, model.width])?;
        let low = build.graph.map(ScalarOp::Tanh, &[low]);
        let by_output = model.rows_are_outputs;
        let shape = if by_output { [5, model.width, rank] } else { [5, rank, model.width] };
        let whole = build.weight(&model.tensor(block, "att.time_maa_w2"), &shape)?;
        let graph = &mut build.graph;
        let tokens = graph.shape(x)[0].clone();
        let parts = (0..5).map(|part| {
            let space = [tokens.clone(), Expr::int(rank)];
            let low = graph.view(low, &space, &[], |c| vec![c.axis(0), c.axis(1) + part * rank]);
            let space = [Expr::int(model.width), Expr::int(rank)];
            let (row, column) = if by_output { (0, 1) } else { (1, 0) };
            let weight =
                graph.view(whole, &space, &[], |c| vec![Expr::int(part), c.axis(row), c.axis(column)]);
            build::linear(graph, low, weight, None)
        });
        Ok(parts.collect())
    }

    /// Version 7: for each head `S' = S diag(w) + S (-kk)^T (kk a) + v^T k`, seen as `S' r`.
    fn delta(
        &mut self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        [x, previous]: [Node; 2],
    ) -> Result<Node, LoadError> {
        let model = self.model;
        let square = [model.width; 2];
        let pair = [x, previous];
        let mixed = |build: &mut Build<'_>, part: &str| {
            let mix = model.vector(build, block, &format!("att.x_{part}"))?;
            Ok::<Node, LoadError>(blend(&mut build.graph, pair[0], pair[1], mix))
        };
        let [r, w, k, v, a, g] = ["r", "w", "k", "v", "a", "g"].map(|part| mixed(build, part));
        let (w, v_in, a, g) = (w?, v?, a?, g?);
        let receptance = model.linear(build, r?, block, "att.receptance", square)?;
        let key = model.linear(build, k?, block, "att.key", square)?;
        let mut value = model.linear(build, v_in, block, "att.value", square)?;
        let decay = self.low_rank(build, block, w, "w", Some(ScalarOp::Tanh))?;
        let decay = self.offset(build, block, decay, "att.w0")?;
        let decay = sigmoid(&mut build.graph, decay);
        let decay = build.scaled(decay, -HALF_DECAY);
        let decay = build.graph.map(ScalarOp::Exp, &[decay]);
        let rate = self.low_rank(build, block, a, "a", None)?;
        let rate = self.offset(build, block, rate, "att.a0")?;
        let rate = sigmoid(&mut build.graph, rate);
        let gate = self.gate(build, block, g)?;
        match self.first_values {
            None => self.first_values = Some(value),
            Some(first) => {
                let own = self.low_rank(build, block, v_in, "v", None)?;
                let own = self.offset(build, block, own, "att.v0")?;
                let own = sigmoid(&mut build.graph, own);
                let difference = build.graph.map(ScalarOp::Sub, &[first, value]);
                value = build.graph.map(ScalarOp::Fma, &[difference, own, value]);
            }
        }
        let scale = model.vector(build, block, "att.k_k")?;
        let removed = self.unit_heads(build, key, scale);
        let key = self.paced(build, block, key, rate)?;
        let rate = self.by_head(build, rate);
        let rows = Rows { receptance, key, value };
        let seen = self.corrected(build, block, &rows, [decay, removed, rate]);
        let seen = self.normed(build, block, seen)?;
        let bonus = self.bonus(build, block, &rows)?;
        let sum = build.add(seen, bonus);
        Ok(build::mul(&mut build.graph, sum, gate))
    }
}

impl Time<'_> {
    /// `x` times one of the narrow matrices.
    fn narrow(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        x: Node,
        part: &str,
        [outputs, inputs]: [i64; 2],
    ) -> Result<Node, LoadError> {
        let name = self.model.tensor(block, part);
        if self.model.rows_are_outputs {
            let weight = build.weight(&name, &[outputs, inputs])?;
            return Ok(build::linear(&mut build.graph, x, weight, None));
        }
        let whole = build.weight(&name, &[inputs, outputs])?;
        let space = [Expr::int(outputs), Expr::int(inputs)];
        let weight = build.graph.view(whole, &space, &[], |c| vec![c.axis(1), c.axis(0)]);
        Ok(build::linear(&mut build.graph, x, weight, None))
    }

    /// `curve(x A) B` with the matrices `{part}1` and `{part}2`.
    fn low_rank(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        x: Node,
        part: &str,
        curve: Option<ScalarOp>,
    ) -> Result<Node, LoadError> {
        let (width, ranks) = (self.model.width, &self.model.ranks);
        let rank = match part {
            "w" => ranks.decay,
            "a" => ranks.rate,
            "v" => ranks.value,
            _ => ranks.gate,
        };
        let low = self.narrow(build, block, x, &format!("att.{part}1"), [rank, width])?;
        let low = match curve {
            Some(curve) => build.graph.map(curve, &[low]),
            None => low,
        };
        self.narrow(build, block, low, &format!("att.{part}2"), [width, rank])
    }

    /// `x` plus the vector `part`.
    fn offset(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        x: Node,
        part: &str,
    ) -> Result<Node, LoadError> {
        let offset = self.model.vector(build, block, part)?;
        let space = build.graph.shape(x).to_vec();
        let offset = broadcast(&mut build.graph, offset, &space, &[1]);
        Ok(build.add(x, offset))
    }

    /// Version 7's gate: `sigmoid(x A) B`.
    fn gate(&self, build: &mut Build<'_>, block: &Block<'_>, x: Node) -> Result<Node, LoadError> {
        let (width, rank) = (self.model.width, self.model.ranks.gate);
        let low = self.narrow(build, block, x, "att.g1", [rank, width])?;
        let low = sigmoid(&mut build.graph, low);
        self.narrow(build, block, low, "att.g2", [width, rank])
    }

    /// Version 7's keys: `k (1 + (a - 1) k_a)`.
    fn paced(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        key: Node,
        rate: Node,
    ) -> Result<Node, LoadError> {
        let scale = self.model.vector(build, block, "att.k_a")?;
        let graph = &mut build.graph;
        let space = graph.shape(key).to_vec();
        let scale = broadcast(graph, scale, &space, &[1]);
        let one = build::splat(graph, 1.0, &space);
        let less = graph.map(ScalarOp::Sub, &[rate, one]);
        let factor = graph.map(ScalarOp::Fma, &[less, scale, one]);
        Ok(build::mul(graph, key, factor))
    }
}

/// `exp(-exp(x))`: a decay.
fn twice_exponential(graph: &mut Graph, x: Node) -> Node {
    let power = graph.map(ScalarOp::Exp, &[x]);
    let negative = graph.map(ScalarOp::Neg, &[power]);
    graph.map(ScalarOp::Exp, &[negative])
}

/// A step of version 4.
fn weighted_sums(body: &mut Graph, carries: &[Node], xs: &[Node]) -> (Vec<Node>, Vec<Node>) {
    let (&[above, below, exponent], &[key, value, decay, bonus]) = (carries, xs) else {
        unreachable!("vectors() passes three carries and four slices");
    };
    // Both sums with exponents `old` for what is carried and `new` for what comes.
    let joined = |body: &mut Graph, old: Node, new: Node| {
        let largest = body.map(ScalarOp::Max, &[old, new]);
        let [old, new] = [old, new].map(|exponent| {
            let difference = body.map(ScalarOp::Sub, &[exponent, largest]);
            body.map(ScalarOp::Exp, &[difference])
        });
        let values = body.map(ScalarOp::Mul, &[new, value]);
        let above = body.map(ScalarOp::Fma, &[old, above, values]);
        let below = body.map(ScalarOp::Fma, &[old, below, new]);
        (above, below, largest)
    };
    let first = body.map(ScalarOp::Add, &[bonus, key]);
    let (numerator, denominator, _) = joined(body, exponent, first);
    let out = body.map(ScalarOp::Div, &[numerator, denominator]);
    let decayed = body.map(ScalarOp::Add, &[decay, exponent]);
    let (above, below, exponent) = joined(body, decayed, key);
    (vec![above, below, exponent], vec![out])
}
