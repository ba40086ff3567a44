//! Every flag that `--help` shows does something: each has a case here that tells a run with it from one
//! without it, or names the test elsewhere that does.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{FRANCE, answer, failure, fixture, json, root, run, stderr};

const COMMANDS: [&str; 17] = [
    "run",
    "plan",
    "pull",
    "list",
    "show",
    "rm",
    "clean-cache",
    "ps",
    "verify",
    "embed",
    "bench",
    "perplexity",
    "inspect",
    "tokenize",
    "template",
    "doctor",
    "completions",
];

/// How the effect of a flag shows.
enum Shows {
    /// The answer has other tokens than without it. The strings are arguments of both runs.
    Tokens(&'static [&'static str]),
    /// The prompt has other tokens than without it.
    Prompt,
    /// Standard output differs.
    Output(&'static [&'static str]),
    /// The line about the start differs.
    Start,
    /// By the test of this name in this file.
    Test(&'static str, &'static str),
}

use Shows::{Output, Prompt, Start, Test, Tokens};

/// Greedy; the demo model repeats itself after its answer.
const LOOP: &[&str] = &["--ignore-eos", "-n", "60", "--temp", "0"];

/// Random, and the same each time.
const RANDOM: &[&str] =
    &["--ignore-eos", "-n", "40", "--temp", "3", "-s", "5", "--top-k", "0", "--top-p", "1", "--min-p", "0"];

/// The same without the flags that cut.
const UNCUT: &[&str] = &["--ignore-eos", "-n", "40", "--temp", "3", "-s", "5"];

const DRY: &[&str] = &["--ignore-eos", "-n", "60", "--temp", "0", "--dry-multiplier", "5"];

const MIROSTAT: &[&str] = &["--ignore-eos", "-n", "40", "--temp", "3", "-s", "5", "--mirostat", "2"];

type Case = (&'static str, &'static [&'static str], Shows);

/// The flags of `jtllm run`: name, the flag with its value, how it shows.
const RUN: &[Case] = &[
    ("--model", &[], Test("cli_flags.rs", "the_model_may_be_given_either_way")),
    ("--prompt", &[], Test("cli.rs", "the_two_commands_of_the_readme_answer")),
    ("--file", &[], Test("cli.rs", "a_pipe_is_the_prompt_and_so_is_a_file")),
    ("--system-prompt", &[], Test("cli.rs", "a_system_prompt_comes_first")),
    ("--system", &["--system", "Be brief."], Prompt),
    ("--image", &[], Test("cli_images.rs", "an_image_stands_before_the_first_message")),
    ("--raw", &["--raw"], Prompt),
    ("--chat-template", &["--chat-template", "belle"], Prompt),
    ("--chat-template-file", &[], Test("cli_flags.rs", "a_template_may_come_from_a_file")),
    ("--single-turn", &[], Test("cli_terminal.rs", "a_single_turn_leaves_after_the_first_answer")),
    ("--predict", &["--predict", "2"], Tokens(&[])),
    ("--n-predict", &["--n-predict", "2"], Tokens(&[])),
    ("--max-new-tokens", &["--max-new-tokens", "2"], Tokens(&[])),
    ("--reverse-prompt", &["--reverse-prompt", "France"], Tokens(&[])),
    ("--stop", &["--stop", "France"], Tokens(&[])),
    ("--ignore-eos", &["--ignore-eos"], Tokens(&["-n", "30"])),
    ("--context-shift", &[], Test("cli.rs", "a_full_context_is_an_error_that_says_so")),
    ("--keep", &["--keep", "18"], Tokens(SHIFT)),
    ("--json", &[], Test("cli.rs", "json_is_one_object_with_what_was_in_force")),
    ("--spec-type", &["--spec-type", "none"], Start),
    ("--draft-max", &["--draft-max", "7"], Start),
    ("--draft", &["--draft", "7"], Start),
    ("--spec-draft-n-max", &["--spec-draft-n-max", "7"], Start),
    ("--spec-ngram-size-n", &[], Test("cli_lookup.rs", "more_tokens_may_have_to_be_alike")),
    ("--ctx-size", &["--ctx-size", "48"], Start),
    ("--threads", &["--threads", "3"], Start),
    ("--backend", &["--backend", "interp"], Start),
    ("--compute", &["--compute", "bf16"], Start),
    ("--mem-limit", &[], Test("cli_environment.rs", "s15_the_variables_of_jittor_behave_as_flags")),
    ("--kv-spill", &[], Test("cli_spill.rs", "keys_and_values_leave_memory_and_answers_stay_the_same")),
    ("--swap-dir", &[], Test("cli_spill.rs", "s09_a_folder_that_takes_no_swap_file_is_refused_at_start")),
    ("--vram-limit", &[], Test("cli_environment.rs", "a_limit_of_the_device_leaves_layers_on_the_processor")),
    ("--device", &[], Test("cli_place.rs", "a_device_that_is_not_there_ends_with_status_7")),
    ("--n-gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    ("--gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    (
        "--require-gpu",
        &[],
        Test("cli_place.rs", "auto_takes_the_processor_where_there_is_nothing_else_and_says_why"),
    ),
    ("--cache-type-k", &["--cache-type-k", "f32"], Start),
    ("--cache-type-v", &["--cache-type-v", "bf16"], Start),
    ("--temp", &["--temp", "3"], Tokens(&["--ignore-eos", "-n", "40", "-s", "5"])),
    ("--temperature", &["--temperature", "3"], Tokens(&["--ignore-eos", "-n", "40", "-s", "5"])),
    ("--top-k", &["--top-k", "1"], Tokens(RANDOM_WITHOUT_TOP_K)),
    ("--top-p", &["--top-p", "0.01"], Tokens(UNCUT)),
    ("--min-p", &["--min-p", "1"], Tokens(UNCUT)),
    ("--typical", &["--typical", "0.05"], Tokens(RANDOM)),
    ("--typical-p", &["--typical-p", "0.05"], Tokens(RANDOM)),
    ("--top-n-sigma", &["--top-n-sigma", "0.01"], Tokens(RANDOM)),
    ("--repeat-penalty", &["--repeat-penalty", "20"], Tokens(LOOP)),
    ("--repetition-penalty", &["--repetition-penalty", "20"], Tokens(LOOP)),
    ("--repeat-last-n", &["--repeat-last-n", "4"], Tokens(PENALISED)),
    ("--presence-penalty", &["--presence-penalty", "30"], Tokens(LOOP)),
    ("--frequency-penalty", &["--frequency-penalty", "30"], Tokens(LOOP)),
    ("--dry-multiplier", &["--dry-multiplier", "5"], Tokens(LOOP)),
    ("--dry-base", &["--dry-base", "40"], Tokens(DRY_WEAK)),
    ("--dry-allowed-length", &["--dry-allowed-length", "50"], Tokens(DRY)),
    ("--dry-penalty-last-n", &["--dry-penalty-last-n", "0"], Tokens(DRY)),
    ("--dry-sequence-breaker", &["--dry-sequence-breaker", "a"], Tokens(DRY)),
    ("--xtc-probability", &["--xtc-probability", "1", "--xtc-threshold", "0.01"], Tokens(UNCUT)),
    ("--xtc-threshold", &["--xtc-threshold", "0.01"], Tokens(XTC)),
    ("--mirostat", &["--mirostat", "1"], Tokens(UNCUT)),
    ("--mirostat-ent", &["--mirostat-ent", "0.1"], Tokens(MIROSTAT)),
    ("--mirostat-lr", &["--mirostat-lr", "1"], Tokens(MIROSTAT)),
    ("--logit-bias", &["--logit-bias", "283-inf"], Tokens(LOOP)),
    ("--seed", &["--seed", "6"], Tokens(RANDOM_WITHOUT_SEED)),
    ("--samplers", &["--samplers", "top_k;temperature"], Tokens(CUT)),
];

const SHIFT: &[&str] = &["--ignore-eos", "-n", "90", "--temp", "3", "-s", "5", "--context-shift", "-c", "32"];

const RANDOM_WITHOUT_TOP_K: &[&str] = &["--ignore-eos", "-n", "40", "--temp", "3", "-s", "5", "--top-p", "1"];

// Hot and uncut, so that two seeds give the same 60 tokens only if the seed does nothing.
const RANDOM_WITHOUT_SEED: &[&str] =
    &["--ignore-eos", "-n", "60", "--temp", "4", "--top-k", "0", "--top-p", "1", "--min-p", "0"];

const PENALISED: &[&str] = &["--ignore-eos", "-n", "60", "--temp", "0", "--presence-penalty", "30"];

const DRY_WEAK: &[&str] = &["--ignore-eos", "-n", "60", "--temp", "0", "--dry-multiplier", "0.01"];

const XTC: &[&str] = &["--ignore-eos", "-n", "40", "--temp", "3", "-s", "5", "--xtc-probability", "1"];

const CUT: &[&str] = &["--ignore-eos", "-n", "40", "--temp", "3", "-s", "5", "--min-p", "1"];

const VERIFY: &[Case] = &[
    ("--model", &[], Test("cli_verify.rs", "the_demo_model_passes_by_its_tokens_and_largest_logits")),
    ("--backend", &[], Test("cli_verify.rs", "a_tiny_llama_passes_on_every_backend")),
    ("--mem-limit", &[], Test("cli_environment.rs", "s15_the_variables_of_jittor_behave_as_flags")),
    ("--kv-spill", &[], Test("cli_spill.rs", "keys_and_values_leave_memory_and_answers_stay_the_same")),
    ("--swap-dir", &[], Test("cli_spill.rs", "s09_a_folder_that_takes_no_swap_file_is_refused_at_start")),
    ("--vram-limit", &[], Test("cli_environment.rs", "a_limit_of_the_device_leaves_layers_on_the_processor")),
    ("--device", &[], Test("cli_place.rs", "a_device_that_is_not_there_ends_with_status_7")),
    ("--n-gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    ("--gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    (
        "--require-gpu",
        &[],
        Test("cli_place.rs", "auto_takes_the_processor_where_there_is_nothing_else_and_says_why"),
    ),
    ("--caps", &[], Test("cli_verify.rs", "other_caps_schedule_other_kernels_and_pass")),
    ("--compute", &[], Test("cli_verify.rs", "rounded_operands_are_told_from_float32")),
    ("--threads", &[], Test("cli_flags.rs", "verify_and_bench_take_threads")),
    ("--json", &[], Test("cli_verify.rs", "a_tiny_llama_passes_on_every_backend")),
];

const BENCH: &[Case] = &[
    ("--n-prompt", &[], Test("cli.rs", "bench_has_the_fields_of_llama_bench")),
    ("--n-gen", &[], Test("cli.rs", "bench_has_the_fields_of_llama_bench")),
    ("--n-depth", &[], Test("cli_bench.rs", "a_depth_is_read_before_the_clock_starts")),
    ("--parallel", &[], Test("cli_bench.rs", "sequences_at_once_have_the_fields_of_llama_batched_bench")),
    ("--repetitions", &[], Test("cli.rs", "bench_has_the_fields_of_llama_bench")),
    ("--output", &[], Test("cli.rs", "bench_has_the_fields_of_llama_bench")),
    ("--kernels", &[], Test("cli_bench.rs", "golden_kernels_of_the_demo_model")),
    ("--backend", &[], Test("cli_place.rs", "reports_name_the_device")),
    ("--mem-limit", &[], Test("cli_environment.rs", "s15_the_variables_of_jittor_behave_as_flags")),
    ("--kv-spill", &[], Test("cli_spill.rs", "keys_and_values_leave_memory_and_answers_stay_the_same")),
    ("--swap-dir", &[], Test("cli_spill.rs", "s09_a_folder_that_takes_no_swap_file_is_refused_at_start")),
    ("--vram-limit", &[], Test("cli_environment.rs", "a_limit_of_the_device_leaves_layers_on_the_processor")),
    ("--device", &[], Test("cli_place.rs", "a_device_that_is_not_there_ends_with_status_7")),
    ("--n-gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    ("--gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    (
        "--require-gpu",
        &[],
        Test("cli_place.rs", "auto_takes_the_processor_where_there_is_nothing_else_and_says_why"),
    ),
    ("--threads", &[], Test("cli_flags.rs", "verify_and_bench_take_threads")),
    ("--compute", &[], Test("cli_flags.rs", "verify_and_bench_take_threads")),
    ("--cache-type-k", &[], Test("cli_flags.rs", "verify_and_bench_take_threads")),
    ("--cache-type-v", &[], Test("cli_flags.rs", "verify_and_bench_take_threads")),
];

const INSPECT: &[Case] = &[
    ("--rows", &["--rows", "many"], Output(&["demo", "regions"])),
    ("--compute", &["--compute", "bf16"], Output(&["demo", "regions"])),
    ("--code", &["--code"], Output(&["demo", "kernels"])),
];

const TOKENIZE: &[Case] = &[
    ("--ids", &["--ids"], Output(&["demo", "Hello<|im_end|>"])),
    ("--no-parse-special", &["--no-parse-special"], Output(&["demo", "Hello<|im_end|>"])),
];

const TEMPLATE: &[Case] = &[
    ("--prompt", &["--prompt", "Why?"], Output(&["demo"])),
    ("--system-prompt", &["--system-prompt", "Be brief."], Output(&["demo"])),
    ("--system", &["--system", "Be brief."], Output(&["demo"])),
    ("--json", &["--json"], Output(&["demo"])),
];

const PULL: &[Case] =
    &[("--json", &[], Test("cli_hub.rs", "a_quantisation_is_chosen_from_a_repository_of_gguf_files"))];

const LIST: &[Case] = &[("--json", &["--json"], Output(&[]))];

const SHOW: &[Case] = &[("--json", &["--json"], Output(&["demo"]))];

const RM: &[Case] = &[
    ("--force", &[], Test("cli_hub.rs", "the_cache_is_listed_shown_and_cleared")),
    ("--json", &[], Test("cli_hub.rs", "the_cache_is_listed_shown_and_cleared")),
];

const CLEAN_CACHE: &[Case] = &[
    ("--yes", &[], Test("cli_packed.rs", "sizes_are_shown_before_anything_is_deleted")),
    ("--json", &[], Test("cli_packed.rs", "sizes_are_shown_before_anything_is_deleted")),
];

const PS: &[Case] = &[("--json", &["--json"], Output(&[]))];

const EMBED: &[Case] = &[
    ("--prompt", &[], Test("cli_embed.rs", "lines_and_arguments_give_the_same_vectors")),
    ("--pooling", &[], Test("cli_embed.rs", "another_pooling_gives_another_vector")),
    ("--json", &[], Test("cli_embed.rs", "one_object_has_the_vectors_in_order_and_counts_tokens")),
    ("--threads", &[], Test("cli_embed.rs", "every_backend_gives_the_vectors_of_the_reference")),
    ("--backend", &[], Test("cli_embed.rs", "every_backend_gives_the_vectors_of_the_reference")),
    ("--mem-limit", &[], Test("cli_environment.rs", "s15_the_variables_of_jittor_behave_as_flags")),
    ("--kv-spill", &[], Test("cli_spill.rs", "keys_and_values_leave_memory_and_answers_stay_the_same")),
    ("--swap-dir", &[], Test("cli_spill.rs", "s09_a_folder_that_takes_no_swap_file_is_refused_at_start")),
    ("--vram-limit", &[], Test("cli_environment.rs", "a_limit_of_the_device_leaves_layers_on_the_processor")),
    ("--device", &[], Test("cli_place.rs", "a_device_that_is_not_there_ends_with_status_7")),
    ("--n-gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    ("--gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    (
        "--require-gpu",
        &[],
        Test("cli_place.rs", "auto_takes_the_processor_where_there_is_nothing_else_and_says_why"),
    ),
];

const PERPLEXITY: &[Case] = &[
    ("--file", &[], Test("cli_perplexity.rs", "the_lines_are_those_of_llama_perplexity")),
    ("--chunks", &[], Test("cli_perplexity.rs", "the_lines_are_those_of_llama_perplexity")),
    (
        "--kl-divergence-base",
        &[],
        Test("cli_perplexity.rs", "a_run_is_no_distance_from_itself_and_some_from_another"),
    ),
    (
        "--kl-divergence",
        &[],
        Test("cli_perplexity.rs", "a_run_is_no_distance_from_itself_and_some_from_another"),
    ),
    ("--json", &[], Test("cli_perplexity.rs", "the_lines_are_those_of_llama_perplexity")),
    (
        "--ctx-size",
        &[],
        Test("cli_perplexity.rs", "bases_that_are_none_and_texts_that_are_too_short_are_refused"),
    ),
    ("--threads", &[], Test("cli_perplexity.rs", "every_backend_measures_the_same")),
    ("--compute", &[], Test("cli_perplexity.rs", "a_run_is_no_distance_from_itself_and_some_from_another")),
    ("--cache-type-k", &[], Test("cli_perplexity.rs", "every_backend_measures_the_same")),
    ("--cache-type-v", &[], Test("cli_perplexity.rs", "every_backend_measures_the_same")),
    ("--backend", &[], Test("cli_perplexity.rs", "every_backend_measures_the_same")),
    ("--mem-limit", &[], Test("cli_environment.rs", "s15_the_variables_of_jittor_behave_as_flags")),
    ("--kv-spill", &[], Test("cli_spill.rs", "keys_and_values_leave_memory_and_answers_stay_the_same")),
    ("--swap-dir", &[], Test("cli_spill.rs", "s09_a_folder_that_takes_no_swap_file_is_refused_at_start")),
    ("--vram-limit", &[], Test("cli_environment.rs", "a_limit_of_the_device_leaves_layers_on_the_processor")),
    ("--device", &[], Test("cli_place.rs", "a_device_that_is_not_there_ends_with_status_7")),
    ("--n-gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    ("--gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    (
        "--require-gpu",
        &[],
        Test("cli_place.rs", "auto_takes_the_processor_where_there_is_nothing_else_and_says_why"),
    ),
];

const PLAN: &[Case] = &[
    ("--json", &[], Test("cli_plan.rs", "what_streams_is_foreseen_to_the_byte_a_token")),
    ("--ctx-size", &[], Test("cli_plan.rs", "flags_change_what_is_foreseen")),
    ("--threads", &[], Test("cli_plan.rs", "flags_change_what_is_foreseen")),
    ("--compute", &[], Test("cli_plan.rs", "flags_change_what_is_foreseen")),
    ("--cache-type-k", &[], Test("cli_plan.rs", "flags_change_what_is_foreseen")),
    ("--cache-type-v", &[], Test("cli_plan.rs", "flags_change_what_is_foreseen")),
    ("--backend", &[], Test("cli_plan.rs", "s14_what_cannot_run_is_refused_with_what_is_missing_by_both")),
    ("--mem-limit", &[], Test("cli_plan.rs", "what_streams_is_foreseen_to_the_byte_a_token")),
    ("--kv-spill", &[], Test("cli_spill.rs", "keys_and_values_leave_memory_and_answers_stay_the_same")),
    ("--swap-dir", &[], Test("cli_spill.rs", "s09_a_folder_that_takes_no_swap_file_is_refused_at_start")),
    ("--vram-limit", &[], Test("cli_environment.rs", "a_limit_of_the_device_leaves_layers_on_the_processor")),
    ("--device", &[], Test("cli_place.rs", "a_device_that_is_not_there_ends_with_status_7")),
    ("--n-gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    ("--gpu-layers", &[], Test("cli_place.rs", "layers_are_counted_from_the_head_backwards")),
    (
        "--require-gpu",
        &[],
        Test("cli_place.rs", "auto_takes_the_processor_where_there_is_nothing_else_and_says_why"),
    ),
];

const DOCTOR: &[Case] = &[("--json", &["--json"], Output(&[]))];

fn cases(command: &str) -> &'static [Case] {
    match command {
        "run" => RUN,
        "pull" => PULL,
        "list" => LIST,
        "show" => SHOW,
        "rm" => RM,
        "clean-cache" => CLEAN_CACHE,
        "ps" => PS,
        "verify" => VERIFY,
        "embed" => EMBED,
        "bench" => BENCH,
        "inspect" => INSPECT,
        "perplexity" => PERPLEXITY,
        "plan" => PLAN,
        "tokenize" => TOKENIZE,
        "template" => TEMPLATE,
        "doctor" => DOCTOR,
        _ => &[],
    }
}

/// The long flags in a command's help, aliases included.
fn flags(command: &str) -> BTreeSet<String> {
    let help = answer(&[command, "--help"]);
    let mut found = BTreeSet::new();
    for line in help.lines().map(str::trim_start) {
        let is_flag = line.starts_with('-') || line.starts_with("[alias");
        for word in line.split([' ', ',', ']', '=']).filter(|word| is_flag && word.starts_with("--")) {
            found.insert(word.to_owned());
        }
        if let Some((_, aliases)) = line.split_once("[alias") {
            let words = aliases.split([' ', ',', ']', ':']);
            found.extend(words.filter(|word| word.starts_with("--")).map(str::to_owned));
        }
    }
    found.remove("--help");
    found
}

#[test]
fn c04_every_flag_of_the_help_has_a_case() {
    let mut all = 0;
    for command in COMMANDS {
        let listed: BTreeSet<String> = cases(command).iter().map(|(flag, _, _)| (*flag).to_owned()).collect();
        assert_eq!(flags(command), listed, "{command}");
        all += listed.len();
        for (flag, _, shows) in cases(command) {
            let Test(file, name) = shows else { continue };
            let text = std::fs::read_to_string(root().join("tests").join(file)).unwrap();
            assert!(
                text.contains(&format!("#[test]\nfn {name}()")),
                "{command} {flag}: {file} has no {name}"
            );
        }
    }
    assert!(all > 60, "the help was read: {all}");
}

#[test]
fn c04_every_command_of_the_help_is_known() {
    let help = answer(&["--help"]);
    let (_, list) = help.split_once("Commands:").unwrap();
    let (list, _) = list.split_once("Options:").unwrap();
    // A long description goes on in lines that begin further to the right.
    let named = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> = named.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, COMMANDS);
}

fn ids(arguments: &[&str]) -> Value {
    field(arguments, "ids")
}

fn field(arguments: &[&str], name: &str) -> Value {
    json(&[&["run", "--json", "-p", FRANCE], arguments].concat())[name].take()
}

#[test]
fn c04_flags_of_run_change_the_answer() {
    let mut idle = Vec::new();
    for (flag, with, shows) in RUN {
        let same = match shows {
            Tokens(base) => ids(base) == ids(&[base, *with].concat()),
            Prompt => {
                field(&["-n", "1"], "prompt_ids") == field(&[&["-n", "1"], *with].concat(), "prompt_ids")
            }
            _ => false,
        };
        if same {
            idle.push(flag);
        }
    }
    assert!(idle.is_empty(), "flags that change nothing: {idle:?}");
}

#[test]
fn c04_flags_of_the_machine_change_the_start() {
    let start = |arguments: &[&str]| {
        let output = run(&[&["run", "-p", FRANCE, "-n", "1", "--raw"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        // What stands after the buffers depends on the kernel cache.
        stderr(&output).split("buffers").next().unwrap().to_owned()
    };
    let plain = start(&[]);
    for (flag, with, shows) in RUN {
        if matches!(shows, Start) {
            assert_ne!(plain, start(with), "{flag}");
        }
    }
}

#[test]
fn c04_flags_of_other_commands_change_the_output() {
    for command in COMMANDS {
        for (flag, with, shows) in cases(command) {
            if let Output(base) = shows {
                let base = [&[command], *base].concat();
                assert_ne!(answer(&base), answer(&[&base, *with].concat()), "{command} {flag}");
            }
        }
    }
}

#[test]
fn c04_what_is_not_known_or_out_of_range_is_refused() {
    let wrong: [&[&str]; 14] = [
        &["--no-such-flag"],
        &["--temp", "nan"],
        &["--top-p", "2"],
        &["--min-p", "-1"],
        &["--mirostat", "3"],
        &["--repeat-penalty", "0"],
        &["--samplers", "top_k;nonsense"],
        &["--samplers", "top_k;top_k"],
        &["--logit-bias", "x"],
        &["--logit-bias", "999999+1"],
        &["--threads", "0"],
        &["-n", "-2"],
        &["--keep", "4"],
        &["--raw", "-sys", "x"],
    ];
    for arguments in wrong {
        failure(&[&["run", "-p", FRANCE], arguments].concat(), 2);
    }
    failure(&["run", "-f", "no-such-file"], 2);
    assert!(failure(&["verify", &fixture("demo"), "--caps", "vector8"], 2).contains("--backend interp"));
    assert!(failure(&["inspect", "demo", "graph", "--code"], 2).contains("kernels"));
    failure(&["run", "demo", "-m", "demo", "-p", "x"], 2);
    failure(&["run", "-p", "x", "--chat-template", "nonsense"], 2);
}

#[test]
fn llama_cpp_spellings_are_understood() {
    let both: [(&[&str], &[&str]); 4] = [
        (&["-ctk", "f32"], &["--cache-type-k", "f32"]),
        (&["-ctv", "f32"], &["--cache-type-v", "f32"]),
        (&["-sys", "Be brief."], &["--system-prompt", "Be brief."]),
        (&["-st"], &["--single-turn"]),
    ];
    for (short, long) in both {
        assert_eq!(ids(short), ids(long), "{short:?}");
    }
}

#[test]
fn the_model_may_be_given_either_way() {
    let folder = root().join("models/demo").display().to_string();
    for arguments in [&["run", "-m", &folder][..], &["run", &folder], &["run", "demo"], &["run"]] {
        assert_eq!(answer(&[arguments, &["-p", FRANCE]].concat()), "The capital of France is Paris.\n");
    }
    failure(&["run", "--model", "no-such-model", "-p", "x"], 3);
}

#[test]
fn a_template_may_come_from_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{{ messages[0].content }}").unwrap();
    let path = file.path().to_str().unwrap();
    let found = json(&["run", "--json", "-p", "Hello", "-n", "1", "--chat-template-file", path]);
    let bare: Value = serde_json::from_str(&answer(&["tokenize", "demo", "Hello", "--ids"])).unwrap();
    assert_eq!(found["prompt_ids"], bare);
    std::fs::write(file.path(), "{% if %}").unwrap();
    assert!(failure(&["run", "-p", "x", "--chat-template-file", path], 1).contains("chat template: line 1"));
    assert!(failure(&["run", "-p", "x", "--chat-template-file", "/no/such"], 2).contains("/no/such"));
}

#[test]
fn verify_and_bench_take_threads() {
    let folder = fixture("belle-llama-tiny");
    answer(&["verify", &folder, "--threads", "1"]);
    failure(&["verify", &folder, "--threads", "0"], 2);
    let with = |arguments: &[&str]| {
        let base = ["bench", "demo", "-p", "0", "-n", "1", "-r", "1", "-o", "json"];
        json(&[&base[..], arguments].concat())[0].take()
    };
    assert_eq!(with(&["--threads", "3"])["n_threads"], 3);
    assert_eq!(with(&["--compute", "bf16"])["compute"], "bf16");
    let row = with(&["-ctk", "f32", "-ctv", "bf16"]);
    assert_eq!((row["type_k"].as_str(), row["type_v"].as_str()), (Some("f32"), Some("bf16")));
}
