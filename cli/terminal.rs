//! The two streams: answers on stdout, everything else on stderr. Neither ever panics when it is closed.

use std::fmt::Arguments;
use std::io::{self, IsTerminal, Write};

use crate::failure::OutputClosed;

/// How a piece of text on stderr looks on a terminal.
#[derive(Clone, Copy)]
pub(crate) enum Style {
    Plain,
    Faint,
    Alarm,
}

/// Whether stderr may be coloured: it is a terminal that can, and the user does not object (no-color.org).
fn coloured() -> bool {
    let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
    let able = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    io::stderr().is_terminal() && unset("NO_COLOR") && able
}

/// Writes a line to stderr. If nobody reads it, it is lost.
pub(crate) fn say(style: Style, text: Arguments<'_>) {
    let mut stream = io::stderr().lock();
    let code = match style {
        Style::Plain => None,
        Style::Faint => Some("2"),
        Style::Alarm => Some("31"),
    };
    let _lost = match code.filter(|_| coloured()) {
        Some(code) => writeln!(stream, "\x1b[{code}m{text}\x1b[0m"),
        None => writeln!(stream, "{text}"),
    };
}

/// Writes to stdout at once.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stream = io::stdout().lock();
    match stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
        Ok(()) => Ok(()),
    }
}

/// Writes a JSON value and a newline to stdout.
pub(crate) fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Bytes for people: `2.8 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}
