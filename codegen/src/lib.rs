//! Turns a graph into kernels and a kernel into bytes, deterministically and without touching a device.
//!
//! [`compile`] is the whole pipeline; each pass is a pure function in a file of its own:
//!
//! | pass | what it decides |
//! |---|---|
//! | [`canon`] | equal nodes are one node, unused ones none; gathered tables become inputs |
//! | [`rewrite`] | the algebra that changes the order of operations, and nothing else does |
//! | [`partition`] | which nodes share a kernel; [`classify`] recognises contractions and attention |
//! | [`schedule`] | the loop nest of a region, for the target's lanes and registers |
//! | [`kernel::optimise`](kernel::optimise()) | unused values go, invariant parts of addresses leave their loops |
//! | [`kernel::decompose`] | functions that the target lacks are made of simpler ones |
//! | [`kernel`] | the loop IR, which the target's emitter ([`emit`]) turns into bytes |
//!
//! # Invariants
//!
//! * The same graph, [`Caps`] and [`Options`] give the same kernels, byte for byte.
//! * The order in which a kernel adds depends on the operands' format and layout, the depth, the compute type
//!   and the caps, never on how many rows are computed together.
//! * A kernel's identity is its canonical text; layers that differ in weights alone share kernels.
//!
//! # What this crate does not know
//!
//! Devices, buffers, addresses, files, threads, models. It cannot run what it makes, except in the
//! interpreter of the loop IR.

pub mod access;
pub mod canon;
pub mod classify;
pub mod count;
pub mod emit;
pub mod kernel;
pub mod options;
pub mod partition;
pub mod region;
pub mod rewrite;
pub mod schedule;
pub mod target;
pub mod twins;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use jtllm_ir::{Expr, Graph, Node};

use canon::Gather;
use kernel::decompose::decompose;
use kernel::{Kernel, optimise};
use options::{Compute, Options};
use region::{Partition, Region, Work};
use schedule::Argument;
use target::Caps;

/// One launch of a compiled graph.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which of the compilation's kernels.
    pub kernel: usize,
    /// Which of the partition's regions it computes.
    pub region: usize,
    /// What its parameters are bound to.
    pub arguments: Vec<Argument>,
}

/// A graph as kernels.
pub struct Compilation {
    /// The canonical graph that regions and arguments speak of.
    pub graph: Graph,
    /// The rows that the runtime gathers before a pass.
    pub gathers: Vec<Gather>,
    /// The regions, in the order of their steps.
    pub partition: Partition,
    /// The distinct kernels.
    pub kernels: Vec<Kernel>,
    /// The launches of a pass, in order.
    pub steps: Vec<Step>,
}

impl Compilation {
    /// Which numbers its contractions with weights multiply.
    pub fn products(&self) -> BTreeSet<Compute> {
        let sums = self.partition.regions.iter().flat_map(|region| match &region.work {
            Work::Gemv(contraction) | Work::Gemm(contraction) => contraction.sums.as_slice(),
            _ => &[],
        });
        sums.map(|sum| count::multiplied(&self.graph, sum)).collect()
    }
}

/// Compiles a verified graph for a target's caps.
///
/// Where a kernel would bind more buffers than the target can, its sums are computed apart from what follows them.
pub fn compile(graph: &Graph, caps: &Caps, options: &Options) -> Compilation {
    let canonical = canon::canon(graph);
    let rewritten = rewrite::rewrite(&canonical.graph, caps, options);
    let graph = canon::canon(&rewritten).graph;
    let mut alone = HashSet::new();
    loop {
        let partition = partition::partition_apart(&graph, &alone);
        let (kernels, steps) = lower(&graph, &partition, caps, options);
        let crowded = |step: &&Step| kernels[step.kernel].params.len() > caps.max_bindings as usize;
        let sums = steps.iter().filter(crowded).flat_map(|step| sums(&partition.regions[step.region]));
        let fresh: Vec<Node> = sums.filter(|sum| !alone.contains(sum)).collect();
        if fresh.is_empty() {
            return Compilation { graph, gathers: canonical.gathers, partition, kernels, steps };
        }
        alone.extend(fresh);
    }
}

/// The sums that a region computes products for.
fn sums(region: &Region) -> Vec<Node> {
    match &region.work {
        Work::Gemv(contraction) | Work::Gemm(contraction) => {
            contraction.sums.iter().map(|sum| sum.root).collect()
        }
        _ => Vec::new(),
    }
}

/// The distinct kernels of a partition, and its launches.
fn lower(graph: &Graph, partition: &Partition, caps: &Caps, options: &Options) -> (Vec<Kernel>, Vec<Step>) {
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut known: HashMap<u128, Vec<Part>> = HashMap::new();
    let mut steps = Vec::new();
    for (number, region) in partition.regions.iter().enumerate() {
        let shape = twins::shape(graph, &partition.stored, region, caps);
        let parts = known.entry(shape.key).or_insert_with(|| {
            let scheduled = schedule::schedule(graph, &partition.stored, region, caps, options);
            let parts = scheduled.into_iter().map(|scheduled| {
                kernels.push(decompose(&optimise(&scheduled.kernel), caps));
                let arguments = scheduled.arguments.into_iter();
                let places = arguments.map(|argument| Place::of(argument, &shape.leaves));
                Part { kernel: kernels.len() - 1, places: places.collect() }
            });
            parts.collect()
        });
        steps.extend(parts.iter().map(|part| {
            let arguments = part.places.iter().map(|place| place.argument(region, &shape.leaves)).collect();
            Step { kernel: part.kernel, region: number, arguments }
        }));
    }
    (kernels, steps)
}

/// A kernel of a region, and where its arguments stand among what the region reads and writes.
struct Part {
    kernel: usize,
    places: Vec<Place>,
}

/// What a region's kernel binds, whichever of equal regions it is.
enum Place {
    /// One of the region's leaves.
    Leaf(usize),
    /// Some bytes of one.
    Part(usize, Range<u64>),
    /// So many bytes between the region's kernels.
    Scratch(Expr),
}

impl Place {
    fn of(argument: Argument, leaves: &[Argument]) -> Place {
        let leaf = |argument: Argument| {
            let leaf = leaves.iter().position(|leaf| *leaf == argument);
            leaf.expect("the walk over a region meets everything that its kernel binds")
        };
        match argument {
            Argument::Part(name, bytes) => Place::Part(leaf(Argument::Weight(name)), bytes),
            Argument::Scratch(_, bytes) => Place::Scratch(bytes),
            other => Place::Leaf(leaf(other)),
        }
    }

    fn argument(&self, region: &Region, leaves: &[Argument]) -> Argument {
        match self {
            Place::Leaf(leaf) => leaves[*leaf].clone(),
            Place::Part(leaf, bytes) => match &leaves[*leaf] {
                Argument::Weight(name) => Argument::Part(name.clone(), bytes.clone()),
                other => unreachable!("only weights are bound in parts, not {other:?}"),
            },
            Place::Scratch(bytes) => Argument::Scratch(region.roots[0], bytes.clone()),
        }
    }
}
