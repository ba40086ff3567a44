//! How families answer: their sampling, and the last touches to their text.
#![allow(clippy::unwrap_used)]

use jtllm_fuzz::for_seconds;
use jtllm_models::chat::ChatTemplate;
use jtllm_models::manner::{self, Polish, Touches};
use jtllm_models::sample::{SampleError, Sampler, Sampling};
use jtllm_models::tokenizer::{Special, Tokenizer, TokenizerConfig};

fn polished(touches: Touches, parts: &[&str]) -> String {
    let mut polish = Polish::new(touches);
    let mut text: String = parts.iter().map(|part| polish.push(part)).collect();
    text.push_str(&polish.finish());
    text
}

#[test]
fn every_manner_is_that_of_a_built_in_template() {
    let own = ["chatglm", "chatglm2", "chatglm3", "pangu", "rwkv", "rwkv-world", "atom", "llama", "moss"];
    for name in own {
        assert_eq!(manner::of(name).name, name);
        assert!(ChatTemplate::builtin_names().any(|known| known == name), "{name}");
    }
    assert_eq!(manner::of("chatml").name, "", "a family without a manner of its own has the plain one");
}

#[test]
fn chatglm_punctuates_as_its_language_does() {
    let touches = manner::of("chatglm").touches;
    let cases = [
        ("\n 你好,世界! ", "你好，世界！"),
        ("a,b: c", "a,b: c"),
        ("a,你:b", "a，你：b"),
        ("在[[训练时间]],[[训练", "在2023年，[[训练"),
        ("1;2?", "1;2?"),
        ("  \n", ""),
    ];
    for (text, expected) in cases {
        assert_eq!(polished(touches, &[text]), expected, "{text:?}");
        let characters: Vec<String> = text.chars().map(String::from).collect();
        let parts: Vec<&str> = characters.iter().map(String::as_str).collect();
        assert_eq!(polished(touches, &parts), expected, "{text:?} in single characters");
    }
}

#[test]
fn the_speaker_at_the_beginning_of_an_answer_is_left_out() {
    let touches = manner::of("llama").touches;
    assert_eq!(polished(touches, &["A", "I", ": ", " Hello", " AI: "]), "Hello AI:");
    assert_eq!(polished(touches, &["A"]), "A");
    assert_eq!(polished(touches, &["AI is"]), "AI is");
    assert_eq!(polished(touches, &["AI: ", ""]), "");
    assert_eq!(polished(Touches::NONE, &[" AI: ", "x "]), " AI: x ");
}

#[test]
fn fuzz_touches_do_not_depend_on_the_cut() {
    const PIECES: [&str; 12] = [" ", ",", "?", "你", "a", "[[", "训练时间", "]]", "AI", ": ", "\n", "é"];
    let all = [manner::of("chatglm").touches, manner::of("llama").touches, manner::of("rwkv").touches];
    for_seconds("touches", |random| {
        let touches = all[random.below(all.len())];
        let parts: Vec<&str> = (0..random.below(12)).map(|_| PIECES[random.below(PIECES.len())]).collect();
        assert_eq!(polished(touches, &parts), polished(touches, &[&parts.concat()]), "{parts:?}");
    });
}

#[test]
fn what_files_recommend_takes_the_place_of_a_familys_sampling_but_not_of_its_rules() {
    let language = jtllm_models::Language::of(&jtllm_models::Checkpoint::demo().unwrap()).unwrap();
    let of = |name: &str, files: bool| manner::of(name).sampling(&language.tokenizer, files);
    let plain = Sampling::default();
    assert_eq!((of("qwen2", false).repeat_penalty, of("qwen2", false).top_k), (1.1, 20));
    assert_eq!(of("qwen2", true), plain);
    assert_eq!((of("chatglm", false).temperature, of("chatglm", false).invalid), (0.95, Some(5)));
    assert_eq!(of("chatglm", true), Sampling { invalid: Some(5), ..plain.clone() });
    assert_eq!(of("rwkv", true).logit_bias, [(0, f32::NEG_INFINITY)]);
    assert_eq!(of("gemma", false), plain);
}

#[test]
fn pangu_ends_at_single_words_and_not_inside_others() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/tokenizers/pangu/vocab.model");
    let tokenizer =
        Tokenizer::from_pangu(&std::fs::read(file).unwrap(), &TokenizerConfig::default()).unwrap();
    let manner = manner::of("pangu");
    let texts: Vec<String> = manner
        .end_ids(&tokenizer)
        .iter()
        .map(|id| tokenizer.decode(&[*id], true).trim().to_owned())
        .collect();
    assert!(texts.len() >= 2 && texts.iter().all(|text| ["问", "答"].contains(&text.as_str())), "{texts:?}");
    let within = tokenizer.encode("回答问题", Special::Text).unwrap();
    assert!(within.iter().all(|id| !manner.end_ids(&tokenizer).contains(id)), "{within:?}");
    let sampling = manner.sampling(&tokenizer, false);
    assert_eq!(sampling.logit_bias, [(tokenizer.unknown().unwrap(), f32::NEG_INFINITY)]);
    assert_eq!((sampling.top_k, manner.tokens_max), (2, Some(100)));
}

fn greedy() -> Sampling {
    Sampling::greedy()
}

#[test]
fn a_token_that_never_comes_twice_waits_for_another() {
    let mut sampler = Sampler::new(Sampling { never_twice: vec![1], ..greedy() }, 3).unwrap();
    let mut next = || {
        let id = sampler.sample(&mut [0.0, 2.0, 1.0]).unwrap().id;
        sampler.accept(id);
        id
    };
    assert_eq!([next(), next(), next(), next()], [1, 2, 1, 2]);
}

#[test]
fn the_pace_of_an_answer_follows_its_length() {
    use jtllm_models::sample::{Bend, Pace};
    const BENDS: &[Bend] = &[
        Bend { from: 0, bias: f32::NEG_INFINITY, slope: 0.0 },
        Bend { from: 1, bias: -2.0, slope: 0.5 },
        Bend { from: 4, bias: 0.0, slope: 0.25 },
    ];
    let pace = Pace { token: 1, bends: BENDS };
    let biases: Vec<f32> = (0..8).map(|count| pace.bias(count)).collect();
    assert_eq!(biases, [f32::NEG_INFINITY, -2.0, -1.5, -1.0, 0.0, 0.25, 0.5, 0.75]);
    let mut sampler = Sampler::new(Sampling { pace: Some(pace), ..greedy() }, 2).unwrap();
    let chosen = |sampler: &mut Sampler| -> Vec<u32> {
        (0..8).map(|_| sampler.sample(&mut [0.6, 0.0]).unwrap().id).collect()
    };
    assert_eq!(chosen(&mut sampler), [0, 0, 0, 0, 0, 0, 0, 1]);
    sampler.forget();
    assert_eq!(chosen(&mut sampler), [0, 0, 0, 0, 0, 0, 0, 1], "each answer begins anew");
}

#[test]
fn logits_that_are_no_numbers_are_an_error_unless_a_family_has_a_rule_for_them() {
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let row = || [0.0, broken, 3.0, 0.0, 0.0, 0.0];
        let error = Sampler::new(greedy(), 6).unwrap().sample(&mut row()).unwrap_err();
        assert_eq!(error, SampleError::NonFinite { index: 1 });
        for temperature in [0.0, 0.95] {
            let sampling = Sampling { invalid: Some(5), temperature, ..greedy() };
            let mut sampler = Sampler::new(sampling, 6).unwrap();
            assert_eq!(sampler.sample(&mut row()).unwrap().id, 5);
            assert_eq!(sampler.sample(&mut [0.0, 0.0, 90.0, 0.0, 0.0, 0.0]).unwrap().id, 2, "a sound row");
            assert_eq!(sampler.invalid_rows(), 1);
        }
    }
    let error = Sampler::new(Sampling { invalid: Some(6), ..greedy() }, 6).unwrap_err();
    assert!(error.to_string().starts_with("invalid must be"), "{error}");
}

#[test]
fn other_parameters_do_not_draw_again_what_was_drawn() {
    let open = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: Some(3), ..greedy() };
    let draws = |retune: bool| -> Vec<u32> {
        let mut sampler = Sampler::new(open.clone(), 64).unwrap();
        let draw = |sampler: &mut Sampler| sampler.sample(&mut [0.0; 64]).unwrap().id;
        let mut drawn: Vec<u32> = (0..8).map(|_| draw(&mut sampler)).collect();
        if retune {
            sampler.retune(Sampling { top_k: 64, ..open.clone() }).unwrap();
        }
        drawn.extend((0..8).map(|_| draw(&mut sampler)));
        drawn
    };
    assert_eq!(draws(false), draws(true));
}
