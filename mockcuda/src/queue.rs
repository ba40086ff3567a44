//! Streams, events, and what waits in them; the state of the whole driver.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jtllm_ptxsim::{Fault, Launch, Memory, Reason};

use crate::code::{Code, Done};
use crate::modules::Function;
use crate::settings::Settings;

/// A launch with its parameters as they were when it was asked for.
pub(crate) struct KernelTask {
    pub(crate) function: Arc<Function>,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) parameters: Vec<u8>,
}

/// Host bytes: an address that is valid until the copy has run, or the bytes themselves.
#[derive(Clone)]
pub(crate) enum HostBytes {
    /// Page-locked, by its address.
    Locked(usize),
    Copied(Arc<[u8]>),
}

/// Something that a stream will do.
#[derive(Clone)]
pub(crate) enum Task {
    Open {
        address: u64,
        len: u64,
    },
    Close {
        address: u64,
    },
    Fill {
        address: u64,
        byte: u8,
        len: u64,
    },
    Upload {
        to: u64,
        from: HostBytes,
        len: u64,
    },
    Download {
        to: usize,
        from: u64,
        len: u64,
    },
    Copy {
        to: u64,
        from: u64,
        len: u64,
    },
    Kernel(Arc<KernelTask>),
    Graph(Arc<Vec<Task>>),
    /// The event has happened so often.
    Record {
        event: usize,
        count: u64,
    },
    /// Goes on when the event has happened so often.
    Wait {
        event: usize,
        count: u64,
    },
}

/// A stream's tasks; while it is captured, those of the graph.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) tasks: VecDeque<Task>,
    pub(crate) capture: Option<Vec<Task>>,
}

/// How often an event was recorded, and how often that has happened.
#[derive(Default)]
pub(crate) struct Event {
    pub(crate) recorded: u64,
    pub(crate) happened: u64,
    /// The stream of the last record.
    pub(crate) stream: usize,
}

/// Everything that the driver keeps.
#[derive(Default)]
pub(crate) struct Driver {
    pub(crate) initialised: bool,
    pub(crate) memory: Memory,
    /// Bytes that are allocated, in the order of calls.
    pub(crate) used: u64,
    /// The most that were allocated at once: with pools, what is given back stays with the program.
    pub(crate) reserved: u64,
    pub(crate) lengths: HashMap<u64, u64>,
    /// Page-locked host memory.
    pub(crate) locked: HashMap<usize, Vec<u64>>,
    pub(crate) streams: HashMap<usize, Stream>,
    pub(crate) events: HashMap<usize, Event>,
    pub(crate) functions: HashMap<usize, Arc<Function>>,
    pub(crate) modules: HashMap<usize, Vec<usize>>,
    pub(crate) graphs: HashMap<usize, Arc<Vec<Task>>>,
    pub(crate) retained: u32,
    next_handle: usize,
    kernels: u64,
    /// The error after which nothing works any more.
    sticky: Option<Code>,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

/// The driver, for one call.
pub(crate) struct Held(MutexGuard<'static, Option<Driver>>);

impl std::ops::Deref for Held {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        self.0.as_ref().expect("it is made when it is taken")
    }
}

impl std::ops::DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Driver {
        self.0.as_mut().expect("it is made when it is taken")
    }
}

/// Takes the driver.
pub(crate) fn driver() -> Held {
    let mut guard = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    guard.get_or_insert_default();
    Held(guard)
}

impl Driver {
    /// A number that no other handle has.
    pub(crate) fn handle(&mut self) -> usize {
        self.next_handle += 16;
        self.next_handle
    }

    /// Fails once something has gone wrong for good.
    pub(crate) fn check(&self) -> Done {
        self.sticky.map_or(Ok(()), Err)
    }

    pub(crate) fn stream(&mut self, stream: usize) -> Result<&mut Stream, Code> {
        self.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)
    }

    /// Puts a task into a stream, or into the graph that it captures.
    pub(crate) fn push(&mut self, stream: usize, task: Task) -> Done {
        self.check()?;
        let stream = self.stream(stream)?;
        match &mut stream.capture {
            Some(graph) => graph.push(task),
            None => stream.tasks.push_back(task),
        }
        Ok(())
    }

    /// Fails while the stream is captured: then nobody can wait for it, nor allocate.
    pub(crate) fn not_captured(&mut self, stream: usize) -> Done {
        match self.stream(stream)?.capture {
            Some(_) => Err(Code::CAPTURE_UNSUPPORTED),
            None => Ok(()),
        }
    }

    /// Runs a stream until it is empty.
    pub(crate) fn drain(&mut self, stream: usize) -> Done {
        self.check()?;
        self.not_captured(stream)?;
        while self.step(stream)? {}
        Ok(())
    }

    /// Runs the stream of an event until that has happened.
    pub(crate) fn until(&mut self, event: usize, count: u64) -> Done {
        self.check()?;
        while self.events.get(&event).ok_or(Code::INVALID_HANDLE)?.happened < count {
            let stream = self.events[&event].stream;
            if !self.step(stream)? {
                // The record stands in no queue: it was given to a graph.
                return Err(Code::CAPTURE_ISOLATION);
            }
        }
        Ok(())
    }

    /// Runs the first task of a stream, if there is one.
    fn step(&mut self, stream: usize) -> Result<bool, Code> {
        let Some(task) = self.stream(stream)?.tasks.pop_front() else { return Ok(false) };
        if let Err(code) = self.run(&task) {
            self.sticky = Some(code);
            return Err(code);
        }
        Ok(true)
    }

    fn run(&mut self, task: &Task) -> Done {
        let wrong = |error: jtllm_ptxsim::MemoryError| {
            eprintln!("[mockcuda] a copy: {error}");
            Code::ILLEGAL_ADDRESS
        };
        match task {
            Task::Open { address, len } => self.memory.open(*address, *len),
            Task::Close { address } => self.memory.free(*address).ok_or(Code::INVALID_VALUE)?,
            Task::Fill { address, byte, len } => self.memory.fill(*address, *byte, *len).map_err(wrong)?,
            Task::Copy { to, from, len } => self.memory.copy(*to, *from, *len).map_err(wrong)?,
            Task::Upload { to, from, len } => {
                let bytes: &[u8] = match from {
                    HostBytes::Copied(bytes) => bytes,
                    // SAFETY: whoever asked for the copy keeps page-locked memory until it has run.
                    HostBytes::Locked(from) => unsafe {
                        std::slice::from_raw_parts(*from as *const u8, *len as usize)
                    },
                };
                self.memory.write(*to, bytes).map_err(wrong)?;
            }
            Task::Download { to, from, len } => {
                // SAFETY: as above, and nobody looks at the bytes before the copy has run.
                let bytes = unsafe { std::slice::from_raw_parts_mut(*to as *mut u8, *len as usize) };
                self.memory.read(*from, bytes).map_err(wrong)?;
            }
            Task::Kernel(kernel) => self.launch(kernel)?,
            Task::Graph(tasks) => tasks.iter().try_for_each(|task| self.run(task))?,
            Task::Record { event, count } => {
                if let Some(event) = self.events.get_mut(event) {
                    event.happened = event.happened.max(*count);
                }
            }
            Task::Wait { event, count } => self.until(*event, *count)?,
        }
        Ok(())
    }

    fn launch(&mut self, task: &KernelTask) -> Done {
        let settings = Settings::get();
        self.kernels += 1;
        if settings.lost == Some(self.kernels) {
            return Err(Code::UNAVAILABLE);
        }
        if settings.launch_fails == Some(self.kernels) {
            return Err(settings.failure);
        }
        if settings.wrong_products && task.function.kernel.multiplies() {
            return Ok(());
        }
        let blocks = task.grid.iter().map(|n| u64::from(*n)).product::<u64>();
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let launch = Launch {
            shared_bytes: task.shared_bytes,
            // Threads cost more than they save where there is little to do.
            threads: if blocks >= 8 { all } else { 1 },
            ..Launch::new(&task.function.kernel, task.grid, task.block, &task.parameters)
        };
        let stats = launch.run(&self.memory).map_err(|fault| {
            eprintln!("[mockcuda] {fault}");
            code_of(&fault)
        })?;
        settings.log(format_args!(
            "kernel {} grid {:?} block {:?} steps {}",
            task.function.kernel.name(),
            task.grid,
            task.block,
            stats.steps
        ));
        Ok(())
    }
}

/// What hardware would say of a fault that it notices.
fn code_of(fault: &Fault) -> Code {
    match fault.reason {
        Reason::OutOfBounds => Code::ILLEGAL_ADDRESS,
        Reason::Misaligned => Code::MISALIGNED,
        Reason::Launch => Code::INVALID_VALUE,
        _ => Code::LAUNCH_FAILED,
    }
}
