//! Attention of few rows, whose past is shared out among groups.

#![allow(clippy::unwrap_used)]

mod common;

use common::attend::Places;
use common::case::{Case, int};
use common::{Outputs, compiled_as, run};
use jtllm_codegen::emit::ptx::Ptx;
use jtllm_codegen::options::Options;
use jtllm_codegen::target::{Caps, Target};
use jtllm_ir::{DType, Tensor};

/// Positions before the pass, at and around the borders of blocks.
const PASTS: [usize; 5] = [1, 127, 128, 129, 400];

const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
const WIDTH: usize = 24;

/// Queries of `tokens` rows over a cache of that type.
fn case(tokens: usize, past: usize, keys: DType, window: Option<i64>, alibi: bool) -> Case {
    let mut case = Case::new(&format!("{tokens} rows behind {past}, {keys:?}, {window:?}, {alibi}"));
    // A new key on the border between two numbers of 16 bits may fall either way.
    case.tolerance = if keys == DType::F32 { 1e-5 } else { 1e-3 };
    let mut places = Places::behind(&mut case, &int(tokens), tokens, [past, past / 3], 32);
    let qkv = [("q", HEADS), ("k", KEY_HEADS), ("v", KEY_HEADS)].map(|(name, heads)| {
        case.input(name, &[int(tokens), int(heads), int(WIDTH)], &[tokens, heads, WIDTH])
    });
    if alibi {
        let slopes = (0..HEADS).map(|head| 0.01 / (head + 1) as f32).collect();
        case.bindings.inputs.insert("slopes".to_owned(), Tensor::floats(DType::F32, &[HEADS], slopes));
        places.slopes = Some(case.graph.input("slopes", DType::F32, &[int(HEADS)], None));
    }
    let y = places.attend(&mut case, qkv, keys, window);
    case.graph.output("y", y);
    case
}

/// Rows, past, type of the cache, window, ALiBi.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for past in PASTS {
        for (tokens, keys) in [(1, DType::F16), (2, DType::BF16), (16, DType::F32)] {
            cases.push(case(tokens, past, keys, None, false));
            cases.push(case(tokens, past, keys, Some(100), false));
            cases.push(case(tokens, past, keys, None, true));
        }
    }
    cases
}

/// The outputs, and how many launches attention takes.
fn outcome(case: &Case, caps: &Caps) -> (Outputs, usize) {
    outcome_as(case, caps, &Options::default())
}

/// The same with the user's choices.
fn outcome_as(case: &Case, caps: &Caps, options: &Options) -> (Outputs, usize) {
    let compilation = compiled_as(&case.graph, caps, options);
    let name = |region: usize| compilation.partition.regions[region].work.name();
    let launches = compilation.steps.iter().filter(|step| name(step.region) == "attend").count();
    (run(&compilation, caps, &mut case.bindings.clone()), launches)
}

fn bits(outputs: &Outputs) -> Vec<u32> {
    outputs["y"].iter().map(|x| x.to_bits()).collect()
}

/// Groups of every width; the shortest blocks, of which there are more than groups.
#[test]
fn groups_that_share_the_past_give_the_bits_of_one() {
    let new = Ptx::new(80, 99 << 10).caps().clone();
    let all =
        [Caps::threads(8), Caps::threads(32), Caps::threads(128), Caps::vector(8), Caps::vector(16), new];
    for case in cases() {
        let together = case.bindings.inputs["k"].shape[..2].iter().product::<usize>() as u32;
        for caps in &all {
            for (attend_block, groups) in [(caps.attend_block, 1024), (caps.lanes.max(16), together * 5)] {
                let caps = Caps { attend_block, ..caps.clone() };
                let (alone, one) = outcome(&case, &Caps { attend_groups: 0, ..caps.clone() });
                let (shared, two) = outcome(&case, &Caps { attend_groups: groups, ..caps.clone() });
                assert_eq!((one, two), (1, 2), "{}", case.graph.name);
                assert_eq!(bits(&alone), bits(&shared), "{} {caps:?}", case.graph.name);
            }
        }
    }
}

#[test]
fn attention_behind_any_past_is_that_of_the_graph() {
    for past in PASTS {
        case(1, past, DType::F16, None, false).check();
        case(2, past, DType::BF16, Some(100), false).check();
    }
    case(16, 400, DType::F32, None, true).check();
}

/// Enough queries for a group each: a second kernel would only cost.
#[test]
fn many_queries_do_not_share_out_their_past() {
    let case = case(16, 400, DType::F32, None, false);
    let caps = Caps { attend_groups: 4 * 16 * KEY_HEADS as u32 - 1, ..Caps::threads(32) };
    assert_eq!(outcome(&case, &caps).1, 1);
    let cores = |attend_groups| Caps { attend_groups, ..Caps::vector(8) };
    let queries = 16 * HEADS as u32;
    assert_eq!([0, queries, queries + 1].map(|count| outcome(&case, &cores(count)).1), [1, 1, 2]);
}

/// A second kernel would only cost where a session never has many blocks; its kernels are those of any session.
#[test]
fn a_session_of_few_blocks_does_not_share_out_its_past() {
    let case = case(1, 40, DType::F16, None, false);
    let caps = Caps { attend_block: 32, ..Caps::threads(32) };
    let known = |positions| outcome_as(&case, &caps, &Options { positions, ..Options::default() });
    let all = known(None);
    assert_eq!(all.1, 2);
    for (positions, launches) in [(32, 1), (127, 1), (128, 2), (4096, 2), (u32::MAX, 2)] {
        let found = known(Some(positions));
        assert_eq!(found.1, launches, "{positions} positions");
        assert_eq!(bits(&found.0), bits(&all.0), "{positions} positions");
    }
    let texts = |positions| {
        let options = Options { positions, ..Options::default() };
        compiled_as(&case.graph, &caps, &options).kernels.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(texts(None), texts(Some(512)));
}

/// What the first kernel hands on is bound in one piece.
#[test]
fn a_past_that_cannot_be_bound_is_not_shared_out() {
    let case = case(2, 400, DType::F16, None, false);
    let caps = Caps { attend_block: 32, ..Caps::threads(32) };
    for positions in [512, 1024] {
        let options = Options { positions: Some(positions), ..Options::default() };
        let bytes = u64::from(positions) / 32 * (2 * HEADS * (WIDTH + 2) * 4) as u64;
        // Nothing else of the case is as large.
        let narrow = |max_span| outcome_as(&case, &Caps { max_span, ..caps.clone() }, &options);
        let (shared, alone) = (narrow(bytes), narrow(bytes - 1));
        assert_eq!((shared.1, alone.1), (2, 1), "{positions} positions");
        assert_eq!(bits(&shared.0), bits(&alone.0), "{positions} positions");
    }
}
