//! Slots that come, change and go, and their huge leaves.

use super::{Fixed, Op, OutOfMemory, Scene};
use crate::hypervisor::Cpu;
use crate::model::Refusal;
use vellum_mmu::{
    ChangeSlotError, CreateSlotError, Embedder, Event, LogMode, MemoryId, SlotAccess, SlotSpec,
    SplitError,
};
use vellum_pte::{AddressSpace, Format, GfnRange, SlotId};

impl<F: Format, E: Embedder, C: Cpu> Scene<'_, F, E, C> {
    pub(super) fn apply_to_slots(&mut self, op: &Op) -> Result<(), OutOfMemory> {
        match *op {
            Op::Create { id, space, first, pages, access, log } => {
                let (id, space) = (SlotId(id), AddressSpace(space));
                let range = self.range(first, pages);
                return self.create(SlotSpec { access, log, ..SlotSpec::new(id, space, range) });
            }
            Op::Change { id, first, log, fixed } => {
                let spec = self.changed(SlotId(id), first, log, fixed);
                return self.change(spec);
            }
            Op::Delete(id) => {
                let id = SlotId(id);
                let deleted = self.library(|scene| scene.mmu.delete_slot(id));
                assert_eq!(deleted, self.model.delete(id));
            }
            Op::SplitHuge { id, frames } => return self.split(SlotId(id), frames),
            Op::RecoverHuge(id) => self.recover(SlotId(id)),
            _ => unreachable!("{op:?} is not about slots"),
        }
        Ok(())
    }

    fn create(&mut self, spec: SlotSpec) -> Result<(), OutOfMemory> {
        let obstacles = self.model.obstacles(&spec);
        match self.library_that_changes_no_entry(|scene| scene.mmu.create_slot(spec)) {
            Err(CreateSlotError::OutOfMemory(_)) => return Err(OutOfMemory),
            Err(error) => assert!(obstacles.contains(&error), "{error:?}, not {obstacles:?}"),
            Ok(()) => {
                assert_eq!(obstacles, [], "{spec:?} was created");
                self.model.create(spec);
            }
        }
        Ok(())
    }

    /// What a slot is to be; one that is not there, something.
    fn changed(
        &self,
        id: SlotId,
        first: Option<u64>,
        log: LogMode,
        fixed: Option<Fixed>,
    ) -> SlotSpec {
        let there = self.model.specs().into_iter().find(|spec| spec.id == id);
        let anything = SlotSpec::new(id, AddressSpace::NORMAL, self.range(0, 10));
        let mut spec = SlotSpec { log, ..there.unwrap_or(anything) };
        let pages = spec.range.pages();
        let moved = first.map(|first| self.range(first.min(self.ground.span - pages), pages));
        spec.range = moved.unwrap_or(spec.range);
        match fixed {
            None => {}
            Some(Fixed::Size) => {
                spec.range = GfnRange::new(spec.range.first(), pages - 1).expect("in range");
            }
            Some(Fixed::Space) => spec.space = AddressSpace(spec.space.0 ^ 1),
            Some(Fixed::Memory) => spec.memory = MemoryId(spec.memory.0 + 1),
            Some(Fixed::Access) => {
                spec.access = match spec.access {
                    SlotAccess::ReadWrite => SlotAccess::ReadOnly,
                    SlotAccess::ReadOnly => SlotAccess::ReadWrite,
                }
            }
        }
        spec
    }

    /// A change that is refused, and one that changes nothing, leave every entry as it is.
    fn change(&mut self, spec: SlotSpec) -> Result<(), OutOfMemory> {
        let obstacles = self.model.change_obstacles(&spec);
        let is_so = self.is_so(&spec);
        let before = self.mmu.counters();
        let changed = self.library(|scene| scene.mmu.change_slot(spec));
        if changed.is_err() || is_so {
            self.assert_untouched(&before);
        }
        match changed {
            Err(ChangeSlotError::Place(CreateSlotError::OutOfMemory(_))) => {
                return Err(OutOfMemory);
            }
            Err(error) => assert!(obstacles.contains(&error), "{error:?}, not {obstacles:?}"),
            Ok(()) => {
                assert_eq!(obstacles, [], "it became {spec:?}");
                self.model.change(spec);
            }
        }
        Ok(())
    }

    fn is_so(&mut self, spec: &SlotSpec) -> bool {
        self.model.slot(spec.id).is_ok_and(|slot| {
            let log = slot.log.is_some() == (spec.log != LogMode::Off);
            log && SlotSpec { log: slot.spec.log, ..*spec } == slot.spec
        })
    }

    fn split(&mut self, id: SlotId, frames: u64) -> Result<(), OutOfMemory> {
        let before = self.mmu.counters();
        let known = self.model.slot(id).map(|_| ());
        match self.library(|scene| scene.mmu.split_huge(id, frames)) {
            Err(SplitError::OutOfMemory(_)) => return Err(OutOfMemory),
            Err(SplitError::NoSlot(_)) => assert_eq!(known, Err(Refusal::NoSlot)),
            Ok(report) => {
                assert_eq!(known, Ok(()), "{id:?} was split");
                let split = self.mmu.counters().since(&before, Event::Split);
                assert_eq!(split, report.tables);
                assert!(split <= frames, "{split} tables for {frames} frames");
            }
        }
        Ok(())
    }

    fn recover(&mut self, id: SlotId) {
        let before = self.mmu.counters();
        let recovered = self.library(|scene| scene.mmu.recover_huge(id));
        let counted = self.mmu.counters().since(&before, Event::Recovered);
        let expected = self.model.recover(id).map(|()| counted);
        assert_eq!(recovered.map_err(|_| Refusal::NoSlot), expected);
        let is_logged = self.model.log(id).is_ok();
        assert!(!is_logged || counted == 0, "{id:?} is logged and got huge leaves");
    }
}
