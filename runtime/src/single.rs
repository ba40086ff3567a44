//! One graph on a device, without a model around it: what examples, benches and experiments run.
//!
//! A [`Network`](crate::network::Network) keeps many plans, a kernel cache and pages; a [`Single`] is one plan
//! with sizes that never change. It asks for what [`jtllm_ir::interp::run`] asks for, and gives what that gives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jtllm_codegen::compile;
use jtllm_codegen::options::Options;
use jtllm_ir::format::split_plane_name;
use jtllm_ir::{DType, Graph, Op, Tensor};

use crate::device::{Device, Mem, Program};
use crate::error::Error;
use crate::network::lines;
use crate::plan::{Bindings, Plan, Sizes, Values, bytes_of, size};
use crate::program::artifact;
use crate::weights::{Locate, Wanted, Weights};

/// An input as the graph declares it, at the sizes of the passes.
struct Input {
    dtype: DType,
    shape: Vec<usize>,
    /// For integers: every element lies in `low..end`.
    range: Option<(i64, i64)>,
    given: bool,
}

/// A compiled graph with memory of its own.
pub struct Single {
    device: Arc<dyn Device>,
    plan: Plan,
    weights: Weights,
    sizes: Sizes,
    inputs: BTreeMap<String, Input>,
    outputs: BTreeMap<String, (DType, Vec<usize>)>,
}

impl Single {
    /// Compiles a graph for a device, reads its weights, and zeroes its states. `sizes` are the values of the
    /// graph's symbols in every pass.
    ///
    /// # Errors
    /// The graph breaks a rule, a size is missing or out of bounds, a weight is missing or has another shape,
    /// or the device has no memory for it all.
    pub fn new(
        device: Arc<dyn Device>,
        graph: &Graph,
        sizes: Sizes,
        locate: &Locate<'_>,
    ) -> Result<Single, Error> {
        Single::with(device, graph, sizes, locate, &Options::default())
    }

    /// As [`Single::new`], compiled with options.
    ///
    /// # Errors
    /// As there.
    pub fn with(
        device: Arc<dyn Device>,
        graph: &Graph,
        sizes: Sizes,
        locate: &Locate<'_>,
        options: &Options,
    ) -> Result<Single, Error> {
        let faulty = |faults: &[_]| Error::Graph { graph: graph.name.clone(), faults: lines(faults) };
        jtllm_ir::verify(graph).map_err(|faults| faulty(&faults))?;
        for symbol in &graph.symbols {
            size(symbol, &sizes)?;
        }
        let compilation = Arc::new(compile(graph, device.target().caps(), options));
        let programs = load(&*device, &compilation.kernels)?;
        let mut weights = Weights::default();
        let graph_of_kernels = &compilation.graph;
        weights.bind(&device, &wanted(graph_of_kernels), locate)?;
        for gather in &compilation.gathers {
            weights.source(split_plane_name(&gather.weight).0, locate)?;
        }
        let states = states(&*device, graph_of_kernels, &sizes)?;
        let shared = HashMap::new();
        let (limits, fixed) = (&sizes, &sizes);
        let paged = &HashMap::new();
        let bindings = Bindings { weights: &weights, states: &states, paged, limits, fixed, shared: &shared };
        let plan = Plan::build(&*device, compilation, &programs, &bindings)?;
        let (inputs, outputs) = (inputs(graph, &sizes), outputs(graph, &sizes));
        Ok(Single { device, plan, weights, sizes, inputs, outputs })
    }

    /// The plan: its kernels, launches and buffers.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Sets an input for all passes to come, until it is set again.
    ///
    /// # Errors
    /// The graph has no such input, or declares another type, shape or range for it.
    pub fn give(&mut self, name: &str, value: &Tensor) -> Result<(), Error> {
        let wrong = |why: String| Error::Pass { why: format!("input {name} {why}") };
        let input = self.inputs.get_mut(name).ok_or_else(|| wrong("does not exist".to_owned()))?;
        if (input.dtype, &input.shape) != (value.dtype, &value.shape) {
            let expected = format!("{}{:?}", input.dtype, input.shape);
            return Err(wrong(format!("is {}{:?}, expected {expected}", value.dtype, value.shape)));
        }
        let ints = value.as_ints().unwrap_or_default();
        // Kernels use integers as coordinates and trust the range that the graph declares.
        if let Some((low, end)) = input.range
            && let Some(x) = ints.iter().find(|x| !(low..end).contains(x))
        {
            return Err(wrong(format!("holds {x}, expected values in {low}..{end}")));
        }
        if let Some(span) = self.plan.input(name) {
            self.device.write(span, &value.to_bytes())?;
        }
        for gather in self.plan.gathers().iter().filter(|gather| gather.ids == name) {
            let Some(span) = self.plan.input(&gather.input) else { continue };
            let ids: Vec<u32> = ints.iter().map(|id| *id as u32).collect();
            let mut rows = vec![0; ids.len() * gather.width as usize * gather.dtype.size()];
            self.weights.gather(&gather.weight, &ids, &mut rows)?;
            self.device.write(span, &rows)?;
        }
        input.given = true;
        Ok(())
    }

    /// Runs one pass.
    ///
    /// # Errors
    /// An input was never given, or the device failed.
    pub fn run(&mut self) -> Result<(), Error> {
        if let Some((name, _)) = self.inputs.iter().find(|(_, input)| !input.given) {
            return Err(Error::Pass { why: format!("input {name} has no value") });
        }
        self.plan.run(&*self.device, &self.sizes, None)
    }

    /// An output of the last pass.
    ///
    /// # Errors
    /// The graph has no such output, or the device failed.
    pub fn read(&self, name: &str) -> Result<Tensor, Error> {
        let missing = || Error::Pass { why: format!("there is no output {name}") };
        let (dtype, shape) = self.outputs.get(name).ok_or_else(missing)?;
        let span = self.plan.output(name).ok_or_else(missing)?;
        let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
        self.device.read(span, &mut bytes)?;
        Tensor::from_bytes(*dtype, shape, &bytes).ok_or_else(missing)
    }
}

/// Kernels, verified, emitted and loaded.
fn load(device: &dyn Device, kernels: &[jtllm_codegen::kernel::Kernel]) -> Result<Vec<Program>, Error> {
    let emit = |kernel| Ok((kernel, artifact(device.target(), None, kernel)?.0));
    let emitted: Vec<_> = kernels.iter().map(emit).collect::<Result<_, Error>>()?;
    Ok(device.load(&emitted)?)
}

fn wanted(graph: &Graph) -> Vec<Wanted> {
    let leaf = |node| match graph.op(node) {
        Op::Weight { name } => {
            let shape = graph.shape(node).iter().filter_map(jtllm_ir::Expr::as_int).collect();
            Some(Wanted { name: name.clone(), dtype: graph.dtype(node), shape })
        }
        _ => None,
    };
    graph.nodes().filter_map(leaf).collect()
}

fn states(device: &dyn Device, graph: &Graph, sizes: &Sizes) -> Result<HashMap<String, Mem>, Error> {
    let mut states = HashMap::new();
    for node in graph.nodes() {
        if let Op::State { name } = graph.op(node) {
            let mem = device.alloc(bytes_of(graph.shape(node), graph.dtype(node), sizes))?;
            states.insert(name.clone(), mem);
        }
    }
    Ok(states)
}

fn extents(shape: &[jtllm_ir::Expr], sizes: &Sizes) -> Vec<usize> {
    shape.iter().map(|extent| extent.evaluate(&Values(sizes)).max(0) as usize).collect()
}

fn inputs(graph: &Graph, sizes: &Sizes) -> BTreeMap<String, Input> {
    let input = |node| match graph.op(node) {
        Op::Input { name, range } => {
            let range = range.as_ref().map(|(low, end)| (*low, end.evaluate(&Values(sizes))));
            let shape = extents(graph.shape(node), sizes);
            Some((name.clone(), Input { dtype: graph.dtype(node), shape, range, given: false }))
        }
        _ => None,
    };
    graph.nodes().filter_map(input).collect()
}

fn outputs(graph: &Graph, sizes: &Sizes) -> BTreeMap<String, (DType, Vec<usize>)> {
    let output =
        |(name, node): &(String, _)| (name.clone(), (graph.dtype(*node), extents(graph.shape(*node), sizes)));
    graph.outputs.iter().map(output).collect()
}
