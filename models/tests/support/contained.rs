//! Fuzz tests of code that makes an error of a panic in a crate that is not ours: such panics are many, and
//! not worth a line each.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Once;

use jtllm_fuzz::Random;

static INSTALLED: Once = Once::new();

thread_local! {
    /// The last panic in a crate that is not ours.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Shows that panic if nothing made an error of it.
struct Uncontained;

impl Drop for Uncontained {
    fn drop(&mut self) {
        if std::thread::panicking() {
            LAST.with_borrow(|last| eprintln!("the last panic of another crate: {last}"));
        }
    }
}

/// As [`jtllm_fuzz::for_seconds`], without the words of panics of other crates.
pub(crate) fn for_seconds(name: &str, property: impl Fn(&mut Random)) {
    INSTALLED.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Cargo compiles the workspace by relative paths, and what comes from elsewhere by absolute ones.
            if panic.location().is_some_and(|place| Path::new(place.file()).is_absolute()) {
                LAST.with_borrow_mut(|last| *last = panic.to_string());
            } else {
                usual(panic);
            }
        }));
    });
    jtllm_fuzz::for_seconds(name, |random| {
        let _shown = Uncontained;
        property(random);
    });
}
