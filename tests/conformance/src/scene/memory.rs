//! Accesses of CPUs and devices, and memory that changes under them.

use super::{Op, OutOfMemory, Scene};
use crate::hypervisor::{By, Change, Cpu, Home, OnRetry, Refused, Way};
use crate::model::{Accessed, Refusal, Retry};
use crate::parts::{Part, parts};
use std::ops::Range;
use vellum_mmu::{Embedder, Origin, RingFull, WriteError};
use vellum_pte::{AddressSpace, Format, Gfn, Gpa, SlotId};

impl<F: Format, E: Embedder, C: Cpu> Scene<'_, F, E, C> {
    pub(super) fn apply_to_memory(&mut self, op: &Op) -> Result<(), OutOfMemory> {
        match *op {
            Op::Store { cpu, page, word, value } => {
                let (at, bytes) = (self.address(page, word), value.to_le_bytes());
                return self.enter_and_store(cpu, at, &bytes, By::Instruction);
            }
            Op::StoreBytes { cpu, at, ref bytes } => {
                let at = Gpa::new(self.gfn(0).gpa().get() + at);
                return self.enter_and_store(cpu, at, bytes, By::Instruction);
            }
            Op::Walk { cpu, page, word, value } => {
                let (at, bytes) = (self.address(page, word), value.to_le_bytes());
                return self.enter_and_store(cpu, at, &bytes, By::Walk);
            }
            Op::Load { cpu, page, word } => {
                self.come(cpu)?;
                return match self.may_enter(cpu) {
                    Ok(()) => self.load(cpu, self.address(page, word)),
                    Err(RingFull) => Ok(()),
                };
            }
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

    /// A vCPU whose ring is full stays out.
    fn enter_and_store(
        &mut self,
        cpu: usize,
        at: Gpa,
        bytes: &[u8],
        by: By,
    ) -> Result<(), OutOfMemory> {
        self.come(cpu)?;
        match self.may_enter(cpu) {
            Ok(()) => self.store(cpu, at, bytes, by),
            Err(RingFull) => Ok(()),
        }
    }

    /// A store ends as the model says: made by the processor, by the hypervisor and heard, or by
    /// nobody.
    pub(super) fn store(
        &mut self,
        cpu: usize,
        at: Gpa,
        bytes: &[u8],
        by: By,
    ) -> Result<(), OutOfMemory> {
        let space = self.cpus[cpu].0;
        let by_tables = self.cpus[cpu].1.sub_pages();
        let attempt = self.model.attempt(space, Part { at, length: bytes.len() }, by, by_tables);
        if self.may_be_put_off(cpu, &attempt.opened) {
            return Ok(());
        }
        let stored = self.library(|scene| scene.cpus[cpu].1.store_bytes(at, bytes, by));
        let place = Place { space, at, length: bytes.len() };
        if stored.is_err() || attempt.end != Ok(Way::Direct) {
            self.model.note_opened(cpu, space, &attempt.opened);
        }
        let end = match attempt.end {
            Ok(Way::Emulated) if !is_cut_short(&stored) => {
                let origin = Origin::Vcpu(self.cpus[cpu].1.number());
                self.model.write(space, at, bytes, origin).map(|()| Way::Emulated)
            }
            end => end,
        };
        if self.judge(place, &attempt.opened, stored, end)? == Some(Way::Direct) {
            self.model.store(cpu, space, at, bytes);
        }
        Ok(())
    }

    fn load(&mut self, cpu: usize, at: Gpa) -> Result<(), OutOfMemory> {
        let space = self.cpus[cpu].0;
        let expected = self.model.may_load(space, at.gfn()).map(|()| Way::Direct);
        let opened: Vec<Gfn> = expected.iter().map(|_| at.gfn()).collect();
        if self.may_be_put_off(cpu, &opened) {
            return Ok(());
        }
        let loaded = self.library(|scene| scene.cpus[cpu].1.load(at));
        let way = loaded.map(|_| Way::Direct);
        if self.judge(Place { space, at, length: 8 }, &opened, way, expected)?.is_some() {
            assert_eq!(loaded.ok(), self.model.load(space, at).ok(), "what is loaded at {at}");
        }
        Ok(())
    }

    /// Whether a CPU that waits where memory is being changed would wait for ever.
    fn may_be_put_off(&self, cpu: usize, opened: &[Gfn]) -> bool {
        let (space, cpu) = &self.cpus[cpu];
        let waits = cpu.on_retry() == OnRetry::Waits;
        waits && opened.iter().any(|gfn| self.model.retry(*space, *gfn) != Retry::No)
    }

    /// Compares how an access ended that has the processor map some pages. Who made it, if it was
    /// made.
    fn judge(
        &mut self,
        place: Place,
        opened: &[Gfn],
        ended: Result<Way, Refused>,
        expected: Result<Way, Refusal>,
    ) -> Result<Option<Way>, OutOfMemory> {
        let Place { space, at, length } = place;
        let put_off = |retry| opened.iter().any(|gfn| self.model.retry(space, *gfn) == retry);
        let (must, may) = (put_off(Retry::Must), put_off(Retry::May));
        let ended = match ended {
            Err(Refused::OutOfMemory) => return Err(OutOfMemory),
            Err(Refused::Retry) => {
                assert!(must || may, "{at} in {space:?} is put off");
                return Ok(None);
            }
            Ok(way) => Ok(way),
            Err(refused) => Err(of_cpu(refused)),
        };
        assert!(!must, "an access at {at} in {space:?} passes");
        assert_eq!(ended, expected, "an access at {at} in {space:?}");
        let direct = if expected == Ok(Way::Direct) { Accessed::Yes } else { Accessed::Perhaps };
        parts(at, length).for_each(|part| self.model.note_use(space, part.at.gfn(), direct));
        Ok(expected.ok())
    }

    fn device_write(&mut self, space: u16, at: u64, bytes: &[u8]) {
        let (space, at) = (AddressSpace(space), Gpa::new(self.gfn(0).gpa().get() + at));
        let write =
            |scene: &mut Self| scene.mmu.guest_writer(Origin::Device).write(space, at, bytes);
        let written = self.library_that_changes_no_entry(write);
        let expected = self.model.write(space, at, bytes, Origin::Device);
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

/// Where an access is.
#[derive(Clone, Copy, Debug)]
struct Place {
    space: AddressSpace,
    at: Gpa,
    length: usize,
}

/// Whether a store ended before anybody emulated it.
const fn is_cut_short(stored: &Result<Way, Refused>) -> bool {
    matches!(stored, Err(Refused::Retry | Refused::OutOfMemory))
}

fn of_cpu(refused: Refused) -> Refusal {
    match refused {
        Refused::Unmapped => Refusal::NoSlot,
        Refused::ReadOnly => Refusal::ReadOnly,
        Refused::Denied(denial) => Refusal::Denied(denial),
        Refused::NoBacking => Refusal::NoBacking,
        Refused::Retry | Refused::OutOfMemory => unreachable!("{refused:?} is no answer"),
    }
}

fn of_writer(error: WriteError) -> Refusal {
    match error {
        WriteError::NoSlot(_) => Refusal::NoSlot,
        WriteError::ReadOnly(_) => Refusal::ReadOnly,
        WriteError::Denied(denial) => Refusal::Denied(denial),
        WriteError::NoBacking(_) => Refusal::NoBacking,
    }
}
