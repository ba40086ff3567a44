//! Weights are brought into the mapping of their file ahead of their use, and leave it for memory of their own when
//! they are used often.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::{Bytes, Device, FileBytes};
use jtllm_runtime::ir::Format;
use jtllm_runtime::machine::{HugePages, Machine};
use jtllm_runtime::weights::{Source, Wanted, Weights};
use memmap2::Mmap;

/// A mapped file that notes what it is asked to bring, and what it may give back.
struct Mapped {
    map: Mmap,
    fetched: Arc<Mutex<Vec<Range<usize>>>>,
    released: Arc<Mutex<Vec<Range<usize>>>>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl FileBytes for Mapped {
    fn fetch(&self, range: Range<usize>) {
        self.fetched.lock().unwrap().push(range);
    }

    fn release(&self, range: Range<usize>) {
        self.released.lock().unwrap().push(range);
    }
}

fn number(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(*bytes[at * 4..].first_chunk().unwrap())
}

/// Binds one weight of so many numbers, `at`-th of which is `at`, in a file of its own.
struct Bound {
    device: Arc<dyn Device>,
    weights: Weights,
    file: File,
    fetched: Arc<Mutex<Vec<Range<usize>>>>,
    released: Arc<Mutex<Vec<Range<usize>>>>,
    bytes: usize,
}

impl Bound {
    fn new(count: usize) -> Bound {
        let mut file = tempfile::tempfile().unwrap();
        let numbers: Vec<u8> = (0..count).flat_map(|at| (at as f32).to_le_bytes()).collect();
        file.write_all(&numbers).unwrap();
        let [fetched, released] = [(); 2].map(|()| Arc::new(Mutex::new(Vec::new())));
        // SAFETY: the file is this test's alone, and plain numbers.
        let map = unsafe { Mmap::map(&file) }.unwrap();
        let bytes: Bytes = Arc::new(Mapped { map, fetched: fetched.clone(), released: released.clone() });
        let device: Arc<dyn Device> = Arc::new(Interpreter::new(Caps::vector(8)));
        let mut weights = Weights::default();
        let format = Format::find("f32").unwrap();
        let shape = [count as u64 / 1024, 1024];
        let wanted = Wanted {
            name: "w".to_owned(),
            dtype: format.own_planes()[0].dtype,
            shape: shape.map(|n| n as i64).to_vec(),
        };
        weights.bind(&device, &[wanted], &|_| Some(Source::whole(format, &shape, bytes.clone()))).unwrap();
        assert_eq!(weights.adopted_bytes, numbers.len() as u64);
        Bound { device, weights, file, fetched, released, bytes: numbers.len() }
    }

    /// The weight as launches would read it.
    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        self.device.read(&self.weights.plane("w").unwrap().span, &mut bytes).unwrap();
        bytes
    }

    /// Changes the file, and with it every mapping.
    fn overwrite(&mut self) {
        self.file.seek(SeekFrom::Start(0)).unwrap();
        self.file.write_all(&vec![0xff; self.bytes]).unwrap();
    }

    fn settle(&mut self) {
        self.weights.settle(&*self.device);
        while self.weights.is_settling() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Whether weights are worth moving on this machine.
fn has_room() -> bool {
    let machine = Machine::probe();
    let pages = matches!(machine.huge_pages, HugePages::Always | HugePages::OnRequest);
    let has_room = pages && machine.memory.available_bytes.is_some_and(|bytes| bytes > 2 << 30);
    if !has_room {
        println!("skipped: this machine has no large pages, or no memory to spare");
    }
    has_room
}

#[test]
fn weights_move_and_stay_what_they_are() {
    if !has_room() {
        return;
    }
    // Where memory is slow to come, copying ends: a virtual machine's host may have to find each page once.
    for _ in 0..16 {
        let mut bound = Bound::new(10 << 20);
        let before = bound.read();
        assert!((0..10 << 20).step_by(4099).all(|at| number(&before, at) == at as f32));
        bound.settle();
        let released = bound.released.lock().unwrap().clone();
        bound.overwrite();
        if released.last() == Some(&(0..bound.bytes)) {
            assert_eq!(bound.read(), before, "they lie in memory of their own");
            let pieces = &released[..released.len() - 1];
            assert_eq!(
                pieces.iter().map(Range::len).sum::<usize>(),
                bound.bytes,
                "no piece lies in two places"
            );
            return;
        }
        assert!(bound.read().iter().all(|byte| *byte == 0xff), "what did not settle lies in the file");
    }
    panic!("16 copies of 40 MiB were all slower than a tenth of what memory gives");
}

#[test]
fn pages_are_brought_before_they_are_read() {
    let bound = Bound::new(10 << 20);
    if !has_room() {
        return;
    }
    let is_brought = || {
        let fetched = bound.fetched.lock().unwrap();
        let neighbours = fetched.windows(2).all(|two| two[0].end == two[1].start);
        neighbours
            && fetched.first().is_some_and(|first| first.start == 0)
            && fetched.last().unwrap().end == bound.bytes
    };
    let begin = Instant::now();
    while !is_brought() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", bound.fetched.lock().unwrap());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_caches_hold_stays_where_it_is() {
    let mut bound = Bound::new(1 << 20);
    bound.settle();
    assert!(bound.released.lock().unwrap().is_empty());
    bound.overwrite();
    assert!(bound.read().iter().all(|byte| *byte == 0xff), "they lie in the file");
}

#[test]
fn whoever_goes_away_meanwhile_waits_for_no_copy() {
    for _ in 0..4 {
        let mut bound = Bound::new(10 << 20);
        bound.weights.settle(&*bound.device);
    }
}

#[test]
fn who_reads_meanwhile_reads_the_same() {
    for _ in 0..4 {
        let mut bound = Bound::new(10 << 20);
        let before = bound.read();
        bound.weights.settle(&*bound.device);
        let mut rounds = 0;
        while bound.weights.is_settling() || rounds == 0 {
            assert!(bound.read() == before, "round {rounds}");
            rounds += 1;
        }
        assert!(bound.read() == before, "after the copy");
    }
}
