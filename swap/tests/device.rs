//! Three tiers in motion: a device of small memory whose copies end late, the host's memory, files.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jtllm_swap::file::SwapFile;
use jtllm_swap::reader::Sums;
use jtllm_swap::residency::{Copied, Mover};
use jtllm_swap::store::MemoryStore;
use jtllm_swap::traffic::Ended;
use jtllm_swap::{Agenda, BlobId, Options, Origin, Policy, Residency, SwapError, Tick, Tier};
use proptest::prelude::*;

const KB: u64 = 1024;

/// A device whose copies happen when somebody waits for them, or asks often enough.
struct Late {
    memory: Arc<Mutex<Vec<u8>>>,
    open: VecDeque<Copied>,
    asked: usize,
    /// Which of its copies and fillings with zeros fails, counted from the first.
    failing: Option<usize>,
    started: usize,
    /// No blob may lie over a multiple of this.
    piece: u64,
}

impl Mover for Late {
    fn bytes(&self) -> u64 {
        self.memory.lock().unwrap().len() as u64
    }

    fn piece_bytes(&self) -> u64 {
        self.piece
    }

    fn start(&mut self, copied: Copied) -> Result<(), SwapError> {
        let last = copied.offset + copied.host.len() as u64 - 1;
        assert_eq!(copied.offset / self.piece, last / self.piece, "{copied:?} lies in two pieces");
        self.open.push_back(copied);
        Ok(())
    }

    fn ended(&mut self, limit: Duration) -> Option<Ended> {
        self.asked += 1;
        if limit.is_zero() && !self.asked.is_multiple_of(3) {
            return None;
        }
        let Copied { blob, host, offset, up } = self.open.pop_front()?;
        self.started += 1;
        if self.failing == Some(self.started - 1) {
            return Some((blob, Err(SwapError::Memory { len: 0, why: "the device is ill".to_owned() })));
        }
        let mut memory = self.memory.lock().unwrap();
        let there = &mut memory[offset as usize..offset as usize + host.len()];
        if up {
            // SAFETY: nobody writes to the host's bytes before the copy is reported.
            there.copy_from_slice(unsafe { host.bytes() });
        } else {
            // SAFETY: nobody else touches the host's bytes before the copy is reported.
            unsafe { host.bytes_mut() }.copy_from_slice(there);
        }
        Some((blob, Ok(())))
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<(), SwapError> {
        self.started += 1;
        if self.failing == Some(self.started - 1) {
            return Err(SwapError::Memory { len, why: "the device is ill".to_owned() });
        }
        self.memory.lock().unwrap()[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }
}

/// Blobs of a file and of our own, what they must hold, and the device.
struct World {
    residency: Residency,
    device: Arc<Mutex<Vec<u8>>>,
    blobs: Vec<BlobId>,
    own: Vec<bool>,
    bytes: Vec<Vec<u8>>,
}

impl World {
    fn new(options: &Options, device_bytes: u64, lens: &[(usize, bool)], failing: Option<usize>) -> World {
        World::in_pieces(options, (device_bytes, u64::MAX), lens, failing)
    }

    fn in_pieces(
        options: &Options,
        (device_bytes, piece): (u64, u64),
        lens: &[(usize, bool)],
        failing: Option<usize>,
    ) -> World {
        let swap = Arc::new(MemoryStore::new(Vec::new()));
        let swap = SwapFile::over(Path::new("swap").into(), swap, options.swap_bytes, Box::new(|| None));
        World::over(options, (device_bytes, piece), lens, failing, swap)
    }

    fn over(
        options: &Options,
        (device_bytes, piece): (u64, u64),
        lens: &[(usize, bool)],
        failing: Option<usize>,
        swap: SwapFile,
    ) -> World {
        let device = Arc::new(Mutex::new(vec![0xEE; device_bytes as usize]));
        let (memory, open) = (device.clone(), VecDeque::new());
        let mover = Box::new(Late { memory, open, asked: 0, failing, started: 0, piece });
        let mut residency = Residency::with(options, Some(swap), Some(mover)).unwrap();
        let all: Vec<u8> =
            (0..lens.iter().map(|(len, _)| len).sum()).map(|at: usize| (at * 31 + at / 251) as u8).collect();
        let file = residency.add_file(Path::new("weights"), Arc::new(MemoryStore::new(all.clone()))).unwrap();
        let mut world = World { residency, device, blobs: vec![], own: vec![], bytes: vec![] };
        let mut at = 0;
        for (len, own) in lens {
            let mine = all[at..at + len].to_vec();
            let origin = Origin { file, at: at as u64, len: *len as u64, sums: Some(Sums::of(&mine, 7000)) };
            world.blobs.push(match own {
                true => world.residency.add_own("pages", *len as u64).unwrap(),
                false => world.residency.add("weights", origin).unwrap(),
            });
            world.own.push(*own);
            world.bytes.push(if *own { vec![0; *len] } else { mine });
            at += len;
        }
        world
    }

    /// Pins, compares what the device has, changes what is ours, unpins.
    fn step(&mut self, tick: Tick, step: &[BlobId]) -> Result<(), SwapError> {
        self.residency.pin(tick, step)?;
        for blob in step {
            let at = blob.0 as usize;
            let offset = self.residency.device_offset(*blob).unwrap() as usize;
            let range = offset..offset + self.bytes[at].len();
            assert!(self.device.lock().unwrap()[range.clone()] == self.bytes[at], "{blob} at tick {tick}");
            if self.own[at] && self.residency.change(*blob).is_ok() {
                self.device.lock().unwrap()[range].fill(tick as u8);
                self.bytes[at].fill(tick as u8);
            }
        }
        self.residency.unpin(tick, step)
    }

    fn arrange(&mut self, steps: &[Vec<BlobId>]) -> Result<(), SwapError> {
        let uses = steps.iter().zip(0..).flat_map(|(step, tick)| step.iter().map(move |blob| (*blob, tick)));
        self.residency.arrange(Agenda::new(steps.len() as Tick, uses))
    }

    fn check(&self) {
        let ledger = self.residency.ledger();
        for tier in Tier::ALL {
            assert!(ledger.peak(tier) <= ledger.budget().limit(tier));
        }
        for (blob, _) in ledger.blobs().filter(|(blob, _)| self.own[blob.0 as usize]) {
            let copies = Tier::ALL.map(|tier| ledger.copy(blob, tier).unwrap());
            let begun = self.bytes[blob.0 as usize].iter().any(|byte| *byte != 0);
            assert!(!begun || copies.contains(&(true, true)), "{blob} is lost: {copies:?}");
        }
    }
}

/// Memory in pieces, each of which has room for three blobs and a bit.
#[test]
fn no_blob_lies_in_two_pieces_of_memory() {
    let blob = 12 * KB;
    let options = Options { policy: Policy::Stream { ring_bytes: 0 }, ..Options::new(40 * blob) };
    let (device, piece) = (12 * blob, 3 * blob + 4 * KB);
    let mut world = World::in_pieces(&options, (device, piece), &[(10_000, false); 30], None);
    let steps: Vec<_> = world.blobs.iter().map(|blob| vec![*blob]).collect();
    world.arrange(&steps).unwrap();
    for (tick, step) in steps.iter().cycle().take(300).enumerate() {
        world.step(tick as Tick, step).unwrap();
    }
    world.check();
    let copied = world.residency.counts().bytes_copied;
    // Twelve blobs would fit without borders; then three pieces lose a third of a blob each, and the ring has two.
    let staying = world.blobs.iter().filter(|blob| world.residency.stays(**blob)).count();
    assert!((5..=10).contains(&staying), "{staying}");
    assert!(copied <= 10_000 * (30 + 9 * (30 - staying as u64 + 2)), "{copied} bytes, {staying} stay");
}

/// The case of Jittor's own test: 100 blobs of 1 MB, 20 MB of device, 50 MB of host.
#[test]
fn a_hundred_blobs_through_twenty_and_fifty() {
    let mb = 1 << 20;
    let options = Options { policy: Policy::Stream { ring_bytes: 4 * mb }, ..Options::new(50 * mb) };
    let mut world = World::new(&options, 20 * mb, &[(mb as usize, false); 100], None);
    let steps: Vec<_> = world.blobs.iter().map(|blob| vec![*blob]).collect();
    world.arrange(&steps).unwrap();
    let mut run = |passes: std::ops::Range<usize>| {
        for (tick, step) in
            passes.flat_map(|pass| steps.iter().enumerate().map(move |(at, step)| (pass * 100 + at, step)))
        {
            world.step(tick as Tick, step).unwrap();
        }
        world.check();
        world.residency.counts()
    };
    let before = run(0..2);
    let after = run(2..4);
    let read = (after.bytes_read - before.bytes_read) / mb;
    assert!((60..=80).contains(&read), "{read} MB in two passes");
    assert_eq!(after.bytes_written, 0);
    let copied = (after.bytes_copied - before.bytes_copied) / mb;
    assert!((160..=170).contains(&copied), "{copied} MB in two passes");
    assert!(after.peak_bytes <= 50 * mb);
}

/// What only the device has is written by way of the host, however little room there is.
#[test]
fn what_is_saved_is_there_for_the_next_residency() {
    let (len, count) = (10_000, 8);
    for host in [1, 2, 5, 20] {
        let policy = Policy::Stream { ring_bytes: 0 };
        let options = Options { policy, swap_bytes: 1 << 20, ..Options::new(host * 12 * KB) };
        let lens = vec![(len, true); count];
        let mut world = World::new(&options, 4 * 12 * KB, &lens, None);
        let steps: Vec<_> = world.blobs.iter().map(|blob| vec![*blob]).collect();
        world.arrange(&steps).unwrap();
        for (tick, step) in steps.iter().cycle().take(2 * count + 3).enumerate() {
            world.step(tick as Tick, step).unwrap();
        }
        world.residency.save().unwrap();
        assert_eq!([Tier::Device, Tier::Host].map(|tier| world.residency.ledger().used(tier)), [0, 0]);
        let World { residency, bytes, .. } = world;
        let swap = residency.into_swap().unwrap();
        let mut world = World::over(&options, (4 * 12 * KB, u64::MAX), &lens, None, swap);
        world.bytes = bytes;
        world.arrange(&steps).unwrap();
        for (tick, step) in steps.iter().enumerate() {
            world.step(tick as Tick, step).unwrap();
        }
        world.check();
    }
}

#[test]
fn a_copy_that_fails_is_an_error_and_the_next_request_goes_on() {
    for failing in 0..20 {
        let options = Options { policy: Policy::Stream { ring_bytes: 0 }, ..Options::new(8 * 12 * KB) };
        let mut world = World::new(&options, 4 * 12 * KB, &[(10_000, false); 10], Some(failing));
        let steps: Vec<_> = world.blobs.iter().map(|blob| vec![*blob]).collect();
        world.arrange(&steps).unwrap();
        for pass in 0..3 {
            for (at, step) in steps.iter().enumerate() {
                let tick = (pass * steps.len() + at) as Tick;
                if let Err(error) = world.step(tick, step) {
                    assert!(matches!(error, SwapError::Memory { .. }), "{error}");
                    world.residency.forgive();
                    world.step(tick, step).unwrap();
                }
                world.check();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever lengths, agendas and limits: what the device computes with is right, or there is an error.
    #[test]
    fn the_device_has_the_right_bytes(
        lens in prop::collection::vec((1..30_000usize, any::<bool>()), 1..12),
        steps in prop::collection::vec(prop::collection::vec(0..12usize, 1..4), 1..16),
        limits in (20..150u64, 32..150u64, 0..300u64), ring in 0..60u64, stream in any::<bool>(), failing in prop::option::of(0..60usize),
        piece in prop::option::of(32..100u64),
    ) {
        let (device, host, disk) = (limits.0 * KB, limits.1 * KB, limits.2 * KB);
        let policy = if stream { Policy::Stream { ring_bytes: ring * KB } } else { Policy::FurthestUse { window_bytes: ring * KB } };
        let options = Options { policy, device_policy: policy, swap_bytes: disk, wait_max: Duration::from_secs(20), ..Options::new(host) };
        let piece = piece.map_or(u64::MAX, |piece| piece * KB / 4096 * 4096);
        let mut world = World::in_pieces(&options, (device, piece), &lens, failing);
        let mut steps: Vec<Vec<BlobId>> = steps.iter().map(|step| {
            let mut picked: Vec<usize> = step.iter().map(|at| at % lens.len()).collect();
            picked.sort_unstable();
            picked.dedup();
            picked.into_iter().map(|at| world.blobs[at]).collect()
        }).collect();
        if world.arrange(&steps).is_err() {
            return Ok(());
        }
        // Another order afterwards, as when pages are added: everything is where it was, and ticks begin anew.
        for reversed in [false, true] {
            if reversed {
                steps.reverse();
                world.arrange(&steps).unwrap();
            }
            for (at, step) in steps.iter().cycle().take(3 * steps.len()).enumerate() {
                match world.step(at as Tick, step) {
                    Ok(()) => {}
                    Err(SwapError::Late { .. }) => panic!("somebody waits for ever"),
                    Err(_) => world.residency.forgive(),
                }
                world.check();
            }
        }
    }
}
