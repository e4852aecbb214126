//! The dirty log: started, harvested in each way, owed.

use super::{Exactness, Op, OutOfMemory, Scene, of_log};
use crate::hypervisor::Cpu;
use crate::model::{Clearing, Log, Pages, Refusal, Writer};
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::{ClearError, ClearRange, DirtyBits, Embedder, Initial, LogError, Protect};
use vellum_pte::{AddressSpace, Format, SlotId};

impl<F: Format, E: Embedder, C: Cpu> Scene<'_, F, E, C> {
    pub(super) fn apply_to_log(&mut self, op: &Op) -> Result<(), OutOfMemory> {
        match *op {
            Op::Start(id, initial) => return self.start(SlotId(id), initial),
            Op::Stop(id) => {
                let stopped = self.library(|scene| scene.mmu.stop_log(SlotId(id)));
                assert_eq!(stopped.map_err(of_log), self.model.stop(SlotId(id)));
            }
            Op::TakePages(id) => self.harvest(SlotId(id), Protect::Pages),
            Op::TakeAll => self.take_all(),
            Op::Read(id) => drop(self.read(SlotId(id))),
            Op::Clear { id, first, pages, ref mask } => self.clear(SlotId(id), first, pages, mask),
            Op::Forget { space, first, pages } => {
                let (space, range) = (AddressSpace(space), self.range(first, pages));
                self.library(|scene| scene.mmu.forget(space, range));
                self.model.forget(space, range);
            }
            Op::ProtectAll => self.protect_all(),
            Op::ProtectAllOff => self.library(|scene| scene.mmu.write_protect_all_off()),
            Op::Owe { id, word, mask } => self.owe(SlotId(id), word, mask),
            Op::Mark { space, page } => {
                let (space, gfn) = (AddressSpace(space), self.gfn(page));
                self.library(|scene| scene.mmu.mark_dirty(space, gfn));
                self.model.mark(space, gfn, Writer::Reported);
            }
            _ => unreachable!("{op:?} is not about logs"),
        }
        Ok(())
    }

    /// A log that starts all set touches no entry, and one that is on is kept.
    fn start(&mut self, id: SlotId, initial: Initial) -> Result<(), OutOfMemory> {
        let before = self.mmu.counters();
        let started = self.library(|scene| scene.mmu.start_log(id, initial));
        if started.is_err() || initial == Initial::AllSet {
            self.assert_untouched(&before);
        }
        match started {
            Err(LogError::OutOfMemory(_)) => return Err(OutOfMemory),
            other => assert_eq!(other.map_err(of_log), self.model.start(id, initial)),
        }
        Ok(())
    }

    pub(super) fn take_all(&mut self) {
        for id in self.model.logged() {
            self.harvest(id, Protect::Nothing);
        }
        self.protect_all();
    }

    fn protect_all(&mut self) {
        self.library(|scene| scene.mmu.write_protect_all());
        self.model.protect_all();
    }

    /// A set for a slot's pages; one that does not exist is asked for all the same, with some set.
    pub(super) fn set_for(&mut self, id: SlotId) -> PageSet {
        let range = self.model.slot(id).map(|slot| slot.spec.range);
        let range = range.unwrap_or(self.range(0, 1));
        let region = Region { slot: id, space: AddressSpace::NORMAL, range };
        PageSet::new(&Layout::new(vec![region]).expect("one region"))
    }

    fn harvest(&mut self, id: SlotId, protect: Protect) {
        let mut round = self.set_for(id);
        let set = &mut round.regions_mut()[0];
        let taken = self.library(|scene| scene.mmu.take_dirty(id, protect, set));
        let expected = self.model.log(id).map(Log::take);
        self.compare_answers(id, taken, &round, expected);
        self.note_delivered(id, &round);
    }

    /// What was named is protected, now or before anybody reads it.
    fn note_delivered(&mut self, id: SlotId, round: &PageSet) {
        let named = Pages::named(&round.regions()[0]);
        self.model.log(id).into_iter().for_each(|log| log.delivered(&named));
    }

    /// Looking changes nothing in the log, nor elsewhere where D bits are no log. What it named.
    pub(super) fn read(&mut self, id: SlotId) -> Pages {
        let mut round = self.set_for(id);
        let set = &mut round.regions_mut()[0];
        let read = self.library_that_looks(|scene| scene.mmu.read_dirty(id, set));
        let expected = self.model.log(id).cloned();
        self.compare_answers(id, read, &round, expected);
        Pages::named(&round.regions()[0])
    }

    fn compare_answers(
        &self,
        id: SlotId,
        answer: Result<(), LogError>,
        round: &PageSet,
        expected: Result<Log, Refusal>,
    ) {
        match (answer.map_err(of_log), expected) {
            (Ok(()), Ok(log)) => self.compare(id, &Pages::named(&round.regions()[0]), &log),
            (answer, expected) => {
                assert_eq!(answer, expected.map(|_| ()), "{id:?}");
                assert!(round.is_empty(), "a refusal names pages");
            }
        }
    }

    fn compare(&self, id: SlotId, named: &Pages, log: &Log) {
        let Log { dirty, loose, .. } = log;
        let lost = dirty.first_beside(&[named]);
        assert_eq!(lost, None, "{id:?} lost a page, named {:?}", named.iter().collect::<Vec<_>>());
        let stray = match self.exactness {
            Exactness::Exact => named.first_beside(&[dirty, loose]),
            Exactness::ByGroups => named.first_beside(&[&dirty.groups(), &loose.groups()]),
        };
        let pages = || dirty.iter().collect::<Vec<_>>();
        assert_eq!(stray, None, "{id:?} named a clean page; dirty are {:?}", pages());
    }

    /// Exactly what is both dirty and in the mask; what is refused has changed nothing. By D bits only
    /// what somebody has read is in the log: what is cleared unread is in a later harvest.
    fn clear(&mut self, id: SlotId, first: u64, pages: Option<u64>, mask: &[u64]) {
        if self.dirty_bits != DirtyBits::Unused {
            self.read(id);
        }
        let mut round = self.set_for(id);
        let set = &mut round.regions_mut()[0];
        let slot = set.region().range.pages();
        let range = ClearRange { first, pages: pages.unwrap_or(slot.saturating_sub(first)) };
        let before = self.mmu.counters();
        let cleared = self.library(|scene| scene.mmu.clear_dirty(id, range, mask, set));
        if cleared.is_err() {
            if self.dirty_bits == DirtyBits::Unused {
                self.assert_untouched(&before);
            }
            assert!(round.is_empty(), "a refusal names pages");
        }
        let clearing = match self.exactness {
            Exactness::Exact => Clearing::Exact,
            Exactness::ByGroups => Clearing::ByGroups,
        };
        let misfits = self.model.log(id).map(|log| log.misfits(range, mask));
        match (cleared, misfits) {
            (Ok(()), Ok(misfits)) => {
                assert_eq!(misfits, [], "{range:?} of {slot} pages was cleared");
                let expected = self.model.log(id).map(|log| log.clear(range, mask, clearing));
                self.compare_answers(id, Ok(()), &round, expected);
                self.note_delivered(id, &round);
            }
            (Err(ClearError::Log(error)), misfits) => assert_eq!(Err(of_log(error)), misfits),
            (Err(error), Ok(misfits)) => {
                assert!(misfits.contains(&error), "{error}, not {misfits:?}")
            }
            (cleared, misfits) => panic!("{cleared:?}, the model says {misfits:?}"),
        }
    }

    fn owe(&mut self, id: SlotId, word: u64, mask: u64) {
        let specs = self.model.specs();
        let pages = specs.iter().find(|spec| spec.id == id).map_or(0, |spec| spec.range.pages());
        let owed = (0..64).filter(|bit| mask >> bit & 1 != 0).map(|bit| word * 64 + bit);
        let expected = self.model.log(id).map(|log| {
            owed.filter(|page| *page < pages).for_each(|page| log.mark(page, Writer::Seen));
        });
        let answer = self.library_that_changes_no_entry(|scene| scene.mmu.owe(id, word, mask));
        assert_eq!(answer.map_err(of_log), expected);
    }
}
