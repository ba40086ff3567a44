//! Sampling against a plain f64 implementation, and every parameter's effect.
#![allow(clippy::unwrap_used)]

mod support;

use jtllm_fuzz::{Random, for_seconds};
use jtllm_models::sample::{SampleError, Sampler, Sampling, Stage};

/// No stage does anything: the plain softmax.
fn open() -> Sampling {
    Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: Some(7), ..Sampling::default() }
}

fn sampler(sampling: Sampling, vocabulary: usize) -> Sampler {
    Sampler::new(sampling, vocabulary).unwrap()
}

fn draw(sampler: &mut Sampler, logits: &[f32]) -> u32 {
    sampler.sample(&mut logits.to_vec()).unwrap().id
}

/// How often each token is drawn.
fn frequencies(sampling: Sampling, history: &[u32], logits: &[f32], draws: usize) -> Vec<f64> {
    let mut sampler = sampler(sampling, logits.len());
    history.iter().for_each(|id| sampler.accept(*id));
    let mut counts: Vec<f64> = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[draw(&mut sampler, logits) as usize] += 1.0;
    }
    counts.iter().map(|count| count / draws as f64).collect()
}

fn softmax(logits: &[Option<f64>]) -> Vec<f64> {
    let highest = logits.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> =
        logits.iter().map(|logit| logit.map_or(0.0, |logit| (logit - highest).exp())).collect();
    let sum: f64 = shares.iter().sum();
    shares.iter().map(|share| share / sum).collect()
}

type Row = Vec<Option<f64>>;

/// Bias and penalties, by counting.
fn naive_row(sampling: &Sampling, history: &[u32], logits: &[f32]) -> Row {
    let mut row: Row = logits.iter().map(|logit| Some(f64::from(*logit))).collect();
    for (id, bias) in &sampling.logit_bias {
        let logit = &mut row[*id as usize];
        *logit = logit.map(|logit| logit + f64::from(*bias)).filter(|logit| logit.is_finite());
    }
    let window = usize::try_from(sampling.repeat_last_n).unwrap_or(history.len()).min(history.len());
    for (id, logit) in row.iter_mut().enumerate() {
        let count = history[history.len() - window..].iter().filter(|seen| **seen as usize == id).count();
        if count > 0 {
            let repeat = f64::from(sampling.repeat_penalty);
            *logit = logit.map(|logit| {
                let scaled = if logit <= 0.0 { logit * repeat } else { logit / repeat };
                let each = count as f64 * f64::from(sampling.frequency_penalty);
                scaled - each - f64::from(sampling.presence_penalty)
            });
        }
    }
    row
}

/// The ids that are left, best first.
fn order(row: &Row) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..row.len()).filter(|id| row[*id].is_some()).collect();
    ids.sort_by(|a, b| row[*b].partial_cmp(&row[*a]).unwrap().then(a.cmp(b)));
    ids
}

fn keep(row: &mut Row, kept: &[usize]) {
    for (id, logit) in row.iter_mut().enumerate() {
        if !kept.contains(&id) {
            *logit = None;
        }
    }
}

/// Keeps the first of `ids` until their probabilities make `enough`.
fn keep_until(row: &mut Row, ids: &[usize], enough: impl Fn(f64) -> bool) {
    let p = softmax(row);
    let mut sum = 0.0;
    let last = ids.iter().position(|id| {
        sum += p[*id];
        enough(sum)
    });
    keep(row, &ids[..last.map_or(ids.len(), |last| last + 1)]);
}

fn naive_sigma(row: &mut Row, n: f64) {
    let values: Vec<f64> = row.iter().flatten().copied().collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    let least = values.iter().copied().fold(f64::NEG_INFINITY, f64::max) - n * variance.sqrt();
    row.iter_mut().for_each(|logit| *logit = logit.filter(|logit| *logit >= least));
}

/// Each stage as its definition says, in llama.cpp's order, with whole sorts and f64.
fn naive(sampling: &Sampling, history: &[u32], logits: &[f32]) -> Vec<f64> {
    let mut row = naive_row(sampling, history, logits);
    if sampling.top_n_sigma > 0.0 {
        naive_sigma(&mut row, f64::from(sampling.top_n_sigma));
    }
    if sampling.top_k > 0 {
        let best: Vec<usize> = order(&row).into_iter().take(sampling.top_k as usize).collect();
        keep(&mut row, &best);
    }
    if sampling.typical_p < 1.0 {
        let p = softmax(&row);
        let entropy: f64 = p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        let mut ids = order(&row);
        ids.sort_by(|a, b| (-p[*a].ln() - entropy).abs().total_cmp(&(-p[*b].ln() - entropy).abs()));
        keep_until(&mut row, &ids, |sum| sum > f64::from(sampling.typical_p));
    }
    if sampling.top_p < 1.0 {
        let ids = order(&row);
        keep_until(&mut row, &ids, |sum| sum >= f64::from(sampling.top_p));
    }
    if sampling.min_p > 0.0 {
        let p = softmax(&row);
        let least = p.iter().copied().fold(0.0, f64::max) * f64::from(sampling.min_p);
        let kept: Vec<usize> = order(&row).into_iter().filter(|id| p[*id] >= least).collect();
        keep(&mut row, &kept);
    }
    if sampling.xtc_probability >= 1.0 && sampling.xtc_threshold <= 0.5 {
        let (p, all) = (softmax(&row), order(&row));
        let likely = all.iter().filter(|id| p[**id] >= f64::from(sampling.xtc_threshold)).count();
        keep(&mut row, &all[likely.saturating_sub(1)..]);
    }
    let temperature = f64::from(sampling.temperature);
    softmax(&row.iter().map(|logit| logit.map(|logit| logit / temperature)).collect::<Row>())
}

const LOGITS: [f32; 12] = [1.5, -0.3, 2.2, 0.1, -1.7, 2.1, 0.8, -4.0, 1.1, 0.0, -0.9, 3.0];
const HISTORY: [u32; 8] = [2, 5, 2, 11, 5, 2, 9, 2];

/// Twenty thousand draws have a standard error of at most 0.0035.
const FREQUENCY_ERROR: f64 = 0.015;

fn equals_naive(sampling: Sampling) {
    let want = naive(&sampling, &HISTORY, &LOGITS);
    let found = frequencies(sampling.clone(), &HISTORY, &LOGITS, 20_000);
    for id in 0..LOGITS.len() {
        assert!(
            (want[id] - found[id]).abs() < FREQUENCY_ERROR,
            "token {id}: {found:?}, expected {want:?} for {sampling:?}"
        );
        assert!(want[id] > 0.0 || found[id] == 0.0, "token {id} must not appear for {sampling:?}");
    }
}

/// One changed parameter each, all of which change the distribution of `LOGITS` after `HISTORY`.
fn variants() -> Vec<(&'static str, Sampling)> {
    vec![
        ("temperature", Sampling { temperature: 0.5, ..open() }),
        ("top_p", Sampling { top_p: 0.7, ..open() }),
        ("top_k", Sampling { top_k: 3, ..open() }),
        ("min_p", Sampling { min_p: 0.2, ..open() }),
        ("typical_p", Sampling { typical_p: 0.5, ..open() }),
        ("top_n_sigma", Sampling { top_n_sigma: 1.0, ..open() }),
        ("repeat_penalty", Sampling { repeat_penalty: 1.8, ..open() }),
        ("repeat_last_n", Sampling { repeat_penalty: 1.8, repeat_last_n: 1, ..open() }),
        ("presence_penalty", Sampling { presence_penalty: 1.5, ..open() }),
        ("frequency_penalty", Sampling { frequency_penalty: 0.7, ..open() }),
        ("xtc", Sampling { xtc_probability: 1.0, xtc_threshold: 0.1, ..open() }),
        ("logit_bias", Sampling { logit_bias: vec![(11, f32::NEG_INFINITY), (7, 5.0)], ..open() }),
    ]
}

#[test]
fn every_parameter_changes_the_distribution_as_its_definition_says() {
    let plain = naive(&open(), &HISTORY, &LOGITS);
    equals_naive(open());
    for (name, sampling) in variants() {
        let changed = naive(&sampling, &HISTORY, &LOGITS);
        let difference: f64 = plain.iter().zip(&changed).map(|(a, b)| (a - b).abs()).sum();
        assert!(difference > 0.1, "{name} changes nothing");
        equals_naive(sampling);
    }
    let all = [
        Sampling { seed: Some(1), ..Sampling::default() },
        Sampling {
            typical_p: 0.9,
            top_n_sigma: 2.0,
            repeat_penalty: 1.1,
            repeat_last_n: -1,
            seed: Some(2),
            ..Sampling::default()
        },
    ];
    all.into_iter().for_each(equals_naive);
}

#[test]
fn defaults_are_those_of_the_command_line() {
    let found = Sampling::default();
    assert_eq!((found.temperature, found.top_p, found.top_k, found.min_p), (0.8, 0.95, 40, 0.05));
    assert_eq!((found.typical_p, found.top_n_sigma), (1.0, -1.0));
    assert_eq!((found.repeat_penalty, found.repeat_last_n), (1.0, 64));
    assert_eq!((found.presence_penalty, found.frequency_penalty), (0.0, 0.0));
    assert_eq!(
        (found.dry_multiplier, found.dry_base, found.dry_allowed_length, found.dry_penalty_last_n),
        (0.0, 1.75, 2, 64)
    );
    assert_eq!(found.dry_sequence_breakers, ["\n", ":", "\"", "*"]);
    assert_eq!((found.xtc_probability, found.xtc_threshold), (0.0, 0.1));
    assert_eq!((found.mirostat, found.mirostat_tau, found.mirostat_eta), (0, 5.0, 0.1));
    let order: Vec<&str> = found.samplers.iter().map(|stage| stage.name()).collect();
    assert_eq!(order.join(";"), "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature");
    assert_eq!(Stage::list(&order.join(";")), Ok(found.samplers));
}

#[test]
fn greedy_takes_the_lowest_id_of_the_best() {
    let mut sampler = sampler(Sampling::greedy(), 4);
    assert_eq!(draw(&mut sampler, &[1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(draw(&mut sampler, &[-1.0, -1.0, -2.0, -1.0]), 0);
    let top_1 = Sampling { top_k: 1, ..Sampling::default() };
    assert_eq!(frequencies(top_1, &[], &[1.0, 3.0, 3.0, 2.0], 50), [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn logprob_is_the_models_own() {
    let logits = [1.0_f32, 2.0, 3.0];
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let want = |id: u32| (f64::from(logits[id as usize]) - sum.ln()) as f32;
    for sampling in [
        Sampling::greedy(),
        open(),
        Sampling { logit_bias: vec![(0, 9.0)], ..open() },
        Sampling { repeat_penalty: 2.0, dry_multiplier: 1.0, presence_penalty: 1.0, ..Sampling::greedy() },
    ] {
        let mut sampler = sampler(sampling, 3);
        [2, 1, 2, 1, 2, 1].into_iter().for_each(|id| sampler.accept(id));
        for _ in 0..20 {
            let found = sampler.sample(&mut logits.clone()).unwrap();
            assert!((found.logprob - want(found.id)).abs() < 1e-5, "{found:?}");
        }
    }
}

#[test]
fn f40_non_finite_logits_are_an_error_with_their_place() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for sampling in [Sampling::greedy(), Sampling::default()] {
            let error = sampler(sampling, 4).sample(&mut [0.0, 1.0, bad, bad]).unwrap_err();
            assert_eq!(error, SampleError::NonFinite { index: 2 });
            assert_eq!(
                error.to_string(),
                "the logit of token 2 is not finite: weights are damaged, or arithmetic overflowed"
            );
        }
    }
    let error = sampler(open(), 4).sample(&mut [0.0; 3]).unwrap_err();
    assert_eq!(error, SampleError::Length { found: 3, expected: 4 });
    let none = Sampling { logit_bias: vec![(0, f32::NEG_INFINITY)], ..open() };
    assert_eq!(sampler(none, 1).sample(&mut [0.0]), Err(SampleError::Nothing));
}

#[test]
fn seeds_repeat_and_differ() {
    let run = |seed| {
        let mut sampler = sampler(Sampling { seed, ..open() }, LOGITS.len());
        (sampler.seed(), (0..40).map(|_| draw(&mut sampler, &LOGITS)).collect::<Vec<_>>())
    };
    assert_eq!(run(Some(5)), run(Some(5)));
    assert_ne!(run(Some(5)).1, run(Some(6)).1);
    let (seed, tokens) = run(None);
    assert_eq!(run(Some(seed)).1, tokens);
    assert_ne!(run(None).0, run(None).0);
}

#[test]
fn dry_penalises_what_lengthens_a_repetition() {
    // After 1 2 3 ... 1 2 the 3 would repeat two tokens; after 9 nothing repeats.
    let dry = Sampling { dry_multiplier: 2.0, ..open() };
    let greedy = |sampling: &Sampling, history: &[u32], logits: [f32; 6]| {
        let mut sampler = sampler(Sampling { temperature: 0.0, ..sampling.clone() }, 6);
        history.iter().for_each(|id| sampler.accept(*id));
        draw(&mut sampler, &logits)
    };
    let logits = [0.0, 0.0, 0.0, 1.9, 0.0, 0.1];
    assert_eq!(greedy(&open(), &[1, 2, 3, 4, 1, 2], logits), 3);
    assert_eq!(greedy(&dry, &[1, 2, 3, 4, 1, 2], logits), 5);
    assert_eq!(greedy(&dry, &[1, 2, 3, 4, 0, 2], logits), 3, "one token is too short");
    // The penalty is 2 x 1.75^(length - 2): three repeated tokens cost 3.5.
    let history = [0, 1, 2, 3, 4, 0, 1, 2];
    assert_eq!(greedy(&dry, &history, [0.0, 0.0, 0.0, 3.45, 0.0, 0.1]), 5);
    assert_eq!(greedy(&dry, &history, [0.0, 0.0, 0.0, 3.65, 0.0, 0.1]), 3);
    let with = |change: fn(&mut Sampling)| {
        let mut sampling = dry.clone();
        change(&mut sampling);
        greedy(&sampling, &history, [0.0, 0.0, 0.0, 3.45, 0.0, 0.1])
    };
    assert_eq!(with(|dry| dry.dry_base = 1.0), 3);
    assert_eq!(with(|dry| dry.dry_allowed_length = 3), 3);
    assert_eq!(with(|dry| dry.dry_penalty_last_n = 4), 3);
    assert_eq!(with(|dry| dry.dry_penalty_last_n = -1), 5);
    assert_eq!(with(|dry| dry.samplers.retain(|stage| *stage != Stage::Dry)), 3);
}

#[test]
fn dry_does_not_look_across_breakers() {
    let tokenizer = support::demo_tokenizer();
    let text = tokenizer.encode("one two\nthree one two", jtllm_models::tokenizer::Special::Text).unwrap();
    let broken = tokenizer.encode("\none two", jtllm_models::tokenizer::Special::Text).unwrap();
    let size = tokenizer.vocab_size();
    let lowered = |history: &[u32], breakers: &[&str]| {
        let dry_sequence_breakers = breakers.iter().map(|text| (*text).to_owned()).collect();
        let dry = Sampling {
            dry_multiplier: 3.0,
            dry_allowed_length: 1,
            dry_sequence_breakers,
            ..Sampling::greedy()
        };
        let mut sampler = Sampler::new(dry, size).unwrap().with_breakers(&tokenizer);
        history.iter().for_each(|id| sampler.accept(*id));
        let mut logits = vec![0.0; size];
        sampler.sample(&mut logits).unwrap();
        logits.iter().any(|logit| *logit < 0.0)
    };
    let twice = [text.clone(), broken.clone()].concat();
    assert!(lowered(&twice, &[]));
    assert!(lowered(&twice, &["\n"]), "the repetition after the break counts");
    assert!(!lowered(
        &[text, tokenizer.encode("\n", jtllm_models::tokenizer::Special::Text).unwrap()].concat(),
        &["\n"]
    ));
}

#[test]
fn mirostat_steers_towards_its_surprise() {
    // Zipf's law over a thousand tokens.
    let logits: Vec<f32> = (1..=1000).map(|rank| -(rank as f32).ln()).collect();
    let mean_surprise = |mirostat, mirostat_tau, mirostat_eta| {
        let sampling = Sampling { mirostat, mirostat_tau, mirostat_eta, ..open() };
        let mut sampler = sampler(sampling, logits.len());
        let bits = |logprob: f32| -f64::from(logprob) / std::f64::consts::LN_2;
        let all: Vec<f64> =
            (0..3000).map(|_| bits(sampler.sample(&mut logits.clone()).unwrap().logprob)).collect();
        all[500..].iter().sum::<f64>() / 2500.0
    };
    let free = mean_surprise(0, 5.0, 0.1);
    for mirostat in [1, 2] {
        let (low, high) = (mean_surprise(mirostat, 2.0, 0.1), mean_surprise(mirostat, 5.0, 0.1));
        assert!(low + 1.0 < high && low + 2.0 < free, "mirostat {mirostat}: {low}, {high}, free {free}");
        assert_ne!(low, mean_surprise(mirostat, 2.0, 0.3));
    }
}

#[test]
fn the_order_of_samplers_counts() {
    let of = |samplers: &str| {
        let samplers = Stage::list(samplers).unwrap();
        frequencies(Sampling { temperature: 3.0, min_p: 0.3, samplers, ..open() }, &[], &LOGITS, 4000)
    };
    let (late, early) = (of("min_p;temperature"), of("temperature;min_p"));
    let kept = |row: &[f64]| row.iter().filter(|share| **share > 0.0).count();
    assert!(kept(&early) > kept(&late), "{early:?} {late:?}");
    let none = frequencies(Sampling { top_k: 1, samplers: Vec::new(), ..open() }, &[], &LOGITS, 4000);
    assert!(kept(&none) > 5);
}

#[test]
fn faults_name_their_field() {
    let faults: [(&str, Sampling); 17] = [
        ("temperature", Sampling { temperature: f32::NAN, ..open() }),
        ("top_p", Sampling { top_p: 0.0, ..open() }),
        ("top_k", Sampling { top_k: -2, ..open() }),
        ("min_p", Sampling { min_p: 1.5, ..open() }),
        ("typical_p", Sampling { typical_p: -0.1, ..open() }),
        ("top_n_sigma", Sampling { top_n_sigma: f32::INFINITY, ..open() }),
        ("repeat_penalty", Sampling { repeat_penalty: 0.0, ..open() }),
        ("repeat_last_n", Sampling { repeat_last_n: -5, ..open() }),
        ("presence_penalty", Sampling { presence_penalty: f32::NAN, ..open() }),
        ("frequency_penalty", Sampling { frequency_penalty: f32::NAN, ..open() }),
        ("dry_base", Sampling { dry_base: 0.5, ..open() }),
        ("xtc_probability", Sampling { xtc_probability: 2.0, ..open() }),
        ("mirostat", Sampling { mirostat: 3, ..open() }),
        ("mirostat_tau", Sampling { mirostat_tau: -1.0, ..open() }),
        ("logit_bias", Sampling { logit_bias: vec![(1, f32::NAN)], ..open() }),
        ("logit_bias", Sampling { logit_bias: vec![(99, 0.0)], ..open() }),
        ("samplers", Sampling { samplers: vec![Stage::TopK, Stage::TopK], ..open() }),
    ];
    for (name, sampling) in faults {
        let error = Sampler::new(sampling, 9).unwrap_err();
        assert!(matches!(error, SampleError::Parameter { field, .. } if field == name), "{error}");
        assert!(error.to_string().starts_with(name));
    }
    assert!(Stage::list("top_k;nucleus").unwrap_err().to_string().contains("nucleus"));
}

#[test]
fn fuzz_any_valid_parameters_give_a_token() {
    for_seconds("sampling", |random| {
        let logit = |random: &mut Random| match random.below(4) {
            0 => *random.choice(&[0.0, f32::MAX, f32::MIN]),
            _ => random.value(-20.0f32..20.0),
        };
        let logits: Vec<f32> = (0..1 + random.below(39)).map(|_| logit(random)).collect();
        let temperature = random.value(0.01f32..5.0);
        let sampling = Sampling {
            temperature: *random.choice(&[0.0, 1e-30, temperature, temperature, 1e30]),
            top_p: random.value(0.001f32..=1.0),
            typical_p: random.value(0.001f32..=1.0),
            min_p: random.value(0.0f32..=1.0),
            top_k: random.value(-1i32..50),
            top_n_sigma: random.value(-1.0f32..3.0),
            mirostat: random.value(0u8..3),
            repeat_penalty: if random.below(8) == 0 { 1e30 } else { random.value(0.5f32..2.0) },
            dry_multiplier: if random.below(8) == 0 { 1e30 } else { random.value(0.0f32..2.0) },
            xtc_probability: random.value(0.0f32..=1.0),
            xtc_threshold: random.value(0.0f32..=1.0),
            seed: Some(random.value(0..=u64::MAX)),
            dry_allowed_length: 1,
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling, logits.len()).unwrap();
        (0..random.below(30)).for_each(|_| sampler.accept(random.below(50) as u32));
        for _ in 0..5 {
            let found = sampler.sample(&mut logits.clone()).unwrap();
            assert!((found.id as usize) < logits.len());
            assert!(!found.logprob.is_nan());
            sampler.accept(found.id);
        }
    });
}

#[test]
fn a_forgotten_text_is_not_penalised_and_draws_go_on() {
    let sampling = Sampling { repeat_penalty: 4.0, frequency_penalty: 1.0, temperature: 0.0, ..open() };
    let logits = [3.0, 2.0, 1.0];
    let mut seen = sampler(sampling, logits.len());
    assert_eq!(draw(&mut seen, &logits), 0);
    seen.accept(0);
    assert_eq!(draw(&mut seen, &logits), 1, "a token that was seen is penalised");
    seen.forget();
    assert_eq!(draw(&mut seen, &logits), 0, "and no more when the text is forgotten");

    let even = vec![0.0; 1000];
    let (mut straight, mut forgetful) = (sampler(open(), 1000), sampler(open(), 1000));
    for _ in 0..20 {
        assert_eq!(draw(&mut straight, &even), draw(&mut forgetful, &even));
        forgetful.forget();
    }
}
