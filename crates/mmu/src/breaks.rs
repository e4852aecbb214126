//! Deliberate bugs in the shipped paths: the negative control of every proof.
//!
//! Without the feature `breaks` the questions below are constant and the code behind them is gone.

#[cfg(feature = "breaks")]
use crate::embedder::Embedder;

/// A deliberate bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    /// A fault marks the page dirty before it makes the leaf storable: a harvest in between takes
    /// the mark, and the store that follows is in no log.
    MarkEarly,
    /// A harvest hands over without its shoot-down: stores go on through stale translations.
    SkipFlush,
    /// A harvest loses a bit that it has cleared.
    DropBit,
    /// A push-down opens the entry above before it settles the table below.
    LateSettle,
    /// A settle takes the writable set out after clearing the entries, and with it those that
    /// became storable meanwhile.
    ClearFirst,
    /// A push-down settles without the child's lock: a slow one closes what a fast one opened.
    SettleUnlocked,
    /// A push-down that comes late, with the number of an older generation, settles a table back.
    SettleBack,
    /// Write-protect-all settles the first root only.
    OneRoot,
    /// A harvest that changed no entry skips its shoot-down although another's is outstanding.
    IgnoreDebt,
    /// A slot change does not wait for faults that are under way.
    FreeEarly,
    /// A marker that finds its word not empty trusts another to have set the summary.
    TrustWord,
    /// A read that links a parked table again does not settle it first.
    ReadLifts,
    /// A split makes storable leaves.
    SplitLifts,
    /// A split on hardware that asks for break-before-make is made at once.
    SkipBreak,
    /// A huge leaf comes back as it was found to be possible, and storable, whatever happened since.
    RecoverBlindly,
    /// A fault maps where something of another size was, before the shoot-down for that.
    MapUnbroken,
    /// A fault installs what it resolved although the memory behind it was changed meanwhile.
    TrustBacking,
    /// An invalidation that ends lets faults map what others keep away.
    EndForAll,
    /// A split puts its table in place although the place was cleared meanwhile.
    ThawBlindly,
    /// A clear that empties a word takes it out of the summary and does not look again.
    LowerBlindly,
    /// A clear takes a word out of the summary while somebody goes by that.
    LowerUnderScan,
    /// A clear that empties the last word below a top bit takes that out too.
    LowerTop,
    /// A clear takes more out of the log than it was asked for.
    ClearMore,
    /// A page is denied before it counts as tracked or restricted, with faults let in between.
    ForbidEarly,
    /// A huge leaf is mapped over a page that is tracked or restricted.
    IgnoreVeto,
    /// A new map of sub-pages does not reach the table that hardware reads.
    StaleVector,
    /// Write-protect-all leaves the roots of sub-page tables open.
    OpenSubPageRoot,
    /// A sub-page table is opened before the leaves below it are settled.
    OpenOverLeaves,
    /// A vCPU writes over an entry of its ring that nobody has taken back.
    OverrunRing,
    /// A vCPU flags an entry of its ring before it says which page.
    FlagEarly,
    /// A reset takes entries back that nobody has harvested.
    ResetUnharvested,
    /// A scan for D bits takes a table off the record although stores to it go on without a fault.
    ForgetTouched,
    /// A scan clears D bits and owes no shoot-down for it.
    ClearQuietly,
    /// A leaf that goes takes its D bit with it.
    DropCredit,
    /// Unregistering a listener does not wait for calls to it.
    LeaveUnderCall,
}

/// Which bug, if any, this VM has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breaks {
    #[cfg(feature = "breaks")]
    pub(crate) chosen: Option<Break>,
}

impl Breaks {
    #[cfg(feature = "breaks")]
    #[inline]
    pub(crate) fn has(self, bug: Break) -> bool {
        self.chosen == Some(bug)
    }

    #[cfg(not(feature = "breaks"))]
    #[inline]
    #[allow(clippy::unused_self)]
    pub(crate) const fn has(self, _: Break) -> bool {
        false
    }
}

/// Holds a bug's window open for a while, so that it bites without luck.
#[cfg(feature = "breaks")]
pub(crate) fn hold_open<E: Embedder>(embedder: &E) {
    const TURNS: u32 = if cfg!(loom) { 1 } else { 2000 };
    for _ in 0..TURNS {
        embedder.relax();
    }
}
