//! The destination's side: it listens, takes one guest at a time, and remembers what it decided.
//!
//! A guest is taken at one moment: when the hand-over is entered in [`Decisions`]. Until then the
//! incoming guest is thrown away on any failure. A question about a migration that was not taken
//! enters a promise in the same place, under the same lock: the two exclude each other.

mod attend;
mod decisions;
mod incoming;

pub use attend::Answerer;

use crate::address::{Address, ListenError, Listener};
use crate::cancel::Cancel;
use crate::failure::{Cause, Failure};
use crate::guest::Destination;
use crate::identity::{InstanceId, MigrationId};
use crate::link::reason;
use crate::progress::{Phase, Progress};
use crate::wire::Answer;
use attend::{Asked, Desk, Greeting};
use decisions::Decisions;
use incoming::Incoming;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a destination puts up with.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long the source may do nothing before the guest is given up.
    pub patience: Duration,
    /// What stops it from outside.
    pub cancel: Cancel,
}

impl Default for Limits {
    /// Half a minute of patience.
    fn default() -> Self {
        Self { patience: Duration::from_secs(30), cancel: Cancel::new() }
    }
}

/// Listens for guests.
///
/// Once a guest has arrived it goes on answering sources that ask what became of theirs, in a thread
/// of its own: one that lost the acknowledgement must be able to ask. Keep it as long as the guest
/// runs.
#[derive(Debug)]
pub struct Receiver {
    listener: Arc<Listener>,
    address: Address,
    desk: Desk,
    /// Attends to whoever connects between an arrival and the next call.
    attendant: Mutex<Option<Answerer>>,
}

/// What one connection was about.
#[derive(Debug)]
pub enum Served<G> {
    /// A guest arrived and runs here.
    Arrived(Received<G>),
    /// A source asked whether its guest had been taken.
    Answered(MigrationId, Answer),
}

/// A guest that arrived and runs here.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received<G> {
    /// The guest, running.
    pub guest: G,
    /// The attempt's name.
    pub migration: MigrationId,
    /// Pages that came with their content, over all rounds.
    pub pages: u64,
    /// Pages that came as a note that they hold zeros, over all rounds.
    pub zero: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// From the accepted connection to the running guest.
    pub total: Duration,
    /// Why the source may not know that the guest runs here, if its acknowledgement could not be
    /// sent. The source will ask.
    pub unacknowledged: Option<Failure>,
}

impl Receiver {
    /// Listens at `address`.
    ///
    /// # Errors
    /// [`ListenError`] says what is in the way and what to do.
    pub fn bind(address: &Address) -> Result<Self, ListenError> {
        let failed = |error| ListenError::Io { address: address.clone(), error };
        let listener = Listener::bind(address)?;
        let real = listener.address().map_err(failed)?;
        let instance = InstanceId::random().map_err(failed)?;
        let desk = Desk { instance, decisions: Arc::new(Decisions::default()) };
        let (listener, attendant) = (Arc::new(listener), Mutex::new(None));
        Ok(Self { listener, address: real, desk, attendant })
    }

    /// Where it listens, with the port that the system chose if it was asked to.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Takes connections until a guest runs here. Peers that fail, whether hostile or unlucky, are
    /// told to `failed`, and it goes on with the next.
    ///
    /// # Errors
    /// It was cancelled, or the listening socket itself failed.
    pub fn receive<D: Destination>(
        &self,
        destination: &mut D,
        limits: &Limits,
        watch: &mut dyn FnMut(Progress),
        failed: &mut dyn FnMut(&Failure),
    ) -> Result<Received<D::Guest>, Failure> {
        loop {
            match self.serve_one(destination, limits, watch) {
                Ok(Served::Arrived(received)) => return Ok(received),
                Ok(Served::Answered(..)) => {}
                Err(failure) if self.is_over(&failure, limits) => return Err(failure),
                Err(failure) => failed(&failure),
            }
        }
    }

    /// Takes one connection, whatever it is about. While a guest arrives, others that connect are
    /// answered too: questions as they should be, guests with *busy*.
    ///
    /// # Errors
    /// Where and why it failed; the next connection can be taken at once.
    pub fn serve_one<D: Destination>(
        &self,
        destination: &mut D,
        limits: &Limits,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Served<D::Guest>, Failure> {
        // From here on we attend ourselves.
        drop(self.attendant().take());
        let accepted = self.listener.accept(&limits.cancel).map_err(Cause::Io);
        let stream = accepted
            .and_then(|stream| stream.ok_or(Cause::Cancelled))
            .map_err(|cause| cause.during(Phase::Connect))?;
        watch(Progress { phase: Phase::Greet, round: 0, sent: 0, remaining: 0, bytes: 0 });
        match self.desk.hear(stream, limits).map_err(|cause| cause.during(Phase::Greet))? {
            Asked::Question(migration, answer) => Ok(Served::Answered(migration, answer)),
            Asked::Guest(greeting) => {
                self.take_in(greeting, destination, watch).map(Served::Arrived)
            }
        }
    }

    /// Takes no guest any more, but answers sources that ask what became of theirs, for as long as
    /// what it returns lives.
    ///
    /// # Errors
    /// The system gives no thread. After an arrival there is one.
    pub fn keep_answering(self) -> io::Result<Answerer> {
        let attendant = self.attendant().take();
        attendant.map_or_else(|| Answerer::new(self.listener, self.desk), Ok)
    }

    /// Receives a guest while another thread attends to whoever else connects. The thread is there
    /// before the guest is taken: afterwards it might not be had any more.
    fn take_in<D: Destination>(
        &self,
        greeting: Greeting,
        destination: &mut D,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Received<D::Guest>, Failure> {
        match Answerer::new(Arc::clone(&self.listener), self.desk.clone()) {
            Ok(attendant) => {
                let incoming = Incoming::prepare(greeting, destination, &self.desk)?;
                let received = incoming.receive(watch)?;
                *self.attendant() = Some(attendant);
                Ok(received)
            }
            Err(error) => Err(greeting.decline(reason(&Cause::Thread(error)))),
        }
    }

    /// Whole between any two of its own operations, panics elsewhere or not.
    pub(crate) fn attendant(&self) -> MutexGuard<'_, Option<Answerer>> {
        self.attendant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no further connection is to be taken.
    fn is_over(&self, failure: &Failure, limits: &Limits) -> bool {
        failure.phase == Phase::Connect || limits.cancel.is_cancelled()
    }
}
