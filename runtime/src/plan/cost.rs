//! What a launch costs at least: bytes and operations, as expressions over the sizes of a pass.

use jtllm_codegen::Compilation;
use jtllm_codegen::count::Count;
use jtllm_codegen::kernel::Access;
use jtllm_codegen::options::Compute;
use jtllm_codegen::schedule::Argument;
use jtllm_ir::{Expr, Op};

use super::{Sizes, Values};
use crate::device::Span;
use crate::trace::{Entry, Extent};

/// The cost of one launch.
pub(super) struct Cost {
    /// Bytes of the weights that it is given.
    weight_bytes: u64,
    /// Bytes of all that it is given.
    moved: Vec<Moved>,
    /// Operations of its region, of which it makes a part.
    operations: Vec<(Compute, Count)>,
    /// Which part.
    part: f64,
}

/// Bytes that a parameter stands for.
enum Moved {
    /// So many, over sizes.
    All(Expr),
    /// A state: so many, over sizes.
    State(Expr),
    /// A cache: so many for all of its positions, of which those that sequences have are read.
    Read(Expr),
    /// A cache of which the pass's rows are written.
    Written(Expr),
}

impl Cost {
    /// The cost of a step of a compilation, which is given these spans.
    pub(super) fn of(compilation: &Compilation, number: usize, args: &[Span]) -> Cost {
        let step = &compilation.steps[number];
        let kernel = &compilation.kernels[step.kernel];
        let is_weight = |argument: &Argument| matches!(argument, Argument::Weight(_) | Argument::Part(..));
        let spans = step.arguments.iter().zip(args).filter(|(argument, _)| is_weight(argument));
        let moved = step.arguments.iter().zip(&kernel.params).map(|(argument, param)| {
            let bytes = param.len.clone() * param.dtype.size() as i64;
            let none = Sizes::from([("pages".to_owned(), 0)]);
            let is_cache = super::known(&bytes, &none).as_int() == Some(0);
            let times = if param.access == Access::Update { 2 } else { 1 };
            match argument {
                Argument::State(_) if is_cache && param.access == Access::Read => Moved::Read(bytes),
                Argument::State(_) if is_cache => Moved::Written(bytes),
                Argument::State(_) => Moved::State(bytes * times),
                _ => Moved::All(bytes * times),
            }
        });
        Cost {
            weight_bytes: spans.map(|(_, span)| span.len).sum(),
            moved: moved.collect(),
            operations: compilation.operations(step.region),
            part: part(compilation, number, args),
        }
    }

    /// Adds one launch in a pass of these sizes.
    pub(super) fn add(&self, entry: &mut Entry, sizes: &Sizes, extent: Extent) {
        let value = |x: &Expr| x.evaluate(&Values(sizes)).max(0) as u64;
        let positions = sizes.get("pages").map_or(1, |pages| (*pages).max(1) as u64 * super::PAGE as u64);
        for moved in &self.moved {
            let (bytes, is_state) = match moved {
                Moved::All(bytes) => (value(bytes), false),
                Moved::State(bytes) => (value(bytes), true),
                Moved::Read(bytes) => (value(bytes) / positions * extent.positions, true),
                Moved::Written(bytes) => (value(bytes) / positions * extent.rows, true),
            };
            entry.bytes += bytes;
            entry.state_bytes += if is_state { bytes } else { 0 };
        }
        entry.weight_bytes += self.weight_bytes;
        for (compute, count) in &self.operations {
            let all = match count {
                Count::InAll(count) => value(count),
                Count::EachSeen(count) => *count as u64 * extent.seen,
            };
            *entry.operations.entry(*compute).or_insert(0) += (all as f64 * self.part) as u64;
        }
    }
}

/// The part of its region's operations that a step makes: of a matrix that is bound in parts as much as it is given,
/// and all of attention before its parts are joined.
fn part(compilation: &Compilation, number: usize, args: &[Span]) -> f64 {
    let step = &compilation.steps[number];
    let given = step.arguments.iter().zip(args).find_map(|(argument, span)| match argument {
        Argument::Part(name, _) => Some((name, span.len)),
        _ => None,
    });
    if let Some((name, len)) = given {
        let graph = &compilation.graph;
        let whole = graph
            .nodes()
            .find(|node| matches!(graph.op(*node), Op::Weight { name: other } if other == name))
            .map(|node| super::bytes_of(graph.shape(node), graph.dtype(node), &Sizes::new()));
        return whole.map_or(1.0, |whole| len as f64 / whole.max(1) as f64);
    }
    let is_first = number == 0 || compilation.steps[number - 1].region != step.region;
    if is_first { 1.0 } else { 0.0 }
}

/// The kernel's name, then the weights that it reads, else the caches that it is given, else the shape that it makes:
/// without the number of the layer, so that a kernel that layers share has one name.
pub(super) fn name(compilation: &Compilation, number: usize) -> String {
    let step = &compilation.steps[number];
    let kernel = &compilation.kernels[step.kernel];
    let mut weights: Vec<String> = Vec::new();
    let mut states: Vec<String> = Vec::new();
    let of_kernel = compilation.steps.iter().filter(|other| other.kernel == step.kernel);
    for argument in of_kernel.flat_map(|step| &step.arguments) {
        let (list, name) = match argument {
            Argument::Weight(name) | Argument::Part(name, _) => {
                (&mut weights, jtllm_ir::format::split_plane_name(name).0)
            }
            Argument::State(name) => (&mut states, name.as_str()),
            _ => continue,
        };
        let short = short(name);
        if !list.contains(&short) {
            list.push(short);
        }
    }
    let read = if weights.is_empty() { states } else { weights };
    if !read.is_empty() {
        return format!("{} {}", kernel.name, read.join("+"));
    }
    let root = compilation.partition.regions[step.region].roots[0];
    let shape: Vec<String> = compilation.graph.shape(root).iter().map(Expr::to_string).collect();
    format!("{} [{}]", kernel.name, shape.join(","))
}

/// `model.layers.3.mlp.down_proj.weight` as `mlp.down_proj`, `k3` as `k`.
fn short(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = name.strip_suffix(".weight").unwrap_or(name).split('.').collect();
    // What stands before the number of a layer is the same for all of them.
    let after = parts.iter().position(|part| is_number(part)).map_or(0, |at| at + 1);
    match parts[after..].join(".") {
        kept if kept.is_empty() => name.to_owned(),
        kept => kept.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
    }
}
