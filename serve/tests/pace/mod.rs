//! Answers on a clock of their own: what guessing takes, compared with a pass for each token.

use std::time::Duration;

use super::Pace;

const TOKENS: usize = 2000;

/// Seconds of a pass of so many rows, in passes of one row.
type Cost = fn(usize) -> f64;

/// As where weights come from disk.
const STREAMED: Cost = |rows| 1.0 + 0.005 * (rows - 1) as f64;

/// As on a processor whose caches do not hold the weights.
const CACHED: Cost = |rows| 1.0 + 0.1 * (rows - 1) as f64;

/// As where arithmetic is what takes the time.
const COUNTED: Cost = |rows| rows as f64;

/// How long an answer takes, in passes of one row a token, where making a plan takes so many passes and the text repeats
/// itself at the tokens that `repeats` names.
fn time(pace: &mut Pace, cost: Cost, making: f64, repeats: &dyn Fn(usize) -> bool) -> f64 {
    let (mut at, mut alike, mut time) = (0, 1, 0.0);
    let mut made = [false; 5];
    pace.begin(Duration::from_secs_f64(making));
    while at < TOKENS {
        let count = pace.count(alike, 15, TOKENS - at);
        let rows = (1 + count).next_power_of_two();
        let plan = &mut made[rows.ilog2() as usize];
        let first = rows > 1 && !std::mem::replace(plan, true);
        let pass = cost(rows) + if first { making } else { 0.0 };
        pace.took(1 + count, Duration::from_secs_f64(pass));
        time += pass;
        for guess in 0..=count {
            let right = repeats(at);
            pace.learn(alike, right);
            at += 1;
            alike = if right { (alike + 1).min(16) } else { 1 + at % 3 };
            if !right || guess == count || at == TOKENS {
                break;
            }
        }
    }
    time / TOKENS as f64
}

/// The same for each token of each text, and as good as chance.
fn chance(at: usize, of: f64) -> bool {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f64 / f64::from(1 << 24) < of
}

#[test]
fn a_text_that_does_not_repeat_itself_takes_no_longer() {
    for (name, cost) in [("streamed", STREAMED), ("cached", CACHED), ("counted", COUNTED)] {
        for making in [0.0, 1.0, 10.0] {
            for of in [0.0, 0.05, 0.1] {
                let found = time(&mut Pace::new(true), cost, making, &|at| chance(at, of));
                assert!(found <= 1.01, "{name}, {of} right, {making} for a plan: {found}");
            }
        }
    }
}

#[test]
fn where_rows_cost_as_much_as_passes_nothing_is_lost_at_any_chance() {
    for of in [0.2, 0.4, 0.6, 0.8, 0.95, 1.0] {
        let found = time(&mut Pace::new(true), COUNTED, 4.0, &|at| chance(at, of));
        assert!(found <= 1.01, "{of} right: {found}");
    }
}

#[test]
fn a_text_that_repeats_itself_takes_a_fraction() {
    let always = |cost| time(&mut Pace::new(true), cost, 4.0, &|_| true);
    assert!(always(STREAMED) < 0.1, "{}", always(STREAMED));
    assert!(always(CACHED) < 0.2, "{}", always(CACHED));
    // Forty tokens of each hundred, one after another.
    let runs = |cost| time(&mut Pace::new(true), cost, 4.0, &|at| at % 100 < 40);
    assert!(runs(STREAMED) < 0.72, "{}", runs(STREAMED));
    assert!(runs(CACHED) < 0.85, "{}", runs(CACHED));
}

#[test]
fn guesses_that_are_wanted_anyway_end_where_they_are_never_right() {
    let mut pace = Pace::new(false);
    assert_eq!(pace.count(16, 15, 100), 15);
    assert_eq!((pace.count(16, 15, 9), pace.count(16, 15, 2)), (3, 0));
    (0..1000).for_each(|_| pace.learn(16, false));
    assert_eq!(pace.count(16, 15, 100), 0);
    (0..1000).for_each(|_| pace.learn(16, true));
    assert_eq!(pace.count(16, 15, 100), 15);
}
