//! Graphics processors by way of WebGPU: Vulkan, Metal or Direct3D 12, whichever the system has.
//!
//! Launches are collected and submitted together, in one pass, when somebody reads or writes.

mod bound;
mod trial;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jtllm_codegen::emit::wgsl::{Wgsl, dispatch};
use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::target::{Artifact, Target};
use wgpu::{
    Backends, BindGroup, BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType,
    Buffer, BufferBindingType, BufferDescriptor, BufferUsages, ComputePassDescriptor, ComputePipeline,
    ComputePipelineDescriptor, DeviceDescriptor, DeviceType, ErrorFilter, Features, Instance,
    InstanceDescriptor, Limits, MapMode, PipelineLayoutDescriptor, PollType, PowerPreference, Queue,
    RequestAdapterOptions, ShaderModuleDescriptor, ShaderSource, ShaderStages, SubmissionIndex,
};

use super::{Bytes, Device, DeviceError, DeviceInfo, Mem, Program, Span};
use bound::Groups;

/// Launches that are submitted together: systems end what keeps a graphics processor busy for seconds.
const LAUNCHES: usize = 64;

/// A group is a subgroup if that has so many lanes at least; else more lanes join through memory.
const SUBGROUP: u32 = 16;

/// Bytes that may wait in memory of the host for their way to the device.
const UPLOADS: u64 = 64 << 20;

/// Bytes that are filled at a time, and how many such pieces may be on their way.
const PIECE: usize = 4 << 20;
const PIECES: usize = 4;

/// So long the end of a copy is waited for that another thread was told of.
const TOLD: Duration = Duration::from_secs(10);

/// Buffers end at a multiple of this: copies move whole words.
const WORD: u64 = 4;

/// A kernel as a pipeline.
struct Loaded {
    pipeline: ComputePipeline,
    layout: BindGroupLayout,
    number: u64,
}

struct Launch {
    pipeline: ComputePipeline,
    bindings: BindGroup,
    groups: [u32; 3],
}

/// An adapter as a device.
pub struct Adapter {
    device: wgpu::Device,
    queue: Queue,
    target: Wgsl,
    name: String,
    pending: Mutex<Vec<Launch>>,
    bound: Arc<Groups>,
    /// Bytes that were written since the last submission.
    uploads: Mutex<u64>,
    /// What was filled last and has perhaps not come to the device: so many pieces wait in memory of the host at most.
    filled: Mutex<VecDeque<SubmissionIndex>>,
    /// Where what is read goes through: as large as the largest so far.
    staging: Mutex<Option<Buffer>>,
    /// What the driver complained of since the last time that somebody asked.
    faults: Arc<Mutex<Option<String>>>,
}

/// Why there is no adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAdapter(pub String);

impl std::fmt::Display for NoAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAdapter {}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which adapter, and how much of it.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its place in [`adapters`]; none: the one that the system thinks fastest.
    pub place: Option<usize>,
    /// Whether any will do, one that computes on the processor too; else one that is likely to be faster than it.
    pub software: bool,
    /// Bytes that one binding may have, if fewer than the adapter allows.
    pub binding: u64,
    /// Buffers that one launch may bind, if fewer than the adapter allows.
    pub buffers: u32,
}

impl Default for Choice {
    fn default() -> Choice {
        Choice { place: None, software: true, binding: u64::MAX, buffers: u32::MAX }
    }
}

/// What an adapter calls itself.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name and the system's interface to it.
    pub name: String,
    /// Whether it computes on the processor.
    pub is_software: bool,
}

fn found(adapter: &wgpu::Adapter) -> Found {
    let info = adapter.get_info();
    let name = format!("{} ({})", info.name, info.backend);
    Found { name, is_software: info.device_type == DeviceType::Cpu }
}

fn instance() -> Instance {
    Instance::new(InstanceDescriptor::new_without_display_handle())
}

/// The adapters of this machine.
pub fn adapters() -> Vec<Found> {
    pollster::block_on(instance().enumerate_adapters(Backends::all())).iter().map(found).collect()
}

/// The adapter that is asked for.
fn choose(choice: &Choice) -> Result<wgpu::Adapter, NoAdapter> {
    let instance = instance();
    if let Some(place) = choice.place {
        let mut all = pollster::block_on(instance.enumerate_adapters(Backends::all()));
        let count = all.len();
        return match place < count {
            true => Ok(all.swap_remove(place)),
            false => Err(NoAdapter(format!("there is no graphics adapter {place}: {count} are here"))),
        };
    }
    let options =
        RequestAdapterOptions { power_preference: PowerPreference::HighPerformance, ..Default::default() };
    let adapter = pollster::block_on(instance.request_adapter(&options))
        .map_err(|error| NoAdapter(format!("no graphics adapter: {error}")))?;
    let Found { name, is_software } = found(&adapter);
    if is_software && !choice.software {
        return Err(NoAdapter(format!("the only graphics adapter, {name}, computes on the processor")));
    }
    // Those that share the processor's memory have no more bandwidth than it; nobody has measured them yet. Apple's
    // are made for more.
    let is_shared = adapter.get_info().device_type == DeviceType::IntegratedGpu;
    if is_shared && !choice.software && !cfg!(target_os = "macos") {
        return Err(NoAdapter(format!("{name} shares the processor's memory and is used only if named")));
    }
    Ok(adapter)
}

impl Adapter {
    /// Opens an adapter with all that it can do.
    ///
    /// # Errors
    /// There is none, or its driver is known to compute wrongly.
    pub fn open(choice: &Choice) -> Result<Adapter, NoAdapter> {
        let adapter = choose(choice)?;
        let Found { name, is_software } = found(&adapter);
        let mut limits = adapter.limits();
        limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(choice.binding);
        let buffers = &mut limits.max_storage_buffers_per_shader_stage;
        *buffers = (*buffers).min(choice.buffers);
        let wanted = DeviceDescriptor {
            label: Some("jtllm"),
            required_features: adapter.features() & Features::SUBGROUP,
            required_limits: limits.clone(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wanted))
            .map_err(|error| NoAdapter(format!("{name}: {error}")))?;
        let has_subgroups = device.features().contains(Features::SUBGROUP);
        let subgroup = has_subgroups.then_some(adapter.get_info().subgroup_min_size);
        // So few lanes leave most of a real processor idle; drivers that run lanes one after another want few.
        let subgroup = subgroup.filter(|size| is_software || *size >= SUBGROUP);
        let faults = Arc::new(Mutex::new(None));
        let heard = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&heard).get_or_insert(error.to_string());
        }));
        let heard = faults.clone();
        device.set_device_lost_callback(move |reason, why| {
            lock(&heard).get_or_insert(format!("the device is lost ({reason:?}): {why}"));
        });
        let target = target(&limits, subgroup, is_software);
        let opened = Adapter {
            device,
            queue,
            target,
            name,
            pending: Mutex::default(),
            bound: Arc::default(),
            staging: Mutex::default(),
            uploads: Mutex::default(),
            filled: Mutex::default(),
            faults,
        };
        if is_software {
            trial::counts(&opened)?;
        }
        Ok(opened)
    }

    /// The device, for those who share it with something else.
    pub fn shared(&self) -> &wgpu::Device {
        &self.device
    }

    /// How often the buffers of a launch were bound so far, and how many of these bindings are kept.
    pub fn bindings(&self) -> (u64, usize) {
        self.bound.count()
    }

    fn failed(&self, why: String) -> DeviceError {
        DeviceError::Run { device: self.name.clone(), why }
    }

    fn staging(&self, size: u64) -> Buffer {
        self.device.create_buffer(&BufferDescriptor {
            label: None,
            size,
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Counts bytes on their way to the device; waits for them if there are many.
    fn uploaded(&self, bytes: u64) -> Result<(), DeviceError> {
        let mut waiting = lock(&self.uploads);
        *waiting += bytes;
        if *waiting >= UPLOADS {
            *waiting = 0;
            self.queue.submit([]);
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.device.poll(PollType::wait_indefinitely()).map_err(|error| self.failed(error.to_string()))?;
        self.check()
    }

    /// Fails if the driver complained.
    fn check(&self) -> Result<(), DeviceError> {
        match lock(&self.faults).take() {
            Some(why) => Err(self.failed(why)),
            None => Ok(()),
        }
    }

    /// Submits what was launched so far. Who flushes at the same time waits, since what he does next must come
    /// behind all that was launched before, by whomever.
    fn flush(&self) -> Result<(), DeviceError> {
        self.submit();
        self.check()
    }

    fn submit(&self) {
        let mut pending = lock(&self.pending);
        if !pending.is_empty() {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
            for launch in pending.drain(..) {
                pass.set_pipeline(&launch.pipeline);
                pass.set_bind_group(0, &launch.bindings, &[]);
                pass.dispatch_workgroups(launch.groups[0], launch.groups[1], launch.groups[2]);
            }
            drop(pass);
            self.queue.submit([encoder.finish()]);
        }
    }

    /// A program of a text that has so many buffers beside the symbol block.
    fn compile(&self, name: &str, text: &[u8], buffers: usize) -> Result<Program, DeviceError> {
        let refused = |why: String| DeviceError::Load { device: self.name.clone(), why };
        let text = std::str::from_utf8(text).map_err(|error| refused(error.to_string()))?;
        let scope = self.device.push_error_scope(ErrorFilter::Validation);
        let module = self.device.create_shader_module(ShaderModuleDescriptor {
            label: Some(name),
            source: ShaderSource::Wgsl(text.into()),
        });
        let entries: Vec<BindGroupLayoutEntry> = (0..=buffers as u32).map(entry).collect();
        let layout = self
            .device
            .create_bind_group_layout(&BindGroupLayoutDescriptor { label: None, entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&PipelineLayoutDescriptor {
            bind_group_layouts: &[Some(&layout)],
            ..Default::default()
        });
        let pipeline = self.device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        match pollster::block_on(scope.pop()) {
            Some(error) => Err(refused(format!("{name}: {error}"))),
            None => Ok(Program::new(Loaded { pipeline, layout, number: self.bound.number() })),
        }
    }
}

/// What the emitter may count on.
fn target(limits: &Limits, subgroup: Option<u32>, is_software: bool) -> Wgsl {
    let lanes = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x);
    let target = Wgsl::new(
        lanes,
        limits.max_compute_workgroup_storage_size,
        limits.max_storage_buffers_per_shader_stage,
        limits.max_storage_buffer_binding_size,
        subgroup,
    );
    if is_software { target } else { target.with_tiles(lanes) }
}

/// Binding 0 is the symbol block, the others are buffers.
fn entry(binding: u32) -> BindGroupLayoutEntry {
    let kind = match binding {
        0 => BufferBindingType::Uniform,
        _ => BufferBindingType::Storage { read_only: false },
    };
    BindGroupLayoutEntry {
        binding,
        visibility: ShaderStages::COMPUTE,
        ty: BindingType::Buffer { ty: kind, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}

fn buffer(span: &Span) -> &Buffer {
    &bound::memory(span).buffer
}

impl Device for Adapter {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: self.name.clone(), memory: None, threads: 0, without: None }
    }

    fn target(&self) -> &dyn Target {
        &self.target
    }

    fn alloc(&self, len: u64) -> Result<Mem, DeviceError> {
        let out_of_memory =
            |why: String| DeviceError::OutOfMemory { device: self.name.clone(), need: len, why };
        let size = len.max(WORD).next_multiple_of(WORD);
        let most = self.device.limits().max_buffer_size;
        if size > most {
            return Err(out_of_memory(format!("one buffer may have {most}")));
        }
        let scope = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&BufferDescriptor {
            label: None,
            size,
            usage: BufferUsages::STORAGE
                | BufferUsages::UNIFORM
                | BufferUsages::COPY_SRC
                | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            Some(error) => Err(out_of_memory(error.to_string())),
            None => Ok(Mem::new(Arc::new(self.bound.memory(buffer)), len)),
        }
    }

    fn adopt(&self, _: &Bytes, _: u64, _: u64, _: u64) -> Option<Mem> {
        None
    }

    fn write(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        // Launches so far still read what stands there.
        self.flush()?;
        self.uploaded(bytes.len() as u64)?;
        let whole = bytes.len() - bytes.len() % WORD as usize;
        if whole > 0 {
            self.queue.write_buffer(buffer(to), to.offset, &bytes[..whole]);
        }
        if whole < bytes.len() {
            // The rest of the last word is somebody else's.
            let offset = to.offset + whole as u64;
            let mut last = [0u8; WORD as usize];
            self.read(&Span { mem: to.mem.clone(), offset, len: WORD }, &mut last)?;
            last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.queue.write_buffer(buffer(to), offset, &last);
        }
        self.check()
    }

    /// There is one queue: what is filled comes behind all launches so far and before those that follow. So there need be
    /// no marks, and what overlaps with launches is the way to the queue.
    fn fill(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            let mut filled = lock(&self.filled);
            if filled.len() == PIECES {
                let wait = PollType::Wait { submission_index: filled.pop_front(), timeout: None };
                self.device.poll(wait).map_err(|error| self.failed(error.to_string()))?;
            }
            self.submit();
            let at = to.offset + (number * PIECE) as u64;
            let whole = piece.len() - piece.len() % WORD as usize;
            if whole > 0 {
                self.queue.write_buffer(buffer(to), at, &piece[..whole]);
            }
            if whole < piece.len() {
                let mut last = [0u8; WORD as usize];
                last[..piece.len() - whole].copy_from_slice(&piece[whole..]);
                self.queue.write_buffer(buffer(to), at + whole as u64, &last);
            }
            filled.push_back(self.queue.submit([]));
        }
        // What went wrong may have done so in a launch: whoever launches is to hear of it too.
        match &*lock(&self.faults) {
            Some(why) => Err(self.failed(why.clone())),
            None => Ok(()),
        }
    }

    /// In pieces, so that what they go through takes little memory of the host.
    fn fetch(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let read = |(number, piece): (usize, &mut [u8])| {
            let offset = from.offset + (number * PIECE) as u64;
            self.read(&Span { mem: from.mem.clone(), offset, len: piece.len() as u64 }, piece)
        };
        bytes.chunks_mut(PIECE).enumerate().try_for_each(read)
    }

    fn memory_max(&self) -> u64 {
        self.device.limits().max_buffer_size
    }

    fn copy(&self, to: &Span, from: &Span) -> Result<(), DeviceError> {
        self.flush()?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let size = from.len.next_multiple_of(WORD);
        encoder.copy_buffer_to_buffer(buffer(from), from.offset, buffer(to), to.offset, size);
        self.queue.submit([encoder.finish()]);
        self.check()
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.flush()?;
        self.wait()
    }

    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.flush()?;
        if bytes.is_empty() {
            return Ok(());
        }
        let size = (bytes.len() as u64).next_multiple_of(WORD);
        let mut held = lock(&self.staging);
        let kept = held.take().filter(|buffer| buffer.size() >= size);
        let staging = kept.unwrap_or_else(|| self.staging(size));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer(from), from.offset, &staging, 0, size);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.slice(..size).map_async(MapMode::Read, move |result| {
            // The other end waits below.
            let _told = sender.send(result);
        });
        self.device.poll(PollType::wait_indefinitely()).map_err(|error| self.failed(error.to_string()))?;
        self.check()?;
        // Another thread may have been told first, and tell us now.
        match receiver.recv_timeout(TOLD) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.failed(error.to_string())),
            Err(error) => return Err(self.failed(format!("a copy did not end: {error}"))),
        }
        let mapped =
            staging.slice(..size).get_mapped_range().map_err(|error| self.failed(error.to_string()))?;
        bytes.copy_from_slice(&mapped[..bytes.len()]);
        drop(mapped);
        staging.unmap();
        *held = Some(staging);
        Ok(())
    }

    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError> {
        let load = |(kernel, artifact): &(&Kernel, Artifact)| {
            self.compile(&kernel.name, &artifact.bytes, kernel.params.len())
        };
        kernels.iter().map(load).collect()
    }

    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError> {
        let loaded = program.inner::<Loaded>().expect("an adapter is given its own programs");
        let total = groups.iter().map(|n| u64::from(*n)).product::<u64>();
        if total == 0 {
            return Ok(());
        }
        let most = self.device.limits().max_storage_buffer_binding_size;
        if let Some(span) = args.iter().find(|span| span.len > most) {
            let why =
                format!("a kernel reads {} bytes in one piece, the adapter binds at most {most}", span.len);
            return Err(self.failed(why));
        }
        let spans: Vec<&Span> = std::iter::once(symbols).chain(args).collect();
        let bindings = self.bound.of(&self.device, loaded.number, &loaded.layout, &spans);
        let pipeline = loaded.pipeline.clone();
        let mut pending = lock(&self.pending);
        pending.push(Launch { pipeline, bindings, groups: dispatch(total) });
        let is_full = pending.len() >= LAUNCHES;
        drop(pending);
        if is_full { self.flush() } else { Ok(()) }
    }
}
