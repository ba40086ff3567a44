//! The `jtllm` binary.

mod args;
mod bench;
mod chat;
mod clean;
mod doctor;
mod download;
mod embed;
mod environment;
mod failure;
mod inspect;
mod interrupt;
mod load;
mod memory;
mod models;
mod perplexity;
mod plan;
mod ps;
mod run;
mod sampling;
mod size;
mod template;
mod terminal;
mod tokenize;
mod verify;

use clap::{CommandFactory, Parser};
use jtllm_runtime::os;

use args::{Command, Line};
use terminal::{Style, say};

fn main() {
    os::survive_file_limits();
    let status = match Line::try_parse_from(args::respelled(std::env::args_os())) {
        Ok(line) => match execute(&line.command) {
            Ok(()) => 0,
            Err(error) => fail(&error),
        },
        Err(refusal) => {
            // Help and version are no refusals; a closed stream is none of our business.
            let _lost = refusal.print();
            refusal.exit_code()
        }
    };
    ps::leave();
    std::process::exit(status);
}

fn execute(command: &Command) -> anyhow::Result<()> {
    if !matches!(command, Command::Completions { .. }) {
        environment::check()?;
    }
    match command {
        Command::Run(args) => run::run(args),
        Command::Pull(args) => models::pull(args),
        Command::List(args) => models::list(args),
        Command::Show(args) => models::show(args),
        Command::Rm(args) => models::rm(args),
        Command::CleanCache(args) => clean::clean_cache(args),
        Command::Ps(args) => ps::ps(args),
        Command::Plan(args) => plan::plan(args),
        Command::Verify(args) => verify::verify(args),
        Command::Bench(args) => bench::bench(args),
        Command::Perplexity(args) => perplexity::perplexity(args),
        Command::Inspect(args) => inspect::inspect(args),
        Command::Completions { shell } => completions(*shell),
        Command::Tokenize(args) => tokenize::tokenize(args),
        Command::Template(args) => template::template(args),
        Command::Embed(args) => embed::embed(args),
        Command::Doctor(args) => doctor::doctor(args),
    }
}

/// Says why, unless nobody is to be told, and gives the exit status.
fn fail(error: &anyhow::Error) -> i32 {
    let status = failure::exit_status(error);
    if status != 0 && status != failure::INTERRUPTED {
        say(Style::Alarm, format_args!("error: {}", failure::told(error)));
    }
    status
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Line::command(), "jtllm", &mut script);
    terminal::print(&String::from_utf8(script)?)
}
