//! What a download shows on stderr: bars on a terminal, now and then a line elsewhere.

use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jtllm_models::hub::{Client, Event, Settings};

use crate::terminal::{Style, bytes, say};

const FILE: &str = "{prefix:32!} {percent:>3}% |{bar:24}| {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  ETA {eta_precise}";
const UNKNOWN: &str = "{prefix:32!} {decimal_bytes}  {decimal_bytes_per_sec}";

/// Without a terminal: the least time between two lines about one file, unless a tenth of it came.
const LINE_AFTER: Duration = Duration::from_secs(30);

/// And the least time even then.
const LINE_BEFORE: Duration = Duration::from_millis(500);

/// Times in a second that bars are drawn.
const DRAWN_PER_SECOND: u8 = 10;

/// The client of the hubs that the environment names.
pub(crate) fn client() -> Client {
    Client::new(Settings::from_environment(|key| std::env::var_os(key)))
}

/// Shows what happens during a download.
pub(crate) struct Display(RefCell<State>);

struct State {
    bars: Option<MultiProgress>,
    total: Option<ProgressBar>,
    file: Option<File>,
    quiet: bool,
}

/// The file that comes just now.
struct File {
    name: String,
    bar: Option<ProgressBar>,
    size: Option<u64>,
    here: u64,
    from: u64,
    began: Instant,
    said: (u64, Instant),
}

impl Display {
    pub(crate) fn new() -> Self {
        let is_set = |key: &str| std::env::var_os(key).is_some_and(|value| !value.is_empty());
        let quiet = is_set("HF_HUB_DISABLE_PROGRESS_BARS");
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let bars = (io::stderr().is_terminal() && !dumb && !quiet)
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWN_PER_SECOND)));
        Display(RefCell::new(State { bars, total: None, file: None, quiet }))
    }

    /// Takes part in what happens.
    pub(crate) fn hear(&self, event: Event<'_>) {
        self.0.borrow_mut().hear(event);
    }
}

impl State {
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Note(text) => self.note(&text),
            Event::Begin { repository, from, files, size } => {
                self.clear();
                let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
                self.note(&format!("{repository} from {from}: {files}, {}", bytes(size)));
                self.total = self.bars.as_ref().map(|bars| bars.add(bar("total", Some(size), 0)));
            }
            Event::File { path, size, from } => self.begin(path, size, from),
            Event::Bytes(count) => self.came(count),
            Event::Dropped(count) => {
                if let Some(file) = &mut self.file {
                    file.here = file.here.saturating_sub(count);
                    file.from = 0;
                    file.said.0 = 0;
                    file.bar.iter().for_each(|bar| bar.set_position(file.here));
                }
                self.total
                    .iter()
                    .for_each(|total| total.set_position(total.position().saturating_sub(count)));
            }
            Event::Whole { checked } => self.whole(checked),
            Event::End => self.clear(),
        }
    }

    fn begin(&mut self, path: &str, size: Option<u64>, from: u64) {
        let name = path.to_owned();
        if from > 0 {
            self.note(&format!("{name}: resuming at {}", bytes(from)));
        }
        let bar = self.bars.as_ref().map(|bars| bars.insert(0, bar(path, size, from)));
        self.total.iter().for_each(|total| total.inc(from));
        let now = Instant::now();
        self.file = Some(File { name, bar, size, here: from, from, began: now, said: (from, now) });
    }

    fn came(&mut self, count: u64) {
        self.total.iter().for_each(|total| total.inc(count));
        let Some(file) = &mut self.file else { return };
        file.here += count;
        if let Some(bar) = &file.bar {
            bar.set_position(file.here);
            return;
        }
        let Some(size) = file.size.filter(|_| !self.quiet) else { return };
        let tenth = |at: u64| at * 10 / size.max(1);
        let since = file.said.1.elapsed();
        let due = since > LINE_AFTER || (since > LINE_BEFORE && tenth(file.here) > tenth(file.said.0));
        if file.here < size && due {
            file.said = (file.here, Instant::now());
            let rate = (file.here - file.from) as f64 / file.began.elapsed().as_secs_f64().max(1e-3);
            let left = ((size - file.here) as f64 / rate.max(1.0)) as u64;
            let line = format!(
                "{}  {}%  {}/{}  {}/s  ETA {:02}:{:02}",
                file.name,
                file.here * 100 / size,
                bytes(file.here),
                bytes(size),
                bytes(rate as u64),
                left / 60,
                left % 60
            );
            self.note(&line);
        }
    }

    fn whole(&mut self, checked: bool) {
        let Some(file) = self.file.take() else { return };
        if let (Some(bars), Some(bar)) = (&self.bars, file.bar) {
            bar.finish_and_clear();
            bars.remove(&bar);
        }
        if !self.quiet {
            let seconds = file.began.elapsed().as_secs_f64();
            let how = if checked { "checked" } else { "without a hash" };
            self.note(&format!("{}  {}  {how}  {seconds:.1} s", file.name, bytes(file.here)));
        }
    }

    /// A line that stays, above the bars.
    fn note(&self, text: &str) {
        let line = || say(Style::Faint, format_args!("{text}"));
        match &self.bars {
            Some(bars) => bars.suspend(line),
            None => line(),
        }
    }

    fn clear(&mut self) {
        self.file = None;
        self.total = None;
        if let Some(bars) = &self.bars {
            // A terminal that is gone shows nothing either way.
            let _lost = bars.clear();
        }
    }
}

fn bar(name: &str, size: Option<u64>, from: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(if size.is_some() { FILE } else { UNKNOWN });
    let style = style.expect("the templates are well-formed").progress_chars("█▉▊▋▌▍▎▏ ");
    let bar = ProgressBar::hidden().with_style(style).with_prefix(name.to_owned()).with_position(from);
    bar.reset_eta();
    match size {
        Some(size) => bar.set_length(size),
        None => bar.unset_length(),
    }
    bar
}
