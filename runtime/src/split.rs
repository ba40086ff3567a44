//! A model on two devices: the first layers on one, the rest and the head on the other.

use std::sync::Arc;

use jtllm_ir::Graph;
use jtllm_ir::cut::cut;

use jtllm_codegen::options::Options;

use crate::cache::KernelCache;
use crate::device::Device;
use crate::error::Error;
use crate::network::{Batch, Bucket, Graphs, Network, Part};
use crate::packed::Keeping;
use crate::residence::{Limit, Most};
use crate::runner::Runner;
use crate::trace::Trace;
use crate::weights::Locate;

/// Two networks that compute one model: what the front leaves of each pass is copied to the back.
pub struct Split {
    front: Network,
    back: Network,
}

/// The part of the host's limit that is for weights on their way to a device, where the processor has layers of its own.
const ON_THE_WAY: u64 = 4;

/// One part of a model's graphs.
struct Half {
    graphs: Arc<dyn Graphs>,
    /// The layer behind which the body is cut.
    layer: usize,
    is_front: bool,
}

impl Graphs for Half {
    fn chunk(&self) -> usize {
        self.graphs.chunk()
    }

    fn graph(&self, part: Part, bucket: Bucket) -> Result<Graph, Error> {
        let graph = self.graphs.graph(part, bucket)?;
        if part != Part::Body {
            return Ok(graph);
        }
        let cut = cut(&graph, self.layer).map_err(|error| Error::Pass { why: error.to_string() })?;
        Ok(if self.is_front { cut.front } else { cut.back })
    }
}

impl Split {
    /// A model of which the layers up to `layer`, counted from 0, run on the first device, and all else on the
    /// second. Each has a cache for `positions` positions of its own layers.
    pub fn new(
        [front, back]: [Arc<dyn Device>; 2],
        graphs: Arc<dyn Graphs>,
        layer: usize,
        options: Options,
        cache: Arc<KernelCache>,
        positions: usize,
    ) -> Split {
        let half = |is_front| Box::new(Half { graphs: graphs.clone(), layer, is_front });
        Split {
            front: Network::new(front, half(true), options, cache.clone(), positions),
            back: Network::new(back, half(false), options, cache, positions),
        }
    }

    /// Keeps the weights of those layers within a limit whose device's memory is the host's.
    ///
    /// # Errors
    /// As [`Network::within`].
    pub fn within(self, limit: &Limit) -> Result<Split, Error> {
        Ok(Split { front: self.front.within(limit)?, back: self.back.within(limit)? })
    }

    /// Keeps the second device's part of the model within so many bytes of its own memory. Of a limit of the host's memory
    /// a quarter is for what is on its way there.
    ///
    /// # Errors
    /// As [`Network::within`].
    pub fn apart(self, limit: &Limit, bytes: u64) -> Result<Split, Error> {
        let (mut front, mut way) = (limit.clone(), limit.clone());
        if let Most::Process(all) = limit.most {
            front.most = Most::Process(all - all / ON_THE_WAY);
            way.most = Most::Weights(all / ON_THE_WAY);
        }
        Ok(Split { front: self.front.within(&front)?, back: self.back.apart(&way, bytes)? })
    }

    /// Keeps packed weights, and looks for those that were kept.
    pub fn keeping(self, keeping: &Keeping) -> Split {
        Split { front: self.front.keeping(keeping.clone()), back: self.back.keeping(keeping.clone()) }
    }
}

impl Runner for Split {
    fn pass(
        &mut self,
        batch: &Batch,
        locate: &Locate<'_>,
        mut trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>, Error> {
        self.front.arrange(batch, false, locate)?;
        self.front.body(batch, &[], locate, trace.as_deref_mut())?;
        let carried = self.front.carry()?;
        // Rows of images take the place of embeddings, which are the front's.
        let seen;
        let batch = match batch.shown {
            Some(_) => {
                seen = Batch { shown: None, ..batch.clone() };
                &seen
            }
            None => batch,
        };
        self.back.arrange(batch, true, locate)?;
        let bucket = self.back.body(batch, &carried, locate, trace.as_deref_mut())?;
        self.back.head(batch, bucket, locate, trace)
    }

    fn ready(&mut self, locate: &Locate<'_>) -> Result<(), Error> {
        self.front.ready(false, locate)?;
        self.back.ready(true, locate)
    }

    fn image(&mut self, tokens: usize, pixels: &[f32], locate: &Locate<'_>) -> Result<(), Error> {
        self.back.image(tokens, pixels, locate)
    }

    fn tap(&mut self, name: &str, rows: usize) -> Result<Vec<f32>, Error> {
        match self.front.has_output(name) {
            true => self.front.tap(name, rows),
            false => self.back.tap(name, rows),
        }
    }

    fn pages(&self) -> usize {
        self.back.pages()
    }

    fn keep_beside(&mut self, bytes: u64) -> Result<(), Error> {
        self.front.keep_beside(bytes)
    }

    fn forget(&mut self) {
        self.front.forget();
        self.back.forget();
    }

    fn networks(&self) -> Vec<&Network> {
        vec![&self.front, &self.back]
    }
}
