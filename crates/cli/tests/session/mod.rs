//! The real binary, run as a person or a program runs it.
#![allow(dead_code, reason = "each test file uses its part")]

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A small guest: what is proved does not depend on its size.
pub(crate) const SMALL: [&str; 4] = ["--memory", "16M", "--vcpus", "2"];

/// `vellum` with `arguments`.
pub(crate) fn vellum(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vellum"));
    command.args(arguments);
    command
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    vellum(arguments).output().expect("the binary was built")
}

/// Its exit status.
pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

/// What it said on standard error.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The object that `--json` printed.
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON object")
}

/// A folder that is removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vellum-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn unix(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }

    /// What is in it, by name.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("the folder is there").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.0).expect("the folder is there").next().is_none()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A `vellum` that is running and says what it does.
pub(crate) struct Session {
    child: Child,
    events: Receiver<Value>,
    seen: Vec<Value>,
}

impl Session {
    /// `vellum receive --events`; its events come on standard output.
    pub(crate) fn receive(arguments: &[&str]) -> Self {
        let mut command = vellum(&["receive", "--events"]);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        Self::of(command)
    }

    /// One whose events come on standard output, which is piped.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary was built");
        let output = child.stdout.take().expect("it is piped");
        Self::new(child, output)
    }

    /// `vellum watch --json`; its lines come on standard output.
    pub(crate) fn watch(arguments: &[&str]) -> Self {
        let mut command = vellum(&["watch", "--json"]);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        Self::of(command)
    }

    /// `vellum migrate --events`; its events come on standard error.
    pub(crate) fn migrate(arguments: &[&str]) -> Self {
        let mut command = vellum(&["migrate", "--events"]);
        command.args(arguments);
        Self::on_standard_error(command)
    }

    /// The same, with `folder` for its temporary files.
    pub(crate) fn migrate_in(folder: &Folder, arguments: &[&str]) -> Self {
        let mut command = vellum(&["migrate", "--events"]);
        command.args(arguments).env("TMPDIR", &folder.0);
        Self::on_standard_error(command)
    }

    fn on_standard_error(mut command: Command) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary was built");
        let output = child.stderr.take().expect("it is piped");
        Self::new(child, output)
    }

    fn new(child: Child, output: impl Read + Send + 'static) -> Self {
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    let _ = sender.send(event);
                }
            }
        });
        Self { child, events, seen: Vec::new() }
    }

    /// The next event, or `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Value> {
        let event = self.events.recv().ok()?;
        self.seen.push(event.clone());
        Some(event)
    }

    /// Waits for one of `names`.
    pub(crate) fn until_any(&mut self, names: &[&str]) -> Option<Value> {
        loop {
            let event = self.next()?;
            if names.contains(&event["event"].as_str().unwrap_or_default()) {
                return Some(event);
            }
        }
    }

    /// Waits for `name`.
    pub(crate) fn until(&mut self, name: &str) -> Value {
        self.until_any(&[name]).unwrap_or_else(|| panic!("no {name} after {:?}", self.seen))
    }

    /// Where it listens.
    pub(crate) fn address(&mut self) -> String {
        let event = self.until("listening");
        event["address"].as_str().expect("an address is text").to_owned()
    }

    /// Reads to the end of its events, so that [`said`](Self::said) is final.
    pub(crate) fn drain(&mut self) {
        while self.next().is_some() {}
    }

    /// Whether an event `name` was seen.
    pub(crate) fn said(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// The place of the last event `name`.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.seen.iter().rposition(|event| event["event"] == name)
    }

    /// All that was seen.
    pub(crate) fn seen(&self) -> &[Value] {
        &self.seen
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the process is ours");
    }

    /// As Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// As Ctrl-Z does; returns when none of its threads runs any more.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        while !self.is_stopped() {
            std::thread::yield_now();
        }
    }

    /// Lets it run on after a [`stop`](Self::stop).
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// From now on the system gives it so many bytes more than it has, and no more.
    pub(crate) fn limit_memory(&self, more: u64) {
        let has = self.status_line("VmSize:").trim_end_matches(" kB").parse::<u64>();
        let most = has.expect("a number of kilobytes") * 1024 + more;
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        prlimit(Some(self.process()), Resource::As, limit).expect("the process is ours");
    }

    fn signal(&self, signal: Signal) {
        // Nobody has waited for it, so its number is its own even after its end.
        kill_process(self.process(), signal).expect("the process is ours");
    }

    fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether every thread is stopped. The last ones to run end their turns first.
    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it is there");
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The name before may hold anything.
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    }

    /// What the system says of it.
    fn status_line(&self, name: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it is there");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.expect("the system says it").trim().to_owned()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
