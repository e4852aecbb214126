//! Table walkers, as the processors' manuals describe them.
//!
//! They are the hardware that the library's tables are for, so they share no encoding or decoding
//! with `vellum-pte`: if the two disagree, one of them misread a manual, and a test shows it.
//!
//! | walker | manual |
//! |---|---|
//! | [`EptWalker`] | Intel SDM vol. 3C, 29.3 |
//! | [`NptWalker`] | AMD APM vol. 2, 15.25 and 5.3 |

#![allow(clippy::cast_possible_truncation, reason = "an index has nine bits")]

mod cache;
mod ept;
mod memory;
mod npt;
#[cfg(test)]
pub(crate) mod probe;
#[cfg(test)]
mod tests;

pub use ept::EptWalker;
pub use npt::NptWalker;

use cache::Position;
pub(crate) use cache::WalkCache;
use memory::EntryAt;
use vellum_mmu::Access;
use vellum_pte::{Ept, Format, Gpa, Npt, PAGE_SHIFT, Pfn};

/// The level of the root: both walkers have four.
const ROOT_LEVEL: u8 = 4;
/// log2 of the entries in a table.
const INDEX_BITS: u32 = 9;
/// How much of a guest's address the tables translate.
const GUEST_ADDRESS_BITS: u32 = PAGE_SHIFT + INDEX_BITS * ROOT_LEVEL as u32;
/// Host physical addresses are process addresses here, which end below bit 47.
const PHYSICAL_ADDRESS_BITS: u32 = 48;
/// Bits 51:12, an entry's address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The part of [`ADDRESS`] that this machine has no memory at: reserved.
const ADDRESS_TOO_HIGH: u64 = ADDRESS & !((1 << PHYSICAL_ADDRESS_BITS) - 1);

/// A format that this machine has a walker for.
pub trait WalkedFormat: Format {
    /// The walker.
    type Walker: Walk;
}

impl WalkedFormat for Ept {
    type Walker = EptWalker;
}

impl WalkedFormat for Npt {
    type Walker = NptWalker;
}

/// How one processor reads an entry. The walk itself is the same four-level walk for all.
pub trait Walk: Send + Sync + 'static {
    /// The bit that is set in every entry that a translation used.
    const ACCESSED: u64;

    /// The bit that a write sets in the entry that maps the page.
    const DIRTY: u64;

    /// Whether a cached upper-level entry holds the permissions combined down to it, instead of
    /// its own alone. An implementation cites its manual.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool;

    /// What the entry `raw` at `level` (1 is the last) tells the processor.
    fn read(raw: u64, level: u8) -> Step;
}

/// What one entry tells the walker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing is mapped.
    NotPresent,
    /// A reserved bit is set or a combination is forbidden.
    Misconfigured,
    /// The next table.
    Table(Link),
    /// The page, which has the size of the level.
    Page(Link),
}

/// Where an entry points, and what it permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The table's frame, or the page's first.
    pub frame: Pfn,
    /// What passes this entry.
    pub permits: Permissions,
}

/// A set of permitted accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions(u8);

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Data reads.
    pub const READ: Self = Self(1);
    /// Data writes.
    pub const WRITE: Self = Self(2);
    /// Fetches.
    pub const EXECUTE: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// `self` and `other` where `bit` of `raw` is set, else `self` alone.
    #[must_use]
    #[inline]
    const fn with(self, other: Self, raw: u64, bit: u64) -> Self {
        if raw & bit != 0 { Self(self.0 | other.0) } else { self }
    }

    /// What both permit.
    #[must_use]
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `access` passes.
    #[must_use]
    #[inline]
    pub const fn allow(self, access: Access) -> bool {
        let needed = match access {
            Access::Read => Self::READ,
            Access::Write => Self::WRITE,
            Access::Execute => Self::EXECUTE,
        };
        self.0 & needed.0 != 0
    }
}

/// Why a walk ended without a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// An entry was not present.
    NotPresent,
    /// The entries' permissions combined forbid the access.
    Denied,
    /// An entry that no correct software writes.
    Misconfigured,
}

/// A walk's result, as the TLB keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Translation {
    /// The host frame of the 4 KiB page accessed.
    pub(crate) frame: Pfn,
    /// What the entries permit, combined. Without [`Permissions::WRITE`] where D is clear: the
    /// first write walks again to set it.
    pub(crate) permits: Permissions,
}

/// One attempt's end.
enum Attempt {
    Done(Translation),
    /// An entry changed between being read and getting its A or D, or upper ones just got their A:
    /// walk again.
    Again,
}

/// What is to be translated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// The root table.
    pub(crate) root: Pfn,
    /// The address.
    pub(crate) gpa: Gpa,
    /// What is to be done there.
    pub(crate) access: Access,
    /// The epoch, read before the walk: what the walk caches is as old as that.
    pub(crate) epoch: u64,
}

/// Translates an address, by the walk cache as far as that knows it, and sets A and D. Four levels
/// translate 48 bits: nothing is mapped beyond.
pub(crate) fn walk<W: Walk>(
    request: Request,
    cache: &mut WalkCache,
) -> Result<Translation, Violation> {
    if request.gpa.get() >> GUEST_ADDRESS_BITS != 0 {
        return Err(Violation::NotPresent);
    }
    loop {
        if let Attempt::Done(translation) = attempt::<W>(request, cache)? {
            return Ok(translation);
        }
    }
}

fn attempt<W: Walk>(request: Request, cache: &mut WalkCache) -> Result<Attempt, Violation> {
    let known = cache.deepest(request.gpa, request.epoch);
    let mut at = known.unwrap_or(Position::root(request.root));
    let mut upper = Upper::Accessed;
    loop {
        let entry = at.entry(request.gpa);
        let raw = entry.load();
        match W::read(raw, at.level) {
            Step::NotPresent => return Err(Violation::NotPresent),
            Step::Misconfigured => return Err(Violation::Misconfigured),
            Step::Page(link) => return finish::<W>(request, at, entry, raw, link, upper),
            Step::Table(link) => {
                at = at.below(link);
                if raw & W::ACCESSED == 0 {
                    upper = Upper::NotAccessed;
                }
                // What lies below an entry without A is not kept: it would hide the entry.
                if upper == Upper::Accessed {
                    cache.insert(request.gpa, request.epoch, at.kept::<W>(link));
                }
            }
        }
    }
}

/// Whether all upper entries on the way had A.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Upper {
    Accessed,
    NotAccessed,
}

/// Checks the permissions, and only then sets A and D.
#[inline]
fn finish<W: Walk>(
    request: Request,
    at: Position,
    entry: EntryAt,
    raw: u64,
    link: Link,
    upper: Upper,
) -> Result<Attempt, Violation> {
    let permits = at.permits.and(link.permits);
    if !permits.allow(request.access) {
        return Err(Violation::Denied);
    }
    if upper == Upper::NotAccessed {
        set_accessed::<W>(request);
        return Ok(Attempt::Again);
    }
    let dirtied = if request.access == Access::Write { W::DIRTY } else { 0 };
    if !entry.mark(raw, W::ACCESSED | dirtied) {
        return Ok(Attempt::Again);
    }
    let dirty = (raw | dirtied) & W::DIRTY != 0;
    let permits = if dirty { permits } else { permits.and(READ_AND_EXECUTE) };
    Ok(Attempt::Done(Translation { frame: frame_of(request.gpa, at.level, link), permits }))
}

/// Sets A in the upper entries. Where one changes meanwhile, the next attempt finds out.
#[cold]
fn set_accessed<W: Walk>(request: Request) {
    let mut at = Position::root(request.root);
    loop {
        let entry = at.entry(request.gpa);
        let raw = entry.load();
        let Step::Table(link) = W::read(raw, at.level) else { return };
        entry.mark(raw, W::ACCESSED);
        at = at.below(link);
    }
}

const READ_AND_EXECUTE: Permissions = Permissions(Permissions::READ.0 | Permissions::EXECUTE.0);

/// The 4 KiB frame of `gpa` inside a page that may be larger.
#[inline]
fn frame_of(gpa: Gpa, level: u8, page: Link) -> Pfn {
    let pages = 1u64 << (INDEX_BITS * u32::from(level - 1));
    Pfn::new(page.frame.get() + (gpa.gfn().get() & (pages - 1)))
}

/// Which entry of a table at `level` translates `gpa`.
#[inline]
fn index(gpa: Gpa, level: u8) -> usize {
    let shift = PAGE_SHIFT + INDEX_BITS * u32::from(level - 1);
    (gpa.get() >> shift & ((1 << INDEX_BITS) - 1)) as usize
}
