//! Table walkers, as the processors' manuals describe them.
//!
//! They are the hardware that the library's tables are for, so they share no encoding or decoding
//! with `vellum-pte`: if the two disagree, one of them misread a manual, and a test shows it.
//!
//! | walker | manual |
//! |---|---|
//! | [`EptWalker`] | Intel SDM vol. 3C, 29.3; sub-page write permissions in `spp`, 29.3.4 |
//! | [`NptWalker`] | AMD APM vol. 2, 15.25 and 5.3 |
//! | [`Stage2Walker`] | Arm ARM (DDI 0487) D8, 4 KiB granule |
//!
//! What differs between them beside the bits of an entry is said by the constants of [`Walk`], each
//! with its manual: where A is, what a fault leaves cached, and whether two sizes of leaf for one
//! address may meet.

#![allow(clippy::cast_possible_truncation, reason = "an index has nine bits")]

mod cache;
mod ept;
mod memory;
mod npt;
mod permissions;
#[cfg(test)]
pub(crate) mod probe;
mod regime;
mod spp;
mod stage2;
#[cfg(test)]
mod tests;

pub use ept::EptWalker;
pub use npt::NptWalker;
pub use permissions::Permissions;
pub use regime::{AccessFlags, Regime};
pub use stage2::Stage2Walker;

use cache::Position;
pub(crate) use cache::WalkCache;
use memory::EntryAt;
pub(crate) use spp::{SppFailure, SubPages};
use vellum_mmu::Access;
use vellum_pte::{Ept, Format, Gpa, Npt, PAGE_SHIFT, Pfn, Stage2};

/// No walk has more levels.
const MOST_LEVELS: u8 = 4;
/// log2 of the entries in a table.
const INDEX_BITS: u32 = 9;
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

impl WalkedFormat for Stage2 {
    type Walker = Stage2Walker;
}

/// How one processor reads an entry, and what it caches. The walk itself is the same for all.
pub trait Walk: Send + Sync + 'static {
    /// The bit that is set in the entry that maps the page.
    const ACCESSED: u64;

    /// The bit that is set in every entry on the way there; 0 where those have none.
    const TABLE_ACCESSED: u64;

    /// The bit that a write sets in the entry that maps the page.
    const DIRTY: u64;

    /// The bit of a 4 KiB leaf that has writes looked up in the sub-page permission table; 0 where the
    /// processor has none.
    const SUB_PAGE_WRITES: u64 = 0;

    /// Whether the processor can log the pages whose D it sets.
    const PAGE_LOG: PageLogging = PageLogging::Absent;

    /// Whether a cached upper-level entry holds the permissions combined down to it, instead of
    /// its own alone. An implementation cites its manual.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool;

    /// What a fault leaves cached.
    const AFTER_FAULT: AfterFault;

    /// What happens where an address has leaves of two sizes, one of them still cached.
    const TWO_SIZES: TwoSizes;

    /// What the processor does when it is told `regime`; `None` where it cannot be told so.
    fn accept(regime: Regime) -> Option<Regime>;

    /// What the entry `raw` at `level` (1 is the last) tells the processor.
    fn read(raw: u64, level: u8, flags: AccessFlags) -> Step;
}

/// Whether a processor has a page-modification log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageLogging {
    /// It has.
    Present,
    /// It has none.
    Absent,
}

/// What is still cached for an address after an access to it has faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterFault {
    /// Nothing.
    Nothing,
    /// What was: permissions that refused the access refuse the next one without a look at the
    /// tables, until software says otherwise.
    Everything,
}

/// What happens where the tables map an address by another size of leaf than a TLB does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TwoSizes {
    /// The one or the other is used.
    EitherServes,
    /// Anything may happen; this machine stops.
    Conflict,
}

/// What one entry tells the walker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing is mapped.
    NotPresent,
    /// A reserved bit is set or a combination is forbidden.
    Misconfigured,
    /// The entry maps a page, A is clear in it, and hardware was told not to set it.
    NotAccessed,
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

/// Why a walk ended without a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// An entry was not present.
    NotPresent,
    /// The entries' permissions combined, as in this translation, forbid the access.
    Denied(Translation),
    /// A must be set first, and not by hardware.
    NotAccessed,
    /// An entry that no correct software writes.
    Misconfigured,
    /// The sub-page permission table does not say whether the write passes.
    Spp(SppFailure),
}

/// A walk's result, as the TLB keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Translation {
    /// The host frame of the 4 KiB page accessed.
    pub(crate) frame: Pfn,
    /// What the entries permit, combined.
    pub(crate) permits: Permissions,
    /// Whether the first write walks again, to set D.
    pub(crate) dirty: Dirty,
    /// Whether D was what this walk set.
    pub(crate) sets_dirty: SetsDirty,
    /// The level of the entry that maps the page: 1 is 4 KiB.
    pub(crate) level: u8,
    /// Where writes pass although `permits` forbids them, if this walk was for such a write.
    pub(crate) sub_pages: SubPages,
}

/// What became of D in a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SetsDirty {
    /// It was clear, and this walk has set it.
    Yes,
    /// It was set, or has not been asked for.
    No,
}

/// D, where hardware sets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dirty {
    /// Set, or never set by hardware.
    Set,
    /// To be set by the first write.
    Clear,
}

/// One attempt's end.
enum Attempt {
    /// The translation, with A and D set.
    Done(Translation),
    /// An entry changed between being read and getting its A or D, or upper ones just got their A:
    /// walk again.
    Again,
}

/// What is to be translated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// The first root table.
    pub(crate) root: Pfn,
    /// What the processor was told about the tables.
    pub(crate) regime: Regime,
    /// The address.
    pub(crate) gpa: Gpa,
    /// What is to be done there.
    pub(crate) access: Access,
    /// To how many bytes from the address on, at least one.
    pub(crate) bytes: u64,
    /// The root of the sub-page permission table, where the processor was given one.
    pub(crate) spp_root: Option<Pfn>,
    /// The epoch, read before the walk: what the walk caches is as old as that.
    pub(crate) epoch: u64,
}

/// Translates an address, by the walk cache as far as that knows it, and sets A and D. Nothing is
/// mapped beyond the bits that the tables translate.
pub(crate) fn walk<W: Walk>(
    request: Request,
    cache: &mut WalkCache,
) -> Result<Translation, Violation> {
    if request.gpa.get() >> request.regime.address_bits != 0 {
        return Err(Violation::NotPresent);
    }
    loop {
        if let Attempt::Done(translation) = attempt::<W>(request, cache)? {
            return Ok(translation);
        }
    }
}

fn attempt<W: Walk>(request: Request, cache: &mut WalkCache) -> Result<Attempt, Violation> {
    let known = cache.tables.deepest(request.gpa, request.epoch);
    let mut at = known.unwrap_or_else(|| Position::root(request));
    let mut upper = Upper::Accessed;
    let needed = marks::<W>(request).table;
    loop {
        let entry = at.entry(request.gpa);
        let raw = entry.load();
        match W::read(raw, at.level, request.regime.flags) {
            Step::NotPresent => return Err(Violation::NotPresent),
            Step::Misconfigured => return Err(Violation::Misconfigured),
            Step::NotAccessed => return Err(Violation::NotAccessed),
            Step::Page(link) => {
                let found = found::<W>(request, at, raw, link);
                let permitted = permitted::<W>(request, raw, found, cache)?;
                return Ok(finish::<W>(request, entry, raw, permitted, upper));
            }
            Step::Table(link) => {
                at = at.below(link);
                if raw & needed != needed {
                    upper = Upper::NotAccessed;
                }
                // What lies below an entry without A is not kept: it would hide the entry.
                if upper == Upper::Accessed {
                    cache.tables.insert(request.gpa, request.epoch, at.level, at.kept::<W>(link));
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

/// The bits that a walk sets.
struct Marks {
    /// In entries on the way.
    table: u64,
    /// In the entry that maps the page.
    page: u64,
}

#[inline]
fn marks<W: Walk>(request: Request) -> Marks {
    match request.regime.flags {
        AccessFlags::BySoftware => Marks { table: 0, page: 0 },
        AccessFlags::ByHardware => {
            let writes = matches!(request.access, Access::Write | Access::Walk);
            let dirtied = if writes { W::DIRTY } else { 0 };
            Marks { table: W::TABLE_ACCESSED, page: W::ACCESSED | dirtied }
        }
    }
}

/// What the leaf `raw` says, under what leads to it.
#[inline]
fn found<W: Walk>(request: Request, at: Position, raw: u64, link: Link) -> Translation {
    Translation {
        frame: frame_of(request.gpa, at.level, link),
        permits: at.permits.and(link.permits),
        dirty: dirty::<W>(request, raw | marks::<W>(request).page),
        sets_dirty: sets_dirty::<W>(request, raw),
        level: at.level,
        sub_pages: SubPages::NONE,
    }
}

/// Whether the entries permit the access, or, if the leaf `raw` says so, the table for sub-pages.
#[inline]
fn permitted<W: Walk>(
    request: Request,
    raw: u64,
    found: Translation,
    cache: &mut WalkCache,
) -> Result<Translation, Violation> {
    if found.permits.allow(request.access) {
        return Ok(found);
    }
    let root = request.spp_root.filter(|_| asks_for_sub_pages::<W>(request.access, raw, found));
    let root = root.ok_or(Violation::Denied(found))?;
    let sub_pages = spp::look_up(request, root, cache).map_err(Violation::Spp)?;
    if sub_pages.permit(request.gpa, request.bytes) {
        Ok(Translation { sub_pages, ..found })
    } else {
        Err(Violation::Denied(found))
    }
}

/// Whether a refused access may pass by its sub-pages. The processor's own writes, to the guest's page
/// tables, may not.
#[inline]
fn asks_for_sub_pages<W: Walk>(access: Access, raw: u64, found: Translation) -> bool {
    let only_writes_are_refused = access == Access::Write && found.permits.allow(Access::Read);
    only_writes_are_refused && found.level == 1 && raw & W::SUB_PAGE_WRITES != 0
}

/// Sets A and D, now that the access is permitted.
#[inline]
fn finish<W: Walk>(
    request: Request,
    entry: EntryAt,
    raw: u64,
    permitted: Translation,
    upper: Upper,
) -> Attempt {
    if upper == Upper::NotAccessed {
        set_accessed::<W>(request);
        return Attempt::Again;
    }
    let done = entry.exchange(raw, raw | marks::<W>(request).page);
    if done { Attempt::Done(permitted) } else { Attempt::Again }
}

#[inline]
fn sets_dirty<W: Walk>(request: Request, raw: u64) -> SetsDirty {
    let set = marks::<W>(request).page & !raw & W::DIRTY != 0;
    if set { SetsDirty::Yes } else { SetsDirty::No }
}

#[inline]
fn dirty<W: Walk>(request: Request, raw: u64) -> Dirty {
    let by_hardware = request.regime.flags == AccessFlags::ByHardware;
    if by_hardware && raw & W::DIRTY == 0 { Dirty::Clear } else { Dirty::Set }
}

/// Sets A in the upper entries. Where one changes meanwhile, the next attempt finds out.
#[cold]
fn set_accessed<W: Walk>(request: Request) {
    let mut at = Position::root(request);
    loop {
        let entry = at.entry(request.gpa);
        let raw = entry.load();
        let Step::Table(link) = W::read(raw, at.level, request.regime.flags) else { return };
        entry.exchange(raw, raw | W::TABLE_ACCESSED);
        at = at.below(link);
    }
}

/// The 4 KiB frame of `gpa` inside a page that may be larger.
#[inline]
fn frame_of(gpa: Gpa, level: u8, page: Link) -> Pfn {
    let pages = 1u64 << (INDEX_BITS * u32::from(level - 1));
    Pfn::new(page.frame.get() + (gpa.gfn().get() & (pages - 1)))
}

/// The root table that translates an address in reach: those above the first follow it.
#[inline]
fn root_table(request: Request) -> Pfn {
    let shift = PAGE_SHIFT + INDEX_BITS * u32::from(request.regime.level);
    Pfn::new(request.root.get() + (request.gpa.get() >> shift))
}

/// Which entry of a table at `level` translates `gpa`.
#[inline]
fn index(gpa: Gpa, level: u8) -> usize {
    let shift = PAGE_SHIFT + INDEX_BITS * u32::from(level - 1);
    (gpa.get() >> shift & ((1 << INDEX_BITS) - 1)) as usize
}
