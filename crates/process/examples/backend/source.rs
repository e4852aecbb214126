//! The side that the back end leaves.

use crate::device::{Device, PAGES, layout, shared_memory};
use std::convert::Infallible;
use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_memory::{AddressSpace, DirtySource, Layout, PageSet};
use vellum_migrate::{Address, Options, Outcome, Report, SourceGuest, Verdict, migrate};
use vellum_process::ProcessLog;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// What both sides call it.
pub(crate) const IDENTITY: &[u8] = b"vellum-process example backend, 1";

/// What the second process says when it can be reached.
pub(crate) const LISTENS: &str = "listens";

/// How long the device may stand still: so short that there are a few rounds before.
const DOWNTIME: Duration = Duration::from_millis(3);

/// Whether its writes are logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Logs {
    /// By this crate's log.
    OfThisProcess,
    /// Not at all: the control.
    None,
}

/// How it ended.
pub(crate) enum Ending {
    /// It runs there, and all of its memory arrived.
    Moved {
        report: Report,
        /// What the second process said of it.
        there: String,
    },
    /// It runs here.
    Kept { report: Report, reason: String, writes: u64 },
}

/// Moves a back end to a second process, which `second` says how to start, to listen at a path.
pub(crate) fn move_to(
    second: impl FnOnce(&Path) -> Result<Command, Failure>,
    logs: Logs,
) -> Result<Ending, Failure> {
    let socket =
        std::env::temp_dir().join(format!("vellum-backend-{}-{logs:?}", std::process::id()));
    let mut second = Second::started(second(&socket)?)?;
    let memory = shared_memory()?;
    let ending = match logs {
        Logs::OfThisProcess => {
            let log = ProcessLog::of_guest(&memory, AddressSpace::NORMAL)?;
            leave(memory, log, &socket, &mut second.said)
        }
        Logs::None => leave(memory, NoLog(layout()?), &socket, &mut second.said),
    };
    if matches!(ending, Ok(Ending::Moved { .. })) {
        let status = second.child.wait()?;
        return if status.success() { ending } else { Err("the second process failed".into()) };
    }
    drop(second);
    std::fs::remove_file(socket)?;
    ending
}

/// The second process. Dropping it ends it: one that waits for a back end that does not come would not.
struct Second {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Second {
    /// Starts it, and waits until it listens.
    fn started(mut command: Command) -> Result<Self, Failure> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let said = child.stdout.take().expect("it was asked for");
        let mut second = Self { child, said: BufReader::new(said) };
        let mut line = String::new();
        while !line.trim_end().ends_with(LISTENS) {
            line.clear();
            if second.said.read_line(&mut line)? == 0 {
                return Err("the second process ended before it listened".into());
            }
        }
        Ok(second)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        // One that has ended is not there to be ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the back end for a while, and moves it away.
fn leave<D: DirtySource>(
    memory: GuestMemoryMmap,
    log: D,
    socket: &Path,
    said: &mut impl Read,
) -> Result<Ending, Failure> {
    let device = Device::new(&memory)?;
    device.resume();
    device.wait_for(PAGES);
    let backend = Backend { memory, log, device };
    let options = Options { downtime: DOWNTIME, ..Options::default() };
    match migrate(backend, &Address::Unix(socket.to_owned()), &options, &mut |_| {}) {
        Outcome::Moved(moved) => {
            let mut there = String::new();
            said.read_to_string(&mut there)?;
            Ok(Ending::Moved { report: moved.report, there })
        }
        Outcome::Kept(kept) => {
            let (report, reason) = (kept.report, kept.failure.to_string());
            // It runs on: a device that had been left standing would not get so far.
            let device = &kept.guest.device;
            device.wait_for(device.writes() + 1000);
            Ok(Ending::Kept { report, reason, writes: device.writes() })
        }
        Outcome::Unknown(_) => Err("nobody knows where it runs".into()),
    }
}

/// A back end that may move away.
struct Backend<D> {
    memory: GuestMemoryMmap,
    log: D,
    device: Device,
}

impl<D: DirtySource> SourceGuest for Backend<D> {
    type Memory = GuestMemoryMmap;
    type Dirty = D;
    type Error = Infallible;

    fn identity(&self) -> Vec<u8> {
        IDENTITY.to_vec()
    }

    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        &self.memory
    }

    fn dirty(&mut self) -> &mut D {
        &mut self.log
    }

    fn pause(&mut self) {
        self.device.pause();
    }

    fn resume(&mut self) {
        self.device.resume();
    }

    fn save_state(&mut self) -> Result<Vec<u8>, Infallible> {
        Ok(self.device.save())
    }
}

/// A log that has seen nothing.
struct NoLog(Layout);

impl DirtySource for NoLog {
    type Error = Infallible;

    fn method(&self) -> &'static str {
        "nothing"
    }

    fn layout(&self) -> &Layout {
        &self.0
    }

    fn start(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn collect(&mut self, _: &mut PageSet) -> Result<(), Infallible> {
        Ok(())
    }

    fn owe(&mut self, _: &PageSet) {}
}

impl Ending {
    /// Prints it.
    pub(crate) fn tell(&self) -> ExitCode {
        let (Self::Moved { report, .. } | Self::Kept { report, .. }) = self;
        println!("round    dirty     sent     zero     time");
        for (number, round) in (1..).zip(&report.rounds) {
            let (dirty, sent, zero) = (round.dirty, round.sent, round.zero);
            println!("{number:>5} {dirty:>8} {sent:>8} {zero:>8}  {:>7.1?}", round.time);
        }
        match self {
            Self::Moved { report, there } => {
                let verified = report.verdict == Verdict::Same;
                let word = if verified { "Verified" } else { "Not verified" };
                println!("{word}: {} pages, tracked by {}.", report.pages, report.method);
                there
                    .lines()
                    .filter(|line| line.starts_with("There"))
                    .for_each(|line| println!("{line}"));
                if verified { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Self::Kept { report, reason, writes } => {
                println!("Not moved, tracked by {}: {reason}.", report.method);
                println!("Here: the device runs on, with {writes} writes so far.");
                ExitCode::FAILURE
            }
        }
    }
}
