//! What decoding is going to cost within a limit.

use super::{Bucket, Network, Part};
use crate::error::{DeviceError, Error};
use crate::machine::Machine;
use crate::memory::MemoryError;
use crate::plan::{Plan, StandIn};
use crate::probe::bandwidth_bytes;
use crate::residence::PlanId;
use crate::residence::outlook::{Change, Outlook, Rates};

impl Network {
    /// What decoding is going to cost within the host's limit, by plans that are there; nothing without one, or where
    /// weights go on to a device's own memory: nobody has measured how fast it computes and copies.
    ///
    /// # Errors
    /// The limit is too low.
    pub fn outlook(&self, rates: &Rates, change: &Change) -> Result<Option<Outlook>, Error> {
        let Some(residence) = self.residence().filter(|residence| !residence.is_apart()) else {
            return Ok(None);
        };
        let plans: Vec<PlanId> = self.decoding().into_iter().filter_map(Plan::id).collect();
        residence.outlook(&plans, rates, change).map(Some)
    }

    /// The plans of a decoded token, as far as they are there.
    fn decoding(&self) -> Vec<&Plan> {
        let parts = [Part::Body, Part::Head].map(|part| self.plans.get(&(part, Bucket::Fixed(1))));
        parts.into_iter().flatten().collect()
    }

    /// The seconds of each step of a decoded token when its weights are in memory, measured in a second or two by running
    /// the very kernels on bytes that stand for weights; nothing where [`Network::outlook`] gives nothing. What states hold
    /// is worth nothing afterwards.
    ///
    /// # Errors
    /// There is no memory for it, or a kernel fails.
    pub fn rehearse(&self) -> Result<Option<Vec<f64>>, Error> {
        let Some(residence) = self.residence().filter(|residence| !residence.is_apart()) else {
            return Ok(None);
        };
        residence.count_held();
        let plans = self.decoding();
        let ids: Vec<PlanId> = plans.iter().copied().filter_map(Plan::id).collect();
        let [all, step] = residence.bytes_of(&ids);
        // As much as caches do not hold, and no more than there is to read.
        let bytes = all.min(bandwidth_bytes(&Machine::probe()) as u64).max(step);
        let full = |error: MemoryError| {
            Error::from(DeviceError::OutOfMemory {
                device: "the host".to_owned(),
                need: bytes,
                why: error.to_string(),
            })
        };
        let mut weights = StandIn::new(bytes as usize).map_err(full)?;
        let sizes = self.sizes(&[("T", 1), ("R", 1)]);
        let mut rounds: Vec<Vec<Option<f64>>> = Vec::new();
        while weights.goes_on(rounds.len()) {
            let mut round = Vec::new();
            for plan in &plans {
                round.extend(plan.rehearse(&*self.device, &sizes, &mut weights)?);
            }
            rounds.push(round);
        }
        Ok(Some(rehearsed(&rounds)))
    }
}

/// What steps took on average, the first round aside, of which the others may have too little; a step for which there was
/// no time is taken to be as long as the others.
fn rehearsed(rounds: &[Vec<Option<f64>>]) -> Vec<f64> {
    let count = rounds.first().map_or(0, Vec::len);
    let mean = |times: &[f64]| (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64);
    let times = |step: usize, rounds: &[Vec<Option<f64>>]| -> Vec<f64> {
        rounds.iter().filter_map(|round| round[step]).collect()
    };
    let step = |step: usize| mean(&times(step, &rounds[1..])).or_else(|| mean(&times(step, rounds)));
    let steps: Vec<Option<f64>> = (0..count).map(step).collect();
    let known: Vec<f64> = steps.iter().flatten().copied().collect();
    let other = mean(&known).unwrap_or(0.0);
    steps.into_iter().map(|seconds| seconds.unwrap_or(other)).collect()
}
