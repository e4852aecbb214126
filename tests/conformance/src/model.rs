//! What the library does, as naively as it can be said: maps of slots, sets of pages, bytes.

use std::collections::{BTreeMap, BTreeSet};
use vellum_memory::guest::{PAGE_BYTES, Page};
use vellum_mmu::{CreateSlotError, LogMode, NoSlot, SlotAccess, SlotSpec};
use vellum_pte::{AddressSpace, Gfn, Gpa, PAGE_SIZE, SlotId};

/// A VM: its slots, and what its memory holds.
#[derive(Clone, Debug, Default)]
pub struct Model {
    slots: BTreeMap<SlotId, (SlotSpec, Option<Log>)>,
    bytes: BTreeMap<u64, u8>,
    spaces: u16,
}

/// The page at `address` of bytes that are zero where they are not in the map.
#[must_use]
pub fn page_of(bytes: &BTreeMap<u64, u8>, address: u64) -> Page {
    let mut page = [0; PAGE_BYTES];
    for (at, byte) in bytes.range(address..address + PAGE_SIZE) {
        page[usize::try_from(at - address).expect("in the page")] = *byte;
    }
    page
}

/// The log of one slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// The dirty pages.
    pub dirty: BTreeSet<u64>,
    /// Groups of 64 pages in which a write was reported. Where the guest has mapped nothing near,
    /// the library may keep such a mark for the whole group: marking never allocates.
    pub loose: BTreeSet<u64>,
}

impl Log {
    /// Marks a page.
    pub fn mark(&mut self, page: u64, by: Writer) {
        self.dirty.insert(page);
        if by == Writer::Reported {
            self.loose.insert(page / 64);
        }
    }
}

/// How the library learns of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// It sees it: a vCPU's fault, a `GuestWriter`, a page owed.
    Seen,
    /// It is told afterwards, by `mark_dirty`.
    Reported,
}

/// Why the model refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No such slot, or none at the address.
    NoSlot,
    /// The slot is read-only.
    ReadOnly,
    /// The slot has no log.
    NotLogged,
}

impl Model {
    /// Without slots, and with all memory zero.
    #[must_use]
    pub fn new(spaces: u16) -> Self {
        Self { spaces, ..Self::default() }
    }

    /// Whether a slot may be created, and whichever stands in its way if not.
    #[must_use]
    pub fn obstacles(&self, spec: &SlotSpec) -> Vec<CreateSlotError> {
        let overlaps = |other: &&SlotSpec| {
            other.id == spec.id || other.space == spec.space && other.range.overlaps(spec.range)
        };
        if spec.range.pages() == 0 {
            return vec![CreateSlotError::Empty];
        }
        if spec.space.0 >= self.spaces {
            return vec![CreateSlotError::NoSuchSpace(spec.space)];
        }
        let in_the_way = self.slots.values().map(|(other, _)| other).filter(overlaps);
        in_the_way.map(|other| CreateSlotError::Exists(other.id)).collect()
    }

    /// Adds a slot that nothing stands in the way of.
    pub fn create(&mut self, spec: SlotSpec) {
        let log = (spec.log != LogMode::Off).then(Log::default);
        self.slots.insert(spec.id, (spec, log));
    }

    /// Removes a slot.
    ///
    /// # Errors
    /// There is none.
    pub fn delete(&mut self, id: SlotId) -> Result<(), NoSlot> {
        self.slots.remove(&id).map(drop).ok_or(NoSlot(id))
    }

    /// Starts a log; one that is on stays.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn start(&mut self, id: SlotId) -> Result<(), Refusal> {
        let (_, log) = self.slots.get_mut(&id).ok_or(Refusal::NoSlot)?;
        log.get_or_insert_default();
        Ok(())
    }

    /// Stops a log.
    ///
    /// # Errors
    /// No slot, no log.
    pub fn stop(&mut self, id: SlotId) -> Result<(), Refusal> {
        self.log(id)?;
        let (_, log) = self.slots.get_mut(&id).ok_or(Refusal::NoSlot)?;
        *log = None;
        Ok(())
    }

    /// The dirty pages of a slot.
    ///
    /// # Errors
    /// No slot, no log.
    pub fn log(&mut self, id: SlotId) -> Result<&mut Log, Refusal> {
        let (_, log) = self.slots.get_mut(&id).ok_or(Refusal::NoSlot)?;
        log.as_mut().ok_or(Refusal::NotLogged)
    }

    /// The slots, by name.
    #[must_use]
    pub fn specs(&self) -> Vec<SlotSpec> {
        self.slots.values().map(|(spec, _)| *spec).collect()
    }

    /// The slots that have a log.
    #[must_use]
    pub fn logged(&self) -> Vec<SlotId> {
        let logged = self.slots.iter().filter(|(_, (_, log))| log.is_some());
        logged.map(|(id, _)| *id).collect()
    }

    /// Marks a page, if it is in a slot and logged.
    pub fn mark(&mut self, space: AddressSpace, gfn: Gfn, by: Writer) {
        for (spec, log) in self.slots.values_mut() {
            if let (true, Some(log)) = (spec.space == space && spec.range.contains(gfn), log) {
                log.mark(gfn.get() - spec.range.first().get(), by);
            }
        }
    }

    /// Writes bytes and marks their pages, all or nothing.
    ///
    /// # Errors
    /// The first page that has no slot, or whose slot is read-only.
    pub fn write(
        &mut self,
        space: AddressSpace,
        at: Gpa,
        bytes: &[u8],
        by: Writer,
    ) -> Result<(), Refusal> {
        let addresses = at.get()..at.get() + bytes.len() as u64;
        for address in addresses.clone() {
            match self.at(space, Gpa::new(address).gfn()).map(|spec| spec.access) {
                None => return Err(Refusal::NoSlot),
                Some(SlotAccess::ReadOnly) => return Err(Refusal::ReadOnly),
                Some(SlotAccess::ReadWrite) => {}
            }
        }
        for (address, byte) in addresses.zip(bytes) {
            self.bytes.insert(address, *byte);
            self.mark(space, Gpa::new(address).gfn(), by);
        }
        Ok(())
    }

    /// Eight bytes as a guest loads them.
    ///
    /// # Errors
    /// No slot there.
    pub fn load(&self, space: AddressSpace, at: Gpa) -> Result<u64, Refusal> {
        self.at(space, at.gfn()).ok_or(Refusal::NoSlot)?;
        Ok(self.peek(at))
    }

    /// A page, slot or none.
    #[must_use]
    pub fn page(&self, gfn: Gfn) -> Page {
        page_of(&self.bytes, gfn.gpa().get())
    }

    /// Eight bytes, slot or none.
    fn peek(&self, at: Gpa) -> u64 {
        let byte = |index| self.bytes.get(&(at.get() + index)).copied().unwrap_or(0);
        u64::from_le_bytes(std::array::from_fn(|index| byte(index as u64)))
    }

    fn at(&self, space: AddressSpace, gfn: Gfn) -> Option<&SlotSpec> {
        let specs = self.slots.values().map(|(spec, _)| spec);
        specs.filter(|spec| spec.space == space).find(|spec| spec.range.contains(gfn))
    }
}
