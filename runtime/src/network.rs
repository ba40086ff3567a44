//! A model on a device: weights, states, and the plans that passes run.

mod foresee;
mod inputs;
mod outlook;
mod own;
mod states;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::options::Options;
use jtllm_codegen::schedule::Argument;
use jtllm_codegen::target::Artifact;
use jtllm_codegen::{Compilation, compile};
use jtllm_ir::cut::CARRIED;
use jtllm_ir::{Graph, Node, Op};
use jtllm_swap::BlobId;
use rayon::prelude::*;

use crate::cache::KernelCache;
use crate::device::{Device, Mem, Program, Span};
use crate::error::{DeviceError, Error};
use crate::packed::Keeping;
use crate::plan::{Bindings, Plan, Sizes, bytes_of, positions};
use crate::program::artifact;
use crate::residence::{Limit, PlanId, Residence};
use crate::trace::{Extent, Trace};
use crate::weights::foresee::Foreseen;
use crate::weights::{Locate, Wanted, Weights};
pub(crate) use inputs::Inputs;
use states::say_pages;

/// How many rows a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    /// Exactly so many.
    Fixed(usize),
    /// Any multiple of 16, up to a chunk.
    Many,
}

/// Which of a model's graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// From tokens to hidden vectors.
    Body,
    /// From hidden vectors to logits.
    Head,
    /// From a tile of an image to rows that a body takes.
    Image,
}

/// Where graphs come from.
pub trait Graphs: Send + Sync {
    /// The most tokens of a chunk: a multiple of 16.
    fn chunk(&self) -> usize;

    /// The graph of a part for that many rows.
    fn graph(&self, part: Part, bucket: Bucket) -> Result<Graph, Error>;
}

impl Graphs for Arc<dyn Graphs> {
    fn chunk(&self) -> usize {
        (**self).chunk()
    }

    fn graph(&self, part: Part, bucket: Bucket) -> Result<Graph, Error> {
        (**self).graph(part, bucket)
    }
}

/// One token of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub id: u32,
    /// Its position in its sequence.
    pub position: usize,
    /// Its sequence.
    pub sequence: usize,
    /// Where its key and value go; -1: nowhere.
    pub slot: i32,
}

/// What a pass works on.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The tokens. In a chunk each sequence's rows begin at a multiple of 16.
    pub rows: Vec<Row>,
    /// Whether the rows are a chunk of prompts; else each row is one token of any sequence.
    pub chunk: bool,
    /// The pages of each sequence.
    pub tables: Vec<Arc<Vec<u32>>>,
    /// Positions of each sequence after the pass.
    pub lengths: Vec<usize>,
    /// The rows whose logits are wanted.
    pub wanted: Vec<usize>,
    /// Further inputs of the body, with a value for each sequence.
    pub facts: Vec<(&'static str, Vec<i32>)>,
    /// Which rows come from images, if any do.
    pub shown: Option<Shown>,
}

/// Rows that come from images and not from tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// For each row of the batch whether it does.
    pub rows: Vec<bool>,
    /// A vector for each row of the batch; those of other rows are not looked at.
    pub vectors: Vec<f32>,
}

impl Batch {
    /// How much there is to do.
    fn extent(&self) -> Extent {
        let rows = || self.rows.iter().filter(|row| row.slot >= 0);
        Extent {
            rows: rows().count() as u64,
            positions: self.lengths.iter().map(|length| *length as u64).sum(),
            seen: rows().map(|row| row.position as u64 + 1).sum(),
        }
    }

    /// The pass of a tile of an image that has so many rows: by itself, in a cache of its own.
    pub(crate) fn of_tile(tokens: usize) -> Batch {
        let row = |at: usize| Row { id: 0, position: at, sequence: 0, slot: at as i32 };
        Batch {
            rows: (0..tokens).map(row).collect(),
            chunk: true,
            tables: vec![Arc::new((0..tokens.div_ceil(TILE) as u32).collect())],
            lengths: vec![tokens],
            wanted: Vec::new(),
            facts: Vec::new(),
            shown: None,
        }
    }
}

/// What one network computed and another goes on with.
pub(crate) struct Carried {
    name: String,
    bytes: Vec<u8>,
}

/// What was compiled so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileStats {
    /// Kernels that the target emitted.
    pub emitted: usize,
    /// Kernels that came from the cache on disk.
    pub cached: usize,
    /// Time from graphs to loaded programs.
    pub time: std::time::Duration,
}

/// Sequences that one pass may hold.
pub const SEQUENCES: usize = 16;

/// Rows of a chunk belong to one sequence in runs of this many.
pub const TILE: usize = 16;

/// The table's width is a multiple of this many pages, so that blocks of attention never straddle its end.
const TABLE_STEP: usize = 8;

/// After so many decoded tokens weights [settle](Weights::settle): what that costs, as many more tokens win.
const SETTLING_PASSES: usize = 16;

/// A model on a device.
pub struct Network {
    device: Arc<dyn Device>,
    graphs: Box<dyn Graphs>,
    options: Options,
    cache: Arc<KernelCache>,
    weights: Weights,
    states: HashMap<String, Mem>,
    /// Those of them that come and go.
    paged: HashMap<String, BlobId>,
    /// Bytes of those that could.
    in_pages: Vec<u64>,
    programs: HashMap<u128, Program>,
    plans: HashMap<(Part, Bucket), Plan>,
    hidden: Option<Span>,
    /// The plan of the last body or image, and its tokens.
    last: Option<(Part, Bucket, usize)>,
    pages: usize,
    /// Bytes of the host's memory that whoever runs it keeps for it.
    beside: u64,
    /// Passes that were no chunks.
    decoded: usize,
    /// Compilation so far.
    pub compiled: CompileStats,
}

impl Network {
    /// A model without plans: they are made when a pass first needs them.
    ///
    /// `positions` is how many positions of all sequences together the cache holds.
    pub fn new(
        device: Arc<dyn Device>,
        graphs: Box<dyn Graphs>,
        options: Options,
        cache: impl Into<Arc<KernelCache>>,
        positions: usize,
    ) -> Network {
        Network {
            device,
            graphs,
            options,
            cache: cache.into(),
            weights: Weights::default(),
            states: HashMap::new(),
            paged: HashMap::new(),
            in_pages: Vec::new(),
            programs: HashMap::new(),
            plans: HashMap::new(),
            hidden: None,
            last: None,
            pages: positions.div_ceil(TILE).max(1),
            beside: 0,
            decoded: 0,
            compiled: CompileStats::default(),
        }
    }

    /// Keeps packed weights, and looks for those that were kept.
    pub fn keeping(mut self, keeping: Keeping) -> Network {
        self.weights.keep(keeping);
        self
    }

    /// Keeps weights within a limit where the device's memory is the host's, and keys and values if the limit says where
    /// they may go.
    ///
    /// # Errors
    /// They may not go there.
    pub fn within(mut self, limit: &Limit) -> Result<Network, Error> {
        if self.device.is_host()
            && let Some(residence) = Residence::new(limit)?
        {
            self.weights.within(residence);
        }
        Ok(self)
    }

    /// Keeps all of the model within so many bytes of the device's own memory: weights come and go there, out of what the
    /// host may hold, and keys and values if the host's limit says where they may go.
    ///
    /// # Errors
    /// They may not go there.
    pub fn apart(mut self, host: &Limit, bytes: u64) -> Result<Network, Error> {
        let residence = Residence::apart(host, self.device.clone(), bytes)?;
        self.weights.within(residence);
        Ok(self)
    }

    /// Where weights come and go, if there is a limit.
    pub fn residence(&self) -> Option<&Residence> {
        self.weights.residence().map(|residence| &**residence)
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Pages of the cache.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of states.
    pub fn state_bytes(&self) -> u64 {
        self.states.values().map(Mem::len).sum()
    }

    /// Bytes of the plans' buffers.
    pub fn buffer_bytes(&self) -> u64 {
        self.plans.values().map(|plan| plan.arena_bytes + plan.fixed_bytes).sum()
    }

    /// A plan, if a pass has made it.
    pub fn plan(&self, part: Part, bucket: Bucket) -> Option<&Plan> {
        self.plans.get(&(part, bucket))
    }

    fn table_width(&self) -> usize {
        table_width(self.pages)
    }

    /// The largest sizes; those of an image are in its graph.
    fn limits(&self, part: Part, bucket: Bucket) -> Sizes {
        if part == Part::Image {
            return Sizes::new();
        }
        let rows = match bucket {
            Bucket::Fixed(count) => count,
            Bucket::Many => self.graphs.chunk(),
        };
        let each = [("T", rows), ("R", rows), ("P", self.table_width()), ("pages", self.pages)];
        each.into_iter().map(|(name, value)| (name.to_owned(), value as i64)).collect()
    }

    /// Makes a plan if it is not there; reads the weights that it needs.
    pub fn prepare(&mut self, part: Part, bucket: Bucket, locate: &Locate<'_>) -> Result<(), Error> {
        if self.plans.contains_key(&(part, bucket)) {
            return Ok(());
        }
        self.prepare_all(vec![(part, bucket)], locate)
    }

    /// The kernels of a part, not yet emitted.
    fn compile(&self, part: Part, bucket: Bucket) -> Result<Compilation, Error> {
        let graph = self.graphs.graph(part, bucket)?;
        let faulty = |faults: String| Error::Graph { graph: graph.name.clone(), faults };
        jtllm_ir::verify::verify(&graph).map_err(|faults| faulty(lines(&faults)))?;
        let range_bytes = self.residence().map(Residence::range_bytes);
        let options = Options { positions: positions(&self.sizes(&[])), range_bytes, ..self.options };
        Ok(compile(&graph, self.device.target().caps(), &options))
    }

    /// Makes the plan of a compiled part.
    fn install(&mut self, part: Part, bucket: Bucket, compilation: Compilation) -> Result<(), Error> {
        let begin = std::time::Instant::now();
        let compilation = Arc::new(compilation);
        let programs = self.load(&compilation)?;
        self.compiled.time += begin.elapsed();
        let shared = self.shared(part, &compilation)?;
        let (limits, fixed) = (self.limits(part, bucket), self.sizes(&[]));
        let bindings = self.bindings(&limits, &fixed, &shared);
        let plan = Plan::build(&*self.device, compilation, &programs, &bindings)?;
        self.plans.insert((part, bucket), plan);
        Ok(())
    }

    /// What a plan is bound to.
    fn bindings<'a>(
        &'a self,
        limits: &'a Sizes,
        fixed: &'a Sizes,
        shared: &'a HashMap<String, Span>,
    ) -> Bindings<'a> {
        let (weights, states, paged) = (&self.weights, &self.states, &self.paged);
        Bindings { weights, states, paged, limits, fixed, shared }
    }

    /// Makes the plans that one sequence needs: for its prompt and for decoding, with a head unless that is elsewhere.
    pub(crate) fn prepare_first(&mut self, has_head: bool, locate: &Locate<'_>) -> Result<(), Error> {
        let mut parts = vec![(Part::Body, Bucket::Many)];
        let mut rows = vec![1];
        if self.residence().is_some() {
            // Made later, when several tokens are guessed, each would have what stays in memory read anew.
            rows.extend([2, 4, 8, SEQUENCES]);
        }
        for rows in rows.into_iter().map(Bucket::Fixed) {
            parts.push((Part::Body, rows));
            parts.extend(has_head.then_some((Part::Head, rows)));
        }
        self.prepare_all(parts, locate)
    }

    /// Has the plans that one sequence needs, with a head unless that is elsewhere, and begins to read.
    pub(crate) fn ready(&mut self, has_head: bool, locate: &Locate<'_>) -> Result<(), Error> {
        self.prepare_first(has_head, locate)?;
        // A limit that is too low is heard of now, and the first weights come while the prompt is typed.
        let mut first = vec![(Part::Body, Bucket::Many)];
        first.extend(has_head.then_some((Part::Head, Bucket::Fixed(1))));
        let plans: Vec<PlanId> = first.iter().filter_map(|key| self.plans[key].id()).collect();
        self.residence().map_or(Ok(()), |residence| residence.arrange(&plans))
    }

    /// Makes the plans that are not there, compiled side by side.
    pub(crate) fn prepare_all(
        &mut self,
        mut parts: Vec<(Part, Bucket)>,
        locate: &Locate<'_>,
    ) -> Result<(), Error> {
        parts.retain(|key| !self.plans.contains_key(key));
        if parts.is_empty() {
            return Ok(());
        }
        if let Some(residence) = self.residence() {
            residence.retire()?;
        }
        let before = self.held_beside_copies();
        let begin = std::time::Instant::now();
        let compiled: Vec<Compilation> =
            parts.par_iter().map(|(part, bucket)| self.compile(*part, *bucket)).collect::<Result<_, _>>()?;
        self.compiled.time += begin.elapsed();
        self.check_room(&compiled)?;
        compiled.iter().try_for_each(|compilation| self.make_states(compilation))?;
        self.bind_weights(&parts, &compiled, locate)?;
        for ((part, bucket), compilation) in parts.into_iter().zip(compiled) {
            self.install(part, bucket, compilation)?;
        }
        self.tell_own(self.held_beside_copies().saturating_sub(before))
    }

    /// The head reads its rows where the last body left them: in one buffer, copied there after each body.
    fn shared(&mut self, part: Part, compilation: &Compilation) -> Result<HashMap<String, Span>, Error> {
        let mut shared = HashMap::new();
        let graph = &compilation.graph;
        let is_hidden = |node: &Node| matches!(graph.op(*node), Op::Input { name, .. } if name == "hidden");
        if let (Part::Head, Some(input)) = (part, graph.nodes().find(is_hidden)) {
            let most = self.graphs.chunk().max(SEQUENCES) as i64;
            let span = match &self.hidden {
                Some(span) => span.clone(),
                None => {
                    let limits = Sizes::from([("T".to_owned(), most)]);
                    self.device.alloc(bytes_of(graph.shape(input), graph.dtype(input), &limits))?.span()
                }
            };
            self.hidden = Some(span.clone());
            shared.insert("hidden".to_owned(), span);
        }
        Ok(shared)
    }

    /// The kernels of a compilation as programs: known ones, cached ones, emitted ones.
    fn load(&mut self, compilation: &Compilation) -> Result<Vec<Program>, Error> {
        let target = self.device.target();
        let variant = target.variant();
        let keys: Vec<u128> =
            compilation.kernels.iter().map(|kernel| kernel.key(target.name(), &variant)).collect();
        // Two regions may come to the same kernel by different ways.
        let first = |at: &usize| keys[..*at].iter().all(|key| *key != keys[*at]);
        let missing: Vec<usize> =
            (0..keys.len()).filter(|at| !self.programs.contains_key(&keys[*at])).filter(first).collect();
        let cache = &*self.cache;
        let emit = |at: &usize| artifact(target, Some((cache, keys[*at])), &compilation.kernels[*at]);
        let artifacts: Vec<(Artifact, bool)> = missing.par_iter().map(emit).collect::<Result<_, _>>()?;
        self.compiled.cached += artifacts.iter().filter(|(_, cached)| *cached).count();
        self.compiled.emitted += artifacts.iter().filter(|(_, cached)| !*cached).count();
        let fresh: Vec<(&Kernel, Artifact)> = missing
            .iter()
            .zip(artifacts)
            .map(|(at, (artifact, _))| (&compilation.kernels[*at], artifact))
            .collect();
        let loaded = self.device.load(&fresh)?;
        for (at, program) in missing.into_iter().zip(loaded) {
            self.programs.insert(keys[at], program);
        }
        Ok(keys.iter().map(|key| self.programs[key].clone()).collect())
    }

    /// Fails if the device says that it has no room for the weights and states that these parts read and that are
    /// not there yet: said before the first byte is read, not after most of them.
    fn check_room(&self, parts: &[Compilation]) -> Result<(), Error> {
        let Some(free) = self.device.free_memory() else { return Ok(()) };
        let comes_and_goes = self.residence().is_some();
        let spills = self.residence().is_some_and(Residence::spills);
        let mut wanted: HashMap<&str, u64> = HashMap::new();
        let sizes = self.limits(Part::Body, Bucket::Many);
        for graph in parts.iter().map(|part| &part.graph) {
            for node in graph.nodes() {
                let name = match graph.op(node) {
                    Op::Weight { name } if !comes_and_goes && !self.weights.is_bound(name) => name,
                    Op::State { name } if !spills && !self.states.contains_key(name) => name,
                    _ => continue,
                };
                wanted.insert(name, bytes_of(graph.shape(node), graph.dtype(node), &sizes));
            }
        }
        let need = wanted.values().sum();
        if need <= free {
            return Ok(());
        }
        let device = self.device.info().name;
        Err(DeviceError::TooSmall { device, need, free, total: self.device.info().memory }.into())
    }

    /// Finds places for the weights that these parts read, in the order in which their launches do.
    fn bind_weights(
        &mut self,
        parts: &[(Part, Bucket)],
        compiled: &[Compilation],
        locate: &Locate<'_>,
    ) -> Result<(), Error> {
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut known: HashSet<&str> = HashSet::new();
        for part in compiled {
            let graph = &part.graph;
            let leaves: HashMap<&str, Node> = graph
                .nodes()
                .filter_map(|node| match graph.op(node) {
                    Op::Weight { name } => Some((name.as_str(), node)),
                    _ => None,
                })
                .collect();
            for argument in part.steps.iter().flat_map(|step| &step.arguments) {
                let (Argument::Weight(name) | Argument::Part(name, _)) = argument else { continue };
                let Some(leaf) = leaves.get(name.as_str()).filter(|_| known.insert(name)) else { continue };
                let shape = graph.shape(*leaf).iter().filter_map(jtllm_ir::Expr::as_int).collect();
                wanted.push(Wanted { name: name.clone(), dtype: graph.dtype(*leaf), shape });
            }
        }
        let foresight = self.foresight(parts, compiled)?;
        let admit = |foreseen: &Foreseen<'_>| foresight.as_ref().map_or(Ok(()), |one| one.admit(foreseen));
        self.weights.bind_if(&admit, &self.device, &wanted, locate)?;
        for gather in compiled.iter().flat_map(|part| &part.gathers) {
            let (weight, _) = jtllm_ir::format::split_plane_name(&gather.weight);
            self.weights.source(weight, locate)?;
        }
        Ok(())
    }

    /// Runs one pass and gives the wanted rows' logits, one after another.
    pub fn pass(
        &mut self,
        batch: &Batch,
        locate: &Locate<'_>,
        mut trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>, Error> {
        self.arrange(batch, true, locate)?;
        let bucket = self.body(batch, &[], locate, trace.as_deref_mut())?;
        self.head(batch, bucket, locate, trace)
    }

    /// Where weights come and go: says what the pass of a batch runs, with its head if there is one here and somebody
    /// wants logits.
    pub(crate) fn arrange(
        &mut self,
        batch: &Batch,
        has_head: bool,
        locate: &Locate<'_>,
    ) -> Result<(), Error> {
        if self.residence().is_none() {
            return Ok(());
        }
        let mut parts = vec![(Part::Body, body_bucket(batch, self.graphs.chunk())?.0)];
        if let Some(first) = batch.wanted.chunks(self.graphs.chunk()).next().filter(|_| has_head) {
            parts.push((Part::Head, head_bucket(first.len()).0));
        }
        self.prepare_all(parts.clone(), locate)?;
        let plans: Vec<PlanId> = parts.iter().filter_map(|key| self.plans[key].id()).collect();
        let Some(residence) = self.residence() else { return Ok(()) };
        say_pages(residence, batch)?;
        residence.arrange(&plans)
    }

    /// Runs the body, which takes `carried` from another part of it.
    pub(crate) fn body(
        &mut self,
        batch: &Batch,
        carried: &[Carried],
        locate: &Locate<'_>,
        mut trace: Option<&mut Trace>,
    ) -> Result<Bucket, Error> {
        let (bucket, count) = body_bucket(batch, self.graphs.chunk())?;
        if let Some(trace) = trace.as_deref_mut() {
            trace.extent = batch.extent();
        }
        self.prepare(Part::Body, bucket, locate)?;
        let plan = &self.plans[&(Part::Body, bucket)];
        let inputs = Inputs::of(batch, count, self.table_width());
        for (name, values) in inputs.columns() {
            self.upload(plan, name, values)?;
        }
        self.upload(plan, "table", &inputs.table)?;
        for (name, values) in &inputs.facts {
            self.upload(plan, name, values)?;
        }
        self.show(plan, batch.shown.as_ref(), count)?;
        for Carried { name, bytes } in carried {
            let missing = || Error::Pass { why: format!("the body has no input {name}") };
            self.device.write(plan.input(name).ok_or_else(missing)?, bytes)?;
        }
        self.gather(plan, &inputs)?;
        let sizes = self.sizes(&[("T", count)]);
        plan.run(&*self.device, &sizes, trace)?;
        self.weights.check_whole()?;
        self.last = Some((Part::Body, bucket, count));
        if !batch.chunk {
            self.decoded += 1;
            if self.decoded == SETTLING_PASSES {
                self.weights.settle(&*self.device);
            }
        }
        Ok(bucket)
    }

    /// What the last body, that of a graph's front, leaves to the back.
    pub(crate) fn carry(&self) -> Result<Vec<Carried>, Error> {
        let missing = || Error::Pass { why: "no body has run".to_owned() };
        let (part, bucket, count) = self.last.ok_or_else(missing)?;
        let plan = &self.plans[&(part, bucket)];
        let sizes = self.sizes(&[("T", count)]);
        let graph = &plan.compilation.graph;
        let mut carried = Vec::new();
        for (name, node) in graph.outputs.iter().filter(|(name, _)| name.starts_with(CARRIED)) {
            let mut bytes = vec![0; bytes_of(graph.shape(*node), graph.dtype(*node), &sizes) as usize];
            self.device.read(plan.output(name).ok_or_else(missing)?, &mut bytes)?;
            carried.push(Carried { name: name.clone(), bytes });
        }
        Ok(carried)
    }

    /// Says which rows come from images, to a body that asks.
    fn show(&self, plan: &Plan, shown: Option<&Shown>, count: usize) -> Result<(), Error> {
        let Some(rows) = plan.input("rows").filter(|_| plan.input("shown").is_some()) else {
            return match shown {
                Some(_) => Err(Error::Pass { why: "the model takes no images".to_owned() }),
                None => Ok(()),
            };
        };
        let mut flags = vec![0; count];
        if let Some(shown) = shown {
            flags.iter_mut().zip(&shown.rows).for_each(|(flag, row)| *flag = i32::from(*row));
            write_floats(&*self.device, rows, &shown.vectors)?;
        }
        self.upload(plan, "shown", &flags)
    }

    /// Runs the pass of a tile of an image that has so many rows; its outputs are taps.
    pub fn image(&mut self, tokens: usize, pixels: &[f32], locate: &Locate<'_>) -> Result<(), Error> {
        self.prepare(Part::Image, Bucket::Many, locate)?;
        let plan = &self.plans[&(Part::Image, Bucket::Many)];
        let count = tokens.next_multiple_of(TILE);
        let inputs = Inputs::of(&Batch::of_tile(tokens), count, table_width(count / TILE));
        for (name, values) in inputs.columns() {
            self.upload(plan, name, values)?;
        }
        self.upload(plan, "table", &inputs.table)?;
        let span =
            plan.input("pixels").ok_or_else(|| Error::Pass { why: "there are no pixels".to_owned() })?;
        write_floats(&*self.device, span, pixels)?;
        plan.run(&*self.device, &self.sizes(&[("T", count)]), None)?;
        self.weights.check_whole()?;
        self.last = Some((Part::Image, Bucket::Many, count));
        Ok(())
    }

    /// The named output of the last pass, for its first `rows` rows.
    pub fn tap(&mut self, name: &str, rows: usize) -> Result<Vec<f32>, Error> {
        let missing = || Error::Pass { why: format!("there is no output {name}") };
        let (part, bucket, tokens) = self.last.ok_or_else(missing)?;
        let body = &self.plans[&(part, bucket)];
        let heads = self.plans.iter().filter(|((part, _), _)| *part == Part::Head).map(|(_, plan)| plan);
        let mut plans = std::iter::once(body).chain(heads);
        let plan = plans.find(|plan| plan.output(name).is_some()).ok_or_else(missing)?;
        let sizes = self.sizes(&[("T", tokens), ("R", rows.next_multiple_of(TILE))]);
        let mut all = plan.read(&*self.device, name, &sizes)?;
        let width = plan.row_width(name).unwrap_or(1);
        all.truncate(rows * width);
        Ok(all)
    }

    /// Whether the last body has an output of that name.
    pub(crate) fn has_output(&self, name: &str) -> bool {
        let plan = self.last.and_then(|(part, bucket, _)| self.plans.get(&(part, bucket)));
        plan.is_some_and(|plan| plan.output(name).is_some())
    }

    fn sizes(&self, more: &[(&str, usize)]) -> Sizes {
        let fixed = [("P", self.table_width()), ("pages", self.pages)];
        fixed.iter().chain(more).map(|(name, value)| ((*name).to_owned(), *value as i64)).collect()
    }

    fn upload(&self, plan: &Plan, input: &str, values: &[i32]) -> Result<(), Error> {
        let Some(span) = plan.input(input) else { return Ok(()) };
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(self.device.write(span, &bytes)?)
    }

    fn gather(&self, plan: &Plan, inputs: &Inputs) -> Result<(), Error> {
        for gather in plan.gathers() {
            let Some(span) = plan.input(&gather.input) else { continue };
            let unknown = || Error::Pass { why: format!("rows are gathered by {}, no column", gather.ids) };
            let ids =
                inputs.columns().into_iter().find(|(name, _)| *name == gather.ids).ok_or_else(unknown)?;
            let ids: Vec<u32> = ids.1.iter().map(|id| *id as u32).collect();
            let mut rows = vec![0u8; ids.len() * gather.width as usize * gather.dtype.size()];
            self.weights.gather(&gather.weight, &ids, &mut rows)?;
            self.device.write(span, &rows)?;
        }
        Ok(())
    }

    /// Runs the head on the rows that the last body left, and gives the logits of those that are wanted.
    pub(crate) fn head(
        &mut self,
        batch: &Batch,
        body: Bucket,
        locate: &Locate<'_>,
        mut trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>, Error> {
        let tokens = body_bucket(batch, self.graphs.chunk())?.1;
        let mut logits = Vec::new();
        for wanted in batch.wanted.chunks(self.graphs.chunk()) {
            let (bucket, count) = head_bucket(wanted.len());
            self.prepare(Part::Head, bucket, locate)?;
            self.hand_over(body)?;
            let plan = &self.plans[&(Part::Head, bucket)];
            let mut rows: Vec<i32> = wanted.iter().map(|row| *row as i32).collect();
            rows.resize(count, 0);
            self.upload(plan, "out_rows", &rows)?;
            let sizes = self.sizes(&[("R", count), ("T", tokens)]);
            plan.run(&*self.device, &sizes, trace.as_deref_mut())?;
            self.weights.check_whole()?;
            let mut all = plan.read(&*self.device, "logits", &sizes)?;
            all.truncate(all.len() / count * wanted.len());
            logits.extend(all);
        }
        Ok(logits)
    }

    /// Why the device would not record what the last passes launched: told once, and for one plan of all.
    pub fn refusal(&self) -> Option<String> {
        self.plans.values().filter_map(Plan::refusal).last()
    }

    /// Puts the hidden vectors of the last body where heads read them.
    fn hand_over(&mut self, body: Bucket) -> Result<(), Error> {
        let plan = &self.plans[&(Part::Body, body)];
        let missing = || Error::Pass { why: "the body has no output hidden".to_owned() };
        let from = plan.output("hidden").ok_or_else(missing)?.clone();
        let to = self.hidden.clone().ok_or_else(|| Error::Pass { why: "there is no head".to_owned() })?;
        Ok(self.device.copy(&to, &from)?)
    }
}

/// Fills the beginning of an input; more than it holds is a fault of the caller.
fn write_floats(device: &dyn Device, span: &Span, values: &[f32]) -> Result<(), Error> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    if bytes.len() as u64 > span.len {
        let why = format!("{} bytes for an input of {}", bytes.len(), span.len);
        return Err(Error::Pass { why });
    }
    Ok(device.write(span, &bytes)?)
}

/// Pages of a table's row for a cache of `pages` pages.
pub(crate) fn table_width(pages: usize) -> usize {
    pages.next_multiple_of(TABLE_STEP)
}

pub(crate) fn body_bucket(batch: &Batch, chunk: usize) -> Result<(Bucket, usize), Error> {
    let count = batch.rows.len();
    let wrong = |why: String| Err(Error::Pass { why });
    match (batch.chunk, count) {
        (_, 0) => wrong("it has no tokens".to_owned()),
        (true, count) if count <= chunk => Ok((Bucket::Many, count.next_multiple_of(TILE))),
        (true, count) => wrong(format!("a chunk of {count} tokens, at most {chunk} fit")),
        (false, count) if count <= SEQUENCES => {
            Ok((Bucket::Fixed(count.next_power_of_two()), count.next_power_of_two()))
        }
        (false, count) => wrong(format!("{count} single tokens, at most {SEQUENCES} fit")),
    }
}

pub(crate) fn head_bucket(count: usize) -> (Bucket, usize) {
    if count <= SEQUENCES {
        (Bucket::Fixed(count.next_power_of_two()), count.next_power_of_two())
    } else {
        (Bucket::Many, count.next_multiple_of(TILE))
    }
}

/// Faults, one a line.
pub(crate) fn lines<T: std::fmt::Display>(faults: &[T]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
