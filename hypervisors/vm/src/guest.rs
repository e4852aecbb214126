//! The exit handler: a vCPU, driven until its guest has done what it was asked to do.

use crate::SPACE;
use crate::host::Host;
use crate::processor::{Exit, Op, Processor, Tables, Work};
use vellum_mmu::{AccessedBits, DirtyBits, Mmu, Origin, OutOfMemory, Outcome, Vcpu, WriteError};
use vellum_pte::{Gpa, PAGE_SIZE};

/// A vCPU of a VM, and the processor that runs it.
pub struct Guest<'m, P: Processor> {
    mmu: &'m Mmu<P::Format, Host<P>>,
    vcpu: Vcpu<'m, P::Format, Host<P>>,
    processor: P,
    number: u32,
    exits: Exits,
}

/// What the guest's work cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exits {
    /// Faults of the second stage.
    pub faults: u64,
    /// Ends of walks of the sub-page tables.
    pub sub_page_events: u64,
    /// Full buffers of the page log.
    pub logs_full: u64,
    /// Stores made in the guest's place.
    pub emulated: u64,
}

/// How the guest's work ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ran {
    /// It was done. What was loaded last, if anything was.
    Done(u64),
    /// The library's answer to a fault leaves the guest where it is.
    Stopped(Outcome),
    /// The instruction is none that this hypervisor emulates.
    NotDecoded,
    /// The library refuses the store that was to be made in the guest's place.
    Refused(WriteError),
    /// The vCPU's dirty ring is full: it stays out until somebody has harvested and reset it.
    RingFull,
    /// An exit that has nothing to do with memory.
    Unexpected(Exit),
}

impl<'m, P: Processor> Guest<'m, P> {
    /// A vCPU of `mmu`, on a processor that does what the VM was made for.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(mmu: &'m Mmu<P::Format, Host<P>>) -> Result<Self, OutOfMemory> {
        let processor = P::new(tables(mmu));
        let number = mmu.embedder().next_vcpu();
        Ok(Self { mmu, vcpu: mmu.vcpu()?, processor, number, exits: Exits::default() })
    }

    /// What its work has cost so far.
    #[must_use]
    pub const fn exits(&self) -> Exits {
        self.exits
    }

    /// Has the guest store `value` at `gpa`, and says how that ended.
    pub fn store(&mut self, gpa: Gpa, value: u64) -> Ran {
        self.run(Work { op: Op::Store, first: gpa, stride: 8, count: 1, value })
    }

    /// Has the guest store `value` at the start of each of `pages` pages.
    pub fn store_pages(&mut self, first: Gpa, pages: u64, value: u64) -> Ran {
        self.run(Work { op: Op::Store, first, stride: PAGE_SIZE, count: pages, value })
    }

    /// Has the guest load from `gpa`.
    pub fn load(&mut self, gpa: Gpa) -> Ran {
        self.run(Work { op: Op::Load, first: gpa, stride: 8, count: 1, value: 0 })
    }

    /// Has the guest do `work`, and sees to its exits.
    pub fn run(&mut self, work: Work) -> Ran {
        self.processor.begin(work);
        self.go_on()
    }

    /// Lets the guest try again what it was stopped at.
    pub fn go_on(&mut self) -> Ran {
        while self.vcpu.may_enter().is_ok() {
            let exit = self.processor.enter();
            if let Some(ran) = self.handle(exit) {
                return ran;
            }
        }
        Ran::RingFull
    }

    /// Tells the processor of the sub-page tables, which became active.
    pub fn load_sub_pages(&mut self) {
        self.processor.load(tables(self.mmu));
    }

    /// The processor, for what only it can show.
    pub fn processor(&mut self) -> &mut P {
        &mut self.processor
    }

    fn handle(&mut self, exit: Exit) -> Option<Ran> {
        match exit {
            Exit::Done(loaded) => Some(Ran::Done(loaded)),
            Exit::Fault { gpa, access } => {
                self.exits.faults += 1;
                let outcome = self.vcpu.fault(SPACE, gpa, access);
                self.settle(outcome)
            }
            Exit::SubPage { gpa, event } => {
                self.exits.sub_page_events += 1;
                let outcome = self.vcpu.sub_page_event(SPACE, gpa, event);
                self.settle(outcome)
            }
            Exit::LogFull => {
                self.exits.logs_full += 1;
                P::drain_log(&mut |address| self.vcpu.log_stores(SPACE, &[address]));
                None
            }
            Exit::Misconfigured(_) | Exit::Other(_) => Some(Ran::Unexpected(exit)),
        }
    }

    /// What the library's answer means for the guest: in again, a store in its place, or a stop.
    fn settle(&mut self, outcome: Outcome) -> Option<Ran> {
        match outcome {
            Outcome::Mapped | Outcome::Spurious | Outcome::Retry => None,
            Outcome::Emulate => self.emulate().err(),
            stopped => Some(Ran::Stopped(stopped)),
        }
    }

    /// Makes the guest's store in its place: the library checks every byte, logs it, and tells the
    /// listeners.
    fn emulate(&mut self) -> Result<(), Ran> {
        let store = self.processor.store(self.mmu.embedder().memory()).ok_or(Ran::NotDecoded)?;
        let (bytes, width) = store.bytes();
        let writer = self.mmu.guest_writer(Origin::Vcpu(self.number));
        writer.write(SPACE, store.gpa, &bytes[..width]).map_err(Ran::Refused)?;
        self.processor.skip(&store);
        self.exits.emulated += 1;
        Ok(())
    }
}

impl<P: Processor> Drop for Guest<'_, P> {
    /// What this CPU has logged for the guest is handed over as long as there is a handle to do it.
    fn drop(&mut self) {
        P::drain_log(&mut |address| self.vcpu.log_stores(SPACE, &[address]));
    }
}

fn tables<P: Processor>(mmu: &Mmu<P::Format, Host<P>>) -> Tables {
    let config = mmu.config();
    Tables {
        root: mmu.root(SPACE).expect("every VM has its first space"),
        shape: mmu.root_shape(),
        sub_pages: mmu.sub_page_root(SPACE),
        accessed_dirty: config.accessed == AccessedBits::Set,
        page_log: config.dirty_bits == DirtyBits::Logged,
    }
}
