//! Permissions finer than a page: which of its 128-byte parts may be written.
//!
//! A page with a map is never storable as a whole. Where the processor has tables of sub-page
//! permissions (EPT with SPP), its leaf is *partial*: a store that meets it asks those tables.
//! Elsewhere its leaf is denied, each store faults, and what the map permits is emulated. The map in
//! the slot decides either way; tables are made from it.
//!
//! A map changes with faults and writers kept out, as slots do. `docs/subpage.md` has the whole
//! story.

mod enforcement;
mod maps;
mod miss;

pub(crate) use enforcement::Enforcement;
pub(crate) use maps::SubPageMaps;
pub(crate) use miss::{Miss, Missed, ShootDown};

use crate::allocate::OutOfMemory;
use crate::breaks::Break;
use crate::debts::{Debt, Takes};
use crate::embedder::Embedder;
use crate::frame::Closed;
use crate::mmu::{GuestMemory, Mmu, State};
use vellum_pte::{AddressSpace, Format, Gfn, Gpa, Pfn, SlotId, SubPageMap};

/// Whether the processor has tables of sub-page permissions and is told to use them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubPageHardware {
    /// It has none: permitted stores are emulated.
    Absent,
    /// It has: Intel's secondary processor-based control 23 (SDM vol. 3C, 25.6.2). Of no matter in
    /// formats without such tables.
    Present,
}

/// How maps are enforced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubPageForm {
    /// By tables that the processor walks.
    ByTables,
    /// By write-protecting the page and emulating the stores that its map permits.
    ByEmulation,
}

/// A store that a map forbids. The guest is where it was before it; after the map permits it, the
/// same store succeeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial {
    /// The first byte that may not be written. The address of the instruction is in the embedder's
    /// own exit information. So is its length, except after EPT violations, for which VMX leaves it
    /// undefined (Intel SDM vol. 3C, 28.2.5): the instruction has to be decoded.
    pub gpa: Gpa,
    /// The page's map.
    pub map: SubPageMap,
}

/// Which pages a call is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubPageRange {
    /// The address space.
    pub space: AddressSpace,
    /// The first page. How many there are, the list beside says.
    pub first: Gfn,
    /// How.
    pub flags: SubPageFlags,
}

impl SubPageRange {
    /// Without flags.
    #[must_use]
    pub const fn new(space: AddressSpace, first: Gfn) -> Self {
        Self { space, first, flags: SubPageFlags::NONE }
    }
}

/// Flags of a call. There is none yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SubPageFlags(u32);

impl SubPageFlags {
    /// None.
    pub const NONE: Self = Self(0);

    /// As a VMM's caller gave them: checked by the call.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// How many pages a call may be about.
pub const MAX_SUB_PAGE_MAPS: usize = 512;

/// Why maps were not read or changed. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubPageError {
    /// [`Mmu::activate_sub_pages`] was not called.
    #[error("sub-page permissions are not active")]
    Inactive,
    /// A flag that is not known.
    #[error("unknown flags {0:#x}")]
    UnknownFlags(u32),
    /// More than [`MAX_SUB_PAGE_MAPS`] pages.
    #[error("{0} pages in one call, of at most 512")]
    TooMany(usize),
    /// A page of them is in no memslot.
    #[error("no memslot at page {0}")]
    NoSlot(Gfn),
    /// No memory for the maps.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Why sub-page permissions were not activated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ActivateError {
    /// The VM may run guests of its own, whose tables would not have them.
    #[error("the VM may run nested guests")]
    Nested,
    /// The VM's memory is encrypted: nobody can emulate its writes.
    #[error("the memory of a confidential VM cannot be restricted")]
    Confidential,
    /// No memory for the root tables.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Sub-page permissions are active, and the VM may run no guests of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("sub-page permissions are active")]
pub struct SubPagesActive;

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Lets maps be set, in all address spaces, for slots and vCPUs that are there and that come. No
    /// page has a map yet. It stays so; a second call changes nothing.
    ///
    /// Where this answers [`SubPageForm::ByTables`], each vCPU is given
    /// [`sub_page_root`](Self::sub_page_root) before it next enters the guest. One that has not got it
    /// yet ignores the tables: then more stores fault than need to, and none too few.
    ///
    /// # Errors
    /// [`ActivateError`]; nothing has changed, and the call may be repeated.
    pub fn activate_sub_pages(&self) -> Result<SubPageForm, ActivateError> {
        if self.config.memory == GuestMemory::Confidential {
            return Err(ActivateError::Confidential);
        }
        let form = self.sub_page_form();
        let mut fresh = Enforcement::new(form, &self.enter().roots, &self.embedder)?;
        let mut state = self.read_side.exclude(&self.embedder);
        let nested = state.nested;
        if !nested && !state.sub_pages.is_active() {
            core::mem::swap(&mut state.sub_pages, &mut fresh);
        }
        drop(state);
        fresh.release(&self.embedder);
        if nested { Err(ActivateError::Nested) } else { Ok(form) }
    }

    /// How maps are enforced in this VM, active or not.
    pub const fn sub_page_form(&self) -> SubPageForm {
        match (self.config.sub_pages, F::SUB_PAGES) {
            (SubPageHardware::Present, vellum_pte::SubPageTables::Present) => SubPageForm::ByTables,
            _ => SubPageForm::ByEmulation,
        }
    }

    /// The frame for SPPTP (Intel SDM vol. 3C, 25.6.22) of a vCPU in an address space. `None` where
    /// sub-page permissions are not active or enforced without tables. Once there, it stays the same.
    pub fn sub_page_root(&self, space: AddressSpace) -> Option<Pfn> {
        self.enter().sub_pages.tables()?.first(space)
    }

    /// Lets the VM run guests of its own, from now on.
    ///
    /// # Errors
    /// [`SubPagesActive`].
    pub fn allow_nested(&self) -> Result<(), SubPagesActive> {
        let mut state = self.read_side.exclude(&self.embedder);
        if state.sub_pages.is_active() {
            return Err(SubPagesActive);
        }
        state.nested = true;
        Ok(())
    }

    /// Reads the maps of as many pages as `maps` has room for. Returns how many.
    ///
    /// # Errors
    /// [`SubPageError`]; `maps` is as it was.
    pub fn sub_pages(
        &self,
        range: SubPageRange,
        maps: &mut [SubPageMap],
    ) -> Result<usize, SubPageError> {
        let state = self.enter();
        state.check_sub_pages(range, maps.len())?;
        for (gfn, map) in pages(range.first).zip(maps.iter_mut()) {
            let slot = state.slots.find(range.space, gfn).ok_or(SubPageError::NoSlot(gfn))?;
            *map = slot.map(gfn);
        }
        Ok(maps.len())
    }

    /// Gives pages maps: all of them, or none. Returns how many. On return no store and no
    /// [`GuestWriter`](crate::GuestWriter) reaches what the maps deny, and what they permit that was
    /// denied may be written.
    ///
    /// # Errors
    /// [`SubPageError`]; no map has changed, and the call may be repeated.
    pub fn set_sub_pages(
        &self,
        range: SubPageRange,
        maps: &[SubPageMap],
    ) -> Result<usize, SubPageError> {
        let mut debt = self.debts.raise_for(Takes::Mappings, self.context());
        if self.breaks.has(Break::ForbidEarly) {
            self.forbid_early(range.space, pages(range.first).take(maps.len()), &mut debt);
        }
        let mut state = self.read_side.exclude(&self.embedder);
        state.check_sub_pages(range, maps.len())?;
        for (gfn, map) in pages(range.first).zip(maps) {
            state.reserve_map(range.space, gfn, *map)?;
        }
        for (gfn, map) in pages(range.first).zip(maps) {
            if state.set_map(range.space, gfn, *map)? == Changed::Yes {
                self.enforce(&mut state, (range.space, gfn), *map, &mut debt);
            }
        }
        drop(state);
        drop(debt);
        Ok(maps.len())
    }

    fn enforce(
        &self,
        state: &mut State<F>,
        (space, gfn): (AddressSpace, Gfn),
        map: SubPageMap,
        debt: &mut Debt<'_, E>,
    ) {
        if !self.breaks.has(Break::StaleVector) {
            state.sub_pages.set_vector(space, gfn, map);
        }
        if !self.breaks.has(Break::ForbidEarly) {
            state.forbid(space, gfn, debt);
        }
        // A leaf that was closed already asks tables that have changed all the same.
        debt.note(Closed::Now);
    }
}

/// Whether a map is another than before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changed {
    Yes,
    No,
}

impl<F: Format> State<F> {
    /// Everything that is wrong with a call, before anything is changed.
    fn check_sub_pages(&self, range: SubPageRange, count: usize) -> Result<(), SubPageError> {
        if range.flags != SubPageFlags::NONE {
            return Err(SubPageError::UnknownFlags(range.flags.0));
        }
        if !self.sub_pages.is_active() {
            return Err(SubPageError::Inactive);
        }
        if count > MAX_SUB_PAGE_MAPS {
            return Err(SubPageError::TooMany(count));
        }
        let nowhere = |gfn: &Gfn| self.slots.find(range.space, *gfn).is_none();
        match pages(range.first).take(count).find(nowhere) {
            Some(gfn) => Err(SubPageError::NoSlot(gfn)),
            None => Ok(()),
        }
    }

    fn reserve_map(
        &mut self,
        space: AddressSpace,
        gfn: Gfn,
        map: SubPageMap,
    ) -> Result<(), SubPageError> {
        let slot = self.slots.find_mut(space, gfn).ok_or(SubPageError::NoSlot(gfn))?;
        let page = slot.page(gfn);
        Ok(slot.maps.reserve(page, map)?)
    }

    fn set_map(
        &mut self,
        space: AddressSpace,
        gfn: Gfn,
        map: SubPageMap,
    ) -> Result<Changed, SubPageError> {
        let slot = self.slots.find_mut(space, gfn).ok_or(SubPageError::NoSlot(gfn))?;
        let page = slot.page(gfn);
        if slot.maps.get(page) == map {
            return Ok(Changed::No);
        }
        slot.maps.set(page, map)?;
        Ok(Changed::Yes)
    }

    /// A slot that has come with its maps: tables that are there already learn of them.
    pub(crate) fn spell_sub_pages(&mut self, id: SlotId) {
        let Self { slots, sub_pages, .. } = self;
        let Ok(slot) = slots.named(id) else { return };
        let (space, first) = (slot.spec.space, slot.spec.range.first().get());
        slot.maps.for_each(&mut |page, map| {
            sub_pages.set_vector(space, Gfn::new(first + page), map);
        });
    }
}

/// The pages from `first` on. Numbers that wrap are in no slot: the last page of all is not
/// addressable.
fn pages(first: Gfn) -> impl Iterator<Item = Gfn> {
    (0..).map(move |page| Gfn::new(first.get().wrapping_add(page)))
}
