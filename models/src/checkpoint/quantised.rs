//! Checkpoints that ChatGLM's own code quantised: `quantization_bit` in the configuration, matrices of bytes, and
//! beside each its rows' scales.

use std::collections::HashMap;

use super::TensorEntry;
use super::open::Weights;
use crate::config::Config;
use crate::error::LoadError;

const FIELD: &str = "quantization_bit";

/// What follows the name of a matrix in that of its scales.
const SCALE: &str = "_scale";

/// Gives packed matrices their shape in numbers, and their scales one row each. Other tensors stay as they are,
/// and so does a checkpoint that does not say that it is packed.
pub(super) fn joined(config: &Config, mut weights: Weights) -> Result<Weights, LoadError> {
    let (encoding, per_byte) = match config.optional_count(FIELD, 0..=16)? {
        None | Some(0) => return Ok(weights),
        Some(8) => ("chatglm_int8", 1),
        Some(4) => ("chatglm_int4", 2),
        Some(_) => return Err(config.wrong(FIELD, "4 or 8")),
    };
    let by_name: HashMap<String, usize> =
        weights.tensors.iter().enumerate().map(|(at, entry)| (entry.name.clone(), at)).collect();
    for at in 0..weights.tensors.len() {
        let entry = &weights.tensors[at];
        let Some(&scale) = by_name.get(&format!("{}{SCALE}", entry.name)) else {
            if entry.encoding == "i8" {
                return Err(fault(entry, "a matrix of bytes without its scales".to_owned()));
            }
            continue;
        };
        check(entry, &weights.tensors[scale])?;
        unpacked(&mut weights.tensors[at], encoding, per_byte)?;
        column(&mut weights.tensors[scale]);
    }
    Ok(weights)
}

fn fault(entry: &TensorEntry, why: String) -> LoadError {
    let file = entry.pieces.first().map(|piece| piece.storage.path().to_owned()).unwrap_or_default();
    LoadError::tensor(&file, &entry.name, why)
}

fn check(matrix: &TensorEntry, scale: &TensorEntry) -> Result<(), LoadError> {
    let [rows, _] = matrix.shape.as_slice() else {
        return Err(fault(matrix, format!("shape {:?}, expected rows and columns of bytes", matrix.shape)));
    };
    if matrix.encoding != "i8" {
        return Err(fault(matrix, format!("{} beside scales, expected i8", matrix.encoding)));
    }
    if scale.encoding != "f16" || scale.shape != [*rows] {
        let found = format!("{} of shape {:?}", scale.encoding, scale.shape);
        return Err(fault(scale, format!("{found}, expected f16, one number for each of {rows} rows")));
    }
    Ok(())
}

/// The matrix as its numbers count.
fn unpacked(entry: &mut TensorEntry, encoding: &'static str, per_byte: u64) -> Result<(), LoadError> {
    /// Numbers of a word into which columns are taken apart.
    const WORD: u64 = 4;
    let columns = entry.shape[1];
    if !columns.is_multiple_of(WORD) {
        return Err(fault(entry, format!("rows of {columns} bytes, expected a multiple of {WORD}")));
    }
    let wide = |count: u64| {
        count.checked_mul(per_byte).ok_or_else(|| fault(entry, format!("rows of {count} bytes")))
    };
    let shape = vec![entry.shape[0], wide(columns)?];
    let cols: Result<Vec<u64>, LoadError> = entry.pieces.iter().map(|piece| wide(piece.cols)).collect();
    let cols = cols?;
    entry.pieces.iter_mut().zip(cols).for_each(|(piece, cols)| piece.cols = cols);
    (entry.encoding, entry.shape) = (encoding, shape);
    Ok(())
}

/// A vector as a matrix of one column.
fn column(entry: &mut TensorEntry) {
    const SIZE: u64 = 2;
    entry.shape.push(1);
    // A vector whose numbers stand one after another is one row.
    for piece in entry.pieces.iter_mut().filter(|piece| piece.rows == 1) {
        (piece.rows, piece.cols, piece.stride) = (piece.cols, 1, SIZE);
    }
}
