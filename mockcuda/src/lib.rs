//! A CUDA driver library whose device is the PTX interpreter, for tests.
//!
//! A test copies `libmockcuda.so` into a folder of its own as `libcuda.so` and names that folder in `LD_LIBRARY_PATH`.
//! A program that loads its driver when it runs cannot tell it from NVIDIA's but by its speed, and by what it forbids.
//!
//! # Order
//!
//! Nothing runs when it is asked for. Copies, launches and what events say stand in the queues of their streams until
//! somebody waits; then just that runs which the waiting is for, and what events order before it. Work of two streams
//! that no event orders therefore happens in the order that is least likely on hardware, and a missing event shows.
//! Memory from the pool exists from where its stream allocates it up to where its stream frees it; page-locked host
//! memory is read and written when the copy runs.
//!
//! # Variables of the environment
//!
//! | variable | without it | what it says |
//! |---|---|---|
//! | `MOCKCUDA_CAPABILITY` | 90 | ten times the major number of the compute capability, plus the minor |
//! | `MOCKCUDA_MEMORY` | 4 GiB | bytes of device memory |
//! | `MOCKCUDA_DEVICES` | 1 | how many devices there are |
//! | `MOCKCUDA_DRIVER_VERSION` | 12080 | what `cuDriverGetVersion` says |
//! | `MOCKCUDA_POOLS` | 1 | 0: devices have no memory pools |
//! | `MOCKCUDA_ALLOC_FAILS` | never | bytes after which memory is refused, though the device says that it has more |
//! | `MOCKCUDA_LAUNCH_FAILS` | never | the number of the kernel, from 1, that fails while it runs |
//! | `MOCKCUDA_FAILURE` | 719 | the number of the error with which it fails: also one that no version of CUDA has |
//! | `MOCKCUDA_LOST` | never | the number of the kernel, from 1, at which the device is lost |
//! | `MOCKCUDA_NO_CAPTURE` | never | captures are refused where they 1: begin, 2: take a launch, 3: end, 4: become launchable |
//! | `MOCKCUDA_WRONG_PRODUCTS` | 0 | 1: kernels in which warp groups multiply leave nothing behind |
//! | `MOCKCUDA_LOG` | none | a file to which a line is added for each launch, graph, module and copy |
//!
//! What the interpreter finds wrong is printed on standard error; the error code is the one of hardware, and every
//! call after it fails with the same, as on hardware.
//!
//! # What this crate does not know
//!
//! Tensors, and who uses it. Of the driver's interface it has what a program needs that allocates, copies, launches
//! and records graphs: no textures, no other processes, no linking, no unified memory.

mod code;
mod device;
mod entry;
mod graphs;
mod launches;
mod memory;
mod modules;
mod queue;
mod settings;
mod streams;

pub use code::Code;
