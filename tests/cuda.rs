//! The CUDA backend on a mock driver: the whole program, unchanged, but for the library that it finds.
#![allow(clippy::unwrap_used)]

#[path = "cuda/apart.rs"]
mod apart;
#[path = "cuda/driver.rs"]
mod driver;
#[path = "fixtures/list.rs"]
mod list;
#[path = "cli/support.rs"]
mod support;
#[path = "cuda/tape.rs"]
mod tape;

use std::process::Output;
use std::sync::Mutex;

use driver::{Driver, FOUND};
use support::{FRANCE, answer, fixture, jtllm, stderr, stdout};

/// Checkpoints whose prompts take the interpreter longer than all others together.
const LONG: [&str; 2] = ["internlm2-dynamic-tiny", "llava-next-1.6-tiny"];

fn on(driver: &Driver, arguments: &[&str]) -> Output {
    let mut command = jtllm(arguments);
    driver.give(&mut command);
    command.output().unwrap()
}

/// What a run that fails while it runs says.
fn refused(driver: &Driver, arguments: &[&str]) -> String {
    ends_with(1, driver, arguments)
}

/// What a run that fails with this exit status says; it must be an error and no panic.
fn ends_with(status: i32, driver: &Driver, arguments: &[&str]) -> String {
    let output = on(driver, arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    assert!(text.contains("error: ") && !text.contains("panicked"), "{arguments:?}: {text}");
    text
}

fn verify(name: &str, capability: &str, more: &[&str]) {
    let folder = fixture(name);
    let driver = Driver::new(&[("MOCKCUDA_CAPABILITY", capability)]);
    let output = on(&driver, &[&["verify", &folder, "--backend", "cuda"], more].concat());
    let table = stdout(&output);
    assert!(output.status.success(), "{name} on {capability}: {table}{}", stderr(&output));
    assert!(!table.contains("FAILED") && table.lines().count() > 2, "{table}");
}

/// Runs a check for each item, two at a time: each is one process on a machine that may have two processors.
fn each<T: Send>(items: Vec<T>, check: impl Fn(T) + Sync) {
    let items = Mutex::new(items);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(item) = items.lock().unwrap().pop() else { return };
                    check(item);
                }
            });
        }
    });
}

#[test]
fn every_model_passes() {
    let mut all = list::all();
    all.retain(|name| !LONG.contains(&name.as_str()));
    // Those that take longest begin first.
    all.sort();
    each(all, |name| verify(&name, "90", &[]));
}

#[test]
fn the_long_models_pass() {
    each(LONG.to_vec(), |name| verify(name, "80", &[]));
}

#[test]
fn every_level_of_the_emitter_passes() {
    let levels = vec!["70", "75", "80", "120"];
    each(levels, |capability| verify("llama2-gqa-tiny", capability, &[]));
}

#[test]
fn products_by_matrix_units_are_those_of_the_interpreter_of_kernels() {
    let name = "products_by_matrix_units_are_those_of_the_interpreter_of_kernels";
    driver::inside(name, &[("MOCKCUDA_CAPABILITY", "80")], tape::matrix_units_agree);
}

#[test]
fn products_of_teams_are_those_of_the_interpreter_of_kernels() {
    let name = "products_of_teams_are_those_of_the_interpreter_of_kernels";
    driver::inside(name, FOUND, tape::matrix_units_agree);
}

#[test]
fn units_that_show_that_they_multiply_are_used() {
    driver::inside("units_that_show_that_they_multiply_are_used", FOUND, tape::teams_multiply);
}

#[test]
fn only_processors_that_have_such_units_are_asked() {
    let name = "only_processors_that_have_such_units_are_asked";
    driver::inside(name, &[("MOCKCUDA_CAPABILITY", "100")], tape::teams_are_not_there);
}

#[test]
fn units_that_multiply_wrongly_are_not_used() {
    const WRONG: &[(&str, &str)] = &[("MOCKCUDA_WRONG_PRODUCTS", "1")];
    driver::inside("units_that_multiply_wrongly_are_not_used", WRONG, tape::teams_are_not_there);
    let arguments = ["run", "-p", FRANCE, "--temp", "0", "-n", "12"];
    let expected = answer(&arguments);
    let output = on(&Driver::new(WRONG), &[&arguments[..], &["--backend", "cuda"]].concat());
    let told = stderr(&output);
    assert_eq!(stdout(&output), expected, "{told}");
    let words =
        "its units for wgmma are not used: a bf16 product by tiles of 64 columns gave 0 in row 0, column 0";
    assert_eq!(told.matches(words).count(), 1, "{told}");
    let way = stdout(&on(&Driver::new(WRONG), &["doctor"]));
    assert!(way.contains("its units for wgmma are not used"), "{way}");
}

#[test]
fn units_that_nobody_wants_are_not_used() {
    driver::inside(
        "units_that_nobody_wants_are_not_used",
        &[("JTLLM_WGMMA", "off")],
        tape::teams_are_not_there,
    );
    for (value, words) in [("off", "JTLLM_WGMMA is off"), ("of", "where `on` or `off` is expected")] {
        let way = stdout(&on(&Driver::new(&[("JTLLM_WGMMA", value)]), &["doctor"]));
        assert!(way.contains("its units for wgmma are not used") && way.contains(words), "{way}");
    }
}

/// After such an error the driver gives nothing more to the process.
#[test]
fn units_that_fail_leave_the_processor() {
    let driver = Driver::new(&[("MOCKCUDA_LAUNCH_FAILS", "2")]);
    let arguments = ["run", "-p", FRANCE, "--temp", "0", "-n", "12"];
    let expected = answer(&arguments);
    let output = on(&driver, &arguments);
    let told = stderr(&output);
    assert_eq!(stdout(&output), expected, "{told}");
    assert!(told.contains("on the processor") && told.contains("CUDA_ERROR_LAUNCH_FAILED"), "{told}");
    assert!(told.contains("no CUDA device: its units for wgmma are not used"), "{told}");
    let text = ends_with(7, &driver, &[&arguments[..], &["--backend", "cuda"]].concat());
    assert!(text.contains("no CUDA device: its units for wgmma are not used"), "{text}");
}

#[test]
fn the_demo_model_says_what_it_says_on_the_processor() {
    let arguments = ["run", "-p", FRANCE, "--temp", "0", "-n", "12"];
    let expected = answer(&arguments);
    let output = on(&Driver::new(&[]), &[&arguments[..], &["--backend", "cuda"]].concat());
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    assert!(stderr(&output).contains("PTX interpreter (compute capability 9.0)"), "{}", stderr(&output));
    assert!(stdout(&output).contains("Paris"));
}

#[test]
fn a_device_without_pools_works() {
    let driver = Driver::new(&[("MOCKCUDA_POOLS", "0")]);
    let output = on(&driver, &["run", "-p", "Hi", "--temp", "0", "-n", "3", "--backend", "cuda"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

const RUN: [&str; 8] = ["run", "-p", "Hi", "-n", "8", "--backend", "cuda", "--raw"];

#[test]
fn no_driver_is_said() {
    let text = ends_with(7, &Driver::none(), &RUN);
    assert!(text.contains("no CUDA device: NVIDIA's driver library was not found"), "{text}");
    let way = stdout(&on(&Driver::none(), &["doctor"]));
    assert!(way.contains("cuda   no  no CUDA device"), "{way}");
    let way = stdout(&on(&Driver::new(&[]), &["doctor"]));
    assert!(way.contains("cuda   yes PTX interpreter (compute capability 9.0), 4.3 GB free"), "{way}");
}

#[test]
fn an_old_driver_is_named_with_what_is_needed() {
    let text = ends_with(7, &Driver::new(&[("MOCKCUDA_DRIVER_VERSION", "11040")]), &RUN);
    assert!(text.contains("supports CUDA 11.4; CUDA 12.0 or newer is needed (release 525)"), "{text}");
}

#[test]
fn no_device_and_a_weak_device_are_said() {
    let text = ends_with(7, &Driver::new(&[("MOCKCUDA_DEVICES", "0")]), &RUN);
    assert!(text.contains("no CUDA device: CUDA_ERROR_NO_DEVICE"), "{text}");
    let text = ends_with(7, &Driver::new(&[("MOCKCUDA_CAPABILITY", "61")]), &RUN);
    assert!(text.contains("has compute capability 6.1, at least 7.0 is needed"), "{text}");
}

#[test]
fn a_model_larger_than_the_device_is_refused_with_both_sizes() {
    let text = ends_with(5, &Driver::new(&[("MOCKCUDA_MEMORY", "1000000")]), &RUN);
    assert!(
        text.contains("has 1.0 MB of memory (1000000 bytes), and ") && text.contains("are needed"),
        "{text}"
    );
}

#[test]
fn memory_that_ends_while_loading_or_running_is_an_error() {
    // The weights fit, what passes need beside them does not.
    let driver = |bytes: u64| Driver::new(&[("MOCKCUDA_ALLOC_FAILS", &bytes.to_string())]);
    let text = ends_with(5, &driver(1_000_000), &RUN);
    assert!(text.contains("of memory (") && text.contains("are needed"), "{text}");
    // A prompt of several sequences needs a plan that is made only when it is asked for.
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap();
    let sound = Driver::new(&[("MOCKCUDA_LOG", path)]);
    let folder = fixture("llama2-gqa-tiny");
    let arguments = ["verify", &folder, "--backend", "cuda"];
    assert!(on(&sound, &arguments).status.success());
    let text = std::fs::read_to_string(path).unwrap();
    let first = text.lines().position(|line| line.starts_with("kernel")).unwrap();
    let after: Vec<u64> = text.lines().skip(first).filter_map(allocated).collect();
    assert!(!after.is_empty(), "nothing is allocated after the first kernel");
    let text = refused(&driver(after[after.len() / 2] - 1), &arguments);
    assert!(text.contains("CUDA_ERROR_OUT_OF_MEMORY"), "{text}");
}

/// The bytes in use after an allocation, from a line of the mock's log.
fn allocated(line: &str) -> Option<u64> {
    line.strip_prefix("alloc ")?.split(' ').nth(1)?.parse().ok()
}

#[test]
fn a_kernel_that_fails_and_a_device_that_is_lost_end_the_run() {
    let text = refused(&Driver::new(&[("MOCKCUDA_LAUNCH_FAILS", "60")]), &RUN);
    assert!(text.contains("PTX interpreter") && text.contains("CUDA_ERROR_LAUNCH_FAILED"), "{text}");
    let text = refused(&Driver::new(&[("MOCKCUDA_LOST", "60")]), &RUN);
    assert!(text.contains("CUDA_ERROR_DEVICE_UNAVAILABLE"), "{text}");
}

/// A newer driver may have errors of which nobody here has heard; no name of ours stands for their numbers.
#[test]
fn an_error_that_is_new_is_told_by_its_number() {
    let driver = Driver::new(&[("MOCKCUDA_LAUNCH_FAILS", "60"), ("MOCKCUDA_FAILURE", "4711")]);
    let text = refused(&driver, &RUN);
    assert!(
        text.contains("PTX interpreter") && text.contains("error 4711, which this driver does not"),
        "{text}"
    );
    // Results that are an enum's must be among its values, or anything may happen.
    for file in
        ["cuda.rs", "cuda/calls.rs", "cuda/driver.rs", "cuda/order.rs", "cuda/tape.rs", "cuda/module.rs"]
    {
        let source = std::fs::read_to_string(support::root().join("runtime/src/device").join(file)).unwrap();
        assert!(!source.contains("driver::result") && !source.contains("CUresult"), "{file}");
    }
}

/// With the backend left open, the processor goes on where the device stopped, and the answer is the same.
#[test]
fn what_a_lost_device_began_the_processor_ends() {
    let arguments = ["run", "-p", FRANCE, "--temp", "0"];
    let expected = answer(&arguments);
    for faults in [("MOCKCUDA_LOST", "8"), ("MOCKCUDA_LOST", "60"), ("MOCKCUDA_LAUNCH_FAILS", "90")] {
        let output = on(&Driver::new(&[faults]), &arguments);
        let told = stderr(&output);
        assert!(output.status.success(), "{faults:?}: {told}");
        assert_eq!(stdout(&output), expected, "{faults:?}: {told}");
        assert!(told.contains("on the processor") && told.contains("CUDA_ERROR"), "{faults:?}: {told}");
    }
    let output = on(&Driver::new(&[("MOCKCUDA_DRIVER_VERSION", "11040")]), &arguments);
    assert_eq!(stdout(&output), expected);
    assert!(stderr(&output).contains("on the processor") && stderr(&output).contains("CUDA 11.4"));
}

/// A library that has NVIDIA's name and nothing else of it.
#[cfg(target_os = "linux")]
#[test]
fn a_strange_library_is_no_driver() {
    let folder = tempfile::tempdir().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut libraries = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let library = libraries.find(|path| path.contains("libgcc_s") || path.contains("libm.so")).unwrap();
    std::fs::copy(library, folder.path().join("libcuda.so")).unwrap();
    let mut command = jtllm(&RUN);
    let output = command.env("LD_LIBRARY_PATH", folder.path()).output().unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{told}");
    assert!(told.contains("too old") && !told.contains("panicked"), "{told}");
}

#[test]
fn what_the_drivers_compiler_says_is_in_the_error() {
    driver::inside("what_the_drivers_compiler_says_is_in_the_error", FOUND, tape::a_text_is_refused);
}

#[test]
fn recorded_launches_compute_what_single_ones_do() {
    let name = "recorded_launches_compute_what_single_ones_do";
    driver::inside(name, FOUND, tape::tokens_are_equal);
}

#[test]
fn a_model_attends_to_a_cache_of_16_bits_by_matrix_units() {
    let level = [("MOCKCUDA_CAPABILITY", "80")];
    let name = "a_model_attends_to_a_cache_of_16_bits_by_matrix_units";
    driver::inside(name, &level, tape::prompts_attend_by_matrix_units);
}

#[test]
fn a_refused_recording_becomes_single_launches() {
    for point in ["1", "2", "3", "4"] {
        let name = "a_refused_recording_becomes_single_launches";
        driver::inside(name, &[("MOCKCUDA_NO_CAPTURE", point)], tape::without_recordings);
    }
}

#[test]
fn a_refused_recording_is_said_once() {
    let refused = Driver::new(&[("MOCKCUDA_NO_CAPTURE", "1")]);
    let arguments = ["run", "-p", FRANCE, "--temp", "0", "-n", "3", "--backend", "cuda"];
    let output = on(&refused, &arguments);
    let told = stderr(&output);
    assert!(output.status.success(), "{told}");
    assert_eq!(told.matches("records no graph: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED").count(), 1, "{told}");
}

#[test]
fn a_recording_ends_with_an_error_or_a_panic_inside_of_it() {
    driver::inside("a_recording_ends_with_an_error_or_a_panic_inside_of_it", FOUND, tape::recordings_end);
}

#[test]
fn sessions_that_share_out_their_past_have_the_bits_of_those_that_do_not() {
    let name = "sessions_that_share_out_their_past_have_the_bits_of_those_that_do_not";
    driver::inside(name, FOUND, tape::a_past_is_shared_out);
}

#[test]
fn a_decoded_token_is_one_launch_of_a_graph() {
    driver::inside("a_decoded_token_is_one_launch_of_a_graph", FOUND, tape::launches_are_few);
}

#[test]
fn weights_come_and_go_in_the_memory_of_the_device() {
    let name = "weights_come_and_go_in_the_memory_of_the_device";
    driver::inside(name, FOUND, apart::weights_come_and_go);
}

#[test]
fn weights_of_195_mb_go_through_64_mb_of_the_device() {
    let name = "weights_of_195_mb_go_through_64_mb_of_the_device";
    driver::inside(name, FOUND, apart::much_goes_through_little);
}

#[test]
fn keys_and_values_come_and_go_in_the_memory_of_the_device() {
    let name = "keys_and_values_come_and_go_in_the_memory_of_the_device";
    driver::inside(name, FOUND, apart::keys_and_values_come_and_go);
}
