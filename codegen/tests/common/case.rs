//! A graph with values for all its leaves, to be run as the graph says and as it compiles.

use jtllm_codegen::target::Caps;
use jtllm_ir::expr::Symbol;
use jtllm_ir::format::Format;
use jtllm_ir::interp::Bindings;
use jtllm_ir::{DType, Expr, Graph, Node, Tensor};

use super::{Outputs, all_caps, compiled, difference, noise, run};

/// Sums of a few hundred products in another order.
const TOLERANCE: f32 = 2e-6;

/// A graph with values for all its leaves.
pub(crate) struct Case {
    pub(crate) graph: Graph,
    pub(crate) bindings: Bindings,
    pub(crate) seed: u64,
    pub(crate) tolerance: f32,
}

impl Case {
    pub(crate) fn new(name: &str) -> Case {
        Case { graph: Graph::new(name), bindings: Bindings::new(), seed: 7, tolerance: TOLERANCE }
    }

    pub(crate) fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| noise(&mut self.seed) * scale).collect()
    }

    pub(crate) fn input(&mut self, name: &str, shape: &[Expr], sizes: &[usize]) -> Node {
        let values = self.floats(sizes.iter().product(), 1.0);
        self.bindings.inputs.insert(name.to_owned(), Tensor::floats(DType::F32, sizes, values));
        self.graph.input(name, DType::F32, shape, None)
    }

    pub(crate) fn ints(
        &mut self,
        name: &str,
        shape: &[Expr],
        sizes: &[usize],
        range: (i64, Expr),
        values: Vec<i64>,
    ) -> Node {
        self.bindings.inputs.insert(name.to_owned(), Tensor::ints(DType::I32, sizes, values));
        self.graph.input(name, DType::I32, shape, Some(range))
    }

    pub(crate) fn weight(&mut self, format: &'static Format, name: &str, shape: &[usize]) -> Node {
        let columns = *shape.last().unwrap();
        let rows = shape.iter().product::<usize>() / columns;
        for plane in format.planes {
            let mut sizes = shape.to_vec();
            let across = if plane.is_apart() { 1 } else { columns / plane.span };
            *sizes.last_mut().unwrap() = across;
            let count = rows * across;
            let tensor = match plane.dtype {
                DType::U32 => {
                    let mut word = || i64::from((noise(&mut self.seed) * 2e9) as i32 as u32);
                    let words = (0..count).map(|_| word()).collect();
                    Tensor::ints(DType::U32, &sizes, words)
                }
                dtype @ (DType::U8 | DType::I8) => {
                    // Small enough for either.
                    let mut byte = || ((noise(&mut self.seed) + 1.0) * 63.0) as i64;
                    let bytes = (0..count).map(|_| byte()).collect();
                    Tensor::ints(dtype, &sizes, bytes)
                }
                dtype => {
                    // So that scores of attention are a few units large, as in models.
                    let scale = if format.is_direct() { 1.0 } else { 0.01 };
                    Tensor::floats(dtype, &sizes, self.floats(count, scale))
                }
            };
            self.bindings.weights.insert(format.plane_name(name, plane), tensor);
        }
        let shape: Vec<Expr> = shape.iter().map(|n| Expr::int(*n as i64)).collect();
        format.weight(&mut self.graph, name, &shape)
    }

    /// Compares all outputs and states for every caps; and PTX with the kernels that it was made of.
    pub(crate) fn check(self) {
        self.agrees(difference);
    }

    /// As `check`, with another measure of how far values are apart.
    pub(crate) fn agrees(self, difference: fn(&[f32], &[f32]) -> f32) {
        super::ptx::compare(&self.graph, &self.bindings);
        let expected = self.expected();
        for (what, caps) in all_caps() {
            self.runs_as(&expected, what, &caps, difference);
        }
    }

    /// As `check`, for these caps alone.
    pub(crate) fn check_for(self, what: &str, caps: &Caps) {
        self.runs_as(&self.expected(), what, caps, difference);
    }

    fn runs_as(
        &self,
        expected: &(Outputs, Bindings),
        what: &str,
        caps: &Caps,
        difference: fn(&[f32], &[f32]) -> f32,
    ) {
        let compilation = compiled(&self.graph, caps);
        let mut bindings = self.bindings.clone();
        let found = run(&compilation, caps, &mut bindings);
        self.compare(what, expected, (&found, &bindings), difference);
    }

    /// What the graph's interpreter gives, and the states that it leaves.
    pub(crate) fn expected(&self) -> (Outputs, Bindings) {
        let mut bindings = self.bindings.clone();
        let outputs = jtllm_ir::interp::run(&self.graph, &mut bindings).unwrap();
        let floats = |(name, tensor): (String, Tensor)| (name, tensor.to_floats());
        (outputs.into_iter().map(floats).collect(), bindings)
    }

    /// Fails if outputs or states differ.
    pub(crate) fn compare(
        &self,
        what: &str,
        (expected, reference): &(Outputs, Bindings),
        (found, bindings): (&Outputs, &Bindings),
        difference: fn(&[f32], &[f32]) -> f32,
    ) {
        let case = &self.graph.name;
        for (name, expected) in expected {
            let error = difference(&found[name], expected);
            assert!(error < self.tolerance, "{case} {what}: output {name} differs by {error}");
        }
        for (name, state) in &reference.states {
            let error = difference(&bindings.states[name].to_floats(), &state.to_floats());
            assert!(error < 1e-3, "{case} {what}: state {name} differs by {error}");
        }
    }
}

/// A constant extent.
pub(crate) fn int(n: usize) -> Expr {
    Expr::int(n as i64)
}

/// The extent of so many rows: that of a chunk, which is a symbol, from 17 rows on.
pub(crate) fn rows(graph: &mut Graph, bindings: &mut Bindings, count: usize) -> Expr {
    if count <= 16 {
        return int(count);
    }
    bindings.symbols.insert("T".to_owned(), count as i64);
    graph.symbol(&Symbol::new("T", 16, 512, 16))
}
