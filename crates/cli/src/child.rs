//! The destination process that `vellum migrate` starts for itself.

use crate::event::Event;
use crate::failure::Failure;
use crate::quantity::exact_duration;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use tempfile::TempDir;
use vellum_migrate::Address;

/// How often a wait looks up.
const TICK: Duration = Duration::from_millis(50);

/// A receiver that ends with this process: its standard input is a pipe from here, and whoever
/// ends us, it closes.
pub(crate) struct Destination {
    process: Child,
    events: Receiver<Event>,
    address: Address,
    /// Holds the socket; removed with this value. `None` once that is done.
    folder: Option<TempDir>,
}

/// What a wait for an event came to.
pub(crate) enum Waited<T> {
    /// What was waited for.
    For(T),
    /// The destination has ended.
    Gone,
    /// Somebody asked to stop.
    Stopped,
}

impl Destination {
    /// Starts this same program as a receiver and returns once it listens.
    pub(crate) fn start(patience: Duration) -> Result<Self, Failure> {
        let folder =
            tempfile::Builder::new().prefix("vellum-").tempdir().map_err(Failure::Folder)?;
        let mut process = spawn(folder.path(), patience).map_err(Failure::Spawn)?;
        let events = process.stdout.take().map(follow).ok_or(Failure::Silent)?;
        let address = Address::Unix(socket(folder.path()));
        let mut this = Self { process, events, address, folder: Some(folder) };
        let listening = |event: &Event| matches!(event, Event::Listening { .. }).then_some(());
        match this.wait(listening, || false) {
            Waited::For(()) => Ok(this),
            _ => Err(Failure::Silent),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        self.address.clone()
    }

    /// Whether the process has ended, and any guest in it.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(Some(_)))
    }

    /// Waits until `wanted` makes something of an event, the process ends, or `stop` says so.
    pub(crate) fn wait<T>(
        &mut self,
        mut wanted: impl FnMut(&Event) -> Option<T>,
        stop: impl Fn() -> bool,
    ) -> Waited<T> {
        loop {
            match self.events.recv_timeout(TICK) {
                Ok(event) => {
                    if let Some(found) = wanted(&event) {
                        return Waited::For(found);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Waited::Gone,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if stop() {
                return Waited::Stopped;
            }
        }
    }
}

/// A failed migration leaves nothing behind, a good one neither.
impl Drop for Destination {
    fn drop(&mut self) {
        // First, as a second Ctrl-C may end this process while the other one's memory is given back.
        drop(self.folder.take());
        // Both fail only where the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn socket(folder: &Path) -> std::path::PathBuf {
    folder.join("socket")
}

fn spawn(folder: &Path, patience: Duration) -> std::io::Result<Child> {
    use std::os::unix::process::CommandExt;
    let mut address = std::ffi::OsString::from("unix:");
    address.push(socket(folder));
    Command::new(std::env::current_exe()?)
        .args([OsStr::new("receive"), OsStr::new("--attached"), OsStr::new("--events")])
        .args([OsStr::new("--listen"), &address])
        .args(["--patience".to_owned(), exact_duration(patience)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C at the terminal is for this process; it tells the other one itself.
        .process_group(0)
        .spawn()
}

/// Reads events until the process closes its output. Lines that are no events are skipped.
fn follow(output: ChildStdout) -> Receiver<Event> {
    let (sender, events) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        for event in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    events
}
