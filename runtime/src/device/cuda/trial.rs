//! A trial of units that multiply out of shared memory: no such hardware was at hand when the kernels for them were
//! written, so each device shows first that it computes what they mean. Where it does not, it goes on without.
//!
//! The kernels are those of the schedule, for each width of its tiles, for operands that are copied and those that
//! lanes unpack, and for two matrices at a time: with rows, columns and depths that end
//! inside of a tile, and with whole ones in more steps than there are buffers. Operands are small integers, whose
//! sums are exact in whatever order they are added, and differ from place to place, so that nothing can be in
//! another one's place.

use jtllm_codegen::compile;
use jtllm_codegen::kernel::{Kernel, Role, Stmt};
use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::schedule::Argument;
use jtllm_codegen::target::Target;
use jtllm_ir::build::linear;
use jtllm_ir::expr::Symbol;
use jtllm_ir::{DType, Expr, Format, Graph, Node, ScalarOp, Tensor};

use super::{Cuda, Ptx};
use crate::device::{Device, DeviceError, Span};
use crate::plan::{Sizes, Values};

/// A product that is tried.
struct Trial {
    format: &'static str,
    /// Rows for which it is scheduled, by which a tile's width is chosen, and rows that there are.
    most: i64,
    rows: usize,
    columns: usize,
    depth: usize,
    /// The columns of the tile.
    tile: usize,
    /// How many matrices multiply the same rows; the second's products are taken away.
    sums: usize,
}

const TRIALS: [Trial; 5] = [
    Trial { format: "bf16", most: 512, rows: 136, columns: 100, depth: 200, tile: 64, sums: 1 },
    Trial { format: "f16", most: 128 * 96, rows: 128, columns: 128, depth: 256, tile: 128, sums: 1 },
    Trial { format: "bf16", most: 128 * 96, rows: 128, columns: 256, depth: 320, tile: 256, sums: 1 },
    // Lanes fill the panels of what is packed.
    Trial { format: "q8_0", most: 512, rows: 136, columns: 100, depth: 224, tile: 64, sums: 1 },
    Trial { format: "bf16", most: 128 * 96, rows: 128, columns: 128, depth: 320, tile: 128, sums: 2 },
];

/// A variable of the environment: `off` for who would rather do without.
const SWITCH: &str = "JTLLM_WGMMA";

/// Fails if the user does not want these units.
///
/// # Errors
/// Who said so, or what nobody understands.
pub(super) fn wanted() -> Result<(), String> {
    match std::env::var_os(SWITCH) {
        None => Ok(()),
        Some(value) if value.is_empty() || value == "on" => Ok(()),
        Some(value) if value == "off" => Err(format!("{SWITCH} is off")),
        Some(value) => Err(format!("{SWITCH} is {value:?}, where `on` or `off` is expected")),
    }
}

/// Fails unless the device computes what the kernels mean that `target` makes for it.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn products(device: &Cuda, target: &Ptx) -> Result<(), String> {
    TRIALS.iter().try_for_each(|trial| trial.run(device, target))
}

/// Small integers, of which each row and each column has its own.
fn numbers(count: usize, seed: u32) -> Vec<i8> {
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as i8 - 8
    };
    (0..count).map(|_| number()).collect()
}

/// The columns of the tiles by which teams multiply in a block.
fn tile(body: &[Stmt]) -> Option<usize> {
    body.iter().find_map(|stmt| match stmt {
        Stmt::Product { sums, .. } => Some(sums.len() * Role::Sum.columns() as usize),
        Stmt::Loop { body, .. } | Stmt::If { body, .. } => tile(body),
        _ => None,
    })
}

impl Trial {
    fn run(&self, device: &Cuda, target: &Ptx) -> Result<(), String> {
        let (kernel, arguments) = self.kernel(target)?;
        let left = numbers(self.rows * self.depth, 1);
        let matrix = self.columns * self.depth;
        let right = numbers(self.sums * matrix, 2);
        let found = self.launch(device, target, &kernel, &arguments, [&left, &right]);
        let found = found.map_err(|error| error.to_string())?;
        for (place, found) in found.into_iter().enumerate() {
            let (row, column) = (place / self.columns, place % self.columns);
            let of = |numbers: &[i8], at: usize| numbers[at * self.depth..][..self.depth].to_vec();
            let product = |right: &[i8]| {
                let terms = of(&left, row).into_iter().zip(of(right, column));
                terms.map(|(x, y)| i32::from(x) * i32::from(y)).sum::<i32>()
            };
            let products: Vec<i32> = right.chunks(matrix).map(product).collect();
            let expected = products.into_iter().reduce(|sum, product| sum - product).unwrap_or(0);
            if found != expected as f32 {
                let Trial { format, tile, .. } = self;
                return Err(format!(
                    "a {format} product by tiles of {tile} columns gave {found} in row {row}, column {column}, \
                     where {expected} is right"
                ));
            }
        }
        Ok(())
    }

    /// The kernel, and what it binds.
    fn kernel(&self, target: &Ptx) -> Result<(Kernel, Vec<Argument>), String> {
        let format = self.format();
        let mut graph = Graph::new("trial");
        let rows = graph.symbol(&Symbol::new("T", 1, self.most, 1));
        let [columns, depth] = [self.columns, self.depth].map(|n| Expr::int(n as i64));
        let x = graph.input("x", self.dtype(), &[rows, depth.clone()], None);
        let x = graph.map(ScalarOp::Cast(DType::F32), &[x]);
        let all: Vec<Node> = (0..self.sums)
            .map(|number| {
                let weight =
                    format.weight(&mut graph, &number.to_string(), &[columns.clone(), depth.clone()]);
                linear(&mut graph, x, weight, None)
            })
            .collect();
        let y = all.into_iter().reduce(|sum, product| graph.map(ScalarOp::Sub, &[sum, product]));
        graph.output("y", y.expect("a trial has a matrix"));
        // What is packed is rounded to the type of the rows; that changes no small integer.
        let compute = if self.is_packed() { Compute::Bf16 } else { Compute::F32 };
        let compilation = compile(&graph, target.caps(), &Options { compute, ..Options::default() });
        match (compilation.kernels.as_slice(), compilation.steps.as_slice()) {
            ([kernel], [step]) if tile(&kernel.body) == Some(self.tile) => {
                Ok((kernel.clone(), step.arguments.clone()))
            }
            _ => Err(format!("there is no {} product by tiles of {} columns", self.format, self.tile)),
        }
    }

    fn format(&self) -> &'static Format {
        Format::find(self.format).expect("formats of whole numbers are there")
    }

    /// Whether lanes take its blocks apart.
    fn is_packed(&self) -> bool {
        !self.format().is_direct()
    }

    /// The type of the rows: that of the weights, if they lie as they are multiplied.
    fn dtype(&self) -> DType {
        match self.format().planes {
            [plane] if !self.is_packed() => plane.dtype,
            _ => DType::BF16,
        }
    }

    /// The sums, row by row.
    fn launch(
        &self,
        device: &Cuda,
        target: &Ptx,
        kernel: &Kernel,
        arguments: &[Argument],
        [left, right]: [&[i8]; 2],
    ) -> Result<Vec<f32>, DeviceError> {
        let artifact = target
            .emit(kernel)
            .map_err(|error| DeviceError::Load { device: device.info().name, why: error.to_string() })?;
        let program = device.load(&[(kernel, artifact)])?.remove(0);
        let place = |bytes: Vec<u8>| -> Result<Span, DeviceError> {
            let span = device.alloc(bytes.len() as u64)?.span();
            device.write(&span, &bytes)?;
            Ok(span)
        };
        let floats =
            |dtype: DType, values: Vec<f32>| Tensor::floats(dtype, &[values.len()], values).to_bytes();
        let numbers = |numbers: &[i8]| floats(self.dtype(), numbers.iter().map(|x| f32::from(*x)).collect());
        let matrix = self.columns * self.depth;
        // The bytes of packed words are the numbers; each block's scale is 1.
        let weight = |name: &str| match name.split_once('#') {
            Some((_, "s")) => floats(DType::F16, vec![1.0; matrix / 32]),
            Some(_) => right.iter().map(|x| *x as u8).collect(),
            None => {
                let number = name.parse::<usize>().unwrap_or(0);
                numbers(&right[number * matrix..][..matrix])
            }
        };
        let x = place(numbers(left))?;
        let y = device.alloc((self.rows * self.columns * 4) as u64)?.span();
        let symbols = device.alloc(256)?.span();
        for (_, slot) in &kernel.symbols {
            let at = Span { offset: u64::from(*slot) * 4, len: 4, ..symbols.clone() };
            device.write(&at, &(self.rows as i32).to_le_bytes())?;
        }
        let bind = |argument: &Argument| match argument {
            Argument::Input(_) => Ok(x.clone()),
            Argument::Weight(name) => place(weight(name)),
            _ => Ok(y.clone()),
        };
        let bound = arguments.iter().map(bind).collect::<Result<Vec<Span>, DeviceError>>()?;
        let sizes = Sizes::from([("T".to_owned(), self.rows as i64)]);
        let grid = [0, 1, 2].map(|at| kernel.grid[at].evaluate(&Values(&sizes)) as u32);
        device.launch(&program, grid, &symbols, &bound)?;
        let mut bytes = vec![0; self.rows * self.columns * 4];
        device.read(&y, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }
}
