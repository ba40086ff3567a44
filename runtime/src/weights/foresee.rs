//! Where planes are going to lie that come and go or are copied, before any is.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Weights;
use super::pack::Packing;
use super::stream::Streamed;
use crate::error::Error;
use crate::packed::Draft;
use crate::packed::table::Entry;
use crate::residence::Run;

/// Says whether there is room where planes are going to lie so.
pub(crate) type Admit<'a> = dyn Fn(&Foreseen<'_>) -> Result<(), Error> + 'a;

/// Where planes are going to lie.
pub(crate) struct Foreseen<'a> {
    streamed: &'a HashMap<String, Streamed>,
    /// Those that are going to be packed, and where.
    packed: Option<(Arc<Path>, HashMap<&'a str, &'a Entry>)>,
    /// Bytes of memory of our own.
    pub(crate) copied: u64,
}

impl<'a> Foreseen<'a> {
    /// These are packed, and come and go like what does already.
    pub(super) fn packing(weights: &'a Weights, draft: &'a Draft) -> Foreseen<'a> {
        let planes = draft.planes().iter().map(|plane| (plane.name.as_str(), plane)).collect();
        let packed = Some((draft.path().into(), planes));
        Foreseen { streamed: &weights.streamed, packed, copied: weights.copied_bytes }
    }

    /// These are copied, beside what is bound.
    pub(super) fn copying(weights: &'a Weights, packings: &[Packing]) -> Foreseen<'a> {
        let planes = packings.iter().flat_map(|packing| &packing.planes);
        let copied = weights.copied_bytes + planes.map(|plane| plane.len).sum::<u64>();
        Foreseen { streamed: &weights.streamed, packed: None, copied }
    }

    /// What a launch reads that is given these bytes of a plane, or all of it, if that comes and goes.
    pub(crate) fn run(&self, plane: &str, bytes: Option<&Range<u64>>) -> Option<Run> {
        if let Some(streamed) = self.streamed.get(plane) {
            return Some(streamed.run(bytes));
        }
        let (file, planes) = self.packed.as_ref()?;
        let Entry { offset, len, chunk_bytes, .. } = planes.get(plane)?;
        let Range { start, end } = whole_chunks(*len, *chunk_bytes, bytes);
        Some(Run { file: file.clone(), at: offset + start, len: end - start })
    }
}

/// The whole chunks of a plane that cover some bytes of it, or all.
pub(super) fn whole_chunks(len: u64, chunk_bytes: u64, bytes: Option<&Range<u64>>) -> Range<u64> {
    let Some(bytes) = bytes else { return 0..len };
    bytes.start / chunk_bytes * chunk_bytes..bytes.end.next_multiple_of(chunk_bytes).min(len)
}
