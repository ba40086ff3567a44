//! A trial of drivers that compute on the processor: Mesa before 24 ends every loop after 65535 turns, without a
//! word, and gives wrong sums.

use super::{Adapter, NoAdapter};
use crate::device::{Device, DeviceError};

/// Turns of the trial's loop.
const TURNS: u32 = 200_000;

/// Counts in a loop whose end the driver cannot know.
const TEXT: &str = "\
@group(0) @binding(0) var<uniform> symbols: array<vec4<i32>, 16>;
@group(0) @binding(1) var<storage, read_write> p0: array<u32>;
@compute @workgroup_size(1)
fn main() {
  var count = 0u;
  for (var turn = 0; turn < symbols[0][0]; turn++) { count += 1u + (p0[1] & count); }
  p0[0] = count;
}
";

/// Fails if a loop ends early.
pub(super) fn counts(adapter: &Adapter) -> Result<(), NoAdapter> {
    let failed = |error: DeviceError| NoAdapter(error.to_string());
    let counted = count(adapter).map_err(failed)?;
    match counted == TURNS {
        true => Ok(()),
        false => Err(NoAdapter(format!(
            "{} ends a loop of {TURNS} turns after {counted}: it is too old to compute with (Mesa 24 or later is needed)",
            adapter.info().name
        ))),
    }
}

fn count(adapter: &Adapter) -> Result<u32, DeviceError> {
    let program = adapter.compile("trial", TEXT.as_bytes(), 1)?;
    let (symbols, counted) = (adapter.alloc(256)?.span(), adapter.alloc(8)?.span());
    adapter.write(&symbols, &TURNS.to_le_bytes())?;
    adapter.launch(&program, [1, 1, 1], &symbols, std::slice::from_ref(&counted))?;
    let mut bytes = [0; 4];
    adapter.read(&counted, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
