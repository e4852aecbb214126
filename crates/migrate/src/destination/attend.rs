//! Whoever connects: hearing what they want, and answering questions.

use super::Limits;
use super::decisions::Decisions;
use crate::address::{Listener, Stream};
use crate::cancel::Cancel;
use crate::failure::{Cause, Failure};
use crate::identity::{InstanceId, MigrationId};
use crate::link::{Link, reason};
use crate::progress::Phase;
use crate::room;
use crate::wire::{Answer, Message, Query, Refusal, RefusalKind};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vellum_memory::Layout;

/// How long a stranger may take to say what it wants.
const GREETING: Duration = Duration::from_secs(5);

/// Who we are and what we decided.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) instance: InstanceId,
    pub(super) decisions: Arc<Decisions>,
}

/// What a peer wants.
#[derive(Debug)]
pub(super) enum Asked {
    /// It asked, and was answered.
    Question(MigrationId, Answer),
    /// It wants to send a guest.
    Guest(Greeting),
}

/// A peer that wants to send a guest.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) link: Link,
    pub(super) migration: MigrationId,
    pub(super) layout: Layout,
    pub(super) identity: Vec<u8>,
}

impl Greeting {
    /// Turns the guest away.
    pub(super) fn decline(self, refusal: Refusal) -> Failure {
        self.link.refuse(refusal.clone());
        Cause::Declined(refusal).during(Phase::Greet)
    }
}

impl Desk {
    /// Hears what a peer wants. A question is answered.
    pub(super) fn hear(&self, stream: Stream, limits: &Limits) -> Result<Asked, Cause> {
        let mut link = Link::new(stream, limits.cancel.clone(), GREETING.min(limits.patience));
        match self.listen(&mut link) {
            Ok(Wish::Question(migration, answer)) => Ok(Asked::Question(migration, answer)),
            Ok(Wish::Guest { migration, layout, identity }) => {
                link.set_patience(limits.patience);
                Ok(Asked::Guest(Greeting { link, migration, layout, identity }))
            }
            // A stranger that does not speak our language would not understand a reason either.
            Err(cause @ (Cause::NotVellum | Cause::Version(_))) => Err(cause),
            Err(cause) => {
                link.give_up(reason(&cause));
                Err(cause)
            }
        }
    }

    fn listen(&self, link: &mut Link) -> Result<Wish, Cause> {
        let heard = link.receive_opening();
        if !matches!(heard, Err(Cause::NotVellum)) {
            // Even to another version: so it can say which one we have.
            link.send_opening()?;
        }
        heard?;
        let wish = match link.receive()? {
            Message::Hello(hello) => Wish::Guest {
                migration: hello.migration,
                identity: hello.identity.to_vec(),
                layout: hello.layout,
            },
            Message::Query(query) => Wish::Question(query.migration, self.answer(query)?),
            other => return Err(Cause::Unexpected(other.kind())),
        };
        if let Wish::Question(_, answer) = wish {
            link.send(&Message::Answer(answer))?;
        }
        Ok(wish)
    }

    fn answer(&self, query: Query) -> Result<Answer, Cause> {
        if query.instance != self.instance {
            return Ok(Answer::Stranger);
        }
        self.decisions.ask(query.migration).ok_or(Cause::TooManyPromises)
    }

    /// Answers questions and turns guests away until `done`.
    pub(super) fn attend(&self, listener: &Listener, done: &Cancel) {
        let limits = Limits { patience: GREETING, cancel: done.clone() };
        // An error of the listening socket ends the service; who cannot connect sees as much.
        while let Ok(Some(stream)) = listener.accept(done) {
            if let Ok(Asked::Guest(greeting)) = self.hear(stream, &limits) {
                let busy = "it is taken up with another guest";
                let _told = greeting.decline(Refusal::new(RefusalKind::Busy, busy));
            }
        }
    }
}

enum Wish {
    Question(MigrationId, Answer),
    Guest { migration: MigrationId, layout: Layout, identity: Vec<u8> },
}

/// Goes on answering sources that ask what became of their guest, until it is dropped.
#[derive(Debug)]
pub struct Answerer {
    done: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    pub(super) fn new(listener: Arc<Listener>, desk: Desk) -> io::Result<Self> {
        room::for_a_thread()?;
        let done = Cancel::new();
        let theirs = done.clone();
        let thread = thread::Builder::new().spawn(move || desk.attend(&listener, &theirs))?;
        Ok(Self { done, thread: Some(thread) })
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.done.cancel();
        if let Some(thread) = self.thread.take() {
            // It has nothing to report.
            let _ = thread.join();
        }
    }
}
