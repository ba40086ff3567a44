//! What a limit is going to cost, by the decisions that will be taken: nothing is read for it.

use jtllm_swap::sim::{self, Forecast, Scenario, Speeds, Step};
use jtllm_swap::{Blob, Budget, Source, Tier};

use super::count::Counted;
use super::{Kept, PlanId, Residence, Uses, ring};
use crate::error::Error;
use crate::residence::Most;

/// How fast a machine is at what a pass does.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// Bytes a second of reading model files past the page cache, compared with their hashes.
    pub disk: f64,
    /// Seconds of each step of a pass when its weights are in memory.
    pub steps: Vec<f64>,
}

impl Rates {
    /// Seconds of a pass when all weights are in memory.
    pub fn computing(&self) -> f64 {
        self.steps.iter().sum()
    }
}

/// What may be asked for instead of what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Another limit.
    pub limit: Option<Most>,
    /// How long weights would be, of what they are.
    pub weights: f64,
    /// How large the cache would be, of what it is.
    pub cache: f64,
}

impl Change {
    /// Everything as it is.
    pub const NONE: Change = Change { limit: None, weights: 1.0, cache: 1.0 };
}

/// What a pass is going to cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// What is counted against the limit.
    pub counted: Counted,
    /// Passes once they are alike.
    pub forecast: Forecast,
    /// Bytes of weights that a pass reads in memory.
    pub used: u64,
    /// The most bytes that the process is going to hold.
    pub peak: u64,
}

/// Passes that are averaged: enough for those that do not divide evenly.
const PASSES: u32 = 4;

impl Residence {
    /// What passes of these plans cost.
    ///
    /// # Errors
    /// The limit is too low.
    pub(crate) fn outlook(&self, plans: &[PlanId], rates: &Rates, change: &Change) -> Result<Outlook, Error> {
        let mut state = self.lock();
        let mut counted = state.count(change.limit.unwrap_or(self.limit.most));
        let scaled = |bytes: u64, part: f64| (bytes as f64 * part) as u64;
        counted.all = scaled(counted.all, change.weights);
        counted.paged = scaled(counted.paged, change.cache);
        counted.step = scaled(counted.step, change.weights);
        counted.own.cache = scaled(counted.own.cache, change.cache);
        let left = counted.left().map_err(Error::Limit)?;
        // States as they are when the context is full.
        let blob = |kept: &Kept| match kept.is_paged() {
            true => Blob::new(scaled(kept.taken_most(), change.cache).max(1), "pages", Source::Nowhere),
            false => Blob::new(scaled(kept.taken(), change.weights).max(1), "weights", Source::File),
        };
        let blobs: Vec<Blob> = state.blobs.iter().map(blob).collect();
        let is_weight = |blob: &usize| !state.blobs[*blob].is_paged();
        let step = |(uses, seconds): (&Uses, &f64)| {
            let [uses, changes] = [&uses.blobs, &uses.changed]
                .map(|blobs| blobs.iter().map(|blob| blob.0 as usize).collect::<Vec<usize>>());
            // Weights of another length are taken to be computed with as fast a byte.
            let reads = uses.iter().any(is_weight);
            Step { uses, changes, seconds: if reads { seconds * change.weights } else { *seconds } }
        };
        let uses = plans.iter().flat_map(|plan| &state.plans[plan.0]);
        let steps: Vec<Step> = uses.zip(&rates.steps).map(step).collect();
        let read = steps.iter().flat_map(|step| &step.uses).filter(|blob| is_weight(blob));
        let used = read.map(|blob| blobs[*blob].len).sum();
        // A blob that is rounded up may take a byte more than its part of the sum.
        let room = left.max(counted.step) + blobs.len() as u64;
        let scenario = Scenario {
            blobs,
            steps,
            budget: Budget::unlimited().with(Tier::Host, room),
            tiers: vec![(Tier::Host, ring(left))],
            speeds: Speeds {
                disk_bytes_per_s: rates.disk,
                disk_latency_s: 0.0,
                // Nothing goes on to a device.
                bus_bytes_per_s: f64::INFINITY,
            },
        };
        let forecast = sim::run(&scenario, PASSES).map_err(Error::Swap)?;
        let peak = counted.rest() - counted.margin() + forecast.peak_bytes[1];
        Ok(Outlook { counted, forecast, used, peak })
    }
}
