//! An emulator that runs: its serial line is read as it comes, and it ends with us or before.

use super::serial::{Line, Tail};
use crate::cargo::spelt;
use crate::failure::Failure;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often the serial line is looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// How an emulator ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// By itself.
    Left,
    /// It had to be ended.
    Hung,
}

/// What was seen of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Transcript {
    /// What it said on the serial line.
    pub(crate) lines: Vec<Line>,
    /// How it ended.
    pub(crate) ending: Ending,
    /// When.
    pub(crate) wall: Duration,
}

/// A process that is ended when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It fails for a process that has ended, which is what it is for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `command` until it ends, or `patience` does. Tells `hear` of each line on its way.
pub(crate) fn run(
    command: &Command,
    serial: &Path,
    patience: Duration,
    mut hear: impl FnMut(&Line),
) -> Result<Transcript, Failure> {
    let mut tail = Tail::create(serial)?;
    let mut running = start(command)?;
    let begun = Instant::now();
    let ending = loop {
        tail.read(begun.elapsed(), &mut hear)?;
        match running.0.try_wait() {
            Ok(Some(_)) => break Ending::Left,
            Err(error) => return Err(Failure::Start { command: spelt(command), error }),
            Ok(None) if begun.elapsed() > patience => break Ending::Hung,
            Ok(None) => std::thread::sleep(GLANCE),
        }
    };
    drop(running);
    let wall = begun.elapsed();
    tail.read(wall, &mut hear)?;
    Ok(Transcript { lines: tail.into_lines(wall), ending, wall })
}

/// `setpriv` has the kernel end it when this program ends, however that may come: emulators are
/// deaf to most signals.
fn start(command: &Command) -> Result<Running, Failure> {
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(name, value),
            None => tied.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        tied.current_dir(folder);
    }
    tied.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let child = tied.spawn();
    child.map(Running).map_err(|error| Failure::Start { command: spelt(&tied), error })
}

#[cfg(test)]
mod tests {
    use super::{Ending, Transcript, run, start};
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    fn transcript(script: &str, patience: Duration) -> Transcript {
        let folder = tempfile::tempdir().expect("a folder");
        let serial = folder.path().join("serial");
        run(&shell(script, &serial), &serial, patience, |_| {}).expect("a shell")
    }

    fn shell(script: &str, serial: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(serial);
        command
    }

    #[test]
    fn what_is_written_last_is_heard() {
        let script = "printf 'check a\\nmet a: 1\\nend' > $1";
        let Transcript { lines, ending, .. } = transcript(script, Duration::from_secs(60));
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!((texts, ending), (vec!["check a", "met a: 1", "end"], Ending::Left));
    }

    #[test]
    fn whoever_takes_longer_than_we_wait_hangs() {
        assert_eq!(transcript("exec sleep 1000", Duration::ZERO).ending, Ending::Hung);
    }

    #[test]
    fn what_nobody_waits_for_is_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let serial = folder.path().join("serial");
        let deaf = shell("trap '' TERM INT; echo $$ > $1; exec sleep 1000", &serial);
        let running = start(&deaf).expect("a shell");
        let process = loop {
            match std::fs::read_to_string(&serial) {
                Ok(text) if text.ends_with('\n') => break format!("/proc/{}", text.trim()),
                _ => std::thread::yield_now(),
            }
        };
        assert!(Path::new(&process).exists(), "{process} runs");
        drop(running);
        assert!(!Path::new(&process).exists(), "{process} still runs");
    }
}
