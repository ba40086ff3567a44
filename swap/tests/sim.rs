//! The simulator: the table of policies, the limits of disk and processor, three tiers, blobs that change.
#![allow(clippy::unwrap_used)]

use jtllm_swap::sim::{Forecast, Scenario, Speeds, Step, run};
use jtllm_swap::{Blob, Budget, Policy, Source, SwapError, Tier};
use proptest::prelude::*;

const MB: u64 = 1_000_000;

/// A ring of equal blobs, one a step, of which `fits` fit; the disk takes a second for each.
fn ring(count: usize, fits: u64, policy: Policy, seconds: f64) -> Scenario {
    Scenario {
        blobs: vec![Blob::new(MB, "weights", Source::File); count],
        steps: (0..count).map(|blob| Step { uses: vec![blob], changes: vec![], seconds }).collect(),
        budget: Budget::unlimited().with(Tier::Host, fits * MB),
        tiers: vec![(Tier::Host, policy)],
        speeds: Speeds { disk_bytes_per_s: MB as f64, disk_latency_s: 0.0, bus_bytes_per_s: 1e10 },
    }
}

fn close(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() <= 0.01 * wanted.abs() + 1e-9
}

/// Blobs that a pass loads when the one used least recently makes room.
fn least_recent(count: usize, fits: usize) -> usize {
    let mut there: Vec<usize> = Vec::new();
    let mut misses = 0;
    for pass in 0..4 {
        for blob in 0..count {
            let hit = there.iter().position(|found| *found == blob);
            match hit {
                Some(at) => drop(there.remove(at)),
                None => {
                    misses += usize::from(pass == 3);
                    if there.len() == fits {
                        there.remove(0);
                    }
                }
            }
            there.push(blob);
        }
    }
    misses
}

/// A head that is as long as ten matrices: as a part of the ring it would fill all memory at one moment of each pass.
#[test]
fn what_is_much_larger_stays_so_that_the_ring_is_small() {
    let mut scenario = ring(21, 16, Policy::Stream { ring_bytes: 0 }, 1.0);
    scenario.blobs[20] = Blob::new(10 * MB, "weights", Source::File);
    scenario.speeds.disk_bytes_per_s = 100.0 * MB as f64;
    let forecast = run(&scenario, 20).unwrap();
    // Of 16 the head has 10 and the ring 2: 4 of the other 20 stay.
    assert!(close(forecast.moves, 16.0), "{} moves", forecast.moves);
    assert!(forecast.peak_bytes[1] <= 16 * MB);
}

/// N = 28 equal blobs, C of which fit: the shares that are loaded in each pass by the three policies.
#[test]
fn the_table_of_policies() {
    const N: usize = 28;
    for (fits, furthest, two_slots) in
        [(27, 0.039, 0.107), (24, 0.15, 0.21), (20, 0.30, 0.36), (14, 0.52, 0.57), (7, 0.78, 0.82)]
    {
        assert_eq!(least_recent(N, fits), N);
        let share = |policy, seconds| {
            let forecast = run(&ring(N, fits as u64, policy, seconds), 27).unwrap();
            assert!(forecast.peak_bytes[1] <= fits as u64 * MB);
            forecast.moves / N as f64
        };
        let found = share(Policy::FurthestUse { window_bytes: 0 }, 0.0);
        let exact = (N - fits) as f64 / (N - 1) as f64;
        assert!(close(found, exact), "{fits}: {found}, not {exact}");
        assert!((exact - furthest).abs() <= 0.005);
        // The disk is fast enough to read every blob that does not stay ahead of its use.
        let found = share(Policy::Stream { ring_bytes: 0 }, 2.0);
        let exact = (N - fits + 2) as f64 / N as f64;
        assert!(close(found, exact), "{fits}: {found}, not {exact}");
        assert!((exact - two_slots).abs() <= 0.005);
    }
}

/// Reading beside computing: a streamed pass takes as long as the slower of the two, whatever that is.
#[test]
fn a_streamed_pass_takes_as_long_as_its_slower_half() {
    for fits in [7, 14, 20, 24] {
        for seconds in [0.0, 0.1, 0.3, 0.9, 2.0] {
            let forecast = run(&ring(28, fits, Policy::Stream { ring_bytes: 0 }, seconds), 20).unwrap();
            let (reading, computing) = ((28 - fits + 2) as f64, 28.0 * seconds);
            let ideal = reading.max(computing);
            // Two slots cannot hide everything where both take about as long.
            assert!(
                forecast.seconds <= ideal + reading.min(computing) * 0.12 + 1e-6,
                "{fits} {seconds}: {forecast:?}"
            );
            assert!(close(forecast.seconds, computing + forecast.stall_seconds));
            assert!(forecast.bytes_read <= reading * MB as f64 + 1.0, "{forecast:?}");
        }
    }
}

/// With more slots the disk never rests, and no byte is read twice in a pass.
#[test]
fn a_ring_of_a_few_blobs_keeps_the_disk_busy() {
    let ring_bytes = 4 * MB;
    for seconds in [0.1, 0.3, 0.5] {
        let forecast = run(&ring(28, 14, Policy::Stream { ring_bytes }, seconds), 20).unwrap();
        assert!(close(forecast.bytes_read, 18.0 * MB as f64), "{forecast:?}");
        assert!(forecast.seconds <= 18.0_f64.max(28.0 * seconds) * 1.02, "{forecast:?}");
    }
}

#[test]
fn what_fits_is_read_once() {
    let policies = [Policy::FurthestUse { window_bytes: u64::MAX }, Policy::Stream { ring_bytes: 2 * MB }];
    for policy in policies {
        let forecast = run(&ring(28, 28, policy, 0.5), 3).unwrap();
        assert_eq!((forecast.moves, forecast.stall_seconds), (0.0, 0.0));
        assert!(close(forecast.seconds, 14.0));
        assert!(close(forecast.first_seconds, 28.5), "{forecast:?}");
    }
}

#[test]
fn a_step_that_does_not_fit_says_what_is_missing() {
    let mut scenario = ring(4, 2, Policy::Stream { ring_bytes: 0 }, 1.0);
    scenario.steps[1].uses = vec![0, 1, 2];
    let full = SwapError::Full { tier: Tier::Host, need: 3 * MB, have: 2 * MB };
    assert_eq!(run(&scenario, 1), Err(full));
}

/// 100 blobs of 1 MB, 20 MB of device, 50 MB of host: the case of Jittor's own test.
#[test]
fn three_tiers_in_motion() {
    let mut scenario = ring(100, 50, Policy::Stream { ring_bytes: 4 * MB }, 0.01);
    scenario.budget = scenario.budget.with(Tier::Device, 20 * MB);
    scenario.tiers.push((Tier::Device, Policy::Stream { ring_bytes: 4 * MB }));
    scenario.speeds.bus_bytes_per_s = 50.0 * MB as f64;
    let forecast = run(&scenario, 5).unwrap();
    // 16 stay on the device; of the 84 that are copied, 46 stay on the host and 38 are read. A blob that is in one of
    // the rings by chance is not moved, so it may be a few less; what fits at all, less cannot be.
    assert!((80.0..=84.0).contains(&(forecast.bytes_copied / MB as f64)), "{forecast:?}");
    assert!((30.0..=38.0).contains(&(forecast.bytes_read / MB as f64)), "{forecast:?}");
    assert!(forecast.seconds <= 38.0 * 1.02, "{forecast:?}");
    assert!(forecast.peak_bytes[0] <= 20 * MB && forecast.peak_bytes[1] <= 50 * MB);
    assert_eq!(forecast.bytes_written, 0.0);
}

/// Pages that change in each pass stay before weights do; where even they do not fit, they are written.
#[test]
fn what_changes_stays_if_it_can() {
    let pages = |fits| {
        let mut scenario = ring(20, fits, Policy::Stream { ring_bytes: 3 * MB }, 0.1);
        for blob in 10..20 {
            scenario.blobs[blob] = Blob::new(MB, "pages", Source::Nowhere);
        }
        for step in 0..20 {
            scenario.steps[step].changes = if step < 10 { vec![] } else { vec![step] };
        }
        run(&scenario, 5).unwrap()
    };
    assert_eq!(pages(15).bytes_written, 0.0);
    assert!(close(pages(15).bytes_read, 8.0 * MB as f64), "{:?}", pages(15));
    let tight = pages(8);
    assert!(close(tight.bytes_written, 5.0 * MB as f64), "{tight:?}");
    assert!(close(tight.bytes_read, 15.0 * MB as f64), "{tight:?}");
}

proptest! {
    /// Whatever the blobs are: limits hold, stalls are what a pass takes beside computing, and nobody waits for ever.
    #[test]
    fn any_scenario_keeps_its_limits(
        lens in prop::collection::vec((1..100u64, any::<bool>()), 1..30),
        steps in prop::collection::vec((prop::collection::vec(0..30usize, 0..4), any::<bool>()), 1..40),
        limits in (100..1500u64, 100..1500u64), three in any::<bool>(), ring in 0..300u64, window in 0..500u64, stream in any::<bool>(),
    ) {
        let policy = if stream { Policy::Stream { ring_bytes: ring } } else { Policy::FurthestUse { window_bytes: window } };
        let mut scenario = ring_of(&lens, &steps);
        scenario.budget = Budget::unlimited().with(Tier::Host, limits.0).with(Tier::Device, limits.1);
        scenario.tiers = vec![(Tier::Host, policy)];
        if three {
            scenario.tiers.push((Tier::Device, policy));
        }
        match run(&scenario, 2) {
            Ok(Forecast { peak_bytes, seconds, stall_seconds, .. }) => {
                prop_assert!(peak_bytes[0] <= limits.1 && peak_bytes[1] <= limits.0);
                let computing: f64 = scenario.steps.iter().map(|step| step.seconds).sum();
                prop_assert!((seconds - computing - stall_seconds).abs() < 1e-6);
            }
            Err(error) => {
                let most = scenario.steps.iter().map(|step| step.uses.iter().map(|blob| scenario.blobs[*blob].len).sum::<u64>());
                let need = most.max().unwrap();
                let top = if three { limits.1 } else { limits.0 };
                // What moves below has one blob's room at least; what is used at once fits only together.
                prop_assert!(matches!(error, SwapError::Full { .. }), "{error}");
                prop_assert!(need > top || (three && limits.0 < 300), "{error} though {need} of {top} are needed");
            }
        }
    }
}

fn ring_of(lens: &[(u64, bool)], steps: &[(Vec<usize>, bool)]) -> Scenario {
    let mut scenario = ring(0, 0, Policy::Stream { ring_bytes: 0 }, 0.0);
    for (len, changes) in lens {
        let source = if *changes { Source::Nowhere } else { Source::File };
        scenario.blobs.push(Blob::new(*len, "blob", source));
    }
    for (uses, changing) in steps {
        let mut uses: Vec<usize> = uses.iter().map(|blob| blob % lens.len()).collect();
        uses.sort_unstable();
        uses.dedup();
        let changes = uses.iter().copied().filter(|blob| *changing && lens[*blob].1).collect();
        scenario.steps.push(Step { uses, changes, seconds: 1e-6 });
    }
    scenario
}
