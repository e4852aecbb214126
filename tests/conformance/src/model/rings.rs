//! Dirty rings: what a harvest has to name, and what it may.
//!
//! Faults write entries, and which store faults is the tables' affair. Of a page's leaf the model knows
//! whether it is surely closed, surely open, or neither ([`Leaves`]): so it knows of most entries that they are
//! there, and of all others that they may be.

use super::Model;
use super::log::{Log, Pages, Writer};
use std::collections::BTreeSet;
use vellum_mmu::{Again, DirtyBits, RingSize};
use vellum_pte::{AddressSpace, Gfn, SlotId};

/// A page that a ring names: its slot, and its place there.
pub type Named = (SlotId, u64);

/// How large each vCPU's ring is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingShape {
    /// Its entries.
    pub entries: u32,
    /// What hardware may log before it is asked.
    pub buffered: u32,
}

impl RingShape {
    /// As small as it may be.
    #[must_use]
    pub const fn least(dirty_bits: DirtyBits) -> Self {
        match dirty_bits {
            DirtyBits::Unused | DirtyBits::Scanned => Self { entries: 128, buffered: 0 },
            DirtyBits::Logged => Self { entries: 1024, buffered: 512 },
        }
    }

    /// What the library is told.
    ///
    /// # Panics
    /// It is no size of a ring.
    #[must_use]
    pub fn size(self) -> RingSize {
        RingSize::new(self.entries, self.buffered).expect("a power of two above the reserve")
    }

    const fn soft_limit(self) -> usize {
        (self.entries - 64 - self.buffered) as usize
    }

    const fn capacity(self) -> usize {
        self.entries as usize
    }
}

/// Whether the next store to a page of a log faults, and so writes an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Faults {
    Surely,
    Perhaps,
    Not,
}

/// What is known of the leaves of a slot that is logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Leaves {
    /// Stores to them fault.
    closed: Pages,
    /// Stores to them do not.
    open: Pages,
}

impl Leaves {
    pub(super) fn closed(pages: u64) -> Self {
        Self { closed: Pages::all(pages), open: Pages::none(pages) }
    }

    pub(super) fn unknown(pages: u64) -> Self {
        Self { closed: Pages::none(pages), open: Pages::none(pages) }
    }

    pub(super) fn close(&mut self, page: u64) {
        self.closed.insert(page);
        self.open.remove(page);
    }

    /// Something was done that takes stores away, perhaps here.
    pub(super) fn may_be_closed(&mut self) {
        self.open.clear();
    }

    fn open(&mut self, page: u64) {
        self.closed.remove(page);
        self.open.insert(page);
    }

    fn may_be_open(&mut self, page: u64) {
        self.closed.remove(page);
    }

    fn faults(&self, page: u64) -> Faults {
        match (self.closed.contains(page), self.open.contains(page)) {
            (true, _) => Faults::Surely,
            (_, true) => Faults::Not,
            _ => Faults::Perhaps,
        }
    }
}

/// Who writes entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writers {
    /// Faults alone.
    Faults,
    /// Faults and whoever hands over what hardware has logged, sooner or later.
    FaultsAndHardware,
}

/// Whether a ring has room for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// It has.
    Left,
    /// It has none.
    None,
    /// Nobody can tell.
    Perhaps,
}

/// Whether something is in a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum There {
    Surely,
    Perhaps,
}

/// An entry that nobody has harvested.
#[derive(Clone, Copy, Debug)]
struct Unread {
    named: Named,
    there: There,
}

impl Unread {
    fn is_sure(&self) -> bool {
        self.there == There::Surely
    }
}

/// One vCPU's ring.
#[derive(Clone, Debug, Default)]
struct Ring {
    unread: Vec<Unread>,
    /// Entries that were harvested and not taken back: at least so many, and at most.
    held: (usize, usize),
}

impl Ring {
    fn used(&self) -> (usize, usize) {
        let sure = self.unread.iter().filter(|entry| entry.is_sure()).count();
        (self.held.0 + sure, self.held.1 + self.unread.len())
    }
}

/// The rings of a VM.
#[derive(Clone, Debug)]
pub struct Rings {
    shape: RingShape,
    writers: Writers,
    /// In the order in which they are harvested.
    rings: Vec<Ring>,
    /// Which of them each CPU has.
    held_by: Vec<Option<usize>>,
    /// What was harvested and not taken back.
    harvested: Vec<Named>,
}

impl Rings {
    /// Of so many CPUs that have just come, in order.
    #[must_use]
    pub fn new(shape: RingShape, dirty_bits: DirtyBits, cpus: usize) -> Self {
        let writers = match dirty_bits {
            DirtyBits::Unused => Writers::Faults,
            DirtyBits::Scanned | DirtyBits::Logged => Writers::FaultsAndHardware,
        };
        let (rings, held_by) = (vec![Ring::default(); cpus], (0..cpus).map(Some).collect());
        Self { shape, writers, rings, held_by, harvested: Vec::new() }
    }

    /// A vCPU goes. What is in its ring stays.
    pub fn leave(&mut self, cpu: usize) {
        self.held_by[cpu] = None;
    }

    /// A vCPU comes, and goes on with the first ring that nobody has.
    pub fn come(&mut self, cpu: usize) {
        let free = (0..).find(|ring| !self.held_by.contains(&Some(*ring)));
        self.held_by[cpu] = free;
    }

    fn ring(&mut self, cpu: usize) -> &mut Ring {
        let held = self.held_by[cpu].expect("it came before it stored");
        &mut self.rings[held]
    }

    /// Whether a CPU may enter the guest, and log so many pages more before it is asked again.
    pub fn room(&mut self, cpu: usize, more: usize) -> Room {
        let limit = self.shape.soft_limit();
        match self.ring(cpu).used() {
            (_, most) if most + more < limit => Room::Left,
            (least, _) if least >= limit => Room::None,
            _ => Room::Perhaps,
        }
    }

    /// A CPU has stored to a page of a log: that is on record, in a ring or in the bitmap.
    pub(super) fn store(&mut self, cpu: usize, named: Named, log: &mut Log) {
        log.ringed.insert(named.1);
        match self.writers {
            Writers::FaultsAndHardware => {
                log.loose.insert(named.1);
                // The fault's, and the one that hardware has logged.
                (0..2).for_each(|_| self.write(cpu, named, There::Perhaps, log));
            }
            Writers::Faults => {
                self.write_unless_open(cpu, named, log.leaves.faults(named.1), log);
                log.leaves.open(named.1);
            }
        }
    }

    /// A CPU may have opened a page that it did not store to.
    pub(super) fn open(&mut self, cpu: usize, named: Named, log: &mut Log) {
        if self.writers == Writers::FaultsAndHardware {
            log.loose.insert(named.1);
        }
        let faults = match log.leaves.faults(named.1) {
            Faults::Surely | Faults::Perhaps => Faults::Perhaps,
            Faults::Not => Faults::Not,
        };
        self.write_unless_open(cpu, named, faults, log);
        log.leaves.may_be_open(named.1);
    }

    /// An entry of a page-modification log that is not hardware's: on record like any other.
    pub(super) fn log(&mut self, cpu: usize, named: Named, log: &mut Log) {
        log.ringed.insert(named.1);
        self.write(cpu, named, There::Perhaps, log);
    }

    fn write_unless_open(&mut self, cpu: usize, named: Named, faults: Faults, log: &mut Log) {
        match faults {
            Faults::Surely => self.write(cpu, named, There::Surely, log),
            Faults::Perhaps => self.write(cpu, named, There::Perhaps, log),
            Faults::Not => {}
        }
    }

    /// What finds no room is in the bitmap.
    fn write(&mut self, cpu: usize, named: Named, there: There, log: &mut Log) {
        let capacity = self.shape.capacity();
        let ring = self.ring(cpu);
        let (least, most) = ring.used();
        if least >= capacity {
            match there {
                There::Surely => log.dirty.insert(named.1),
                There::Perhaps => log.loose.insert(named.1),
            }
            return;
        }
        let there = if most < capacity { there } else { There::Perhaps };
        if most >= capacity {
            log.loose.insert(named.1);
        }
        ring.unread.push(Unread { named, there });
    }

    /// Whether a harvest may name these pages: every entry that is surely there, in order, and besides only
    /// such as may be. What hardware has logged is handed over in any order.
    #[must_use]
    pub fn may_be_named(&self, named: &[Named]) -> bool {
        let unread = self.rings.iter().flat_map(|ring| &ring.unread);
        match self.writers {
            Writers::Faults => is_found_in_order(named, unread),
            Writers::FaultsAndHardware => {
                let pages: BTreeSet<Named> = unread.map(|entry| entry.named).collect();
                named.iter().all(|page| pages.contains(page))
            }
        }
    }

    /// These pages were harvested.
    pub fn harvest(&mut self, named: &[Named]) {
        self.harvested.extend(named);
        for ring in &mut self.rings {
            ring.held = ring.used();
            if self.writers == Writers::Faults {
                ring.unread.clear();
            }
        }
    }

    /// What hardware had logged has been handed over, and was not harvested from rings: it is in bitmaps.
    pub fn handed_over(&mut self) {
        self.rings.iter_mut().for_each(|ring| ring.unread.clear());
    }

    /// Whether a page was harvested and not taken back.
    #[must_use]
    pub fn has_harvested(&self, named: Named) -> bool {
        self.harvested.contains(&named)
    }

    /// Takes back what was harvested.
    pub(super) fn take_back(&mut self) -> Vec<Named> {
        self.rings.iter_mut().for_each(|ring| ring.held = (0, 0));
        std::mem::take(&mut self.harvested)
    }
}

impl Model {
    /// Pages that were mapped for a CPU's store that was not made: they may be logged.
    pub fn note_opened(&mut self, cpu: usize, space: AddressSpace, opened: &[Gfn]) {
        for gfn in opened {
            match self.rings {
                Some(_) => {
                    self.in_rings(space, *gfn, |rings, named, log| rings.open(cpu, named, log))
                }
                None => self.in_log(space, *gfn, |page, log| log.loose.insert(page)),
            }
        }
    }

    /// A page of the guest is in a CPU's page-modification log, whoever wrote that.
    pub fn log_page(&mut self, cpu: usize, space: AddressSpace, gfn: Gfn) {
        match self.rings {
            Some(_) => {
                self.in_log(space, gfn, |page, log| log.may_be_reported(page));
                self.in_rings(space, gfn, |rings, named, log| rings.log(cpu, named, log));
            }
            None => self.mark(space, gfn, Writer::Reported),
        }
    }

    /// Does something to the rings and the log of a page, if it is logged and there are rings.
    pub(super) fn in_rings(
        &mut self,
        space: AddressSpace,
        gfn: Gfn,
        act: impl FnOnce(&mut Rings, Named, &mut Log),
    ) {
        let Some(mut rings) = self.rings.take() else { return };
        if let Some(slot) = self.at_mut(space, gfn) {
            let named = (slot.spec.id, slot.page(gfn));
            if let Some(log) = &mut slot.log {
                act(&mut rings, named, log);
            }
        }
        self.rings = Some(rings);
    }

    fn in_log(&mut self, space: AddressSpace, gfn: Gfn, act: impl FnOnce(u64, &mut Log)) {
        if let Some(slot) = self.at_mut(space, gfn) {
            let page = slot.page(gfn);
            if let Some(log) = &mut slot.log {
                act(page, log);
            }
        }
    }

    /// The first page of a slot's log that is neither in its bitmap nor harvested, after a harvest of
    /// all rings.
    #[must_use]
    pub fn first_off_record(&self, id: SlotId, bitmap: &Pages) -> Option<u64> {
        let log = self.slots.get(&id)?.log.as_ref()?;
        let harvested = |page| self.rings.iter().any(|rings| rings.has_harvested((id, page)));
        log.ringed.iter().find(|page| !bitmap.contains(*page) && !harvested(*page))
    }

    /// Takes back what was harvested, whose pages fault again. How many entries that was.
    pub fn reset_rings(&mut self, again: Again) -> u64 {
        let taken = self.rings.as_mut().map(Rings::take_back).unwrap_or_default();
        for (id, page) in &taken {
            self.log(*id).into_iter().for_each(|log| log.deliver(*page));
        }
        if again == Again::Everything && !taken.is_empty() {
            self.protect_all();
        }
        taken.len() as u64
    }

    /// Every store faults.
    pub fn protect_all(&mut self) {
        self.slots.values_mut().filter_map(|slot| slot.log.as_mut()).for_each(Log::protect);
    }

    /// Something was done that may take stores away.
    pub fn may_have_protected(&mut self) {
        let logs = self.slots.values_mut().filter_map(|slot| slot.log.as_mut());
        logs.for_each(|log| log.leaves.may_be_closed());
    }

    /// What a vCPU wrote and nobody has taken, by slot.
    #[must_use]
    pub fn owed(&self) -> Vec<Named> {
        let of_slot = |(id, slot): (&SlotId, &super::Slot)| {
            let pages: Vec<u64> = slot.log.iter().flat_map(|log| log.ringed.iter()).collect();
            let id = *id;
            pages.into_iter().map(move |page| (id, page))
        };
        self.slots.iter().flat_map(of_slot).collect()
    }
}

/// Whether some of the entries, all that are surely there among them, are these pages in this order.
fn is_found_in_order<'u>(named: &[Named], unread: impl Iterator<Item = &'u Unread>) -> bool {
    // After each entry: of how many pages it may be the last.
    let mut found = vec![false; named.len() + 1];
    found[0] = true;
    for entry in unread {
        for count in (0..=named.len()).rev() {
            let here = count > 0 && found[count - 1] && named[count - 1] == entry.named;
            found[count] = here || found[count] && !entry.is_sure();
        }
    }
    found[named.len()]
}
