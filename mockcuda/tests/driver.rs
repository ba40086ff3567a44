//! The mock keeps the driver's order and no other, and fails where the driver fails.
#![allow(clippy::unwrap_used, non_snake_case)]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

// The functions are found by their names, as any program finds them.
use mockcuda as _;

type P = *mut c_void;

unsafe extern "C" {
    fn cuInit(flags: c_uint) -> c_int;
    fn cuDevicePrimaryCtxRetain(context: *mut P, device: c_int) -> c_int;
    fn cuCtxSetCurrent(context: P) -> c_int;
    fn cuStreamCreate(stream: *mut P, flags: c_uint) -> c_int;
    fn cuStreamSynchronize(stream: P) -> c_int;
    fn cuStreamWaitEvent(stream: P, event: P, flags: c_uint) -> c_int;
    fn cuStreamBeginCapture_v2(stream: P, mode: c_int) -> c_int;
    fn cuStreamEndCapture(stream: P, graph: *mut P) -> c_int;
    fn cuGraphInstantiateWithFlags(executable: *mut P, graph: P, flags: u64) -> c_int;
    fn cuGraphLaunch(executable: P, stream: P) -> c_int;
    fn cuEventCreate(event: *mut P, flags: c_uint) -> c_int;
    fn cuEventRecord(event: P, stream: P) -> c_int;
    fn cuEventQuery(event: P) -> c_int;
    fn cuEventSynchronize(event: P) -> c_int;
    fn cuMemAllocAsync(address: *mut u64, len: usize, stream: P) -> c_int;
    fn cuMemAlloc_v2(address: *mut u64, len: usize) -> c_int;
    fn cuMemFreeAsync(address: u64, stream: P) -> c_int;
    fn cuMemHostAlloc(to: *mut P, len: usize, flags: c_uint) -> c_int;
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, len: usize, stream: P) -> c_int;
    fn cuMemcpyDtoHAsync_v2(to: P, from: u64, len: usize, stream: P) -> c_int;
    fn cuModuleLoadDataEx(m: *mut P, image: *const c_void, n: c_uint, o: *const u32, v: *const P) -> c_int;
    fn cuModuleGetFunction(function: *mut P, module: P, name: *const c_char) -> c_int;
    fn cuLaunchKernel(
        function: P,
        gx: c_uint,
        gy: c_uint,
        gz: c_uint,
        bx: c_uint,
        by: c_uint,
        bz: c_uint,
        shared: c_uint,
        stream: P,
        arguments: *mut P,
        extra: *mut P,
    ) -> c_int;
}

const TEXT: &str = ".version 7.0\n.target sm_80\n.address_size 64
.visible .entry twice(.param .u64 at) { .reg .b64 %at; .reg .b32 %r; ld.param.u64 %at, [at];
ld.global.u32 %r, [%at]; add.u32 %r, %r, %r; st.global.u32 [%at], %r; ret; }";

/// The driver's state is one for the process: tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut context = null_mut();
    // SAFETY: as the interface asks.
    unsafe {
        assert_eq!(cuInit(0), 0);
        assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), 0);
        assert_eq!(cuCtxSetCurrent(context), 0);
    }
    guard
}

fn made(make: unsafe extern "C" fn(*mut P, c_uint) -> c_int) -> P {
    let mut made = null_mut();
    // SAFETY: the place for the handle is there.
    assert_eq!(unsafe { make(&mut made, 0) }, 0);
    made
}

fn stream() -> P {
    made(cuStreamCreate)
}

fn allocated(stream: P) -> u64 {
    let mut address = 0;
    // SAFETY: as above.
    assert_eq!(unsafe { cuMemAllocAsync(&mut address, 4, stream) }, 0);
    address
}

fn pinned(value: u32) -> *mut u32 {
    let mut at = null_mut();
    // SAFETY: so many bytes are there once it is allocated.
    unsafe {
        assert_eq!(cuMemHostAlloc(&mut at, 4, 0), 0);
        at.cast::<u32>().write(value);
    }
    at.cast()
}

fn upload(to: u64, from: *mut u32, stream: P) {
    // SAFETY: the pinned word lives as long as the process.
    assert_eq!(unsafe { cuMemcpyHtoDAsync_v2(to, from.cast(), 4, stream) }, 0);
}

/// The word at an address, once all of the stream is done.
fn read(from: u64, stream: P) -> u32 {
    let mut word = 0u32;
    // SAFETY: the word is there, and the copy is over when the call returns.
    assert_eq!(unsafe { cuMemcpyDtoHAsync_v2((&raw mut word).cast(), from, 4, stream) }, 0);
    word
}

fn function() -> P {
    let (mut module, mut function) = (null_mut(), null_mut());
    let (text, name) = (CString::new(TEXT).unwrap(), c"twice");
    // SAFETY: texts end with a zero.
    unsafe {
        let none = std::ptr::null();
        assert_eq!(cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 0, none, none.cast()), 0);
        assert_eq!(cuModuleGetFunction(&mut function, module, name.as_ptr()), 0);
        assert_eq!(cuModuleGetFunction(&mut module, module, c"nothing".as_ptr()), 500);
    }
    function
}

fn launch(function: P, mut at: u64, stream: P) {
    let mut arguments: [P; 1] = [(&raw mut at).cast()];
    // SAFETY: the kernel takes one address.
    let code =
        unsafe { cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, arguments.as_mut_ptr(), null_mut()) };
    assert_eq!(code, 0);
}

fn wait(stream: P, event: P, other: P) {
    // SAFETY: the handles are alive.
    unsafe {
        assert_eq!(cuEventRecord(event, other), 0);
        assert_eq!(cuStreamWaitEvent(stream, event, 0), 0);
    }
}

#[test]
fn a_missing_event_shows() {
    let _turn = turn();
    let (compute, copy, event, function) = (stream(), stream(), made(cuEventCreate), function());
    for ordered in [true, false] {
        let mut at = 0;
        // SAFETY: the place is there.
        assert_eq!(unsafe { cuMemAlloc_v2(&mut at, 4) }, 0);
        upload(at, pinned(21), copy);
        if ordered {
            wait(compute, event, copy);
        }
        launch(function, at, compute);
        // Fresh memory is all ones, twice that is -2.
        assert_eq!(read(at, compute) as i32, if ordered { 42 } else { -2 });
        // SAFETY: the stream is alive.
        assert_eq!(unsafe { cuStreamSynchronize(copy) }, 0);
        // What was not ordered comes late.
        assert_eq!(read(at, compute), if ordered { 42 } else { 21 });
    }
}

#[test]
fn copies_read_pinned_memory_when_they_run() {
    let _turn = turn();
    let copy = stream();
    let (at, from) = (allocated(copy), pinned(5));
    upload(at, from, copy);
    // SAFETY: the word is there.
    unsafe { from.write(6) };
    assert_eq!(read(at, copy), 6);
    let event = made(cuEventCreate);
    upload(at, from, copy);
    // SAFETY: the event is alive; after waiting for it the word may be changed.
    unsafe {
        assert_eq!(cuEventRecord(event, copy), 0);
        assert_eq!(cuEventQuery(event), 600);
        assert_eq!(cuEventSynchronize(event), 0);
        assert_eq!(cuEventQuery(event), 0);
        from.write(7);
    }
    assert_eq!(read(at, copy), 6);
}

#[test]
fn a_graph_runs_when_it_is_launched() {
    let _turn = turn();
    let (compute, other, event, function) = (stream(), stream(), made(cuEventCreate), function());
    let at = allocated(compute);
    upload(at, pinned(3), compute);
    let (mut graph, mut executable, mut late) = (null_mut(), null_mut(), 0);
    // SAFETY: the handles are alive.
    unsafe {
        assert_eq!(cuStreamBeginCapture_v2(compute, 1), 0);
        launch(function, at, compute);
        launch(function, at, compute);
        assert_eq!(cuMemAllocAsync(&mut late, 4, compute), 900);
        assert_eq!(cuStreamSynchronize(compute), 900);
        assert_eq!(cuEventRecord(event, other), 0);
        assert_eq!(cuStreamWaitEvent(compute, event, 0), 905);
        assert_eq!(cuStreamEndCapture(compute, &mut graph), 0);
        assert_eq!(read(at, compute), 3);
        assert_eq!(cuGraphInstantiateWithFlags(&mut executable, graph, 0), 0);
        assert_eq!(cuGraphLaunch(executable, compute), 0);
        assert_eq!(read(at, compute), 12);
        assert_eq!(cuGraphLaunch(executable, compute), 0);
        assert_eq!(read(at, compute), 48);
    }
}

#[test]
fn memory_of_a_pool_lives_in_the_order_of_its_stream() {
    let _turn = turn();
    let (compute, copy) = (stream(), stream());
    let at = allocated(copy);
    upload(at, pinned(9), copy);
    assert_eq!(read(at, copy), 9);
    // SAFETY: the memory is allocated, and the other stream has nothing of it.
    unsafe {
        assert_eq!(cuMemFreeAsync(at, copy), 0);
        assert_eq!(cuMemFreeAsync(at, copy), 1);
        assert_eq!(cuStreamSynchronize(compute), 0);
    }
}

#[test]
fn every_thread_needs_the_context() {
    let _turn = turn();
    let without = std::thread::spawn(|| {
        let mut address = 0;
        // SAFETY: the place is there.
        unsafe { cuMemAlloc_v2(&mut address, 4) }
    });
    assert_eq!(without.join().unwrap(), 201);
}
