//! The `vellum` command. Each command is a file.
#![forbid(unsafe_code)]

mod args;
mod bench;
#[cfg(feature = "breaks")]
mod breaks;
mod child;
mod destination;
mod event;
mod failure;
mod guest;
mod identity;
mod interrupt;
mod machine;
mod migrate;
mod quantity;
mod receive;
mod report;
mod resume;
mod show;
mod source;
mod track;
mod watch;

use args::{Cli, Command};
use clap::Parser;
use failure::{End, Failure};
use report::Report;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli.command).into(),
        Err(error) => misused(&error).into(),
    }
}

fn run(command: Command) -> End {
    let end = match command {
        Command::Migrate(args) => match args.resume {
            Some(pid) => resume::run(pid).map(|()| End::Done),
            None => Ok(migrate::run(&args)),
        },
        Command::Receive(args) => receive::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    end.unwrap_or_else(complain)
}

fn complain(failure: Failure) -> End {
    eprintln!("vellum: {failure}");
    End::NotStarted
}

/// What each command says as JSON when it could not be begun.
fn misuse(reason: String) -> String {
    if std::env::args().nth(1).is_some_and(|command| command == "watch") {
        watch::Line::Failed { reason: &reason }.json()
    } else {
        Report { reason, ..Report::default() }.json()
    }
}

/// Help and versions go to standard output; a wrong usage is JSON where JSON was asked for.
fn misused(error: &clap::Error) -> End {
    let json = std::env::args().any(|argument| argument == "--json");
    if json && error.use_stderr() {
        let reason = error.to_string().trim_end().to_owned();
        let _ = writeln!(std::io::stdout(), "{}", misuse(reason));
    } else {
        // Where nobody reads, the exit status is all that can be said.
        let _ = error.print();
    }
    if error.use_stderr() { End::NotStarted } else { End::Done }
}
