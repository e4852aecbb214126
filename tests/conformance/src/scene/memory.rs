//! Accesses of CPUs and devices, and memory that changes under them.

use super::{Op, OutOfMemory, Scene};
use crate::hypervisor::{Change, Cpu, Home, OnRetry, Refused};
use crate::model::{Intent, Refusal, Retry};
use std::ops::Range;
use vellum_mmu::{Embedder, WriteError};
use vellum_pte::{AddressSpace, Format, Gfn, Gpa, SlotId};

impl<F: Format, E: Embedder, C: Cpu> Scene<'_, F, E, C> {
    pub(super) fn apply_to_memory(&mut self, op: &Op) -> Result<(), OutOfMemory> {
        match *op {
            Op::Store { cpu, page, word, value } => return self.store(cpu, page, word, value),
            Op::Load { cpu, page, word } => return self.load(cpu, page, word),
            Op::DeviceWrite { space, at, ref bytes } => self.device_write(space, at, bytes),
            Op::Age { id, first, pages } => self.age(SlotId(id), first, pages),
            Op::Invalidate { first, pages, change, ref meanwhile } => {
                let first = self.gfn(first).get();
                return self.invalidate(Home(first)..Home(first + pages), change, meanwhile);
            }
            _ => unreachable!("{op:?} is not about memory"),
        }
        Ok(())
    }

    fn store(&mut self, cpu: usize, page: u64, word: u64, value: u64) -> Result<(), OutOfMemory> {
        let at = self.address(page, word);
        let space = self.cpus[cpu].0;
        let expected = self.model.access(space, at.gfn(), Intent::Store);
        if self.may_be_put_off(cpu, at.gfn(), expected) {
            return Ok(());
        }
        let stored = self.library(|scene| scene.cpus[cpu].1.store(at, value));
        if self.judge(cpu, at, stored, expected)? == Done::Yes {
            let written = self.model.write(space, at, &value.to_le_bytes());
            assert_eq!(written, Ok(()), "the model refuses a store at {at}");
        }
        Ok(())
    }

    fn load(&mut self, cpu: usize, page: u64, word: u64) -> Result<(), OutOfMemory> {
        let at = self.address(page, word);
        let space = self.cpus[cpu].0;
        let expected = self.model.access(space, at.gfn(), Intent::Load);
        if self.may_be_put_off(cpu, at.gfn(), expected) {
            return Ok(());
        }
        let loaded = self.library(|scene| scene.cpus[cpu].1.load(at));
        if self.judge(cpu, at, loaded.map(drop), expected)? == Done::Yes {
            assert_eq!(loaded.ok(), self.model.load(space, at).ok(), "what is loaded at {at}");
        }
        Ok(())
    }

    /// Whether a CPU that waits where memory is being changed would wait for ever.
    fn may_be_put_off(&self, cpu: usize, gfn: Gfn, expected: Result<(), Refusal>) -> bool {
        let (space, cpu) = &self.cpus[cpu];
        let waits = cpu.on_retry() == OnRetry::Waits && expected.is_ok();
        waits && self.model.retry(*space, gfn) != Retry::No
    }

    /// Compares how an access ended.
    fn judge(
        &mut self,
        cpu: usize,
        at: Gpa,
        ended: Result<(), Refused>,
        expected: Result<(), Refusal>,
    ) -> Result<Done, OutOfMemory> {
        let space = self.cpus[cpu].0;
        let retry = self.model.retry(space, at.gfn());
        let ended = match ended {
            Err(Refused::OutOfMemory) => return Err(OutOfMemory),
            Err(Refused::Retry) => {
                assert_ne!(retry, Retry::No, "{at} in {space:?} is put off");
                assert_eq!(expected, Ok(()), "{at} in {space:?} is put off");
                return Ok(Done::No);
            }
            Ok(()) => {
                assert_ne!(retry, Retry::Must, "an access at {at} in {space:?} passes");
                Ok(())
            }
            Err(Refused::Unmapped) => Err(Refusal::NoSlot),
            Err(Refused::ReadOnly) => Err(Refusal::ReadOnly),
            Err(Refused::NoBacking) => Err(Refusal::NoBacking),
        };
        assert_eq!(ended, expected, "an access at {at} in {space:?}");
        self.model.note_use(space, at.gfn(), ended);
        Ok(if ended.is_ok() { Done::Yes } else { Done::No })
    }

    fn device_write(&mut self, space: u16, at: u64, bytes: &[u8]) {
        let (space, at) = (AddressSpace(space), Gpa::new(self.gfn(0).gpa().get() + at));
        let write = |scene: &mut Self| {
            scene.mmu.guest_writer(vellum_mmu::Origin::Device).write(space, at, bytes)
        };
        let written = self.library_that_changes_no_entry(write);
        let expected = self.model.write(space, at, bytes);
        assert_eq!(written.map_err(of_writer), expected, "a device's write at {at}");
    }

    /// What was accessed since it was last asked: no page too few, and where leaves are small, none
    /// too many.
    fn age(&mut self, id: SlotId, first: u64, pages: u64) {
        let asked = self.range(first, pages);
        let mut round = self.set_for(id);
        let set = &mut round.regions_mut()[0];
        let aged = self.library(|scene| scene.mmu.age(id, asked, set));
        let slot = match self.model.slot(id) {
            Err(refusal) => {
                assert!(aged.is_err() && round.is_empty(), "{id:?} was aged, {refusal:?}");
                return;
            }
            Ok(slot) => slot,
        };
        assert_eq!(aged, Ok(()), "{id:?}");
        let range = slot.spec.range;
        let Some(here) = range.intersection(asked) else {
            return assert!(round.is_empty(), "{id:?} has none of {asked:?}");
        };
        let named = round.regions()[0].pages().map(|page| Gfn::new(range.first().get() + page));
        let named: Vec<Gfn> = named.collect();
        for gfn in slot.used.must_name(here) {
            assert!(named.contains(&gfn), "{gfn} was accessed, named {named:x?}");
        }
        for gfn in &named {
            assert!(here.contains(*gfn), "{gfn} was not asked about");
            assert!(slot.used.may_name(*gfn), "{gfn} was not accessed");
        }
        slot.used.asked(here);
    }

    /// Everything that shows the pages is invalidated, the host changes them, things happen, and
    /// then it is over.
    fn invalidate(
        &mut self,
        homes: Range<Home>,
        change: Change,
        meanwhile: &[Op],
    ) -> Result<(), OutOfMemory> {
        let mmu = self.mmu;
        let places = self.model.invalidate(&homes);
        let mut guards = Vec::with_capacity(places.len());
        let invalidate = |(space, range): &(AddressSpace, _)| mmu.invalidate(*space, *range);
        self.library(|_| guards.extend(places.iter().map(invalidate)));
        let too = self.host.change(homes.clone(), change);
        too.into_iter().for_each(|range| self.model.unmapped_by_another(range));
        self.model.contents.change(homes, change);
        let done = meanwhile.iter().try_for_each(|op| self.apply(op));
        drop(guards);
        self.model.end_invalidation(places.len());
        done
    }
}

/// Whether an access was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    Yes,
    No,
}

fn of_writer(error: WriteError) -> Refusal {
    match error {
        WriteError::NoSlot(_) => Refusal::NoSlot,
        WriteError::ReadOnly(_) | WriteError::Denied(_) => Refusal::ReadOnly,
        WriteError::NoBacking(_) => Refusal::NoBacking,
    }
}
