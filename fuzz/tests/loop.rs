//! The fuzz loop keeps what it promises.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use jtllm_fuzz::{Random, for_seconds};

#[test]
fn the_loop_varies_its_input() {
    let seen = RefCell::new(std::collections::BTreeSet::new());
    for_seconds("loop", |random| {
        seen.borrow_mut().insert(random.bytes(32));
    });
    assert!(seen.borrow().len() > 100);
}

#[test]
fn a_case_depends_on_its_seed_alone() {
    let draw = |seed| {
        let mut random = Random::new(seed);
        (
            random.bytes(64),
            random.below(1000),
            random.text(&["a", "(", ")"], 20),
            random.mutated(b"{\"key\": 17}"),
        )
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn a_failing_case_fails_the_test() {
    let cases = Cell::new(0);
    let failed = catch_unwind(AssertUnwindSafe(|| {
        for_seconds("failing", |random| {
            cases.set(cases.get() + 1);
            assert!(random.below(8) != 3, "planted");
        });
    }));
    assert!(failed.is_err());
    assert!(cases.get() > 0);
}

#[test]
fn mutation_changes_and_bounds_hold() {
    let mut random = Random::new(1);
    let valid = b"0123456789".repeat(4);
    let mut changed = 0;
    for _ in 0..1000 {
        let bytes = random.mutated(&valid);
        assert!(bytes.len() <= valid.len() + 4 * 16);
        changed += usize::from(bytes != valid);
        assert!(random.mutated(b"").len() <= 16 + 4 * 16);
        assert!(random.below(5) < 5);
    }
    assert!(changed > 900);
}
