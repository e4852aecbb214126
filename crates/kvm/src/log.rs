//! The log of a VM's memslots.

mod bitmap;
mod owed;

#[cfg(feature = "breaks")]
use crate::breaks::Break;
use crate::breaks::Breaks;
use crate::calls::{Logging, Vm};
use crate::capabilities::Way;
use crate::error::KvmError;
use crate::prepare::{Prepared, RingSize};
use crate::ring::{Reaper, Rings};
use crate::slot::Memslot;
use bitmap::LoggedSlot;
use kvm_ioctls::VcpuFd;
use owed::Owed;
use std::sync::Arc;
use vellum_memory::{DirtySource, GfnRange, Layout, LayoutError, LogState, Misuse, PageSet};

/// The kernel's log of a VM, as a [`DirtySource`]. Dropping it does not stop the log. It keeps the VM
/// alive, since it has a descriptor of its own.
///
/// With [`Way::ManualAllSet`] the first round after each start names all pages. With rings, and in
/// every way after an error, a round may name pages that did not change; a page that changed is
/// always in this round or a later one.
pub struct KvmLog {
    vm: Arc<Vm>,
    way: Way,
    ring: RingSize,
    slots: Vec<LoggedSlot>,
    layout: Layout,
    owed: Owed,
    rings: Option<Arc<Rings>>,
    state: LogState,
    breaks: Breaks,
}

impl Prepared {
    /// The log of `slots`, which has not started. With rings they are all the slots of the VM that
    /// anybody logs, since a ring has the pages of all.
    ///
    /// # Safety
    /// S: the VM has each of these memslots, with these very values, for as long as the log is there;
    /// and the memory at its host address is mapped for as long as the VM has it.
    ///
    /// # Errors
    /// Two slots overlap, or one has no pages.
    #[allow(unsafe_code)]
    pub unsafe fn log(self, slots: Vec<Memslot>) -> Result<KvmLog, LayoutError> {
        let Self { vm, way, ring } = self;
        let vm = Arc::new(vm);
        let layout = Layout::new(slots.iter().map(Memslot::region).collect())?;
        let rings = match way {
            Way::ClearingGet | Way::Manual | Way::ManualAllSet => None,
            Way::Ring | Way::RingWithBitmap => {
                Some(Arc::new(Rings::new(Arc::clone(&vm), &slots, &layout)))
            }
        };
        // SAFETY: S, as the caller promises for all of them.
        let slots = slots.into_iter().map(|slot| unsafe { LoggedSlot::new(slot) }).collect();
        let owed = Owed::none(&layout);
        let (state, breaks) = (LogState::Off, Breaks::default());
        Ok(KvmLog { vm, way, ring, slots, layout, owed, rings, state, breaks })
    }
}

impl KvmLog {
    /// Tells the log of a vCPU, before it runs with the log on. Does something with rings only.
    ///
    /// # Errors
    /// Its ring could not be mapped.
    pub fn add_vcpu(&mut self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        self.rings.as_ref().map_or(Ok(()), |rings| rings.add(vcpu, self.ring.entries()))
    }

    /// How it is kept.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// For the threads of vCPUs, whose rings may be full. None in a way without rings.
    #[must_use]
    pub fn reaper(&self) -> Option<Reaper> {
        self.rings.as_ref().map(Rings::reaper)
    }

    /// From now on it has this bug.
    #[cfg(feature = "breaks")]
    pub fn break_with(&mut self, bug: Break) {
        self.breaks.chosen = Some(bug);
    }

    fn misused(&self, round: &PageSet) -> Result<(), Misuse> {
        self.state.may_add(round, &self.layout)
    }

    fn switch(&self, logging: Logging) -> Result<(), KvmError> {
        self.slots.iter().try_for_each(|slot| slot.switch(&self.vm, logging))
    }

    /// Switches every slot off, also those after one that fails.
    fn switch_off(&self) -> Result<(), KvmError> {
        let vm = &self.vm;
        let off = self.slots.iter().map(|slot| slot.switch(vm, Logging::Off));
        off.fold(Ok(()), Result::and)
    }

    fn take(&mut self, round: &mut PageSet) -> Result<(), KvmError> {
        self.breaks.hold_open();
        for (region, range, mut late) in self.breaks.overdue() {
            self.clear(region, range, &mut late)?;
        }
        if self.breaks.resets_when_a_round_begins() {
            self.reset()?;
        }
        if let Some(rings) = &self.rings {
            rings.collect(round).map_err(|error| self.begin_again(error))?;
        }
        match self.way {
            Way::Ring => Ok(()),
            Way::RingWithBitmap if self.breaks.ignores_bitmaps() => Ok(()),
            Way::ClearingGet | Way::Manual | Way::ManualAllSet | Way::RingWithBitmap => {
                self.get(round)
            }
        }
    }

    /// Reads every slot's bitmap into `round`.
    fn get(&mut self, round: &mut PageSet) -> Result<(), KvmError> {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Err(error) = slot.get(&self.vm, &mut round.regions_mut()[index]) {
                self.owe_all_of(index);
                return Err(error);
            }
        }
        Ok(())
    }

    fn clear(
        &mut self,
        region: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), KvmError> {
        let pages = &mut round.regions_mut()[region];
        let cleared = self.slots[region].clear(&self.vm, range, pages);
        cleared.inspect_err(|_| self.owe_all_of(region))
    }

    fn reset(&mut self) -> Result<(), KvmError> {
        let reset = self.rings.as_ref().map_or(Ok(()), |rings| rings.protect());
        reset.map_err(|error| self.begin_again(error))
    }

    /// Rings that cannot be believed may have hidden a page, which would then stay writable and in no
    /// round. So every log is begun again, which protects all pages, and all pages are owed. Where the
    /// kernel does not begin it again the log is off: a slot that nobody logs must not go unnoticed.
    fn begin_again(&mut self, error: KvmError) -> KvmError {
        let begun = self.switch_off().and_then(|()| self.switch(Logging::On));
        (0..self.slots.len()).for_each(|index| self.owe_all_of(index));
        begun.err().map_or(error, |refused| {
            self.state = LogState::Off;
            refused
        })
    }

    fn owe_all_of(&mut self, index: usize) {
        self.owed.add_all_of(index);
    }
}

impl DirtySource for KvmLog {
    type Error = KvmError;

    fn method(&self) -> &'static str {
        self.way.name()
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A log that is on begins anew.
    fn start(&mut self) -> Result<(), KvmError> {
        self.stop()?;
        // What an earlier log left in the rings is in no round of this one.
        self.rings.as_ref().map_or(Ok(()), |rings| rings.forget())?;
        self.owed.forget();
        if let Err(error) = self.switch(Logging::On) {
            // Those that had started stop; what stopping says adds nothing.
            let _ = self.switch_off();
            return Err(error);
        }
        self.state = LogState::On;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), KvmError> {
        self.switch_off()?;
        self.state = LogState::Off;
        Ok(())
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), KvmError> {
        self.misused(round)?;
        if let Err(error) = self.take(round) {
            self.owed.add(round);
            return Err(error);
        }
        self.breaks.lose(round);
        self.owed.hand_over(round);
        Ok(())
    }

    fn protect(
        &mut self,
        region: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), KvmError> {
        self.misused(round)?;
        let protected = match self.way {
            Way::Manual | Way::ManualAllSet => {
                let later = self.breaks.puts_off(region, range, round);
                if later { Ok(()) } else { self.clear(region, range, round) }
            }
            Way::Ring | Way::RingWithBitmap if self.breaks.resets_when_a_round_begins() => Ok(()),
            Way::Ring | Way::RingWithBitmap => self.reset(),
            Way::ClearingGet => Ok(()),
        };
        protected.inspect_err(|_| self.owed.add(round))
    }

    /// Pages over another layout are ignored.
    fn owe(&mut self, pages: &PageSet) {
        if pages.is_over(&self.layout) {
            self.owed.add(pages);
        }
    }
}
