//! Runs what is measured: tests of one sequence, and of several at once.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use jtllm_runtime::trace::Trace;
use jtllm_serve::{Engine, Model, Together};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Prompt(usize),
    Generate(usize),
}

impl Test {
    /// Tokens of one sequence.
    pub(crate) fn tokens(self) -> usize {
        let (Test::Prompt(count) | Test::Generate(count)) = self;
        count
    }

    /// llama-bench's name.
    pub(crate) fn name(self, depth: usize) -> String {
        let name = match self {
            Test::Prompt(count) => format!("pp{count}"),
            Test::Generate(count) => format!("tg{count}"),
        };
        if depth == 0 { name } else { format!("{name} @ d{depth}") }
    }
}

/// A test's times, and the kernels of one more run.
pub(crate) struct Measured {
    pub(crate) test: Test,
    pub(crate) depth: usize,
    pub(crate) sequences: usize,
    pub(crate) begin: SystemTime,
    pub(crate) samples: Vec<Duration>,
    pub(crate) trace: Trace,
    /// How long that run took, and what it was.
    pub(crate) traced: Duration,
    pub(crate) watched: Test,
}

impl Measured {
    fn new(test: Test, depth: usize, sequences: usize) -> Measured {
        let (begin, samples, trace) = (SystemTime::now(), Vec::new(), Trace::default());
        let (traced, watched) = (Duration::ZERO, test);
        Measured { test, depth, sequences, begin, samples, trace, traced, watched }
    }

    /// The name of its kernels' table.
    pub(crate) fn name(&self) -> String {
        let name = self.test.name(self.depth);
        if self.sequences == 1 { name } else { format!("{name} of {} sequences", self.sequences) }
    }

    /// Tokens of a run.
    pub(crate) fn tokens(&self) -> usize {
        self.test.tokens() * self.sequences
    }

    /// Tokens a second of each run.
    pub(crate) fn rates(&self) -> Vec<f64> {
        self.samples.iter().map(|time| self.tokens() as f64 / time.as_secs_f64()).collect()
    }

    /// The mean time of a run in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        let all: f64 = self.samples.iter().map(Duration::as_secs_f64).sum();
        all / self.samples.len().max(1) as f64
    }

    /// Passes of a run, in chunks of so many tokens.
    pub(crate) fn passes(&self, chunk: usize) -> usize {
        self.passes_of(self.test, chunk)
    }

    /// The same of the run whose kernels were traced.
    pub(crate) fn passes_watched(&self, chunk: usize) -> usize {
        self.passes_of(self.watched, chunk)
    }

    fn passes_of(&self, test: Test, chunk: usize) -> usize {
        match test {
            Test::Generate(count) => count,
            Test::Prompt(count) if self.sequences == 1 => count.div_ceil(chunk),
            // Sequences begin at multiples of 16 rows.
            Test::Prompt(count) => (count.next_multiple_of(16) * self.sequences).div_ceil(chunk),
        }
    }
}

/// Tokens spread over the vocabulary, the same in each run; others for each sequence.
fn tokens(model: &Model, sequence: usize, count: usize) -> Vec<u32> {
    let vocabulary = model.architecture().vocabulary() as u64;
    let first = 1 + sequence as u64 * 1_000_003;
    let id = |at: u64| ((first + at).wrapping_mul(0x9E37_79B9_7F4A_7C15) % vocabulary) as u32;
    (0..count as u64).map(id).collect()
}

/// Runs a test of one sequence once to warm up, as often as asked, and once more with a trace of its kernels. Where weights
/// come from a disk nothing gets faster, and a pass may take seconds: one token is enough for either then.
pub(crate) fn measure(
    engine: &mut Engine,
    test: Test,
    depth: usize,
    repetitions: u32,
) -> anyhow::Result<Measured> {
    let streams = engine.model().networks().iter().any(|network| network.residence().is_some());
    let short = match test {
        Test::Generate(count) if streams => Test::Generate(count.min(1)),
        other => other,
    };
    once(engine, short, depth, false)?;
    settle(engine.model());
    let mut measured = Measured { watched: short, ..Measured::new(test, depth, 1) };
    for _ in 0..repetitions {
        measured.samples.push(once(engine, test, depth, false)?);
    }
    measured.traced = once(engine, short, depth, true)?;
    measured.trace = engine.trace.take().unwrap_or_default();
    Ok(measured)
}

/// Waits for weights that the warm-up sent on their way to large pages: what is measured is a model in use.
fn settle(model: &Model) {
    while model.networks().iter().any(|network| network.weights().is_settling()) {
        thread::sleep(Duration::from_millis(5));
    }
}

fn once(engine: &mut Engine, test: Test, depth: usize, traced: bool) -> anyhow::Result<Duration> {
    let tokens = tokens(engine.model(), 0, depth + test.tokens());
    match depth {
        0 => engine.clear(),
        // What the run before has left of it is kept.
        _ => drop(engine.feed(&tokens[..depth], false)?),
    }
    if traced {
        engine.trace = Some(Trace::default());
    }
    let begin = Instant::now();
    match test {
        Test::Prompt(_) => drop(engine.feed(&tokens, false)?),
        Test::Generate(_) => {
            for id in &tokens[depth..] {
                engine.append(*id)?;
            }
        }
    }
    Ok(begin.elapsed())
}

/// Runs sequences at once, which read their prompts and then decode a token of each in a pass; prompts or tokens may be
/// none.
pub(crate) fn measure_together(
    engine: &mut Engine,
    count: usize,
    [prompt, generate]: [usize; 2],
    depth: usize,
    repetitions: u32,
) -> anyhow::Result<[Measured; 2]> {
    let ids: Vec<Vec<u32>> =
        (0..count).map(|at| tokens(engine.model(), at, depth + prompt + generate)).collect();
    engine.clear();
    let mut together = Together::new(engine.model_mut(), count);
    let lengths = [depth, prompt, generate];
    together_once(&mut together, &ids, lengths, false)?;
    settle(together.model());
    let mut both = [
        Measured::new(Test::Prompt(prompt), depth, count),
        Measured::new(Test::Generate(generate), depth + prompt, count),
    ];
    for _ in 0..repetitions {
        let times = together_once(&mut together, &ids, lengths, false)?;
        both.iter_mut().zip(times).for_each(|(measured, (time, _))| measured.samples.push(time));
    }
    let traced = together_once(&mut together, &ids, lengths, true)?;
    both.iter_mut()
        .zip(traced)
        .for_each(|(measured, (time, trace))| (measured.traced, measured.trace) = (time, trace));
    Ok(both)
}

fn together_once(
    together: &mut Together<'_>,
    ids: &[Vec<u32>],
    [depth, prompt, generate]: [usize; 3],
    traced: bool,
) -> anyhow::Result<[(Duration, Trace); 2]> {
    let part = |from: usize, count: usize| -> Vec<Vec<u32>> {
        ids.iter().map(|ids| ids[from..from + count].to_vec()).collect()
    };
    together.clear();
    if depth > 0 {
        together.feed(&part(0, depth))?;
    }
    together.trace = traced.then(Trace::default);
    let prompts = part(depth, prompt);
    let begin = Instant::now();
    if prompt > 0 {
        together.feed(&prompts)?;
    }
    let reading = (begin.elapsed(), together.trace.take().unwrap_or_default());
    together.trace = traced.then(Trace::default);
    let begin = Instant::now();
    for at in depth + prompt..depth + prompt + generate {
        let row: Vec<u32> = ids.iter().map(|ids| ids[at]).collect();
        together.append(&row)?;
    }
    let decoding = (begin.elapsed(), together.trace.take().unwrap_or_default());
    Ok([reading, decoding])
}
