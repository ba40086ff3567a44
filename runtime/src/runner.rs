//! Whoever can run a pass: a [`Network`] on a device, a [`Split`](crate::split::Split) over two, or the [`Reference`] interpreter of graphs.

use crate::error::Error;
use crate::network::{Batch, Network};
use crate::reference::Reference;
use crate::trace::Trace;
use crate::weights::Locate;

/// Runs passes.
pub trait Runner: Send {
    /// Runs one pass and gives the wanted rows' logits, one after another.
    fn pass(
        &mut self,
        batch: &Batch,
        locate: &Locate<'_>,
        trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>, Error>;

    /// Does now what the first passes of one sequence would do first: compiles, and reads the weights.
    fn ready(&mut self, locate: &Locate<'_>) -> Result<(), Error>;

    /// The same without reading weights, where they come and go within a limit; they are packed if they never were.
    fn prepare(&mut self, locate: &Locate<'_>) -> Result<(), Error> {
        self.ready(locate)
    }

    /// Runs the pass of a tile of an image that has so many rows; its outputs are taps.
    fn image(&mut self, tokens: usize, pixels: &[f32], locate: &Locate<'_>) -> Result<(), Error>;

    /// The named output of the last pass (a tap), for its first `rows` rows.
    fn tap(&mut self, name: &str, rows: usize) -> Result<Vec<f32>, Error>;

    /// Pages of the cache.
    fn pages(&self) -> usize;

    /// Says how many bytes of the host's memory are kept for it beside: a limit counts them, and has them left now.
    ///
    /// # Errors
    /// The limit does not hold them, or what must leave memory for them cannot be written.
    fn keep_beside(&mut self, bytes: u64) -> Result<(), Error> {
        let _no_limit = bytes;
        Ok(())
    }

    /// Says that nobody wants what the cache holds: what no sequence has pages of need not be kept anywhere.
    fn forget(&mut self) {}

    /// The networks that run kernels, in the order of their layers: none where graphs are interpreted.
    fn networks(&self) -> Vec<&Network>;
}

impl Runner for Network {
    fn pass(
        &mut self,
        batch: &Batch,
        locate: &Locate<'_>,
        trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>, Error> {
        Network::pass(self, batch, locate, trace)
    }

    fn ready(&mut self, locate: &Locate<'_>) -> Result<(), Error> {
        Network::ready(self, true, locate)
    }

    fn prepare(&mut self, locate: &Locate<'_>) -> Result<(), Error> {
        self.prepare_first(true, locate)
    }

    fn image(&mut self, tokens: usize, pixels: &[f32], locate: &Locate<'_>) -> Result<(), Error> {
        Network::image(self, tokens, pixels, locate)
    }

    fn tap(&mut self, name: &str, rows: usize) -> Result<Vec<f32>, Error> {
        Network::tap(self, name, rows)
    }

    fn pages(&self) -> usize {
        Network::pages(self)
    }

    fn keep_beside(&mut self, bytes: u64) -> Result<(), Error> {
        Network::keep_beside(self, bytes)
    }

    fn forget(&mut self) {
        Network::forget(self);
    }

    fn networks(&self) -> Vec<&Network> {
        vec![self]
    }
}

impl Runner for Reference {
    fn pass(&mut self, batch: &Batch, locate: &Locate<'_>, _: Option<&mut Trace>) -> Result<Vec<f32>, Error> {
        Reference::pass(self, batch, locate)
    }

    /// Nothing is compiled here, and weights are read when a graph asks for them.
    fn ready(&mut self, _: &Locate<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn image(&mut self, tokens: usize, pixels: &[f32], locate: &Locate<'_>) -> Result<(), Error> {
        Reference::image(self, tokens, pixels, locate)
    }

    fn tap(&mut self, name: &str, rows: usize) -> Result<Vec<f32>, Error> {
        Reference::tap(self, name, rows)
    }

    fn pages(&self) -> usize {
        Reference::pages(self)
    }

    fn networks(&self) -> Vec<&Network> {
        Vec::new()
    }
}
