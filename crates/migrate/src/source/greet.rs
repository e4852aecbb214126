//! Reaching the destination and agreeing with it.

use super::held::Held;
use super::{Kept, Options};
use crate::address::{Address, Stream};
use crate::cancel::Cancel;
use crate::failure::Cause;
use crate::guest::SourceGuest;
use crate::identity::{InstanceId, MigrationId};
use crate::link::Link;
use crate::progress::{Phase, Progress};
use crate::wire::{Hello, Kind, MOST_IDENTITY, MOST_REGIONS, Message};
use std::time::Duration;

/// The destination expects this guest; nothing has happened to it yet.
#[derive(Debug)]
pub(super) struct Greeted<G> {
    pub(super) held: Held<G>,
    pub(super) link: Link,
    pub(super) migration: MigrationId,
    pub(super) instance: InstanceId,
}

/// Connects and agrees.
pub(super) fn greet<G: SourceGuest>(
    mut held: Held<G>,
    watch: &mut dyn FnMut(Progress),
) -> Result<Greeted<G>, Box<Kept<G>>> {
    watch(Progress { phase: Phase::Connect, round: 0, sent: 0, remaining: 0, bytes: 0 });
    let Options { cancel, patience, .. } = &held.options;
    let mut link = match connect_to(&held.to, cancel, *patience) {
        Ok(link) => link,
        Err(cause) => return Err(held.keep(Phase::Connect, cause)),
    };
    watch(Progress { phase: Phase::Greet, round: 0, sent: 0, remaining: 0, bytes: 0 });
    match introduce(&mut held, &mut link) {
        Ok((migration, instance)) => Ok(Greeted { held, link, migration, instance }),
        Err(cause) => Err(held.keep(Phase::Greet, link.last_words(cause))),
    }
}

/// A connection that nothing was said on.
pub(super) fn connect_to(to: &Address, cancel: &Cancel, patience: Duration) -> Result<Link, Cause> {
    let stream = Stream::connect(to, cancel)?;
    Ok(Link::new(stream, cancel.clone(), patience))
}

fn introduce<G: SourceGuest>(
    held: &mut Held<G>,
    link: &mut Link,
) -> Result<(MigrationId, InstanceId), Cause> {
    let migration = MigrationId::random().map_err(Cause::Random)?;
    let layout = held.layout();
    let identity = held.guest.identity();
    limit(Kind::Hello, identity.len(), MOST_IDENTITY)?;
    limit(Kind::Hello, layout.regions().len(), MOST_REGIONS)?;
    link.exchange_openings()?;
    link.send(&Message::Hello(Hello { migration, layout, identity: &identity }))?;
    Ok((migration, accepted(link)?))
}

fn accepted(link: &mut Link) -> Result<InstanceId, Cause> {
    match link.receive()? {
        Message::Accept(instance) => Ok(instance),
        Message::Refuse(refusal) => Err(Cause::Refused(refusal)),
        Message::Abort(refusal) => Err(Cause::Aborted(refusal)),
        other => Err(Cause::Unexpected(other.kind())),
    }
}

/// Whether the protocol can carry it.
pub(super) fn limit(what: Kind, length: usize, most: usize) -> Result<(), Cause> {
    if length <= most { Ok(()) } else { Err(Cause::TooLong { what, length, most }) }
}
