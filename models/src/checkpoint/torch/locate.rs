//! From a tensor's description to its bytes in the file.

use super::value::{self, Object, Value};
use super::{Contents, Storages, Tensor};
use crate::error::{LoadError, quoted};

/// Most dimensions of a tensor.
const DIMENSIONS_MAX: usize = 64;

impl Contents<'_> {
    fn span(&self, key: &str) -> Result<Option<(u64, u64)>, LoadError> {
        match &self.storages {
            Storages::Legacy(found) => Ok(found.get(key).copied()),
            Storages::Zip { zip, folder } => zip.find(&format!("{folder}/data/{key}")),
        }
    }

    /// The whole numbers of a tuple.
    fn sizes(&self, tuple: u32) -> Option<Vec<u64>> {
        let Object::Tuple(members) = &self.objects[tuple as usize] else { return None };
        let size = |member: &Value<'_>| match member {
            Value::Int(size) => u64::try_from(*size).ok(),
            _ => None,
        };
        if members.len() > DIMENSIONS_MAX { None } else { members.iter().map(size).collect() }
    }

    /// Checks a tensor against its storage, and that storage against the file.
    pub(super) fn locate(&self, name: String, tensor: &value::Tensor) -> Result<Tensor, LoadError> {
        let fault = |why: String| LoadError::tensor(self.file, &name, why);
        let element = tensor.element;
        let Object::Storage(storage) = &self.objects[tensor.storage as usize] else {
            return Err(fault("it has no storage".to_owned()));
        };
        let sizes = |tuple| {
            let expected = format!("its shape and strides must be at most {DIMENSIONS_MAX} whole numbers");
            self.sizes(tuple).ok_or_else(|| fault(expected))
        };
        let (shape, strides) = (sizes(tensor.shape)?, sizes(tensor.strides)?);
        if shape.len() != strides.len() {
            return Err(fault(format!("{} dimensions with {} strides", shape.len(), strides.len())));
        }
        let span = self.span(storage.key)?;
        let (start, found) =
            span.ok_or_else(|| fault(format!("its storage {} is not in the file", quoted(storage.key))))?;
        let stored = storage.count.checked_mul(storage.element.map_or(1, |element| element.bytes));
        let Some(stored) = stored.filter(|&stored| stored <= found) else {
            return Err(fault(format!("its storage of {} elements has {found} bytes", storage.count)));
        };
        let Rows { rows, cols, distance } = Rows::of(&shape, &strides).map_err(fault)?;
        // All of this is zero for a tensor without elements, wherever it claims to lie.
        let extent = (|| {
            let last = distance.checked_mul(rows.saturating_sub(1))?.checked_add(cols)?;
            let last = if rows * cols == 0 { 0 } else { last };
            let offset = if last == 0 { 0 } else { tensor.offset };
            let [len, offset, stride] =
                [last, offset, distance].map(|count| count.checked_mul(element.bytes));
            Some((len?, offset?, stride?))
                .filter(|(len, offset, _)| offset.checked_add(*len).is_some_and(|end| end <= stored))
        })();
        let (len, offset, stride) = extent.ok_or_else(|| {
            fault(format!(
                "shape {shape:?} with strides {strides:?} from element {} on leads out of its storage of {stored} bytes",
                tensor.offset
            ))
        })?;
        Ok(Tensor { name, element, shape, offset: start + offset, len, rows, cols, stride })
    }
}

/// A tensor as rows.
struct Rows {
    rows: u64,
    cols: u64,
    /// Elements from one row to the next.
    distance: u64,
}

impl Rows {
    /// The elements of a row must lie side by side, and the rows at equal distances without touching.
    fn of(shape: &[u64], strides: &[u64]) -> Result<Rows, String> {
        let fault = || {
            format!(
                "shape {shape:?} with strides {strides:?} is not made of whole rows; save it with .contiguous()"
            )
        };
        let Some((&cols, outer)) = shape.split_last() else {
            return Ok(Rows { rows: 1, cols: 1, distance: 1 });
        };
        let overflow = || format!("shape {shape:?} overflows 2^64 elements");
        let rows = outer.iter().try_fold(1u64, |rows, &size| rows.checked_mul(size)).ok_or_else(overflow)?;
        if rows.checked_mul(cols).ok_or_else(overflow)? == 0 {
            return Ok(Rows { rows, cols, distance: cols });
        }
        if cols > 1 && strides.last() != Some(&1) {
            return Err(fault());
        }
        let mut distance = None;
        let mut expected = 0u64;
        for (&size, &stride) in outer.iter().zip(strides).rev().filter(|(size, _)| **size > 1) {
            if distance.is_some() && stride != expected {
                return Err(fault());
            }
            distance.get_or_insert(stride);
            expected = stride.checked_mul(size).ok_or_else(overflow)?;
        }
        let distance = distance.unwrap_or(cols);
        if distance < cols { Err(fault()) } else { Ok(Rows { rows, cols, distance }) }
    }
}
