//! A program in a control group, and what it cost.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::group::Group;

/// What a process did until it ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// The most memory of its group.
    pub(super) peak: Option<u64>,
    /// Bytes that came from disks for it.
    pub(super) read: u64,
    /// Bytes that went to disks from it.
    pub(super) written: u64,
    /// What it wrote to its standard output.
    pub(super) output: String,
}

/// How often a running process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Runs a program with at most so much memory, if there is a limit.
///
/// # Errors
/// There is no group to be had, or the program fails; the message ends with what it said.
pub(super) fn run(
    limit: Option<u64>,
    program: &str,
    arguments: &[String],
    variables: &[(&str, String)],
) -> Result<Cost, String> {
    let group = Group::new(limit)?;
    // The shell enters the group and becomes the program, so nothing of the program runs outside.
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
        .arg(group.entrance())
        .arg(program)
        .args(arguments);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let told = child.stderr.take().map(drain);
    let output = child.stdout.take().map(drain);
    let mut cost = Cost::default();
    let status = loop {
        // A process that has ended keeps its counters until somebody asks for its status.
        let ended = has_ended(child.id());
        if let Some((read, written)) = traffic(child.id()) {
            (cost.read, cost.written) = (read, written);
        }
        if ended {
            break child.wait().map_err(|error| format!("{program}: {error}"))?;
        }
        std::thread::sleep(LOOK);
    };
    let text = |thread: Option<std::thread::JoinHandle<String>>| {
        thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    };
    let (output, told) = (text(output), text(told));
    cost.peak = group.peak();
    cost.output = output;
    match status.success() {
        true => Ok(cost),
        false => {
            let last: Vec<&str> = told.lines().rev().take(3).collect();
            Err(format!("{program}: {status}: {}", last.into_iter().rev().collect::<Vec<_>>().join("; ")))
        }
    }
}

/// Reads a stream to its end, so that the process never waits for us.
fn drain(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _cut = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Whether a child is only waiting for its status to be asked for.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything; the state follows it.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Bytes that were read from and written to disks for a process.
fn traffic(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("read_bytes:")?, field("write_bytes:")?))
}
