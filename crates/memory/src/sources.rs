//! Several logs as one.

use crate::layout::Layout;
use crate::page_set::PageSet;
use crate::source::{DirtySource, LogState, Misuse};
use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::error::Error;
use core::fmt;
use vellum_pte::GfnRange;

/// Several [`DirtySource`]s over one layout as one: a kernel's log, the devices', a vhost bitmap.
/// A write is in the union's rounds if any of them sees it.
///
/// ```
/// # use vellum_memory::*;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let range = GfnRange::new(Gfn::new(0), 100).ok_or("too many pages")?;
/// # let layout = Layout::new(vec![Region { slot: SlotId(0), space: AddressSpace::NORMAL, range }])?;
/// # let (mut kernel, vhost) = (DeviceLog::new(&layout)?, None::<DeviceLog>);
/// let devices = DeviceLog::new(&layout)?;
/// let mut log = Sources::new(&mut kernel)?; // lent or given, of any type
/// log.add(devices)?;
/// if let Some(vhost) = vhost {
///     log.add(vhost)?;
/// }
/// log.start()?;
/// # Ok(())
/// # }
/// ```
///
/// What the contract of [`DirtySource`] comes to here:
///
/// - **`start`** starts all, in the order of adding; those that are on begin anew. If one fails, all
///   that are on are stopped and the union is off.
/// - **`collect`** and **`protect`** ask all, and what they find comes together in the round. **D1**:
///   each of them has protected the range when the union's `protect` returns, and a write that came
///   between two of them is in a later round of the one that sees it.
/// - **An error** of `collect` or `protect` leaves the union on and loses nothing (**D2**): the one
///   that failed owes what it had taken, and the union itself owes the whole of `round`, where what
///   the others gave is. So pages that the caller had in it come back as well; `owe` may be called
///   for them or not.
/// - **`owe`** keeps the pages in a set of the union's own, made with it, and the next `collect`
///   hands them over. So it neither allocates nor depends on any of the sources.
/// - **`stop`** stops all, also those after one that fails, and gives the first error. Then the
///   union is off, and those that failed still log, perhaps not everything: `stop` again, or `start`,
///   by which they begin anew.
/// - A call that needs it on while it is off is [`Misuse::Off`]: half a union would lose writes.
///
/// There is at least one source, so there is no union that logs nothing. Dropping it drops the
/// sources, and stops none of them that does not stop by that.
pub struct Sources<'s> {
    layout: Layout,
    members: Vec<Member<'s>>,
    owed: PageSet,
    state: LogState,
}

struct Member<'s> {
    source: Box<dyn DirtySource<Error = AnyError> + Send + 's>,
    state: LogState,
}

/// Why a union of sources failed.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// The caller got something wrong.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// One of the sources failed.
    #[error("source {index} ({method}): {error}")]
    Source {
        /// Its place in the order of adding, from 0.
        index: usize,
        /// What it calls itself.
        method: &'static str,
        /// What it said.
        #[source]
        error: Box<dyn Error + Send + Sync>,
    },
}

/// Why a source cannot join a union. The union is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JoinError {
    /// The source is over another layout: the regions differ, or their order.
    #[error("the source's layout differs from the union's at region {region}")]
    OtherLayout {
        /// The first place where they differ.
        region: usize,
    },
    /// The union has been started.
    #[error("a source cannot join while the union is on")]
    Started,
}

impl<'s> Sources<'s> {
    /// A union of `source` alone, over its layout. It has not started, and nor has the source.
    ///
    /// # Errors
    /// No memory for the set of owed pages, a bit a page.
    pub fn new<S: DirtySource + Send + 's>(source: S) -> Result<Self, TryReserveError> {
        let layout = source.layout().clone();
        let owed = PageSet::try_new(&layout)?;
        Ok(Self { owed, layout, members: alloc::vec![Member::new(source)], state: LogState::Off })
    }

    /// Adds `source`, which has not started.
    ///
    /// # Errors
    /// [`JoinError`]; the source is dropped.
    pub fn add<S: DirtySource + Send + 's>(&mut self, source: S) -> Result<(), JoinError> {
        if self.state == LogState::On {
            return Err(JoinError::Started);
        }
        match first_difference(&self.layout, source.layout()) {
            Some(region) => Err(JoinError::OtherLayout { region }),
            None => {
                self.members.push(Member::new(source));
                Ok(())
            }
        }
    }

    /// What the sources call themselves, in the order of adding.
    pub fn methods(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.members.iter().map(|member| member.source.method())
    }

    /// Asks each source in turn, until one fails. What the others gave by then is owed.
    fn ask_all(
        &mut self,
        round: &mut PageSet,
        mut ask: impl FnMut(&mut Member<'s>, &mut PageSet) -> Result<(), AnyError>,
    ) -> Result<(), SourcesError> {
        self.state.may_add(round, &self.layout)?;
        for (index, member) in self.members.iter_mut().enumerate() {
            if let Err(error) = ask(member, round) {
                self.owed.merge(round);
                return Err(member.failed(index, error));
            }
        }
        Ok(())
    }
}

impl DirtySource for Sources<'_> {
    type Error = SourcesError;

    /// That of its source, if there is one only.
    fn method(&self) -> &'static str {
        match self.members.as_slice() {
            [only] => only.source.method(),
            _ => "union",
        }
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn start(&mut self) -> Result<(), SourcesError> {
        self.state = LogState::Off;
        self.owed.clear();
        for (index, member) in self.members.iter_mut().enumerate() {
            if let Err(error) = member.start() {
                let failure = member.failed(index, error);
                // What stopping says adds nothing: one that cannot stop is asked again by the
                // next `stop`, and begins anew by the next `start`.
                let _ = self.stop();
                return Err(failure);
            }
        }
        self.state = LogState::On;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), SourcesError> {
        self.state = LogState::Off;
        let members = self.members.iter_mut().enumerate();
        let stopped = members
            .map(|(index, member)| member.stop().map_err(|error| member.failed(index, error)));
        stopped.fold(Ok(()), Result::and)
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), SourcesError> {
        self.ask_all(round, |member, round| member.source.collect(round))?;
        round.merge(&self.owed);
        self.owed.clear();
        Ok(())
    }

    fn protect(
        &mut self,
        region: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), SourcesError> {
        self.ask_all(round, |member, round| member.source.protect(region, range, round))
    }

    fn owe(&mut self, pages: &PageSet) {
        self.owed.merge(pages);
    }
}

impl<'s> Member<'s> {
    fn new<S: DirtySource + Send + 's>(source: S) -> Self {
        Self { source: Box::new(Erased(source)), state: LogState::Off }
    }

    /// One that is on is asked too: it may have failed to stop, and not log everything.
    fn start(&mut self) -> Result<(), AnyError> {
        self.source.start()?;
        self.state = LogState::On;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), AnyError> {
        if self.state == LogState::On {
            self.source.stop()?;
            self.state = LogState::Off;
        }
        Ok(())
    }

    fn failed(&self, index: usize, error: AnyError) -> SourcesError {
        SourcesError::Source { index, method: self.source.method(), error: error.0 }
    }
}

/// The first region at which two layouts differ.
fn first_difference(one: &Layout, other: &Layout) -> Option<usize> {
    let (one, other) = (one.regions(), other.regions());
    (0..one.len().max(other.len())).find(|&region| one.get(region) != other.get(region))
}

/// The error of a source whose type is forgotten.
#[derive(Debug)]
struct AnyError(Box<dyn Error + Send + Sync>);

impl fmt::Display for AnyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for AnyError {}

/// A source with its error's type forgotten.
struct Erased<S>(S);

impl<S: DirtySource> DirtySource for Erased<S> {
    type Error = AnyError;

    fn method(&self) -> &'static str {
        self.0.method()
    }

    fn layout(&self) -> &Layout {
        self.0.layout()
    }

    fn start(&mut self) -> Result<(), AnyError> {
        self.0.start().map_err(AnyError::new)
    }

    fn stop(&mut self) -> Result<(), AnyError> {
        self.0.stop().map_err(AnyError::new)
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), AnyError> {
        self.0.collect(round).map_err(AnyError::new)
    }

    fn protect(
        &mut self,
        region: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), AnyError> {
        self.0.protect(region, range, round).map_err(AnyError::new)
    }

    fn owe(&mut self, pages: &PageSet) {
        self.0.owe(pages);
    }
}

impl AnyError {
    fn new<E: Error + Send + Sync + 'static>(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<_> = self.methods().collect();
        f.debug_struct("Sources").field("methods", &methods).field("state", &self.state).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
