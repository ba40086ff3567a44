//! `jtllm inspect`: what a model becomes on its way from graph to machine code.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use anyhow::{Context, anyhow};
use jtllm_runtime::codegen::schedule::Argument;
use jtllm_runtime::codegen::{Compilation, Step};
use jtllm_runtime::ir::DType;
use jtllm_runtime::network::{Bucket, Network, Part};
use jtllm_runtime::plan::Plan;
use jtllm_runtime::residence::Limit;
use jtllm_serve::{Backend, LoadOptions, Model, Place};

use crate::args::{InspectArgs, RowsName, Stage};
use crate::failure::Usage;
use crate::load;
use crate::terminal::{bytes, print};

/// Bytes of machine code on a line.
const LINE: usize = 32;

/// Prints a stage of both of a model's graphs.
pub(crate) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    if args.code && args.stage != Stage::Kernels {
        return Err(Usage("--code wants kernels: no other stage has machine code".to_owned()).into());
    }
    let checkpoint = load::checkpoint(Some(&args.model))?;
    let positions = jtllm_models::arch::read(checkpoint.config())?.positions();
    let options = LoadOptions {
        backend: Backend::Cpu,
        place: Place::default(),
        threads: 1,
        context: positions.min(512),
        compute: load::compute(args.compute),
        keys: DType::F16,
        values: DType::F16,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    };
    let mut model = Model::load(checkpoint, options, load::caches())?;
    model.ready()?;
    let network = model.network().context("the processor runs kernels")?;
    let body = match args.rows {
        RowsName::One => Bucket::Fixed(1),
        RowsName::Many => Bucket::Many,
    };
    let mut text = String::new();
    let mut distinct = HashSet::new();
    for (part, bucket) in [(Part::Body, body), (Part::Head, Bucket::Fixed(1))] {
        let plan = network.plan(part, bucket).ok_or_else(|| anyhow!("there is no plan of the {part:?}"))?;
        writeln!(text, "# {}", title(part, bucket))?;
        match args.stage {
            Stage::Graph => write!(text, "{}", plan.compilation.graph)?,
            Stage::Regions => {
                let Compilation { graph, partition, .. } = &*plan.compilation;
                write!(text, "{}", partition.display(graph))?;
            }
            Stage::Kernels => kernels(&mut text, network, &plan.compilation, args.code)?,
            Stage::Plan => steps(&mut text, plan)?,
        }
        distinct.extend(plan.compilation.kernels.iter().map(|kernel| kernel.key("", "")));
        text.push('\n');
    }
    if args.stage == Stage::Plan {
        writeln!(text, "# {} distinct kernels in both", distinct.len())?;
    }
    print(&text)
}

fn title(part: Part, bucket: Bucket) -> String {
    let part = match part {
        Part::Body => "body, from tokens to hidden vectors",
        Part::Head => "head, from hidden vectors to logits",
        Part::Image => "image, from pixels to rows",
    };
    match bucket {
        Bucket::Fixed(1) => format!("{part}: 1 row"),
        Bucket::Fixed(rows) => format!("{part}: {rows} rows"),
        Bucket::Many => format!("{part}: a multiple of 16 rows"),
    }
}

/// The loops of each kernel, and on demand its machine code in hexadecimal.
fn kernels(
    text: &mut String,
    network: &Network,
    compilation: &Compilation,
    code: bool,
) -> anyhow::Result<()> {
    let target = network.device().target();
    for (number, kernel) in compilation.kernels.iter().enumerate() {
        let launches = compilation.steps.iter().filter(|step| step.kernel == number).count();
        writeln!(text, "# kernel {number}, {launches} launches a pass")?;
        writeln!(text, "{kernel}")?;
        if code {
            let artifact = target.emit(kernel)?;
            writeln!(text, "# {} bytes of {} for {}", artifact.bytes.len(), target.name(), target.variant())?;
            for (line, part) in artifact.bytes.chunks(LINE).enumerate() {
                write!(text, "{:06x} ", line * LINE)?;
                part.iter().try_for_each(|byte| write!(text, " {byte:02x}"))?;
                text.push('\n');
            }
        }
    }
    Ok(())
}

/// The launches of a pass with their buffers, and how many there are.
fn steps(text: &mut String, plan: &Plan) -> anyhow::Result<()> {
    let compilation = &plan.compilation;
    for (number, step) in compilation.steps.iter().enumerate() {
        let work = compilation.partition.regions[step.region].work.name();
        let grid: Vec<String> =
            compilation.kernels[step.kernel].grid.iter().map(ToString::to_string).collect();
        let products = products(compilation, step.region);
        write!(
            text,
            "{number:>4} kernel {:<3} {work:<10} {products:<5} groups [{}]:",
            step.kernel,
            grid.join(", ")
        )?;
        for (argument, span) in step.arguments.iter().zip(plan.spans(number)) {
            let place = match argument {
                Argument::Weight(name) => format!("weight {name}"),
                Argument::Part(name, rows) => format!("bytes {rows:?} of weight {name}"),
                Argument::State(name) => format!("state {name}"),
                Argument::Input(name) => format!("input {name}"),
                Argument::Const(node) => format!("constant %{}", node.0),
                Argument::Value(node) => format!("%{} at {}", node.0, span.offset),
                Argument::Scratch(..) => format!("scratch at {}", span.offset),
            };
            write!(text, " {place} ({});", bytes(span.len))?;
        }
        text.push('\n');
    }
    for gather in plan.gathers() {
        writeln!(
            text,
            "# rows {} of {} are copied to {} before the pass",
            gather.ids, gather.weight, gather.input
        )?;
    }
    writeln!(
        text,
        "# {} launches of {} distinct kernels; arena {} bytes, inputs, outputs and constants {} bytes",
        plan.step_count(),
        compilation.kernels.len(),
        plan.arena_bytes,
        plan.fixed_bytes,
    )?;
    let layers = launches_of_layers(&compilation.steps);
    if let Some(most) = layers.values().max() {
        writeln!(text, "# {} layers of at most {most} launches each", layers.len())?;
    }
    Ok(())
}

/// The numbers that a region's products are of.
fn products(compilation: &Compilation, region: usize) -> String {
    let types = compilation.operations(region).into_iter().map(|(compute, _)| compute.name());
    let types: Vec<&str> = types.collect();
    match types.is_empty() {
        true => "-".to_owned(),
        false => types.join("+"),
    }
}

/// How many launches each layer takes. A launch belongs to the layer whose weights or states it binds; one
/// that binds none belongs with the launch before it.
fn launches_of_layers(steps: &[Step]) -> BTreeMap<usize, usize> {
    let mut launches = BTreeMap::new();
    let mut current = None;
    for step in steps {
        let names = step.arguments.iter().filter_map(|argument| match argument {
            Argument::Weight(name) | Argument::Part(name, _) | Argument::State(name) => Some(name),
            _ => None,
        });
        let mut names = names.peekable();
        if names.peek().is_some() {
            current = names.find_map(|name| layer(name));
        }
        if let Some(layer) = current {
            *launches.entry(layer).or_default() += 1;
        }
    }
    launches
}

/// The first number in a name, as in `model.layers.3.mlp.up_proj.weight` and in `k3`.
fn layer(name: &str) -> Option<usize> {
    let start = name.find(|c: char| c.is_ascii_digit())?;
    let digits = &name[start..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}
