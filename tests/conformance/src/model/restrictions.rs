//! Pages that are tracked or restricted: what becomes of a store, and who hears of it.

use super::{Model, Refusal, Slot};
use crate::hypervisor::{By, Told, Way};
use crate::parts::{Part, parts};
use std::collections::BTreeMap;
use vellum_mmu::{
    ActivateError, Denial, Origin, RemovedRegion, SlotSpec, SubPageError, SubPageForm,
    SubPagesActive, TrackError,
};
use vellum_pte::{AddressSpace, Gfn, Gpa, SubPageMap};

/// What holds for the whole VM.
#[derive(Clone, Debug, Default)]
pub struct Restrictions {
    /// Whether pages may be tracked.
    pub tracking: bool,
    /// Whether maps may be set.
    pub active: bool,
    /// Whether the VM may run guests of its own.
    pub nested: bool,
    listeners: BTreeMap<u16, (Stays, Vec<Heard>)>,
}

/// How long a listener listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stays {
    /// Until it is unregistered.
    On,
    /// It unregisters itself in its first call.
    ForOneCall,
    /// It has left.
    NoMore,
}

/// What a listener is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Of a write.
    Written {
        /// The address space.
        space: AddressSpace,
        /// The first byte.
        gpa: Gpa,
        /// What was written.
        bytes: Vec<u8>,
        /// By whom.
        origin: Origin,
    },
    /// Of a slot that went.
    Removed(RemovedRegion),
}

impl Heard {
    pub(super) const fn removed(spec: &SlotSpec) -> Self {
        Self::Removed(RemovedRegion { slot: spec.id, space: spec.space, range: spec.range })
    }
}

impl Restrictions {
    /// Registers a listener.
    pub fn listen(&mut self, name: u16, stays: Stays) {
        self.tracking = true;
        self.listeners.insert(name, (stays, Vec::new()));
    }

    /// Ends that.
    pub fn unlisten(&mut self, name: u16) {
        self.listeners.remove(&name);
    }

    /// What a listener has been told so far.
    #[must_use]
    pub fn heard(&self, name: u16) -> &[Heard] {
        self.listeners.get(&name).map_or(&[], |(_, heard)| heard)
    }

    pub(super) fn tell(&mut self, what: &Heard) {
        for (stays, heard) in
            self.listeners.values_mut().filter(|(stays, _)| *stays != Stays::NoMore)
        {
            heard.push(what.clone());
            if *stays == Stays::ForOneCall {
                *stays = Stays::NoMore;
            }
        }
    }
}

/// How a store goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Pages that are mapped for it, and may be logged even if it fails in the end.
    pub opened: Vec<Gfn>,
    /// Who makes it, or why nobody does.
    pub end: Result<Way, Refusal>,
}

impl Model {
    /// How a store will go that a processor tries, page by page.
    #[must_use]
    pub fn attempt(&self, space: AddressSpace, all: Part, by: By, told: Told) -> Attempt {
        let mut opened = Vec::new();
        for part in parts(all.at, all.length) {
            let gfn = part.at.gfn();
            match self.attempt_part(space, part, by, told) {
                Ok(Meets::Nothing) => opened.push(gfn),
                Ok(Meets::Tracking) => return Attempt { opened, end: Ok(Way::Emulated) },
                Ok(Meets::RefusalOnceMapped) => {
                    opened.push(gfn);
                    return Attempt { opened, end: Ok(Way::Emulated) };
                }
                Err(refusal) => return Attempt { opened, end: Err(refusal) },
            }
        }
        Attempt { opened, end: Ok(Way::Direct) }
    }

    fn attempt_part(
        &self,
        space: AddressSpace,
        part: Part,
        by: By,
        told: Told,
    ) -> Result<Meets, Refusal> {
        let gfn = part.at.gfn();
        self.may_write(space, gfn)?;
        if let Some(denial) = self.first_denied(space, Part { length: 1, ..part }) {
            return Err(Refusal::Denied(denial));
        }
        let restricted = self.map(space, gfn) != Some(u32::MAX);
        let by_tables = self.shape.form == SubPageForm::ByTables && by == By::Instruction;
        if self.tracked(space, gfn) > 0 || restricted && !by_tables {
            return Ok(Meets::Tracking);
        }
        self.may_store(space, gfn)?;
        let denied = self.first_denied(space, part).is_some();
        let refused = denied || restricted && told == Told::NotYet;
        Ok(if refused { Meets::RefusalOnceMapped } else { Meets::Nothing })
    }

    /// The first byte that a map forbids.
    pub(super) fn first_denied(&self, space: AddressSpace, part: Part) -> Option<Denial> {
        let bits = self.map(space, part.at.gfn())?;
        let bytes = part.at.get()..part.at.get() + part.length as u64;
        let denied = bytes.map(Gpa::new).find(|at| bits >> (at.offset() / 128) & 1 == 0);
        denied.map(|gpa| Denial { gpa, map: SubPageMap::new(bits) })
    }

    /// The map of a page of a slot.
    #[must_use]
    pub fn map(&self, space: AddressSpace, gfn: Gfn) -> Option<u32> {
        let slot = self.at(space, gfn)?;
        Some(slot.maps.get(&slot.page(gfn)).copied().unwrap_or(u32::MAX))
    }

    /// Gives a page of a slot a map.
    pub fn set_map(&mut self, space: AddressSpace, gfn: Gfn, bits: u32) {
        let slot = self.at_mut(space, gfn).expect("it was looked for");
        let page = slot.page(gfn);
        if slot.maps.get(&page).copied().unwrap_or(u32::MAX) != bits {
            slot.used.restricted(gfn);
        }
        match bits {
            u32::MAX => slot.maps.remove(&page),
            _ => slot.maps.insert(page, bits),
        };
    }

    /// What is wrong with reading or setting the maps of some pages; any of it may be said.
    #[must_use]
    pub fn map_obstacles(
        &self,
        space: AddressSpace,
        pages: &[Gfn],
        flags: u32,
    ) -> Vec<SubPageError> {
        let count = pages.len();
        let nowhere = pages.iter().copied().find(|gfn| self.map(space, *gfn).is_none());
        let obstacles = [
            (flags != 0).then_some(SubPageError::UnknownFlags(flags)),
            (!self.restrictions.active).then_some(SubPageError::Inactive),
            (count > 512).then_some(SubPageError::TooMany(count)),
            nowhere.map(SubPageError::NoSlot),
        ];
        obstacles.into_iter().flatten().collect()
    }

    /// Lets maps be set.
    ///
    /// # Errors
    /// The VM may run guests of its own.
    pub fn activate(&mut self) -> Result<SubPageForm, ActivateError> {
        let Restrictions { active, nested, .. } = &mut self.restrictions;
        if *nested {
            return Err(ActivateError::Nested);
        }
        *active = true;
        Ok(self.shape.form)
    }

    /// Lets the VM run guests of its own.
    ///
    /// # Errors
    /// Maps may be set.
    pub fn allow_nested(&mut self) -> Result<(), SubPagesActive> {
        let Restrictions { active, nested, .. } = &mut self.restrictions;
        if *active {
            return Err(SubPagesActive);
        }
        *nested = true;
        Ok(())
    }

    /// How often a page is tracked.
    #[must_use]
    pub fn tracked(&self, space: AddressSpace, gfn: Gfn) -> u16 {
        let count = |slot: &Slot| slot.tracked.get(&slot.page(gfn)).copied();
        self.at(space, gfn).and_then(count).unwrap_or(0)
    }

    /// Counts a page up or down.
    ///
    /// # Errors
    /// The count stays as it is.
    pub fn track(&mut self, space: AddressSpace, gfn: Gfn, by: i32) -> Result<(), TrackError> {
        if !self.restrictions.tracking {
            return Err(TrackError::Off);
        }
        let count = i32::from(self.tracked(space, gfn)) + by;
        let slot = self.at_mut(space, gfn).ok_or(TrackError::NoSlot(gfn))?;
        let refused = if by > 0 { TrackError::TooMany(gfn) } else { TrackError::NotTracked(gfn) };
        let count = u16::try_from(count).map_err(|_| refused)?;
        slot.tracked.insert(slot.page(gfn), count);
        if by > 0 {
            slot.used.restricted(gfn);
        }
        Ok(())
    }

    /// Every page that is tracked or restricted.
    #[must_use]
    pub fn watched(&self) -> Vec<(AddressSpace, Gfn)> {
        let of_slot = |slot: &Slot| {
            let (space, first) = (slot.spec.space, slot.spec.range.first().get());
            let pages: Vec<u64> = slot.tracked.keys().chain(slot.maps.keys()).copied().collect();
            pages.into_iter().map(move |page| (space, Gfn::new(first + page)))
        };
        self.slots.values().flat_map(of_slot).collect()
    }
}

/// What a processor's store meets in one page.
enum Meets {
    /// Nothing: it passes.
    Nothing,
    /// That the page is not the processor's to write.
    Tracking,
    /// That another part of the page than its first byte's is denied, or that it knows of no table that
    /// would say so: what the processor finds out once the page is mapped.
    RefusalOnceMapped,
}
