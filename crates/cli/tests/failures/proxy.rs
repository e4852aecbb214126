//! A wire between source and destination that knows where the migration is, and fails there.

use super::chance::Chance;
use super::fault::Cut;
use super::frames::{Frame, Frames, Kind, Way};
use super::phase::{Belongs, Phase};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// What the wire does when it fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Blow {
    /// It holds a message back until it is told to go on: what happens meanwhile is not its doing.
    Hold,
    /// It carries nothing any more and stays open.
    Stall,
    /// It is cut.
    Cut(Cut),
    /// Some bytes of the message become others.
    Garble,
    /// Bytes that nobody sent go this way.
    Insert(Way),
    /// The message's beginning is forwarded, and then it is cut.
    Shorten,
}

/// Where the first connection fails, and how. Those that follow are sound.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) phase: Phase,
    pub(crate) way: Way,
    /// At which of the phase's messages, from 0; at its last, if there are not so many.
    pub(crate) nth: usize,
    pub(crate) blow: Blow,
    pub(crate) chance: Chance,
}

/// What became of the plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// It has struck.
    Struck,
    /// The connection ended before it could.
    Missed,
}

/// A Unix socket in front of others.
pub(crate) struct Proxy {
    path: PathBuf,
    wire: Arc<Wire>,
    news: Receiver<News>,
    thread: Option<JoinHandle<()>>,
}

/// What its threads share.
struct Wire {
    plan: Plan,
    state: Mutex<State>,
    changed: Condvar,
    news: Mutex<Sender<News>>,
}

/// Where the migration is, and what was done to it.
struct State {
    /// Where new connections go; they wait while there is none.
    gate: Option<PathBuf>,
    round: u32,
    seen: usize,
    carried: Carried,
    strike: Strike,
    /// Every connection, to end them.
    streams: Vec<Arc<UnixStream>>,
}

/// What the first connection has carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Carried {
    /// There is none yet.
    Nothing,
    /// So many messages, both ways together.
    Messages(usize),
    /// All that it ever will.
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Strike {
    /// Not before it is armed.
    Waits,
    /// As planned.
    Armed,
    /// Done, and a message is held back.
    Holds,
    /// Done, and nothing moves any more.
    Stalls,
    /// Done.
    Done,
    /// The run is over.
    Over,
}

impl Strike {
    /// Unless the run is over.
    fn become_now(&mut self, next: Self) {
        if *self != Self::Over {
            *self = next;
        }
    }

    /// The connection has ended: it is too late if it has not been done.
    fn is_missed(&mut self) -> bool {
        let missed = matches!(self, Self::Waits | Self::Armed);
        if missed {
            *self = Self::Done;
        }
        missed
    }
}

/// Whether a connection is the one that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judged {
    Yes,
    No,
}

/// The two ends of a connection.
#[derive(Clone)]
struct Ends {
    near: Arc<UnixStream>,
    far: Arc<UnixStream>,
}

impl Ends {
    fn from(&self, way: Way) -> &UnixStream {
        match way {
            Way::Forward => &self.near,
            Way::Back => &self.far,
        }
    }

    fn to(&self, way: Way) -> &UnixStream {
        match way {
            Way::Forward => &self.far,
            Way::Back => &self.near,
        }
    }

    /// Nothing goes this way any more. Either end may be closed already.
    fn close(&self, way: Way) {
        let _ = self.from(way).shutdown(Shutdown::Read);
        let _ = self.to(way).shutdown(Shutdown::Write);
    }

    fn cut(&self, cut: Cut) {
        match cut {
            Cut::Both => [Way::Forward, Way::Back].into_iter().for_each(|way| self.close(way)),
            Cut::One(way) => self.close(way),
        }
    }
}

impl Proxy {
    /// Listens at `path` in front of the destination at `target`.
    pub(crate) fn new(path: &Path, target: &Path, plan: Plan) -> Self {
        let listener = UnixListener::bind(path).expect("a fresh path");
        let (news, receiver) = channel();
        let strike = if plan.phase == Phase::AnyMoment { Strike::Waits } else { Strike::Armed };
        let gate = Some(target.to_owned());
        let (carried, streams) = (Carried::Nothing, Vec::new());
        let state = State { gate, round: 1, seen: 0, carried, strike, streams };
        let (state, changed, news) = (Mutex::new(state), Condvar::new(), Mutex::new(news));
        let wire = Arc::new(Wire { plan, state, changed, news });
        let theirs = Arc::clone(&wire);
        let thread = std::thread::spawn(move || theirs.serve(&listener));
        Self { path: path.to_owned(), wire, news: receiver, thread: Some(thread) }
    }

    /// Waits until the source has connected and so many messages have gone by, or all have.
    pub(crate) fn await_messages(&self, count: usize) {
        let fewer = |state: &mut State| match state.carried {
            Carried::Nothing => true,
            Carried::Messages(carried) => carried < count,
            Carried::All => false,
        };
        drop(self.wire.wait_while(fewer));
    }

    /// Waits until it has struck, or missed.
    pub(crate) fn await_strike(&self) -> News {
        self.news.recv().expect("its thread ends after this value")
    }

    /// Strikes at the next message.
    pub(crate) fn arm(&self) {
        self.wire.turn(|state| {
            if state.strike == Strike::Waits {
                state.strike = Strike::Armed;
            }
        });
    }

    /// Something else strikes now, unless the connection has ended. Others wait from now on.
    pub(crate) fn close(&self) -> News {
        self.wire.turn(|state| state.gate = None);
        let mut state = self.wire.state();
        match state.strike {
            Strike::Waits => {
                state.strike = Strike::Done;
                News::Struck
            }
            _ => News::Missed,
        }
    }

    /// Lets the message go on that was held back.
    pub(crate) fn release(&self) {
        self.wire.turn(|state| {
            if state.strike == Strike::Holds {
                state.strike = Strike::Done;
            }
        });
    }

    /// Connections go to `target` from now on, those that have waited too.
    pub(crate) fn open(&self, target: &Path) {
        self.wire.turn(|state| state.gate = Some(target.to_owned()));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wire.turn(|state| {
            state.strike = Strike::Over;
            for stream in &state.streams {
                // It may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        // Wakes the acceptor.
        let _ = UnixStream::connect(&self.path);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the proxy does not panic");
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the proxy panics")
    }

    fn turn(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn wait_while(&self, holds: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.state(), holds);
        waited.expect("no thread of the proxy panics")
    }

    fn say(&self, news: News) {
        // Who has heard enough does not listen.
        let _ = self.news.lock().expect("no thread of the proxy panics").send(news);
    }

    fn serve(self: &Arc<Self>, listener: &UnixListener) {
        let (mut judged, mut connections) = (Judged::Yes, Vec::new());
        while let Ok((near, _)) = listener.accept() {
            let Some(target) = self.target() else { break };
            // Where nobody listens the source sees a closed connection.
            let Ok(far) = UnixStream::connect(target) else { continue };
            let ends = Ends { near: Arc::new(near), far: Arc::new(far) };
            self.turn(|state| state.streams.extend([ends.near.clone(), ends.far.clone()]));
            let (wire, this) = (Arc::clone(self), judged);
            connections.push(std::thread::spawn(move || wire.carry(&ends, this)));
            judged = Judged::No;
        }
        connections.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    }

    /// Where to, once it is known; `None` when the run is over.
    fn target(&self) -> Option<PathBuf> {
        let closed = |state: &mut State| state.gate.is_none() && state.strike != Strike::Over;
        let state = self.wait_while(closed);
        state.gate.clone().filter(|_| state.strike != Strike::Over)
    }

    /// A whole connection.
    fn carry(&self, ends: &Ends, judged: Judged) {
        if judged == Judged::Yes {
            self.turn(|state| state.carried = Carried::Messages(0));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| self.pump(ends, Way::Forward, judged));
            self.pump(ends, Way::Back, judged);
        });
        if judged == Judged::Yes {
            self.turn(|state| state.carried = Carried::All);
            if self.state().strike.is_missed() {
                self.say(News::Missed);
            }
        }
    }

    /// Carries messages one way to the end.
    fn pump(&self, ends: &Ends, way: Way, judged: Judged) {
        let mut frames = Frames::new(ends.from(way));
        while let Ok(Some(frame)) = frames.next() {
            let bytes = match judged {
                Judged::Yes if self.is_due(way, &frame) => self.strike(ends, way, frame.bytes),
                _ => Some(frame.bytes),
            };
            self.stall(judged);
            match bytes.map(|bytes| ends.to(way).write_all(&bytes)) {
                Some(Ok(())) => self.count(judged),
                _ => break,
            }
        }
        self.stall(judged);
        ends.close(way);
    }

    fn count(&self, judged: Judged) {
        self.turn(|state| match &mut state.carried {
            Carried::Messages(count) if judged == Judged::Yes => *count += 1,
            _ => {}
        });
    }

    /// Stays here with both ends open if nothing is to move any more.
    fn stall(&self, judged: Judged) {
        if judged == Judged::Yes {
            drop(self.wait_while(|state| state.strike == Strike::Stalls));
        }
    }

    /// Whether to strike at this message. If so, nobody else connects until the gate is opened.
    fn is_due(&self, way: Way, frame: &Frame) -> bool {
        let mut state = self.state();
        let belongs = self.plan.phase.has(way, frame, state.round);
        if frame.kind == Kind::RoundEnd {
            state.round += 1;
        }
        if belongs == Belongs::No || way != self.plan.way {
            return false;
        }
        let reached = state.seen >= self.plan.nth || belongs == Belongs::Last;
        state.seen += 1;
        if !reached || state.strike != Strike::Armed {
            return false;
        }
        state.strike = Strike::Done;
        state.gate = None;
        true
    }

    /// Strikes, and returns what is to be forwarded, if anything is.
    fn strike(&self, ends: &Ends, way: Way, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let mut chance = self.plan.chance.clone();
        let forwarded = match self.plan.blow {
            Blow::Hold => return Some(self.hold(bytes)),
            Blow::Stall => {
                self.turn(|state| state.strike.become_now(Strike::Stalls));
                Some(bytes)
            }
            Blow::Cut(cut) => {
                ends.cut(cut);
                (cut == Cut::One(other(way))).then_some(bytes)
            }
            Blow::Garble => Some(garbled(bytes, &mut chance)),
            Blow::Insert(into) => {
                let length = 1 + chance.below(64);
                // Nobody may be left to read it.
                let _ = ends.to(into).write_all(&chance.bytes(length));
                Some(bytes)
            }
            Blow::Shorten => {
                let length = 1 + chance.below(bytes.len() - 1);
                let _ = ends.to(way).write_all(&bytes[..length]);
                ends.cut(Cut::Both);
                None
            }
        };
        self.say(News::Struck);
        forwarded
    }

    /// Keeps a message back until it is released.
    fn hold(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.turn(|state| state.strike.become_now(Strike::Holds));
        self.say(News::Struck);
        drop(self.wait_while(|state| state.strike == Strike::Holds));
        bytes
    }
}

fn other(way: Way) -> Way {
    match way {
        Way::Forward => Way::Back,
        Way::Back => Way::Forward,
    }
}

/// Every byte of a piece becomes another: as often one of the first bytes as one of all.
fn garbled(mut bytes: Vec<u8>, chance: &mut Chance) -> Vec<u8> {
    let reach = chance.pick(&[bytes.len().min(24), bytes.len()]);
    let first = chance.below(reach);
    let length = 1 + chance.below(32.min(bytes.len() - first));
    for byte in &mut bytes[first..first + length] {
        *byte ^= chance.pick(&[1, 0x10, 0x80, 0xff, 0x5a]);
    }
    bytes
}
