//! What plans are going to take within a limit, before they are made.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jtllm_codegen::Compilation;
use jtllm_codegen::schedule::Argument;
use jtllm_swap::BlobId;

use super::own::shares;
use super::{Bucket, Network, Part};
use crate::error::Error;
use crate::plan::Plan;
use crate::residence::{Own, Residence, Used};
use crate::weights::foresee::Foreseen;

/// What a model is going to hold with some more plans, whatever becomes of their weights.
pub(super) struct Foresight<'a> {
    residence: Arc<Residence>,
    compiled: &'a [Compilation],
    /// The states that come and go.
    paged: HashMap<String, BlobId>,
    own: Own,
    plans: usize,
    /// Bytes of the host's memory that logits go out through.
    through: u64,
}

impl Network {
    /// What these parts are going to take, whose states are there; nothing where there is no limit.
    ///
    /// # Errors
    /// Those of making their plans.
    pub(super) fn foresight<'a>(
        &mut self,
        parts: &[(Part, Bucket)],
        compiled: &'a [Compilation],
    ) -> Result<Option<Foresight<'a>>, Error> {
        let Some(residence) = self.weights.residence().cloned() else { return Ok(None) };
        let (mut buffers, mut logits) = (0, self.logits_bytes());
        for ((part, bucket), compilation) in parts.iter().zip(compiled) {
            let shared = self.shared(*part, compilation)?;
            let (limits, fixed) = (self.limits(*part, *bucket), self.sizes(&[]));
            let measured = Plan::measure(compilation, &self.bindings(&limits, &fixed, &shared))?;
            buffers += measured.bytes;
            logits = logits.max(measured.logits);
        }
        let (own, paged) = (self.own(), self.paged.clone());
        let own = Own { buffers: own.buffers + buffers, ..own };
        let (plans, through) = (self.plans.len() + parts.len(), self.through(logits));
        Ok(Some(Foresight { residence, compiled, paged, own, plans, through }))
    }
}

impl Foresight<'_> {
    /// Fails if the limits do not hold that, with weights where they are foreseen.
    ///
    /// # Errors
    /// They are too low.
    pub(super) fn admit(&self, foreseen: &Foreseen<'_>) -> Result<(), Error> {
        let used = |argument: &Argument| match argument {
            Argument::Weight(name) => foreseen.run(name, None).map(Used::Run),
            Argument::Part(name, bytes) => foreseen.run(name, Some(bytes)).map(Used::Run),
            Argument::State(name) => self.paged.get(name).copied().map(Used::Pages),
            _ => None,
        };
        let launches = self.compiled.iter().flat_map(|part| &part.steps);
        let steps: Vec<HashSet<Used>> =
            launches.map(|launch| launch.arguments.iter().filter_map(used).collect()).collect();
        let own = Own { copied: foreseen.copied, ..self.own };
        let [host, apart] = shares(&self.residence, own, self.plans, self.through);
        self.residence.foresee(host, apart, &steps)
    }
}
