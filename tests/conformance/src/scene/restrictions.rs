//! Pages that are tracked and restricted, and the listeners.

use super::{Op, OutOfMemory, Scene};
use crate::hypervisor::Cpu;
use crate::model::{Heard, Stays};
use std::sync::{Arc, Mutex, PoisonError};
use vellum_mmu::{
    ActivateError, Call, Embedder, ListenError, Mmu, Registration, RemovedRegion, SubPageError,
    SubPageFlags, SubPageRange, TrackError, TrackMode, WriteListener, Written,
};
use vellum_pte::{AddressSpace, Format, Gfn, SubPageMap};

/// A listener that remembers.
pub(super) struct Recorder {
    heard: Mutex<Vec<Heard>>,
    stays: Stays,
    /// What it does itself is not the library's doing.
    before: fn(),
    after: fn(),
}

impl Recorder {
    fn note<F: Format, E: Embedder>(&self, call: &Call<'_, F, E>, heard: impl FnOnce() -> Heard) {
        (self.before)();
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(heard());
        (self.after)();
        if self.stays == Stays::ForOneCall {
            call.unregister();
        }
    }
}

impl<F: Format, E: Embedder> WriteListener<F, E> for Recorder {
    fn write(&self, call: &Call<'_, F, E>, written: &Written<'_>) {
        let Written { space, gpa, bytes, origin } = *written;
        self.note(call, || Heard::Written { space, gpa, bytes: bytes.to_vec(), origin });
    }

    fn region_removed(&self, call: &Call<'_, F, E>, removed: &RemovedRegion) {
        self.note(call, || Heard::Removed(*removed));
    }
}

/// A listener, and what ends it.
pub(super) struct Listening<'m, F: Format, E: Embedder> {
    recorder: Arc<Recorder>,
    registration: Registration<&'m Mmu<F, E>>,
}

impl<F: Format, E: Embedder, C: Cpu> Scene<'_, F, E, C> {
    pub(super) fn apply_to_restrictions(&mut self, op: &Op) -> Result<(), OutOfMemory> {
        match *op {
            Op::EnableTracking => {
                let on = self.library_that_changes_no_entry(|scene| scene.mmu.enable_tracking());
                assert_eq!(on, Ok(()));
                self.model.restrictions.tracking = true;
            }
            Op::Listen(name, stays) => return self.listen(name, stays),
            Op::Unlisten(name) => self.unlisten(name),
            Op::Track { space, page } => return self.count(AddressSpace(space), page, 1),
            Op::Untrack { space, page } => return self.count(AddressSpace(space), page, -1),
            Op::Activate => return self.activate(),
            Op::AllowNested => {
                let nested = self.library_that_changes_no_entry(|scene| scene.mmu.allow_nested());
                assert_eq!(nested, self.model.allow_nested());
            }
            Op::SetMaps { space, first, flags, ref maps } => {
                return self.set_maps(AddressSpace(space), self.gfn(first), flags, maps);
            }
            Op::GetMaps { space, first, pages, flags } => {
                self.get_maps(AddressSpace(space), self.gfn(first), flags, pages);
            }
            _ => unreachable!("{op:?} is not about tracked or restricted pages"),
        }
        Ok(())
    }

    /// One that is there makes place.
    fn listen(&mut self, name: u16, stays: Stays) -> Result<(), OutOfMemory> {
        self.unlisten(name);
        let (before, after) = (self.after_call, self.before_call);
        let recorder = Arc::new(Recorder { heard: Mutex::default(), stays, before, after });
        let mmu = self.mmu;
        let listener: Arc<dyn WriteListener<F, E>> = recorder.clone();
        let listening = self.library_that_changes_no_entry(|_| Mmu::listen(mmu, listener));
        match listening {
            Err(ListenError::OutOfMemory(_)) => {
                // Tracking is on all the same: it never turns off.
                self.model.restrictions.tracking = true;
                return Err(OutOfMemory);
            }
            Err(error) => panic!("{error}"),
            Ok(registration) => {
                self.listening.insert(name, Listening { recorder, registration });
                self.model.restrictions.listen(name, stays);
            }
        }
        Ok(())
    }

    fn unlisten(&mut self, name: u16) {
        let there = self.listening.remove(&name);
        self.library_that_changes_no_entry(|_| {
            there.into_iter().for_each(|listening| listening.registration.unregister());
        });
        self.model.restrictions.unlisten(name);
    }

    /// Whoever listens has heard what the model says, in its order.
    pub(super) fn compare_heard(&self) {
        for (name, listening) in &self.listening {
            let heard = listening.recorder.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let expected = self.model.restrictions.heard(*name);
            assert!(*heard == expected, "listener {name} heard {heard:x?}, not {expected:x?}");
        }
    }

    /// A refusal, and a count that goes down, leave every entry as it is.
    fn count(&mut self, space: AddressSpace, page: u64, by: i32) -> Result<(), OutOfMemory> {
        let (gfn, mode) = (self.gfn(page), TrackMode::Write);
        let before = self.mmu.counters();
        let counted = self.library(|scene| match by {
            1 => scene.mmu.track(space, gfn, mode),
            _ => scene.mmu.untrack(space, gfn, mode),
        });
        if counted.is_err() || by < 0 {
            self.assert_untouched(&before);
        }
        let out_of_memory = matches!(counted, Err(TrackError::OutOfMemory(_)));
        if !out_of_memory {
            assert_eq!(counted, self.model.track(space, gfn, by), "{gfn} in {space:?} by {by}");
        }
        self.compare_tracked(space, gfn);
        if out_of_memory { Err(OutOfMemory) } else { Ok(()) }
    }

    fn compare_tracked(&self, space: AddressSpace, gfn: Gfn) {
        let tracked = self.mmu.is_tracked(space, gfn, TrackMode::Write);
        assert_eq!(tracked, self.model.tracked(space, gfn) > 0, "{gfn} in {space:?} is tracked");
    }

    fn activate(&mut self) -> Result<(), OutOfMemory> {
        let was_active = self.model.restrictions.active;
        match self.library_that_changes_no_entry(|scene| scene.mmu.activate_sub_pages()) {
            Err(ActivateError::OutOfMemory(_)) => {
                assert_eq!(self.mmu.sub_page_root(AddressSpace::NORMAL), None, "half a tree");
                return Err(OutOfMemory);
            }
            activated => assert_eq!(activated, self.model.activate()),
        }
        if !was_active {
            self.cpus.iter_mut().for_each(|(space, cpu)| cpu.enter(*space));
        }
        Ok(())
    }

    /// All of them or none; maps that are as they were, and a refusal, leave every entry as it is.
    fn set_maps(
        &mut self,
        space: AddressSpace,
        first: Gfn,
        flags: u32,
        bits: &[u32],
    ) -> Result<(), OutOfMemory> {
        let flags = SubPageFlags::from_bits(flags);
        let pages = || (first.get()..).map(Gfn::new).take(bits.len());
        let maps: Vec<_> = bits.iter().copied().map(SubPageMap::new).collect();
        let before = self.mmu.counters();
        let range = SubPageRange { space, first, flags };
        let set = self.library(|scene| scene.mmu.set_sub_pages(range, &maps));
        let as_it_was = |(gfn, bits)| self.model.map(space, gfn) == Some(bits);
        if set.is_err() || pages().zip(bits.iter().copied()).all(as_it_was) {
            self.assert_untouched(&before);
        }
        match set {
            Err(SubPageError::OutOfMemory(_)) => {
                self.compare_maps(space, pages());
                return Err(OutOfMemory);
            }
            other => self.judge_maps(range, bits.len(), other),
        }
        if set.is_ok() {
            pages().zip(bits).for_each(|(gfn, bits)| self.model.set_map(space, gfn, *bits));
        }
        self.compare_maps(space, pages());
        Ok(())
    }

    fn judge_maps(&self, range: SubPageRange, count: usize, answer: Result<usize, SubPageError>) {
        let SubPageRange { space, first, flags } = range;
        let bits = u32::from(flags != SubPageFlags::NONE);
        let end = first.get() + count as u64;
        let pages: Vec<_> = (first.get()..end).map(Gfn::new).collect();
        let obstacles = self.model.map_obstacles(space, &pages, bits);
        match answer {
            Ok(done) => {
                assert_eq!((done, obstacles), (count, vec![]), "{range:?} of {count} pages")
            }
            Err(error) => assert!(obstacles.contains(&error), "{error:?}, not {obstacles:?}"),
        }
    }

    /// A refusal leaves the list as it was.
    fn get_maps(&mut self, space: AddressSpace, first: Gfn, flags: u32, pages: usize) {
        const UNTOUCHED: SubPageMap = SubPageMap::new(0x1234_5678);
        let range = SubPageRange { space, first, flags: SubPageFlags::from_bits(flags) };
        let mut maps = vec![UNTOUCHED; pages];
        let got = self.library_that_changes_no_entry(|scene| scene.mmu.sub_pages(range, &mut maps));
        self.judge_maps(range, pages, got);
        let expected = |gfn| match got {
            Ok(_) => self.model.map(space, gfn).map(SubPageMap::new),
            Err(_) => Some(UNTOUCHED),
        };
        let gfns = (first.get()..).map(Gfn::new);
        for (gfn, map) in gfns.zip(maps) {
            assert_eq!(Some(map), expected(gfn), "the map of {gfn} in {space:?}");
        }
    }

    fn compare_maps(&self, space: AddressSpace, pages: impl Iterator<Item = Gfn>) {
        for gfn in pages {
            let mut map = [SubPageMap::NONE];
            let got = self.mmu.sub_pages(SubPageRange::new(space, gfn), &mut map);
            let held = got.ok().map(|_| map[0].bits());
            let expected = self.model.map(space, gfn).filter(|_| self.model.restrictions.active);
            assert_eq!(held, expected, "the map of {gfn} in {space:?}");
        }
    }

    /// Every page that is tracked or restricted is so in the library too.
    pub(super) fn compare_watched(&self) {
        for (space, gfn) in self.model.watched() {
            self.compare_tracked(space, gfn);
            self.compare_maps(space, std::iter::once(gfn));
        }
    }
}
