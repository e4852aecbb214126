//! The two processes, the wire between them, and what they say.

use super::fault::{Fault, Side};
use super::phase::Phase;
use super::proxy::{Plan, Proxy};
use super::run::{Job, Wrong};
use crate::session::{Folder, SMALL, Session};
use serde_json::Value;
use std::path::PathBuf;
use vellum_machine::guests::selfcheck::passes_to_recheck_all;

/// The guest's memory and virtual CPUs, as [`SMALL`] says.
const GUEST: (u64, u64) = (16 << 20, 2);

/// What a destination says of an attempt that has reached it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// The guest did not arrive.
    Refused,
    /// The guest runs here.
    Running,
    /// Nothing: its process ended.
    Died,
}

/// A destination and where it listens.
pub(crate) struct Destination {
    pub(crate) session: Session,
    pub(crate) path: PathBuf,
    first: Option<Word>,
}

/// Everything of one run. The processes end first, then the wire, then the folder goes.
pub(crate) struct Scene {
    pub(crate) source: Session,
    pub(crate) destination: Destination,
    pub(crate) proxy: Proxy,
    folder: Folder,
    job: Job,
}

impl Destination {
    fn start(folder: &Folder, name: &str, job: &Job) -> Self {
        let path = folder.path(name);
        let listen = folder.unix(name);
        let arguments = ["--listen", &listen, "--patience", job.fault.patience()];
        let mut session = Session::receive(&arguments);
        session.address();
        Self { session, path, first: None }
    }

    /// What it says of the first attempt that has reached it.
    pub(crate) fn first_word(&mut self) -> Word {
        let known = self.first.or_else(|| self.session.seen().iter().find_map(word));
        let word = known.unwrap_or_else(|| self.next_word());
        *self.first.insert(word)
    }

    /// What it says next.
    pub(crate) fn next_word(&mut self) -> Word {
        let event = self.session.until_any(&["refused", "running"]);
        event.as_ref().and_then(word).unwrap_or(Word::Died)
    }

    /// Waits until the guest here has found all of its memory right.
    pub(crate) fn verify(&mut self) -> Result<(), Wrong> {
        let enough = passes_to_recheck_all(GUEST.0, GUEST.1);
        loop {
            let Some(event) = self.session.until_any(&["progress", "ended"]) else {
                return Err(Wrong::nobody("the destination ended with the guest", &self.session));
            };
            if event["event"] == "ended" {
                return Err(Wrong::page_lost("the guest ended there", &self.session));
            }
            let passes = event["passes"].as_array().expect("numbers");
            if passes.iter().all(|count| count.as_u64() >= Some(enough)) {
                return Ok(());
            }
        }
    }

    /// Ends it as Ctrl-C does, with a guest in it or without; it must leave nothing behind.
    pub(crate) fn dismiss(&mut self, code: i32) -> Result<(), Wrong> {
        self.session.interrupt();
        self.must_end(code)
    }

    /// It ends, with this status and without its socket.
    pub(crate) fn must_end(&mut self, code: i32) -> Result<(), Wrong> {
        self.session.drain();
        let status = self.session.end();
        if status.code() != Some(code) {
            return Err(Wrong::other(&format!("the destination ended: {status}"), &self.session));
        }
        if self.path.exists() {
            return Err(Wrong::other("the destination left its socket", &self.session));
        }
        Ok(())
    }
}

impl Scene {
    /// A source on its way to a destination, through a wire that fails as planned.
    pub(crate) fn start(job: &Job, plan: Plan) -> Self {
        let folder = Folder::new(&format!("matrix-{}", job.name()));
        let destination = Destination::start(&folder, "first", job);
        let proxy = Proxy::new(&folder.path("wire"), &destination.path, plan);
        let source = source(&folder.unix("wire"), job);
        Self { source, destination, proxy, folder, job: *job }
    }

    /// Another destination in place of the first.
    pub(crate) fn replace_destination(&mut self) {
        self.destination = Destination::start(&self.folder, "second", &self.job);
    }

    /// Lets the source reach the destination that there is.
    pub(crate) fn open(&self) {
        self.proxy.open(&self.destination.path);
    }

    /// A guest of somebody else, straight to the destination that there is.
    pub(crate) fn another_source(&self) -> Session {
        source(&format!("unix:{}", self.destination.path.display()), &self.job)
    }

    /// The source's next word on where the guest is.
    pub(crate) fn source_says(&mut self) -> Option<Value> {
        self.source.until_any(&["handed-over", "runs-on", "unknown"])
    }

    pub(crate) fn process(&mut self, side: Side) -> &mut Session {
        match side {
            Side::Source => &mut self.source,
            Side::Destination => &mut self.destination.session,
        }
    }
}

/// What an event says of a guest, if it is about one.
fn word(event: &Value) -> Option<Word> {
    match event["event"].as_str()? {
        "refused" => Some(Word::Refused),
        "running" => Some(Word::Running),
        _ => None,
    }
}

fn source(to: &str, job: &Job) -> Session {
    let seed = job.seed.to_string();
    let fixed = ["--to", to, "--attempts", "1000000", "--seed", &seed];
    let times = ["--downtime", job.phase.downtime(), "--patience", job.fault.patience()];
    let broken = job.broken.map(|bug| ["--break", bug]);
    let broken = broken.as_ref().map_or(&[][..], |flag| flag);
    Session::migrate(&[&fixed[..], &job.tables(), &times, &SMALL, broken].concat())
}

/// Whether the rule holds that a failure is noticed where it happened or later. Who is told to end may
/// not have read yet what brings it to the phase.
pub(crate) fn is_in_time(phase: Phase, fault: Fault, reason: &str) -> bool {
    let unread = usize::from(fault == Fault::Interrupt(Side::Source));
    let words = [
        "connecting",
        "greeting",
        "starting the log",
        "copying",
        "copying the rest",
        "verifying",
        "handing over",
    ];
    let place = |what: &str| words.iter().position(|word| *word == what);
    let said = reason.strip_prefix("while ").and_then(|rest| rest.split_once(':'));
    said.and_then(|(said, _)| place(said)).map(|said| said + unread) >= place(phase.in_words())
}

/// Whether patience was lost.
pub(crate) fn is_impatience(reason: &str) -> bool {
    reason.contains("did nothing for")
}

/// Whether patience was lost only where there was silence; who is interrupted has little of it.
pub(crate) fn fits(fault: Fault, reason: &str) -> bool {
    fault.is_silent() || fault == Fault::Interrupt(Side::Source) || !is_impatience(reason)
}
