//! What a pass costs, before anything is loaded: the real decisions, with a clock and speeds of its own.

use std::collections::BinaryHeap;

use crate::traffic::{Carrier, Ended, Move, Traffic};
use crate::{Agenda, Blob, BlobId, Budget, Policy, SwapError, Tick, Tier};

/// How fast bytes move. Moves over one way follow one another; the two ways are independent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// Between disk and memory.
    pub disk_bytes_per_s: f64,
    /// What a move between disk and memory costs beside its bytes.
    pub disk_latency_s: f64,
    /// Between the memories of host and device.
    pub bus_bytes_per_s: f64,
}

/// One tick of a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The blobs that it uses, by their place in [`Scenario::blobs`].
    pub uses: Vec<usize>,
    /// Those of them that it changes.
    pub changes: Vec<usize>,
    /// How long it computes when they are there.
    pub seconds: f64,
}

/// All that a forecast follows from.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The blobs.
    pub blobs: Vec<Blob>,
    /// The steps of a pass.
    pub steps: Vec<Step>,
    /// The limits.
    pub budget: Budget,
    /// The tiers with memory, and how each is used.
    pub tiers: Vec<(Tier, Policy)>,
    /// The speeds.
    pub speeds: Speeds,
}

/// What passes cost on average once they are alike, and the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// How long a pass takes.
    pub seconds: f64,
    /// How much of that is spent waiting for bytes.
    pub stall_seconds: f64,
    /// Bytes from the disk.
    pub bytes_read: f64,
    /// Bytes to the disk.
    pub bytes_written: f64,
    /// Bytes between the memories of host and device, both ways.
    pub bytes_copied: f64,
    /// Blobs that moved, whatever way.
    pub moves: f64,
    /// The most bytes on each tier, in the order of [`Tier::ALL`], from the first pass on.
    pub peak_bytes: [u64; 3],
    /// How long the first pass takes, from nothing in memory.
    pub first_seconds: f64,
}

impl Forecast {
    /// Passes in a second.
    pub fn passes_per_s(&self) -> f64 {
        1.0 / self.seconds
    }
}

/// Runs `passes` passes after as many that are not counted, and a first one.
///
/// # Errors
/// Those of [`Traffic`]: above all `Full`, with what is missing.
///
/// # Panics
/// If a step names a blob that is not there, or there are no passes or steps.
pub fn run(scenario: &Scenario, passes: u32) -> Result<Forecast, SwapError> {
    assert!(passes > 0 && !scenario.steps.is_empty(), "nothing to run");
    let mut traffic = Traffic::new(scenario.budget, &scenario.tiers);
    let ids: Vec<BlobId> =
        scenario.blobs.iter().map(|blob| traffic.register(*blob)).collect::<Result<_, _>>()?;
    let steps: Vec<Numbered> = scenario.steps.iter().map(|step| Numbered::of(step, &ids)).collect();
    let ticks =
        steps.iter().zip(0..).flat_map(|(step, tick)| step.uses.iter().map(move |blob| (*blob, tick)));
    traffic.arrange(Agenda::new(steps.len() as Tick, ticks))?;
    let mut clock = Clock::new(scenario.speeds);
    let mut tick = 0;
    let mut run = |count: u32, clock: &mut Clock| -> Result<Costs, SwapError> {
        let before = clock.costs;
        for _ in 0..count {
            for step in &steps {
                traffic.pin(tick, &step.uses, clock)?;
                for blob in &step.changes {
                    traffic.change(*blob, clock)?;
                }
                clock.costs.seconds += step.seconds;
                traffic.unpin(tick, &step.uses)?;
                tick += 1;
            }
        }
        Ok(clock.costs.since(&before))
    };
    let first = run(1, &mut clock)?;
    run(passes, &mut clock)?;
    let costs = run(passes, &mut clock)?;
    let each = |total: f64| total / f64::from(passes);
    Ok(Forecast {
        seconds: each(costs.seconds),
        stall_seconds: each(costs.stall),
        bytes_read: each(costs.read),
        bytes_written: each(costs.written),
        bytes_copied: each(costs.copied),
        moves: each(costs.moves),
        peak_bytes: Tier::ALL.map(|tier| traffic.ledger().peak(tier)),
        first_seconds: first.seconds,
    })
}

/// A step with the names of its blobs.
struct Numbered {
    uses: Vec<BlobId>,
    changes: Vec<BlobId>,
    seconds: f64,
}

impl Numbered {
    fn of(step: &Step, ids: &[BlobId]) -> Numbered {
        let named = |which: &[usize]| which.iter().map(|blob| ids[*blob]).collect();
        Numbered { uses: named(&step.uses), changes: named(&step.changes), seconds: step.seconds }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Costs {
    seconds: f64,
    stall: f64,
    read: f64,
    written: f64,
    copied: f64,
    moves: f64,
}

impl Costs {
    fn since(&self, before: &Costs) -> Costs {
        Costs {
            seconds: self.seconds - before.seconds,
            stall: self.stall - before.stall,
            read: self.read - before.read,
            written: self.written - before.written,
            copied: self.copied - before.copied,
            moves: self.moves - before.moves,
        }
    }
}

/// A move that has begun, the first to end above the others in a heap.
struct Flight {
    end: f64,
    blob: BlobId,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Flight) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Flight) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Flight) -> std::cmp::Ordering {
        other.end.total_cmp(&self.end).then(other.blob.cmp(&self.blob))
    }
}

/// Carries nothing, and knows how long that takes.
struct Clock {
    speeds: Speeds,
    /// `seconds` is what the clock shows.
    costs: Costs,
    disk_free: f64,
    bus_free: f64,
    flights: BinaryHeap<Flight>,
}

impl Clock {
    fn new(speeds: Speeds) -> Clock {
        Clock { speeds, costs: Costs::default(), disk_free: 0.0, bus_free: 0.0, flights: BinaryHeap::new() }
    }
}

impl Carrier for Clock {
    fn start(&mut self, moved: Move, _urgent: bool) -> Result<(), SwapError> {
        let bytes = moved.len as f64;
        let now = self.costs.seconds;
        let end = match (moved.from.0, moved.to.0) {
            (from, to) if from == Tier::Disk || to == Tier::Disk => {
                *(if from == Tier::Disk { &mut self.costs.read } else { &mut self.costs.written }) += bytes;
                let seconds = self.speeds.disk_latency_s + bytes / self.speeds.disk_bytes_per_s;
                self.disk_free = self.disk_free.max(now) + seconds;
                self.disk_free
            }
            _ => {
                self.costs.copied += bytes;
                self.bus_free = self.bus_free.max(now) + bytes / self.speeds.bus_bytes_per_s;
                self.bus_free
            }
        };
        self.costs.moves += 1.0;
        self.flights.push(Flight { end, blob: moved.blob });
        Ok(())
    }

    fn begin(&mut self, _tier: Tier, _offset: u64, _len: u64) -> Result<(), SwapError> {
        Ok(())
    }

    fn ended(&mut self, waiting: Option<BlobId>) -> Result<Option<Ended>, SwapError> {
        let Some(first) = self.flights.peek() else { return Ok(None) };
        if first.end > self.costs.seconds {
            if waiting.is_none() {
                return Ok(None);
            }
            self.costs.stall += first.end - self.costs.seconds;
            self.costs.seconds = first.end;
        }
        Ok(self.flights.pop().map(|flight| (flight.blob, Ok(()))))
    }

    fn forget(&mut self, _blob: BlobId) {}
}
