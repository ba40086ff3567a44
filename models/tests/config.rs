//! Configurations that cannot be meant, and the errors that say which field is wrong.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use jtllm_models::{Config, LoadError};

fn config(json: &str) -> Config {
    Config::from_json(json.as_bytes(), Path::new("config.json")).unwrap()
}

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T, LoadError>, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    assert_eq!(error.to_string(), format!("config.json: {message}"));
}

#[test]
fn f37_a_field_that_cannot_be_meant_is_named() {
    let hidden =
        |value: &str| config(&format!(r#"{{"hidden_size":{value}}}"#)).count("hidden_size", 1..=65536);
    let expected = "field hidden_size: expected a whole number from 1 to 65536, found";
    for (value, found) in [
        ("-1", "-1"),
        ("1e12", "1000000000000.0"),
        ("1000000000000", "1000000000000"),
        (r#""abc""#, r#""abc""#),
        ("0", "0"),
        ("2.5", "2.5"),
        ("true", "true"),
        ("[64]", "[64]"),
        ("null", "nothing"),
    ] {
        says(hidden(value), &format!("{expected} {found}"));
    }
    says(config("{}").count("hidden_size", 1..=65536), &format!("{expected} nothing"));
    assert_eq!(hidden("64").unwrap(), 64);
    for heads in ["num_attention_heads", "num_key_value_heads", "num_hidden_layers"] {
        let zero = config(&format!(r#"{{"{heads}":0}}"#));
        let message = format!("field {heads}: expected a whole number from 1 to 1024, found 0");
        says(zero.count(heads, 1..=1024), &message);
        says(zero.optional_count(heads, 1..=1024), &message);
    }
}

#[test]
fn f37_every_type_is_checked() {
    let config = config(
        r#"{"eps":"1e-5","tied":1,"act":7,"window":null,"rope_scaling":[],"sizes":[1,-2],
            "real":[0.5,"x"],"nested":{"factor":0}}"#,
    );
    says(config.number("eps", 0.0..=1.0), r#"field eps: expected a number from 0 to 1, found "1e-5""#);
    says(config.flag("tied"), "field tied: expected true or false, found 1");
    says(config.text("act"), "field act: expected a string, found 7");
    says(config.rope_scaling(), "field rope_scaling: expected an object, found []");
    says(
        config.counts("sizes", 0..=9),
        "field sizes: expected a list of which each is a whole number from 0 to 9, found [1,-2]",
    );
    assert!(config.numbers("real", 0.0..=1.0).is_err());
    says(config.list("missing"), "field missing: expected a list, found nothing");
    assert_eq!(config.optional_count("window", 1..=9).unwrap(), None);
    let nested = config.object("nested").unwrap().unwrap();
    says(nested.number("factor", 1.0..=64.0), "field nested.factor: expected a number from 1 to 64, found 0");
    says(
        config.architecture(),
        "field architectures: expected a list that begins with a string, found nothing",
    );
    says(config.model_type(), "field model_type: expected a string, found nothing");
}

#[test]
fn configurations_that_are_no_json_give_the_byte() {
    let open = |bytes: &[u8]| Config::from_json(bytes, Path::new("config.json"));
    says(open(b"{\"a\":1,}"), "at byte 7: invalid JSON: trailing comma");
    says(open(b"{\"a\":\xff}"), "at byte 5: invalid UTF-8, expected JSON text");
    assert!(open(b"[]").is_err());
    assert!(open("[".repeat(100_000).as_bytes()).is_err());
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(5 << 20));
    assert!(open(long.as_bytes()).unwrap_err().to_string().contains("at most 1048576"));
    let found = config(&format!(r#"{{"a":"{}\u009b"}}"#, "语".repeat(500))).count("a", 1..=2).unwrap_err();
    assert!(found.to_string().len() < 400 && !found.to_string().contains('\u{9b}'), "{found}");
}

#[test]
fn rope_is_read_in_the_old_and_the_new_style() {
    for json in [
        r#"{"rope_theta":5e5,"rope_scaling":{"type":"linear","factor":4.0}}"#,
        r#"{"rope_theta":5e5,"rope_scaling":{"rope_type":"linear","factor":4.0}}"#,
        r#"{"rope_parameters":{"rope_theta":5e5,"rope_type":"linear","factor":4.0}}"#,
    ] {
        let config = config(json);
        assert_eq!(config.rope_theta().unwrap(), 5e5);
        let scaling = config.rope_scaling().unwrap().unwrap();
        assert_eq!(scaling.text("rope_type").unwrap(), "linear");
        assert_eq!(scaling.number("factor", 1.0..=64.0).unwrap(), 4.0);
    }
    for plain in [
        "{}",
        r#"{"rope_scaling":null}"#,
        r#"{"rope_scaling":{"type":"default"}}"#,
        r#"{"rope_parameters":{"rope_theta":10000.0}}"#,
    ] {
        assert_eq!(config(plain).rope_theta().unwrap(), 10_000.0);
        assert!(config(plain).rope_scaling().unwrap().is_none(), "{plain}");
    }
    says(
        config(r#"{"rope_scaling":{"factor":2.0}}"#).rope_scaling(),
        "field rope_scaling.rope_type: expected a string, found nothing",
    );
    says(
        config(r#"{"rope_theta":0}"#).rope_theta(),
        "field rope_theta: expected a number from 1 to 1000000000000000, found 0",
    );
}

#[test]
fn ends_and_sampling_come_from_both_files() {
    let generation = |json: &str| {
        let config = config(r#"{"eos_token_id":2,"temperature":0.3}"#);
        config.with_generation(json.as_bytes(), Path::new("generation_config.json")).unwrap()
    };
    assert!(config("{}").eos_ids().unwrap().is_empty());
    assert!(config(r#"{"eos_token_id":null}"#).eos_ids().unwrap().is_empty());
    assert_eq!(generation(r#"{"eos_token_id":[7,2]}"#).eos_ids().unwrap(), [2, 7]);
    assert_eq!(generation(r#"{"eos_token_id":9}"#).eos_ids().unwrap(), [2, 9]);
    assert!(config(r#"{"eos_token_id":-1}"#).eos_ids().is_err());
    assert!(config(r#"{"eos_token_id":[1,"x"]}"#).eos_ids().is_err());
    let sampling = generation(r#"{"do_sample":true,"temperature":0.7,"top_p":0.8,"top_k":20}"#);
    let sampling = sampling.generation().unwrap();
    assert_eq!((sampling.do_sample, sampling.temperature), (Some(true), Some(0.7)));
    assert_eq!((sampling.top_p, sampling.top_k, sampling.repetition_penalty), (Some(0.8), Some(20), None));
    assert_eq!(config(r#"{"temperature":0.3}"#).generation().unwrap().temperature, Some(0.3));
    let error = generation(r#"{"top_p":1.5}"#).generation().unwrap_err();
    assert!(error.to_string().starts_with("generation_config.json: field top_p"), "{error}");
    assert_eq!(config(r#"{"dtype":"bfloat16"}"#).dtype().unwrap(), Some("bfloat16"));
    assert_eq!(config(r#"{"torch_dtype":"float16"}"#).dtype().unwrap(), Some("float16"));
}
