//! `jtllm embed`: one vector for each text.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use serde_json::Value;
use support::{answer, copy_of, failure, fixture, json, root, run_with_input, stdout};

const CLS: &str = "bert-bge-cls-tiny";
const MEAN: &str = "bert-minilm-mean-tiny";

/// The lines that are printed, each a vector.
fn vectors(text: &str) -> Vec<Vec<f64>> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The texts of a fixture.
fn texts(name: &str) -> Vec<String> {
    let golden = std::fs::read(root().join("tests/fixtures").join(name).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let items = golden["items"].as_array().unwrap();
    items.iter().map(|item| item["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn lines_and_arguments_give_the_same_vectors() {
    let texts = texts(MEAN);
    let model = fixture(MEAN);
    let mut arguments = vec!["embed", model.as_str()];
    texts.iter().for_each(|text| arguments.extend(["-p", text]));
    let given = vectors(&answer(&arguments));
    let output = run_with_input(&["embed", &model], &texts.join("\n"));
    assert_eq!(vectors(&stdout(&output)), given);
    assert_eq!(given.len(), texts.len());
    for vector in given {
        let length = vector.iter().map(|x| x * x).sum::<f64>();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
}

#[test]
fn every_backend_gives_the_vectors_of_the_reference() {
    // `verify` compares them with the reference's; here they have the way through the texts behind them.
    for name in [CLS, MEAN] {
        let text = &texts(name)[3];
        let arguments = |more: [&'static str; 2]| -> Vec<Vec<f64>> {
            vectors(&answer(&["embed", &fixture(name), "-p", text, more[0], more[1]]))
        };
        let table = answer(&["verify", &fixture(name)]);
        assert!(table.contains("embedding of text 3"), "{table}");
        let expected = arguments(["--threads", "1"]);
        assert_eq!(arguments(["--threads", "2"]), expected);
        for backend in ["interp", "graph"] {
            let found = arguments(["--backend", backend]);
            assert!(apart(&found[0], &expected[0]) < 1e-6, "{name} {backend}");
        }
    }
}

#[test]
fn another_pooling_gives_another_vector() {
    let text = &texts(CLS)[3];
    let by = |more: &[&str]| vectors(&answer(&[&["embed", &fixture(CLS), "-p", text], more].concat()));
    let stated = by(&[]);
    assert_eq!(by(&["--pooling", "cls"]), stated);
    for other in ["mean", "max", "last"] {
        assert!(apart(&by(&["--pooling", other])[0], &stated[0]) > 1e-3, "{other}");
    }
}

#[test]
fn one_object_has_the_vectors_in_order_and_counts_tokens() {
    let texts = texts(CLS);
    let found = json(&["embed", &fixture(CLS), "--json", "-p", &texts[1], "-p", &texts[2]]);
    assert_eq!((found["object"].as_str(), found["model"].as_str()), (Some("list"), Some(&*fixture(CLS))));
    let lines = vectors(&answer(&["embed", &fixture(CLS), "-p", &texts[1], "-p", &texts[2]]));
    for (at, line) in lines.iter().enumerate() {
        let entry = &found["data"][at];
        assert_eq!((entry["index"].as_u64(), entry["object"].as_str()), (Some(at as u64), Some("embedding")));
        let vector: Vec<f64> = serde_json::from_value(entry["embedding"].clone()).unwrap();
        assert_eq!(&vector, line);
    }
    let count: usize = (1..3)
        .map(|at| {
            let ids = answer(&["tokenize", &fixture(CLS), &texts[at], "--ids"]);
            serde_json::from_str::<Vec<u32>>(&ids).unwrap().len()
        })
        .sum();
    assert_eq!(found["usage"]["prompt_tokens"].as_u64(), Some(count as u64));
    assert_eq!(found["usage"]["total_tokens"], found["usage"]["prompt_tokens"]);
}

#[test]
fn a_text_that_is_too_long_is_cut_before_its_end() {
    // The model reads 48 tokens: what comes after them changes nothing.
    let long = vec!["cat"; 60].join(" ");
    let longer = format!("{long} dog");
    let by = |text: &str| vectors(&answer(&["embed", &fixture(MEAN), "-p", text]));
    assert_eq!(by(&long), by(&longer));
}

#[test]
fn what_cannot_be_embedded_says_why() {
    let text = failure(&["embed", "demo", "-p", "x"], 2);
    assert!(text.contains("do not say how the vectors"), "{text}");
    let text = failure(&["embed", "demo", "-p", "x", "--pooling", "mean"], 1);
    assert!(text.contains("is no encoder"), "{text}");
    let copy = copy_of(&root().join("tests/fixtures").join(CLS));
    std::fs::create_dir_all(copy.path().join("1_Pooling")).unwrap();
    let modules = r#"[{"path": "", "type": "a.Transformer"}, {"path": "2_Dense", "type": "a.models.Dense"}]"#;
    std::fs::write(copy.path().join("modules.json"), modules).unwrap();
    let text = failure(&["embed", copy.path().to_str().unwrap(), "-p", "x"], 4);
    assert!(text.contains("a.models.Dense") && text.contains("modules.json"), "{text}");
    let pooling = r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#;
    std::fs::write(copy.path().join("1_Pooling/config.json"), pooling).unwrap();
    let modules = r#"[{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]"#;
    std::fs::write(copy.path().join("modules.json"), modules).unwrap();
    let text = failure(&["embed", copy.path().to_str().unwrap(), "-p", "x"], 4);
    assert!(text.contains("pooling_mode_cls_token, pooling_mode_max_tokens"), "{text}");
}
