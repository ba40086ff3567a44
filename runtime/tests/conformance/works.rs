//! Graphs with every kind of work and every number format.

use std::collections::HashMap;
use std::sync::Arc;

use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::schedule::Argument;
use jtllm_codegen::target::Target;
use jtllm_codegen::{Compilation, Step};
use jtllm_ir::interp::Bindings;
use jtllm_runtime::device::wgpu::{Adapter, Choice};
use jtllm_runtime::device::{Device, Mem, Program};

use crate::common::case::Case;
use crate::common::{self, Outputs, difference, recurrence, works};
use crate::devices::{Subject, for_each_device};

/// What the accumulated errors of two targets' functions and quotients may add to a case's own tolerance, where a
/// device is not exact.
const LOOSER: f32 = 4.0;

/// What one activation that is off by a 127th of its block's largest may change.
const STEP: f32 = 1e-2;

fn run(
    compilation: &Compilation,
    device: &dyn Device,
    target: &dyn Target,
    bindings: &mut Bindings,
) -> Outputs {
    let kernels: Vec<_> = compilation.kernels.iter().map(|k| (k, target.emit(k).unwrap())).collect();
    let programs = device.load(&kernels).unwrap();
    let mut memories = common::memories(compilation, target.caps(), bindings);
    let buffers: HashMap<&Argument, Mem> = memories
        .iter()
        .map(|(argument, bytes)| {
            let mem = device.alloc(bytes.len() as u64).unwrap();
            device.write(&mem.span(), bytes).unwrap();
            (argument, mem)
        })
        .collect();
    for step in &compilation.steps {
        launch(compilation, step, &programs, device, bindings, &buffers);
    }
    let mut read = HashMap::new();
    for (argument, mem) in buffers {
        let mut bytes = vec![0; mem.len() as usize];
        device.read(&mem.span(), &mut bytes).unwrap();
        read.insert(argument.clone(), bytes);
    }
    memories.extend(read);
    common::outputs(compilation, bindings, &memories)
}

fn launch(
    compilation: &Compilation,
    step: &Step,
    programs: &[Program],
    device: &dyn Device,
    bindings: &Bindings,
    buffers: &HashMap<&Argument, Mem>,
) {
    let kernel = &compilation.kernels[step.kernel];
    let block: Vec<u8> = common::symbols(kernel, bindings).iter().flat_map(|x| x.to_le_bytes()).collect();
    let symbols = device.alloc(256).unwrap().span();
    device.write(&symbols, &block).unwrap();
    let args: Vec<_> = step.arguments.iter().map(|argument| buffers[argument].span()).collect();
    device.launch(&programs[step.kernel], common::groups(kernel, bindings), &symbols, &args).unwrap();
}

fn conform(subject: &Subject, cases: Vec<Case>) {
    conform_as(subject, subject.device.target(), cases);
}

/// Compares a device for which kernels are made by this target.
pub(crate) fn conform_as(subject: &Subject, target: &dyn Target, cases: Vec<Case>) {
    let device = &*subject.device;
    for mut case in cases {
        if !subject.is_exact {
            case.tolerance *= LOOSER;
        }
        let expected = case.expected();
        // What matrix units round is compared with the interpreter of PTX, in `hardware`.
        let exact = Options { compute: Compute::F32, ..Options::default() };
        let compilation = common::compiled_as(&case.graph, target.caps(), &exact);
        let mut bindings = case.bindings.clone();
        let found = run(&compilation, device, target, &mut bindings);
        case.compare(subject.name, &expected, (&found, &bindings), difference);
    }
}

#[test]
fn every_work_and_format() {
    for_each_device(|subject| conform(subject, works::cases()));
}

/// An adapter that binds little at a time gets wide matrices in parts.
#[test]
fn narrow_bindings() {
    let choice = Choice { binding: 512 << 10, ..Choice::default() };
    match Adapter::open(&choice) {
        Ok(adapter) => {
            let subject = Subject { name: "narrow wgpu", device: Arc::new(adapter), is_exact: false };
            conform(&subject, vec![works::wide("f32", 1), works::wide("bf16", 32)]);
        }
        Err(why) => println!("skipped: wgpu: {why}"),
    }
}

#[test]
fn recurrences() {
    for_each_device(|subject| conform(subject, recurrence::cases()));
}

/// Packed weights as bytes, against the graph that says so.
#[test]
fn every_format_of_bytes() {
    for_each_device(|subject| {
        let bytes = Options { compute: Compute::Int8, ..Options::default() };
        for mut case in works::linear_cases() {
            if !subject.is_exact {
                // Signed bytes, and unsigned ones with a minimum: a driver takes seconds for each kernel.
                if !["linear q4_0 ", "linear q5_1 "].iter().any(|name| case.graph.name.starts_with(name)) {
                    continue;
                }
                // A quotient that is rounded otherwise may move an activation by one step of 127.
                case.tolerance = STEP;
            }
            let compilation = common::compiled_as(&case.graph, subject.device.target().caps(), &bytes);
            if !compilation.products().contains(&Compute::Int8) {
                continue;
            }
            let mut bindings = case.bindings.clone();
            case.graph = compilation.graph.clone();
            let expected = case.expected();
            let device = &*subject.device;
            let found = run(&compilation, device, device.target(), &mut bindings);
            case.compare(subject.name, &expected, (&found, &bindings), difference);
        }
    });
}
