//! Cargo and other programs, run so that their output is seen as it comes.

use crate::failure::Failure;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where builds go: `CARGO_TARGET_DIR`, or `target`. Absolute: commands run in other folders than ours.
pub(crate) fn target() -> PathBuf {
    let chosen = chosen_target().unwrap_or_else(|| root().join("target"));
    std::path::absolute(&chosen).unwrap_or(chosen)
}

fn chosen_target() -> Option<PathBuf> {
    std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from)
}

/// `cargo` with `words`, separated by spaces, in the workspace's root.
pub(crate) fn cargo(words: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(words.split_whitespace()).current_dir(root());
    // What cargo told this program about itself is not for the packages that are built next.
    for name in ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    if chosen_target().is_some_and(|folder| folder.is_relative()) {
        command.env("CARGO_TARGET_DIR", target());
    }
    command
}

/// The same for tests: they report to a file of ours whether the machine had what they need.
pub(crate) fn tests(words: &str) -> Command {
    let mut command = cargo(words);
    command.env(vellum_presence::REPORTS, crate::presence::reports());
    command
}

/// Runs `command` to its end.
pub(crate) fn run(mut command: Command) -> Result<(), Failure> {
    let text = spelt(&command);
    println!("$ {text}");
    finish(text, command.stdin(Stdio::null()).status())
}

/// Runs `command` to its end, and leaves standard output to whoever has results to put there.
pub(crate) fn run_aside(mut command: Command) -> Result<(), Failure> {
    let text = spelt(&command);
    eprintln!("$ {text}");
    finish(text, command.stdin(Stdio::null()).stdout(std::io::stderr()).status())
}

/// Whether `program` can be started at all.
pub(crate) fn starts(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn finish(command: String, status: std::io::Result<ExitStatus>) -> Result<(), Failure> {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Command { command, status }),
        Err(error) => Err(Failure::Start { command, error }),
    }
}

/// Runs `command` to its end, and gives what it says on standard output.
pub(crate) fn output_of(mut command: Command) -> Result<String, Failure> {
    let text = spelt(&command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let (status, said) = match output {
        Ok(output) => (Ok(output.status), output.stdout),
        Err(error) => (Err(error), Vec::new()),
    };
    finish(text, status).map(|()| String::from_utf8_lossy(&said).into_owned())
}

/// As a person would type it, the variables in front. Where tests report to is ours alone.
pub(crate) fn spelt(command: &Command) -> String {
    let ours = |name: &OsStr| name == vellum_presence::REPORTS;
    let variables =
        command.get_envs().filter(|(name, _)| !ours(name)).filter_map(|(name, value)| {
            value.map(|value| format!("{}={:?}", name.to_string_lossy(), value.to_string_lossy()))
        });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned());
    variables.chain(words).collect::<Vec<_>>().join(" ")
}
