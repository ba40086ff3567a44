//! A folder for swap files.

use jtllm_swap::os;
use tempfile::TempDir;

/// A folder that does not lie in memory, as the temporary ones of some machines do: no swap file may be there. None if there
/// is no other either, which is said.
pub(crate) fn on_disk() -> Option<TempDir> {
    let places = [std::env::temp_dir(), env!("CARGO_TARGET_TMPDIR").into()];
    let place = places.iter().find(|place| !os::is_in_memory(place));
    if place.is_none() {
        println!("skipped: {places:?} lie in memory");
    }
    place.map(|place| tempfile::tempdir_in(place).unwrap())
}
