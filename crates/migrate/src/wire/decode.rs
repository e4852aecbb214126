//! From bytes to meaning. Every length is checked before what it counts is touched.

use super::cursor::Cursor;
use super::{
    Answer, Hashes, Hello, Kind, MOST_HASHES, MOST_IDENTITY, MOST_PAGES, MOST_REGIONS, MOST_RUNS,
    MOST_ZERO, Message, PAGE, Pages, Query, Refusal, RefusalKind, Run, Text, Verify, WireError,
    Zero,
};
use crate::identity::{InstanceId, MigrationId};
use std::borrow::Cow;
use vellum_memory::{AddressSpace, Gfn, GfnRange, Layout, Region, SlotId};

/// What `payload`, which followed a header of `kind`, means.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode(kind: Kind, payload: &[u8]) -> Result<Message<'_>, WireError> {
    let mut from = Cursor::new(payload);
    let message = match kind {
        Kind::Hello => Message::Hello(hello(&mut from)?),
        Kind::Accept => Message::Accept(InstanceId(from.u128()?)),
        Kind::Refuse => Message::Refuse(refusal(&mut from)?),
        Kind::Pages => Message::Pages(pages(&mut from)?),
        Kind::Zero => Message::Zero(zero(&mut from)?),
        Kind::RoundEnd => Message::RoundEnd,
        Kind::State => Message::State(from.rest()),
        Kind::Finish => Message::Finish(verify(&mut from)?),
        Kind::Ready => Message::Ready,
        Kind::Digest => Message::Digest(digest(&mut from)?),
        Kind::HandOver => Message::HandOver,
        Kind::Running => Message::Running,
        Kind::Abort => Message::Abort(refusal(&mut from)?),
        Kind::Query => Message::Query(query(&mut from)?),
        Kind::Answer => Message::Answer(answer(&mut from)?),
    };
    from.end()?;
    Ok(message)
}

fn hello<'a>(from: &mut Cursor<'a>) -> Result<Hello<'a>, WireError> {
    let migration = MigrationId(from.u128()?);
    let regions = from.count(1, MOST_REGIONS)?;
    let identity = from.count(0, MOST_IDENTITY)?;
    let regions = (0..regions).map(|index| region(index, from)).collect::<Result<_, _>>()?;
    let layout = Layout::new(regions).map_err(WireError::Layout)?;
    Ok(Hello { migration, layout, identity: from.bytes(identity)? })
}

fn region(index: usize, from: &mut Cursor<'_>) -> Result<Region, WireError> {
    let slot = SlotId(from.u16()?);
    let space = AddressSpace(from.u16()?);
    from.reserved::<4>()?;
    let first = from.u64()?;
    let range = GfnRange::new(Gfn::new(first), from.u64()?);
    Ok(Region { slot, space, range: range.ok_or(WireError::Range(index))? })
}

fn pages<'a>(from: &mut Cursor<'a>) -> Result<Pages<'a>, WireError> {
    let region = from.u32()?;
    let runs = runs(from, MOST_PAGES)?;
    let total = total(&runs);
    match usize::try_from(total) {
        Ok(pages) if pages <= MOST_PAGES => {
            Ok(Pages { region, runs: Cow::Owned(runs), data: from.bytes(pages * PAGE)? })
        }
        _ => Err(WireError::Count(total)),
    }
}

fn zero<'a>(from: &mut Cursor<'_>) -> Result<Zero<'a>, WireError> {
    let region = from.u32()?;
    let runs = runs(from, MOST_RUNS)?;
    match total(&runs) {
        0..=MOST_ZERO => Ok(Zero { region, runs: Cow::Owned(runs) }),
        total => Err(WireError::Count(total)),
    }
}

/// All pages of some runs, or too many to count.
fn total(runs: &[Run]) -> u64 {
    runs.iter().fold(0, |sum, run| sum.saturating_add(run.pages))
}

fn runs(from: &mut Cursor<'_>, most: usize) -> Result<Vec<Run>, WireError> {
    let count = from.count(1, most)?;
    (0..count).map(|_| run(from)).collect()
}

fn run(from: &mut Cursor<'_>) -> Result<Run, WireError> {
    let first = from.u64()?;
    match from.u64()? {
        0 => Err(WireError::Count(0)),
        pages => Ok(Run { first, pages }),
    }
}

fn digest(from: &mut Cursor<'_>) -> Result<Hashes, WireError> {
    let region = from.u32()?;
    let count = from.count(1, MOST_HASHES)?;
    let first = from.u64()?;
    let hashes = (0..count).map(|_| from.array()).collect::<Result<_, _>>()?;
    Ok(Hashes { region, first, hashes })
}

fn query(from: &mut Cursor<'_>) -> Result<Query, WireError> {
    let instance = InstanceId(from.u128()?);
    Ok(Query { instance, migration: MigrationId(from.u128()?) })
}

fn refusal(from: &mut Cursor<'_>) -> Result<Refusal, WireError> {
    let kind = refusal_kind(from.u8()?)?;
    from.reserved::<3>()?;
    let text = core::str::from_utf8(from.rest()).map_err(|_| WireError::Text)?;
    Ok(Refusal { kind, text: Text::new(text) })
}

fn refusal_kind(number: u8) -> Result<RefusalKind, WireError> {
    RefusalKind::ALL.into_iter().find(|&kind| kind as u8 == number).ok_or(WireError::Choice(number))
}

fn verify(from: &mut Cursor<'_>) -> Result<Verify, WireError> {
    let number = from.u8()?;
    from.reserved::<3>()?;
    match number {
        0 => Ok(Verify::Skip),
        1 => Ok(Verify::Compare),
        _ => Err(WireError::Choice(number)),
    }
}

fn answer(from: &mut Cursor<'_>) -> Result<Answer, WireError> {
    let number = from.u8()?;
    from.reserved::<3>()?;
    match number {
        0 => Ok(Answer::Never),
        1 => Ok(Answer::Taken),
        2 => Ok(Answer::Stranger),
        _ => Err(WireError::Choice(number)),
    }
}
