//! Which sampling is in force: a flag wins over the model's recommendation, that over its family's manner.

use jtllm_models::Generation;
use jtllm_models::sample::{Sampling, Stage};
use serde_json::{Value, json};

use crate::args::SamplingArgs;
use crate::failure::Usage;

/// Joins flags, recommendation and the family's sampling, and checks the result.
pub(crate) fn effective(
    flags: &SamplingArgs,
    model: &Generation,
    family: Sampling,
) -> Result<Sampling, Usage> {
    let mut sampling = recommended(model, family);
    let set = |field: &mut f32, flag: Option<f32>| *field = flag.unwrap_or(*field);
    set(&mut sampling.temperature, flags.temp);
    set(&mut sampling.top_p, flags.top_p);
    set(&mut sampling.min_p, flags.min_p);
    set(&mut sampling.typical_p, flags.typical);
    set(&mut sampling.top_n_sigma, flags.top_n_sigma);
    set(&mut sampling.repeat_penalty, flags.repeat_penalty);
    set(&mut sampling.presence_penalty, flags.presence_penalty);
    set(&mut sampling.frequency_penalty, flags.frequency_penalty);
    set(&mut sampling.dry_multiplier, flags.dry_multiplier);
    set(&mut sampling.dry_base, flags.dry_base);
    set(&mut sampling.xtc_probability, flags.xtc_probability);
    set(&mut sampling.xtc_threshold, flags.xtc_threshold);
    set(&mut sampling.mirostat_tau, flags.mirostat_ent);
    set(&mut sampling.mirostat_eta, flags.mirostat_lr);
    let set = |field: &mut i32, flag: Option<i32>| *field = flag.unwrap_or(*field);
    set(&mut sampling.top_k, flags.top_k);
    set(&mut sampling.repeat_last_n, flags.repeat_last_n);
    set(&mut sampling.dry_penalty_last_n, flags.dry_penalty_last_n);
    sampling.dry_allowed_length = flags.dry_allowed_length.unwrap_or(sampling.dry_allowed_length);
    sampling.mirostat = flags.mirostat.unwrap_or(sampling.mirostat);
    sampling.logit_bias.retain(|(id, _)| flags.logit_bias.iter().all(|(given, _)| given != id));
    sampling.logit_bias.extend(&flags.logit_bias);
    sampling.seed = flags.seed.and_then(|seed| u64::try_from(seed).ok());
    match flags.dry_sequence_breaker.as_slice() {
        [] => {}
        [none] if none == "none" => sampling.dry_sequence_breakers.clear(),
        breakers => sampling.dry_sequence_breakers = breakers.to_vec(),
    }
    let wrong = |error: jtllm_models::sample::SampleError| Usage(error.to_string());
    if let Some(list) = &flags.samplers {
        sampling.samplers = Stage::list(list).map_err(wrong)?;
    }
    sampling.validate().map_err(wrong)?;
    Ok(sampling)
}

fn recommended(model: &Generation, mut sampling: Sampling) -> Sampling {
    let set = |field: &mut f32, value: Option<f64>| *field = value.map_or(*field, |value| value as f32);
    set(&mut sampling.temperature, model.temperature);
    set(&mut sampling.top_p, model.top_p);
    set(&mut sampling.min_p, model.min_p);
    if let Some(top_k) = model.top_k {
        sampling.top_k = i32::try_from(top_k).unwrap_or(0);
    }
    if let Some(penalty) = model.repetition_penalty {
        sampling.repeat_penalty = penalty as f32;
        // Under this name the whole sequence counts, not only its end.
        sampling.repeat_last_n = -1;
    }
    if model.do_sample == Some(false) {
        sampling.temperature = 0.0;
    }
    sampling
}

/// What was in force, for `--json`.
pub(crate) fn report(sampling: &Sampling, seed: u64) -> Value {
    let stages: Vec<&str> = sampling.samplers.iter().map(|stage| stage.name()).collect();
    // A forbidden token has no finite bias, and JSON has no other numbers.
    let bias =
        |(id, bias): &(u32, f32)| json!([id, if bias.is_finite() { json!(bias) } else { json!(false) }]);
    // The short decimal that was meant, not the digits of its nearest float.
    let short = |value: f32| json!(value.to_string().parse::<f64>().unwrap_or(f64::from(value)));
    json!({
        "seed": seed,
        "temperature": short(sampling.temperature),
        "top_k": sampling.top_k,
        "top_p": short(sampling.top_p),
        "min_p": short(sampling.min_p),
        "typical_p": short(sampling.typical_p),
        "top_n_sigma": short(sampling.top_n_sigma),
        "repeat_penalty": short(sampling.repeat_penalty),
        "repeat_last_n": sampling.repeat_last_n,
        "presence_penalty": short(sampling.presence_penalty),
        "frequency_penalty": short(sampling.frequency_penalty),
        "dry_multiplier": short(sampling.dry_multiplier),
        "dry_base": short(sampling.dry_base),
        "dry_allowed_length": sampling.dry_allowed_length,
        "dry_penalty_last_n": sampling.dry_penalty_last_n,
        "dry_sequence_breakers": sampling.dry_sequence_breakers,
        "xtc_probability": short(sampling.xtc_probability),
        "xtc_threshold": short(sampling.xtc_threshold),
        "mirostat": sampling.mirostat,
        "mirostat_tau": short(sampling.mirostat_tau),
        "mirostat_eta": short(sampling.mirostat_eta),
        "never_twice": sampling.never_twice,
        "pace": sampling.pace.map(|pace| pace.token),
        "invalid": sampling.invalid,
        "logit_bias": sampling.logit_bias.iter().map(bias).collect::<Vec<Value>>(),
        "samplers": stages,
    })
}

/// What is in force of a family's own, for people.
pub(crate) fn manner(sampling: &Sampling, family: &str) -> String {
    let Sampling { temperature, top_k, top_p, repeat_penalty, .. } = sampling;
    let penalty = match *repeat_penalty == 1.0 {
        true => String::new(),
        false => format!(", repeat penalty {repeat_penalty}"),
    };
    format!("as {family} answers: temperature {temperature}, top-k {top_k}, top-p {top_p}{penalty}")
}
