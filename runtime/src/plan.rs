//! A compiled graph bound to memory: what to launch, in which order, on which buffers.

mod cost;
mod rehearsal;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use jtllm_codegen::Compilation;
use jtllm_codegen::canon::Gather;
use jtllm_codegen::kernel::Param;
use jtllm_codegen::schedule::Argument;
use jtllm_ir::build::PAGE;
use jtllm_ir::expr::{Environment, Kind, Symbol};
use jtllm_ir::graph::element_count;
use jtllm_ir::{DType, Expr, Node, Op};
use jtllm_swap::{BlobId, Space};

use crate::device::{Device, Mem, Program, Recorded, Span, Tape, lent};
use crate::error::Error;
use crate::ready::Ready;
use crate::residence::{Places, PlanId, Residence, Uses};
use crate::trace::Trace;
use crate::weights::{Given, Weights};
use cost::Cost;
pub(crate) use rehearsal::StandIn;

/// Every buffer begins at a multiple of this.
const ALIGNMENT: u64 = 256;

/// Bytes of a symbol block: 64 sizes.
pub const SYMBOL_BLOCK: u64 = 256;

/// One launch.
struct Step {
    program: Program,
    kernel: usize,
    grid: [Expr; 3],
    args: Vec<Span>,
    /// Which of them are weights or states that come and go, and their names where they do.
    streamed: Vec<(usize, BlobId)>,
    /// Whether the weights among them are there.
    ready: Vec<Ready>,
    /// What a launch of it costs at least, once somebody asks.
    cost: OnceLock<Cost>,
}

impl Step {
    /// What it is given while its weights lie there.
    fn placed(&self, places: &Places<'_>) -> Vec<Span> {
        let mut args = self.args.clone();
        for (at, blob) in &self.streamed {
            args[*at] = places.of(*blob, &args[*at]);
        }
        args
    }

    /// Waits for the weights that it reads.
    fn wait(&self) -> Result<(), Error> {
        self.ready.iter().try_for_each(Ready::wait)
    }
}

/// A compiled graph, ready to run any number of times.
pub struct Plan {
    /// The graph as kernels.
    pub compilation: Arc<Compilation>,
    steps: Vec<Step>,
    inputs: HashMap<String, (Span, DType)>,
    outputs: BTreeMap<String, (Span, Vec<Expr>)>,
    symbols: Span,
    /// Where the weights that steps read come and go, if they do, and the plan's name there.
    stream: Option<(Arc<Residence>, PlanId)>,
    /// The launches as the device recorded them, once a pass has asked for it.
    tape: Mutex<Recording>,
    /// Bytes of buffers that live inside a pass.
    pub arena_bytes: u64,
    /// Bytes of inputs, outputs and constants.
    pub fixed_bytes: u64,
}

/// What became of recording a plan's launches.
enum Recording {
    /// No pass has asked for it.
    NotTried,
    /// The device records nothing, or launches depend on the sizes of a pass.
    Impossible,
    /// The device refused, for this reason, which nobody has been told.
    Refused(String),
    /// They can be replayed.
    Done(Box<dyn Tape>),
}

/// The sizes of a pass, by symbol name.
pub type Sizes = HashMap<String, i64>;

/// What a plan is bound to beside its own buffers.
pub struct Bindings<'a> {
    /// The planes of weights.
    pub weights: &'a Weights,
    /// The states, by name.
    pub states: &'a HashMap<String, Mem>,
    /// What those of them are called that come and go.
    pub paged: &'a HashMap<String, BlobId>,
    /// The largest value that each symbol will take; buffers are made for it.
    pub limits: &'a Sizes,
    /// Sizes that are the same for every pass.
    pub fixed: &'a Sizes,
    /// Inputs that are another plan's outputs, by name.
    pub shared: &'a HashMap<String, Span>,
}

/// Sizes as expressions ask for them.
pub(crate) struct Values<'a>(pub(crate) &'a Sizes);

impl Environment for Values<'_> {
    fn axis(&self, _: u16) -> i64 {
        0
    }

    fn symbol(&self, symbol: &Symbol) -> i64 {
        self.0.get(symbol.name()).copied().unwrap_or(symbol.high())
    }

    fn extra(&self, _: u32, _: &[i64]) -> i64 {
        0
    }
}

/// The bytes of a tensor when sizes are at their limits.
pub(crate) fn bytes_of(shape: &[Expr], dtype: DType, limits: &Sizes) -> u64 {
    element_count(shape).evaluate(&Values(limits)).max(0) as u64 * dtype.size() as u64
}

/// The positions that a row of the table of pages has room for.
pub(crate) fn positions(sizes: &Sizes) -> Option<u32> {
    u32::try_from(*sizes.get("P")? * PAGE).ok()
}

/// An expression without the sizes that are known.
fn known(x: &Expr, sizes: &Sizes) -> Expr {
    x.substitute(&mut |leaf| match leaf.kind() {
        Kind::Sym(symbol) => sizes.get(symbol.name()).map(|size| Expr::int(*size)),
        _ => None,
    })
}

/// The value of a symbol, if `sizes` has one that keeps the symbol's bounds.
pub(crate) fn size(symbol: &Symbol, sizes: &Sizes) -> Result<i32, Error> {
    let wrong = |why: String| Error::Pass { why };
    let value = sizes.get(symbol.name()).copied();
    let value = value.ok_or_else(|| wrong(format!("no value for size {}", symbol.name())))?;
    let fits = value >= symbol.low() && value <= symbol.high() && value % symbol.divisor() == 0;
    if !fits {
        let (low, high, step) = (symbol.low(), symbol.high(), symbol.divisor());
        return Err(wrong(format!(
            "size {} is {value}, planned for {low}..={high} in steps of {step}",
            symbol.name()
        )));
    }
    i32::try_from(value).map_err(|_| wrong(format!("size {} is {value}", symbol.name())))
}

impl Plan {
    /// Binds a compilation's steps; `programs` are its kernels, loaded.
    pub fn build(
        device: &dyn Device,
        compilation: Arc<Compilation>,
        programs: &[Program],
        bindings: &Bindings<'_>,
    ) -> Result<Plan, Error> {
        let mut builder = Builder::new(Some(device), &compilation, bindings);
        let Buffers { inputs, outputs, constants, arena_bytes } = builder.buffers()?;
        let (mut steps, mut uses) = (Vec::new(), Vec::new());
        for step in &compilation.steps {
            let given = |argument: &Argument| builder.given(argument);
            let weights: Vec<Option<Given>> = step.arguments.iter().map(given).collect::<Result<_, _>>()?;
            let span = |(argument, given): (&Argument, &Option<Given>)| match given {
                Some(given) => Ok(given.span.clone()),
                None => builder.argument(argument, &inputs, &constants),
            };
            let args = step.arguments.iter().zip(&weights).map(span).collect::<Result<Vec<Span>, _>>()?;
            let blob = |(argument, given): (&Argument, &Option<Given>)| match argument {
                Argument::State(name) => bindings.paged.get(name).copied(),
                _ => given.as_ref()?.blob,
            };
            let blobs = step.arguments.iter().zip(&weights).map(blob).enumerate();
            let streamed = blobs.filter_map(|(at, blob)| Some((at, blob?))).collect();
            let weights = weights.iter().flatten();
            let params = &compilation.kernels[step.kernel].params;
            uses.push(uses_of(bindings, &step.arguments, params, weights.clone()));
            steps.push(Step {
                program: programs[step.kernel].clone(),
                kernel: step.kernel,
                grid: compilation.kernels[step.kernel].grid.each_ref().map(|x| known(x, bindings.fixed)),
                cost: OnceLock::new(),
                args,
                streamed,
                ready: weights.map(|given| given.ready.clone()).collect(),
            });
        }
        let stream =
            bindings.weights.residence().map(|residence| (residence.clone(), residence.register(uses)));
        let fixed_bytes = builder.fixed_bytes;
        let symbols = device.alloc(SYMBOL_BLOCK)?.span();
        let tape = Mutex::new(Recording::NotTried);
        Ok(Plan { compilation, steps, inputs, outputs, symbols, stream, tape, arena_bytes, fixed_bytes })
    }

    /// What the buffers of the plan of a compilation take; its states are there.
    ///
    /// # Errors
    /// As [`Plan::build`], but for those of a device.
    pub(crate) fn measure(compilation: &Compilation, bindings: &Bindings<'_>) -> Result<Measured, Error> {
        let mut builder = Builder::new(None, compilation, bindings);
        let Buffers { outputs, arena_bytes, .. } = builder.buffers()?;
        let logits = outputs.get("logits").map_or(0, |(span, _)| span.len);
        Ok(Measured { bytes: arena_bytes + builder.fixed_bytes, logits })
    }

    /// The rows that must be gathered before a pass.
    pub fn gathers(&self) -> &[Gather] {
        &self.compilation.gathers
    }

    /// An input's buffer.
    pub fn input(&self, name: &str) -> Option<&Span> {
        self.inputs.get(name).map(|(span, _)| span)
    }

    /// An output's buffer.
    pub fn output(&self, name: &str) -> Option<&Span> {
        self.outputs.get(name).map(|(span, _)| span)
    }

    /// The outputs' names.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.outputs.keys().map(String::as_str)
    }

    /// Elements of one row of an output.
    pub fn row_width(&self, name: &str) -> Option<usize> {
        let (_, shape) = self.outputs.get(name)?;
        Some(element_count(&shape[1..]).as_int()?.max(0) as usize)
    }

    /// What it is called where its weights come and go.
    pub(crate) fn id(&self) -> Option<PlanId> {
        self.stream.as_ref().map(|(_, id)| *id)
    }

    /// How many launches a pass takes.
    pub fn step_count(&self) -> usize {
        self.steps.len()
    }

    /// What a launch's parameters are bound to.
    pub fn spans(&self, step: usize) -> &[Span] {
        self.steps.get(step).map_or(&[], |step| &step.args)
    }

    /// Runs all steps with these sizes.
    pub fn run(&self, device: &dyn Device, sizes: &Sizes, trace: Option<&mut Trace>) -> Result<(), Error> {
        let mut block = [0u8; SYMBOL_BLOCK as usize];
        for (slot, symbol) in self.compilation.graph.symbols.iter().enumerate() {
            let value = size(symbol, sizes)?;
            block[slot * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        device.write(&self.symbols, &block)?;
        match trace {
            Some(trace) => self.launch(device, sizes, Some(trace)),
            // Weights that come and go have no address that could be recorded. Recording what lies between them would save
            // nothing: the launches around it are asked for one by one all the same.
            None if self.stream.is_none() && self.replay(device, sizes)? => Ok(()),
            None => self.launch(device, sizes, None),
        }
    }

    /// Launches one step after another.
    fn launch(&self, device: &dyn Device, sizes: &Sizes, mut trace: Option<&mut Trace>) -> Result<(), Error> {
        let _pinned = device.pin();
        let mut turn = match &self.stream {
            Some((residence, plan)) => Some(residence.enter(*plan)?),
            None => None,
        };
        for number in 0..self.steps.len() {
            let trace = trace.as_deref_mut();
            match &mut turn {
                Some(turn) => {
                    turn.step(number, |places| self.launch_one(device, number, sizes, places, trace))?;
                }
                None => self.launch_one(device, number, sizes, None, trace)?,
            }
        }
        Ok(())
    }

    fn launch_one(
        &self,
        device: &dyn Device,
        number: usize,
        sizes: &Sizes,
        places: Option<&Places<'_>>,
        trace: Option<&mut Trace>,
    ) -> Result<(), Error> {
        let step = &self.steps[number];
        let groups = self.groups(step, sizes);
        if groups.contains(&0) {
            return Ok(());
        }
        if trace.is_some() {
            device.finish()?;
        }
        step.wait()?;
        let placed = places.filter(|_| !step.streamed.is_empty()).map(|places| step.placed(places));
        let args = placed.as_ref().unwrap_or(&step.args);
        let begin = Instant::now();
        device.launch(&step.program, groups, &self.symbols, args)?;
        if let Some(trace) = trace {
            device.finish()?;
            let (time, extent) = (begin.elapsed(), trace.extent);
            let compilation = &self.compilation;
            let cost = step.cost.get_or_init(|| Cost::of(compilation, number, &step.args));
            let key = (Arc::as_ptr(compilation).addr(), step.kernel);
            let entry = trace.entry(key, || cost::name(compilation, number));
            entry.launches += 1;
            entry.groups += groups.iter().map(|n| u64::from(*n)).product::<u64>();
            entry.time += time;
            cost.add(entry, sizes, extent);
        }
        Ok(())
    }

    /// Runs all steps at once if the device has recorded them, or can do so now. Grids that name no size are the
    /// same for each pass, and kernels read sizes from memory: then one recording serves every position.
    fn replay(&self, device: &dyn Device, sizes: &Sizes) -> Result<bool, Error> {
        let mut tape = self.tape.lock().unwrap_or_else(PoisonError::into_inner);
        if let Recording::NotTried = *tape {
            // What is recorded runs as a whole.
            self.steps.iter().try_for_each(Step::wait)?;
            let is_fixed = |step: &Step| step.grid.iter().all(|extent| extent.as_int().is_some());
            let recorded = match self.steps.iter().all(is_fixed) {
                true => device.record(&mut || {
                    let launch = |step: &Step| {
                        let groups = self.groups(step, sizes);
                        device.launch(&step.program, groups, &self.symbols, &step.args)
                    };
                    self.steps.iter().try_for_each(launch)
                })?,
                false => Recorded::Never,
            };
            *tape = match recorded {
                Recorded::Tape(tape) => Recording::Done(tape),
                Recorded::Never => Recording::Impossible,
                Recorded::Refused(why) => Recording::Refused(why),
            };
        }
        match &*tape {
            Recording::Done(tape) => tape.replay().map(|()| true).map_err(Error::from),
            _ => Ok(false),
        }
    }

    /// Why the device would not record the launches: told once.
    pub(crate) fn refusal(&self) -> Option<String> {
        let mut tape = self.tape.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *tape, Recording::Impossible) {
            Recording::Refused(why) => Some(why),
            other => {
                *tape = other;
                None
            }
        }
    }

    fn groups(&self, step: &Step, sizes: &Sizes) -> [u32; 3] {
        let values = Values(sizes);
        std::array::from_fn(|direction| {
            let count = step.grid[direction].evaluate(&values);
            u32::try_from(count.max(0)).unwrap_or(u32::MAX)
        })
    }

    /// An output's elements at these sizes, as `f32`.
    pub fn read(&self, device: &dyn Device, name: &str, sizes: &Sizes) -> Result<Vec<f32>, Error> {
        let missing = || Error::Pass { why: format!("there is no output {name}") };
        let (span, shape) = self.outputs.get(name).ok_or_else(missing)?;
        let count = element_count(shape).evaluate(&Values(sizes)).max(0) as usize;
        let mut bytes = vec![0u8; count * 4];
        device.read(span, &mut bytes)?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }
}

/// The blobs that a launch uses of weights and states that come and go.
fn uses_of<'a>(
    bindings: &Bindings<'_>,
    arguments: &[Argument],
    params: &[Param],
    weights: impl Iterator<Item = &'a Given>,
) -> Uses {
    let paged = |(argument, param): (&Argument, &Param)| match argument {
        Argument::State(name) => Some((*bindings.paged.get(name)?, param.access.writes())),
        _ => None,
    };
    let states: Vec<(BlobId, bool)> = arguments.iter().zip(params).filter_map(paged).collect();
    let changed = states.iter().filter(|(_, writes)| *writes).map(|(blob, _)| *blob).collect();
    let all = weights.filter_map(|given| given.blob).chain(states.iter().map(|(blob, _)| *blob));
    let mut uses = Uses { blobs: all.collect(), changed };
    for blobs in [&mut uses.blobs, &mut uses.changed] {
        blobs.sort_unstable();
        blobs.dedup();
    }
    uses
}

/// What the buffers of a plan take.
pub(crate) struct Measured {
    /// Bytes of them all.
    pub(crate) bytes: u64,
    /// Those of logits.
    pub(crate) logits: u64,
}

/// The buffers of a plan.
struct Buffers {
    inputs: HashMap<String, (Span, DType)>,
    outputs: BTreeMap<String, (Span, Vec<Expr>)>,
    constants: HashMap<Node, Span>,
    /// Bytes of all that live inside a pass.
    arena_bytes: u64,
}

struct Builder<'a> {
    /// Where memory comes from; none if it is only counted.
    device: Option<&'a dyn Device>,
    compilation: &'a Compilation,
    bindings: &'a Bindings<'a>,
    values: HashMap<Node, Span>,
    scratch: HashMap<Node, Span>,
    fixed_bytes: u64,
}

impl<'a> Builder<'a> {
    fn new(
        device: Option<&'a dyn Device>,
        compilation: &'a Compilation,
        bindings: &'a Bindings<'a>,
    ) -> Builder<'a> {
        let (values, scratch) = (HashMap::new(), HashMap::new());
        Builder { device, compilation, bindings, values, scratch, fixed_bytes: 0 }
    }

    fn buffers(&mut self) -> Result<Buffers, Error> {
        let inputs = self.inputs()?;
        let outputs = self.outputs(&inputs)?;
        let arena_bytes = self.arena()?;
        let constants = self.constants()?;
        Ok(Buffers { inputs, outputs, constants, arena_bytes })
    }

    fn memory(&self, len: u64) -> Result<Mem, Error> {
        Ok(self.device.map_or_else(|| Ok(lent(len)), |device| device.alloc(len))?)
    }

    fn alloc(&mut self, len: u64) -> Result<Span, Error> {
        self.fixed_bytes += len;
        Ok(self.memory(len)?.span())
    }

    /// Outputs have buffers of their own, since they are read after the pass; those that no kernel stores
    /// stay where they lie.
    fn outputs(
        &mut self,
        inputs: &HashMap<String, (Span, DType)>,
    ) -> Result<BTreeMap<String, (Span, Vec<Expr>)>, Error> {
        let graph = &self.compilation.graph;
        let mut outputs = BTreeMap::new();
        for (name, node) in &graph.outputs {
            let shape = graph.shape(*node).to_vec();
            let known = match self.values.get(node) {
                Some(span) => Some(span.clone()),
                None => self.lying(name, *node, inputs)?,
            };
            let span = match known {
                Some(span) => span,
                None => self.alloc(bytes_of(&shape, graph.dtype(*node), self.bindings.limits))?,
            };
            self.values.insert(*node, span.clone());
            outputs.insert(name.clone(), (span, shape));
        }
        Ok(outputs)
    }

    /// Where an output lies that no kernel stores: an input, or what a state is after the pass.
    fn lying(
        &self,
        output: &str,
        node: Node,
        inputs: &HashMap<String, (Span, DType)>,
    ) -> Result<Option<Span>, Error> {
        let graph = &self.compilation.graph;
        let replaced = || {
            graph.nodes().any(|other| matches!(graph.op(other), Op::Write { state, .. } if *state == node))
        };
        let refused = |what: &str| Error::Pass {
            why: format!("output {output} is {what}, which a pass does not leave behind"),
        };
        if let Some((leaf, _)) = graph.state_of(node) {
            let Op::State { name } = graph.op(leaf) else { return Ok(None) };
            return match self.bindings.states.get(name) {
                Some(mem) if !replaced() => Ok(Some(mem.span())),
                _ => Err(refused(&format!("a version of state {name}"))),
            };
        }
        match graph.op(node) {
            Op::Input { name, .. } => Ok(inputs.get(name).map(|(span, _)| span.clone())),
            Op::Weight { name } => Err(refused(&format!("weight {name}"))),
            Op::Const(_) => Err(refused("a constant")),
            _ => Ok(None),
        }
    }

    /// Lays out the other stored nodes, and what regions keep between their kernels: two may share bytes if no
    /// step needs both.
    fn arena(&mut self) -> Result<u64, Error> {
        let compilation = self.compilation;
        let mut last_use: HashMap<&Argument, usize> = HashMap::new();
        for (step, launch) in compilation.steps.iter().enumerate() {
            last_use.extend(launch.arguments.iter().map(|argument| (argument, step)));
        }
        let mut space = Space::new(u64::MAX / 4);
        let mut placed: Vec<(&Argument, u64, u64)> = Vec::new();
        let mut live = HashMap::new();
        let mut end = 0;
        for (step, launch) in compilation.steps.iter().enumerate() {
            for argument in &launch.arguments {
                let Some(len) = self.transient(argument).filter(|_| !live.contains_key(argument)) else {
                    continue;
                };
                let full = || Error::Pass { why: "the arena's address space is full".to_owned() };
                let extent = space.allocate(len, ALIGNMENT).ok_or_else(full)?;
                end = end.max(extent.offset + len);
                placed.push((argument, extent.offset, len));
                live.insert(argument, extent);
            }
            // A launch names its arguments in an order that is always the same.
            for argument in launch.arguments.iter().filter(|argument| last_use[argument] == step) {
                if let Some(extent) = live.remove(argument) {
                    space.free(extent);
                }
            }
        }
        if end > 0 {
            let arena = self.memory(end)?;
            for (argument, offset, len) in placed {
                let span = Span { mem: arena.clone(), offset, len };
                match argument {
                    Argument::Value(node) => self.values.insert(*node, span),
                    Argument::Scratch(root, _) => self.scratch.insert(*root, span),
                    other => unreachable!("{other:?} has no place in the arena"),
                };
            }
        }
        Ok(end)
    }

    /// The bytes of what lives inside a pass.
    fn transient(&self, argument: &Argument) -> Option<u64> {
        let (graph, limits) = (&self.compilation.graph, self.bindings.limits);
        let len = match argument {
            Argument::Value(node) if !self.values.contains_key(node) => {
                bytes_of(graph.shape(*node), graph.dtype(*node), limits)
            }
            Argument::Scratch(_, bytes) => bytes.evaluate(&Values(limits)).max(0) as u64,
            _ => return None,
        };
        Some(len.max(1))
    }

    fn inputs(&mut self) -> Result<HashMap<String, (Span, DType)>, Error> {
        let graph = &self.compilation.graph;
        let mut inputs = HashMap::new();
        for node in graph.nodes() {
            let Op::Input { name, .. } = graph.op(node) else { continue };
            let dtype = graph.dtype(node);
            let span = match self.bindings.shared.get(name) {
                Some(span) => span.clone(),
                None => self.alloc(bytes_of(graph.shape(node), dtype, self.bindings.limits))?,
            };
            inputs.insert(name.clone(), (span, dtype));
        }
        Ok(inputs)
    }

    fn constants(&mut self) -> Result<HashMap<Node, Span>, Error> {
        let graph = &self.compilation.graph;
        let mut constants = HashMap::new();
        for node in graph.nodes() {
            let Op::Const(tensor) = graph.op(node) else { continue };
            if tensor.shape.is_empty() {
                continue;
            }
            let bytes = tensor.to_bytes();
            let span = self.alloc(bytes.len() as u64)?;
            if let Some(device) = self.device {
                device.write(&span, &bytes)?;
            }
            constants.insert(node, span);
        }
        Ok(constants)
    }

    /// What a launch is given of a weight.
    fn given(&self, argument: &Argument) -> Result<Option<Given>, Error> {
        match argument {
            Argument::Weight(name) => self.bindings.weights.given(name, None),
            Argument::Part(name, bytes) => self.bindings.weights.given(name, Some(bytes)),
            _ => Ok(None),
        }
    }

    fn argument(
        &self,
        argument: &Argument,
        inputs: &HashMap<String, (Span, DType)>,
        constants: &HashMap<Node, Span>,
    ) -> Result<Span, Error> {
        let found = match argument {
            // One that is there was given before.
            Argument::Weight(_) | Argument::Part(..) => None,
            Argument::State(name) => self.bindings.states.get(name).map(Mem::span),
            Argument::Input(name) => inputs.get(name).map(|(span, _)| span.clone()),
            Argument::Const(node) => constants.get(node).cloned(),
            Argument::Value(node) => self.values.get(node).cloned(),
            Argument::Scratch(root, _) => self.scratch.get(root).cloned(),
        };
        found.ok_or_else(|| Error::Pass {
            why: format!("a kernel binds {argument:?}, which nothing provides"),
        })
    }
}
