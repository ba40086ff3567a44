//! The house rules that a program can check, on the workspace's own manifests and sources. Each rule is
//! also shown a planted breach, so that none of them passes for want of looking.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "tidy/manifests.rs"]
mod manifests;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/rules.rs"]
mod rules;

/// The ten edges of the architecture. What `cli` is to the reader is the root package to cargo.
const EDGES: &[(&str, &[&str])] = &[
    ("jtllm-ir", &[]),
    ("jtllm-codegen", &["jtllm-ir"]),
    ("jtllm-swap", &[]),
    ("jtllm-models", &["jtllm-ir"]),
    ("jtllm-runtime", &["jtllm-ir", "jtllm-codegen", "jtllm-swap"]),
    ("jtllm-serve", &["jtllm-runtime", "jtllm-models"]),
    ("jtllm", &["jtllm-serve", "jtllm-runtime", "jtllm-models"]),
];

/// Crates for developers and tests: nothing that is shipped may need them.
const TEST_ONLY: &[&str] = &["xtask", "jtllm-fuzz", "jtllm-ptxsim", "jtllm-x64sim", "jtllm-mockcuda"];

/// Inputs and situations that must be answered well, by the names that the acceptance list gives them:
/// F files, D downloads, S limits of memory, T text and tokens, C the command line. Each needs a test that is named after it.
const ACCEPTANCE: &[&str] = &[
    "f01", "f02", "f03", "f04", "f05", "f06", "f07", "f08", "f09", "f10", "f11", "f13", "f14", "f15", "f16",
    "f17", "f18", "f19", "f20", "f21", "f22", "f23", "f24", "f25", "f26", "f27", "f28", "f29", "f30", "f31",
    "f32", "f33", "f34", "f35", "f37", "f40", "t01", "t02", "t03", "t04", "t05", "t06", "t07", "t08", "c01",
    "c03", "c04", "c05", "c07", "c09", "d01", "d02", "d03", "d04", "d05", "d06", "d07", "d08", "d09", "d10",
    "d11", "d12", "d13", "d14", "d15", "d16", "s01", "s02", "s03", "s04", "s05", "s06", "s07", "s08", "s09",
    "s10", "s11", "s12", "s13", "s14", "s15", "s16", "s17", "s18", "s19", "s20",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the repository with this extension, from the root; build output and hidden folders aside.
fn files(extension: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![root().to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !name.starts_with('.') && name != "target" {
                open.push(entry.path());
            } else if kind.is_file() && entry.path().extension().is_some_and(|found| found == extension) {
                found.insert(entry.path().strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether the file holds tests or measurements and nothing that is shipped.
fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "benches")
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{} breaches:\n{}", found.len(), found.join("\n"));
}

/// Applies a rule to files and adds their names to what it finds.
fn breaches<'a>(paths: impl IntoIterator<Item = &'a PathBuf>, rule: fn(&str) -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths {
        found.extend(rule(&read(path)).iter().map(|breach| format!("{}:{breach}", path.display())));
    }
    found
}

fn packages() -> Vec<manifests::Package> {
    let members = manifests::members(&read(Path::new("Cargo.toml"))).unwrap();
    let folders = members.into_iter().map(|member| if member == "." { String::new() } else { member });
    let texts: BTreeMap<_, _> =
        folders.map(|folder| (folder.clone(), read(&Path::new(&folder).join("Cargo.toml")))).collect();
    manifests::packages(&texts).unwrap()
}

#[test]
fn crates_depend_along_the_ten_edges_only() {
    assert_eq!(EDGES.iter().map(|(_, to)| to.len()).sum::<usize>(), 10);
    assert_none(&manifests::forbidden_edges(&packages(), EDGES, TEST_ONLY));
}

#[test]
fn an_eleventh_edge_is_found() {
    let planted = |name: &str, text: &str| (name.to_owned(), format!("[package]\nname = \"{name}\"\n{text}"));
    let manifests = BTreeMap::from([
        planted("jtllm-ir", "[dev-dependencies]\njtllm-codegen.workspace = true"),
        planted("jtllm-codegen", "[dependencies]\njtllm-ir.workspace = true\nxtask.workspace = true"),
        planted("jtllm-swap", "[target.'cfg(unix)'.dependencies]\nwords = { package = \"jtllm-ir\" }"),
        planted("jtllm-models", "[build-dependencies]\njtllm-swap = { path = \"../swap\" }"),
        planted("xtask", "[dependencies]\njtllm-ir.workspace = true"),
        planted("jtllm-eighth", "[dependencies]\nserde = \"1\""),
    ]);
    let packages = manifests::packages(&manifests).unwrap();
    let found = manifests::forbidden_edges(&packages, EDGES, TEST_ONLY);
    let expected = [
        "jtllm-codegen -> xtask: not an edge of the architecture",
        "jtllm-eighth: a crate that the architecture does not name",
        "jtllm-models -> jtllm-swap: not an edge of the architecture",
        "jtllm-swap -> jtllm-ir: not an edge of the architecture",
    ];
    assert_eq!(found, expected);
}

#[test]
fn crates_take_the_lints_of_the_workspace() {
    assert_none(&manifests::without_lints(&packages()));
    let manifests = BTreeMap::from([(String::new(), "[package]\nname = \"bare\"".to_owned())]);
    assert_eq!(manifests::without_lints(&manifests::packages(&manifests).unwrap()).len(), 1);
}

#[test]
fn files_are_short() {
    assert_none(&breaches(&files("rs"), rules::file_size));
    assert!(rules::file_size(&"\n".repeat(rules::FILE_LINES_MAX)).is_empty());
    assert_eq!(rules::file_size(&"\n".repeat(rules::FILE_LINES_MAX + 1)).len(), 1);
}

#[test]
fn functions_are_short() {
    assert_none(&breaches(&files("rs"), rules::function_size));
    let body =
        |lines: usize| format!("fn planted<const N: usize>(x: [u8; {{ 1 }}])\n{{{}}}", "\n".repeat(lines));
    assert!(rules::function_size(&body(rules::FUNCTION_LINES_MAX - 2)).is_empty());
    let found = rules::function_size(&body(rules::FUNCTION_LINES_MAX - 1));
    assert_eq!(found, ["1: `planted` has 71 lines, more than 70"]);
}

#[test]
fn the_lexer_keeps_code_apart_from_text() {
    let source = r####"
        // fn a() { " }
        /* fn b() { /* } */ ' */
        fn c<'life>(x: &'life str, one: fn(char) -> char) -> char { let _ = "fn d() {"; '{' }
        const E: &str = r#"fn e() { " "# ; const F: &[u8] = br"\"; const G: char = '\''; const H: u8 = b'}';
        fn r#match() { let _ = ('é', "\" fn g() {", 1.0e-3, 0..5, c"}"); }
    "####;
    let names: Vec<_> = rules::functions(source).iter().map(|function| function.name).collect();
    assert_eq!(names, ["c", "r#match"]);
    let tokens = lexer::lex(source);
    assert_eq!(tokens.iter().filter(|token| token.kind == lexer::Kind::Comment).count(), 2);
    assert_eq!(tokens.iter().filter(|token| token.text == "'{'").count(), 1);
    let open = tokens.iter().filter(|token| token.is("{")).count();
    assert_eq!((open, tokens.iter().filter(|token| token.is("}")).count()), (2, 2));
}

#[test]
fn the_lexer_survives_broken_source() {
    for source in ["\"", "'", "r#\"", "/*", "b'", "'\\", "1.", "r#", "\"\\", "é'é", "/* /* */"] {
        let text: String = lexer::lex(source).iter().map(|token| token.text).collect();
        assert_eq!(text, source.replace(' ', "").replace("/*/**/", "/* /* */"));
        rules::functions(source);
    }
}

#[test]
fn nothing_is_unfinished() {
    let files = files("rs");
    assert_none(&breaches(files.iter().filter(|path| !is_test(path)), rules::finished));
    let planted = "
        fn a() { x.unwrap(); y . unwrap ( ); unwrap(); self::todo!(); dbg!(1); unimplemented!() }
        /// Not code: x.unwrap() and todo!()
        fn b() { let _ = \"todo!()\"; x.unwrap_or(1); }
        #[cfg(test)]
        #[allow(missing_docs)]
        mod tests { fn c() { x.unwrap(); } }
        #[cfg(test)] use x::y;
        fn d() { x.unwrap() }";
    let lines: Vec<_> = rules::finished(planted).iter().map(|line| line[..1].to_owned()).collect();
    assert_eq!(lines, ["2", "2", "2", "2", "2", "9"]);
}

#[test]
fn no_test_is_switched_off() {
    assert_none(&breaches(&files("rs"), rules::no_ignored_test));
    let planted = "#[ignore] fn a() {} #[ignore = \"slow\"] fn b() {} #[cfg_attr(windows, ignore)] fn c() {}
        #[allow(ignore)] fn d() { let ignore = [ignore]; } // #[ignore]";
    assert_eq!(rules::no_ignored_test(planted).len(), 3);
}

#[test]
fn no_comment_promises_work() {
    assert_none(&breaches(&files("rs"), rules::no_promise));
    assert_eq!(rules::no_promise("// TODO: later\nfn a() { \"TODO\" }\n/* FIXME */").len(), 2);
}

#[test]
fn every_crate_says_what_it_does_not_know() {
    let libraries = packages().into_iter().map(|package| Path::new(&package.folder).join("src/lib.rs"));
    let libraries: Vec<_> = libraries.filter(|path| root().join(path).exists()).collect();
    assert!(libraries.len() >= EDGES.len() - 1);
    assert_none(&breaches(&libraries, rules::says_what_it_does_not_know));
    let heading = rules::IGNORANCE;
    let told = |source: &str| rules::says_what_it_does_not_know(source).is_empty();
    assert!(told(&format!("//! A crate.\n//!\n{heading}\n//!\n//! Tensors.\n\nmod a;")));
    assert!(!told("//! A crate.\n"));
    assert!(!told(&format!("//! A crate.\n{heading}\n//!\n\nmod a;")));
    assert!(!told(&format!("//! A crate.\n{heading}\n//! Tensors.\n//! # More\n")));
}

/// Where the compiler begins: `lib.rs`, `main.rs`, a build script outside `src`, and each file right inside a
/// folder of tests, benches, examples or binaries.
fn is_crate_root(path: &Path) -> bool {
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
    let many = ["tests", "benches", "examples", "bin"].iter().any(|name| folder == *name);
    let script = path.ends_with("build.rs") && !path.iter().any(|part| part == "src");
    many || script || path.ends_with("src/lib.rs") || path.ends_with("main.rs")
}

#[test]
fn every_file_is_part_of_a_crate() {
    let all = files("rs");
    let roots: Vec<_> = all.iter().filter(|path| is_crate_root(path)).cloned().collect();
    let dead = modules::dead(&roots, &all, |path| fs::read_to_string(root().join(path)).ok());
    let dead: Vec<_> = dead.iter().map(|path| path.display().to_string()).collect();
    assert_none(&dead);
}

#[test]
fn a_dead_file_is_found() {
    let planted = BTreeMap::from([
        ("a/src/lib.rs", "pub mod one; mod inside { pub(crate) mod deep; } // mod ghost;"),
        ("a/src/one.rs", "mod two; #[path = \"odd/place.rs\"] pub(crate) mod three;"),
        ("a/src/one/two.rs", ""),
        ("a/src/two.rs", "a file of the same name in another place"),
        ("a/src/odd/place.rs", ""),
        ("a/src/inside/deep.rs", ""),
        ("a/src/ghost.rs", ""),
        ("a/tests/all.rs", "mod common;"),
        ("a/tests/common/mod.rs", "mod part;"),
        ("a/tests/common/part.rs", ""),
    ]);
    let all: BTreeSet<PathBuf> = planted.keys().map(PathBuf::from).collect();
    let roots: Vec<_> = all.iter().filter(|path| is_crate_root(path)).cloned().collect();
    let read = |path: &Path| planted.get(path.to_str()?).map(|text| (*text).to_owned());
    assert_eq!(modules::dead(&roots, &all, read), [Path::new("a/src/ghost.rs"), Path::new("a/src/two.rs")]);
}

#[test]
fn documents_name_no_machine() {
    assert_none(&breaches(&files("md"), rules::no_machine_path));
    let planted =
        "see /home/ann/model\n`/tmp/x`\nhttps://example.org/home/page, ~/work/, a/tmp/b, ../mnt/\nC:\\x";
    let lines: Vec<_> = rules::no_machine_path(planted).iter().map(|line| line[..1].to_owned()).collect();
    assert_eq!(lines, ["1", "2", "4"]);
}

/// The ids of the acceptance list for which none of these sources has a test.
fn missing_tests<'a>(sources: impl Iterator<Item = &'a str>) -> Vec<&'static str> {
    let mut missing = ACCEPTANCE.to_vec();
    for source in sources {
        for function in rules::functions(source).iter().filter(|function| function.is_test) {
            missing.retain(|id| {
                !function.name.strip_prefix(id).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
            });
        }
    }
    missing
}

#[test]
fn a_missing_acceptance_test_is_found() {
    let all = |but: &str| -> String {
        let kept = ACCEPTANCE.iter().filter(|id| **id != but);
        kept.map(|id| format!("#[test]\n#[cfg(unix)]\nfn {id}_is_refused() {{ check(); }}\n")).collect()
    };
    assert!(missing_tests([all("").as_str()].into_iter()).is_empty());
    // Neither a mention, nor a function that is no test, nor a longer number will do.
    let near = "// fn f11_()\nfn f11_case() {} #[test] fn f110() {} #[test] fn g() { \"fn f11_()\"; }";
    assert_eq!(missing_tests([all("f11").as_str(), near].into_iter()), ["f11"]);
    let inside = "proptest! { #[test] fn f11_any(bytes in any()) { check(bytes) } }";
    assert!(missing_tests([all("f11").as_str(), inside].into_iter()).is_empty());
}

#[test]
fn every_acceptance_test_exists() {
    let files = files("rs");
    let sources: Vec<_> = files.iter().filter(|path| is_test(path)).map(|path| read(path)).collect();
    let missing = missing_tests(sources.iter().map(String::as_str));
    assert!(missing.is_empty(), "no test is named after {} of the acceptance list", missing.join(", "));
}

/// The methods of a trait that an implementor must write: those without a body.
fn required_methods(source: &str, name: &str) -> Vec<String> {
    let trait_and_rest = source.split(&format!("pub trait {name}")).nth(1).unwrap();
    let body = format!("{}\n", trait_and_rest.split("\n}").next().unwrap());
    let end = |text: &str, mark| text.find(mark).unwrap_or(text.len());
    let methods = body.split("\n    fn ").skip(1).filter(|text| end(text, ";\n") < end(text, " {\n"));
    methods.map(|text| text[..end(text, "(")].to_owned()).collect()
}

/// What PORTING.md tells of a port is what a port needs.
#[test]
fn a_port_needs_what_its_guide_says() {
    let guide = read(&root().join("PORTING.md"));
    let lines = |path: &str| read(&root().join(path)).lines().count();
    let [emitter, device] =
        ["codegen/src/emit/interp.rs", "runtime/src/device/interp.rs"].map(|path| (path, lines(path)));
    for (path, lines) in [emitter, device] {
        assert!(guide.contains(&format!("`{path}` ({lines} lines)")), "{path} has {lines} lines");
    }
    let all = emitter.1 + device.1;
    assert!(guide.contains(&format!("a complete port in {all} lines")), "the template has {all} lines");
    for (path, name, says) in [
        ("codegen/src/target.rs", "Target", "Implement `Target`, which has # methods"),
        ("runtime/src/device.rs", "Device", "Implement `Device`, of which # methods have no default"),
    ] {
        let methods = required_methods(&read(&root().join(path)), name);
        let says = says.replace('#', &methods.len().to_string());
        assert!(guide.contains(&says), "{name}: {methods:?}");
        for method in methods {
            assert!(guide.contains(&format!("`{method}`")), "{name}::{method} is not in PORTING.md");
        }
    }
}
