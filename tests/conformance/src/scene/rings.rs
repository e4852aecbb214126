//! Dirty rings and page-modification logs: who is kept out, what is harvested, and what is taken back.

use super::{Op, OutOfMemory, Scene};
use crate::hypervisor::{By, Cpu, Entry, Forged, Presence};
use crate::model::{Named, Rings, Room};
use vellum_mmu::{Again, Embedder, RingFull, RingPage};
use vellum_pte::{Format, Gpa};

/// Pages that one access may log.
const MOST: usize = 4;

impl<F: Format, E: Embedder, C: Cpu> Scene<'_, F, E, C> {
    pub(super) fn apply_to_rings(&mut self, op: &Op) -> Result<(), OutOfMemory> {
        match *op {
            Op::HarvestRings => self.harvest_rings(),
            Op::ResetRings(again) => self.reset_rings(again),
            Op::EmptyRings(again) => self.empty_rings(again),
            Op::Flood { cpu, first, pages } => return self.flood(cpu, first, pages),
            Op::Leave(cpu) => self.leave(cpu),
            Op::Forge { cpu, address } => {
                self.come(cpu)?;
                self.forge(cpu, address);
            }
            _ => unreachable!("{op:?} is not about rings"),
        }
        Ok(())
    }

    /// A harvest names what the model says is in the rings. After it every page that a vCPU has
    /// stored to and nobody has taken is in the bitmaps or among what was harvested.
    fn harvest_rings(&mut self) {
        let named = self.named_by_rings();
        match &mut self.model.rings {
            Some(rings) => {
                assert!(rings.may_be_named(&named), "the rings name {named:?}, not {rings:?}");
                rings.harvest(&named);
            }
            None => assert_eq!(named, [], "there are no rings"),
        }
        let logged = self.model.logged();
        for id in &logged {
            let bitmap = self.read(*id);
            let lost = self.model.first_off_record(*id, &bitmap);
            assert_eq!(lost, None, "{id:?} lost a page, rings named {named:?}");
        }
        if !logged.is_empty() {
            self.model.rings.iter_mut().for_each(Rings::handed_over);
        }
    }

    fn named_by_rings(&mut self) -> Vec<Named> {
        let (mmu, ours, theirs) = (self.mmu, self.after_call, self.before_call);
        let mut named = Vec::new();
        let note = |RingPage { slot, page }: RingPage| {
            ours();
            named.push((slot, page));
            theirs();
        };
        let count = self.library_that_changes_no_entry(|_| mmu.harvest_rings(note));
        assert_eq!(count, named.len() as u64, "how many were harvested");
        named
    }

    /// As many entries are taken back as were harvested; of none, no leaf is protected.
    fn reset_rings(&mut self, again: Again) {
        let before = self.mmu.counters();
        let taken = self.library(|scene| scene.mmu.reset_rings(again));
        if taken == 0 {
            self.assert_untouched(&before);
        }
        assert_eq!(taken, self.model.reset_rings(again), "what was harvested is taken back");
    }

    /// Empties the rings, as a consumer does.
    pub(super) fn empty_rings(&mut self, again: Again) {
        self.harvest_rings();
        self.reset_rings(again);
    }

    /// Everything was harvested: the rings are empty, and no store is without a record.
    pub(super) fn assert_nothing_owed(&mut self) {
        let left = self.named_by_rings();
        assert_eq!((left, self.model.owed()), (vec![], vec![]), "what is left, and what is owed");
    }

    /// A vCPU is kept out from its ring's soft limit on. One that makes room by itself finds some.
    pub(super) fn may_enter(&mut self, cpu: usize) -> Result<(), RingFull> {
        let Some(rings) = &mut self.model.rings else { return Ok(()) };
        match self.cpus[cpu].1.may_enter() {
            Entry::MakesRoom => {
                self.make_room(cpu);
                Ok(())
            }
            Entry::Granted => {
                assert_ne!(rings.room(cpu, 0), Room::None, "CPU {cpu} enters, full");
                Ok(())
            }
            Entry::KeptOut => {
                assert_ne!(rings.room(cpu, 0), Room::Left, "CPU {cpu} is kept out");
                Err(RingFull)
            }
        }
    }

    /// Empties the rings before a CPU does.
    fn make_room(&mut self, cpu: usize) {
        let rings = self.model.rings.as_mut();
        if rings.is_some_and(|rings| rings.room(cpu, MOST) != Room::Left) {
            self.empty_rings(Again::Pages);
        }
    }

    /// Stores to one page after the other. Who makes room by itself does so in between.
    fn flood(&mut self, cpu: usize, first: u64, pages: u64) -> Result<(), OutOfMemory> {
        self.come(cpu)?;
        (first..first + pages).try_for_each(|page| {
            if self.cpus[cpu].1.may_enter() == Entry::MakesRoom {
                self.make_room(cpu);
            }
            let value = (page + 1).to_le_bytes();
            self.store(cpu, self.address(page, 0), &value, By::Instruction)
        })
    }

    fn leave(&mut self, cpu: usize) {
        if self.library(|scene| scene.cpus[cpu].1.leave()) == Presence::Changed {
            self.model.rings.iter_mut().for_each(|rings| rings.leave(cpu));
        }
    }

    /// A vCPU comes where one has gone.
    pub(super) fn come(&mut self, cpu: usize) -> Result<(), OutOfMemory> {
        let come = self.library(|scene| scene.cpus[cpu].1.come());
        if come.map_err(|_| OutOfMemory)? == Presence::Changed {
            self.model.rings.iter_mut().for_each(|rings| rings.come(cpu));
        }
        Ok(())
    }

    /// What is below the page counts for nothing, and a page of no logged slot is no matter.
    fn forge(&mut self, cpu: usize, address: u64) {
        let (space, cpus) = (self.cpus[cpu].0, &mut self.cpus);
        if cpus[cpu].1.forge(address) == Forged::Written {
            self.model.log_page(cpu, space, Gpa::new(address).gfn());
        }
    }
}
