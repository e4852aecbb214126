//! CPUs: what the suite's operations need of one, and the hypervisor's own.

use super::{Hypervisor, Memory, RUNNING, locked};
use crate::parts::{Part, parts};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::port::Port;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::Page;
use vellum_mmu::{Access, Denial, Mmu, Origin, Outcome, RingFull, Vcpu, WriteError};
use vellum_pte::{AddressSpace, ClosedTable, Format, Gpa, PAGE_SIZE, Pfn, SubPageEvent};

/// Why an access did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No memslot is there.
    Unmapped,
    /// The memslot or what is behind it is read-only.
    ReadOnly,
    /// A map of sub-pages forbids it.
    Denied(Denial),
    /// No memory is behind the page.
    NoBacking,
    /// The memory behind it is being changed.
    Retry,
    /// No memory for a table.
    OutOfMemory,
}

/// What a CPU does where memory is being changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnRetry {
    /// Says [`Refused::Retry`].
    GivesUp,
    /// Tries again until it may go on.
    Waits,
}

/// Who made a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The processor.
    Direct,
    /// The hypervisor, through a `GuestWriter`.
    Emulated,
}

/// What a store is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// An instruction.
    Instruction,
    /// A walk of the guest's own page tables, which sets bits there.
    Walk,
}

/// Whether a CPU was told where the tables of sub-page permissions are, if there are any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// It was.
    Yes,
    /// Not yet: it takes no notice of a leaf's bit 61.
    NotYet,
}

/// Whether a CPU may enter the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It may.
    Granted,
    /// Its dirty ring is full.
    KeptOut,
    /// It may: if its ring is full, it empties all rings by itself, and nobody else gets to know.
    MakesRoom,
}

/// Whether there is a vCPU where there was none, or the other way round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Nothing has changed.
    AsItWas,
    /// There is, or there is not.
    Changed,
}

/// Whether a page-modification log has an entry that its processor did not write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forged {
    /// It has.
    Written,
    /// There is no log, or it has no room.
    NotWritten,
}

/// A CPU, in one address space.
pub trait Cpu {
    /// What it does where memory is being changed.
    fn on_retry(&self) -> OnRetry;

    /// Whether it asks tables of sub-page permissions.
    fn sub_pages(&self) -> Told {
        Told::Yes
    }

    /// The number by which the library's listeners know it.
    fn number(&self) -> u32;

    /// Enters the guest anew, in its space: from now on it knows which tables there are.
    fn enter(&mut self, space: AddressSpace);

    /// Whether it may.
    fn may_enter(&self) -> Entry;

    /// Its vCPU goes, if it has one. Not all can do without.
    fn leave(&mut self) -> Presence {
        Presence::AsItWas
    }

    /// It has one again.
    ///
    /// # Errors
    /// No memory for it.
    fn come(&mut self) -> Result<Presence, vellum_mmu::OutOfMemory> {
        Ok(Presence::AsItWas)
    }

    /// Somebody writes an entry to its page-modification log.
    fn forge(&mut self, address: u64) -> Forged {
        let _ = address;
        Forged::NotWritten
    }

    /// Stores up to 16 bytes at `at`, across pages too. Who made it.
    ///
    /// # Errors
    /// [`Refused`]; the processor has written nothing.
    fn store_bytes(&mut self, at: Gpa, bytes: &[u8], by: By) -> Result<Way, Refused>;

    /// Stores `value` at `at`.
    ///
    /// # Errors
    /// [`Refused`]; nothing was written.
    fn store(&mut self, at: Gpa, value: u64) -> Result<(), Refused> {
        self.store_bytes(at, &value.to_le_bytes(), By::Instruction).map(drop)
    }

    /// The eight bytes at `at`, which are aligned.
    ///
    /// # Errors
    /// [`Refused`].
    fn load(&mut self, at: Gpa) -> Result<u64, Refused>;
}

impl<F: WalkedFormat> Cpu for Port<'_, F> {
    fn on_retry(&self) -> OnRetry {
        OnRetry::Waits
    }

    fn number(&self) -> u32 {
        STORE.hart
    }

    fn enter(&mut self, space: AddressSpace) {
        self.enter_space(space).expect("it is in there");
    }

    fn may_enter(&self) -> Entry {
        Entry::MakesRoom
    }

    fn store_bytes(&mut self, at: Gpa, bytes: &[u8], by: By) -> Result<Way, Refused> {
        assert_eq!(by, By::Instruction, "a port's guest has no page tables");
        let width = match bytes.len() {
            1 => Width::Byte,
            2 => Width::Half,
            4 => Width::Word,
            8 => Width::Double,
            other => panic!("no store of a port has {other} bytes"),
        };
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        let value = u64::from_le_bytes(value);
        match Bus::store(self, at, width, value) {
            Ok(()) => Ok(Way::Direct),
            Err(BusError::Emulate(_)) => {
                let emulated = self.emulate_store(STORE, at, width, value);
                emulated.map(|()| Way::Emulated).map_err(refused)
            }
            Err(error) => Err(refused(error)),
        }
    }

    fn load(&mut self, at: Gpa) -> Result<u64, Refused> {
        Bus::load(self, at, Width::Double).map_err(refused)
    }
}

/// The only instruction of all guests.
const STORE: EmulatedStore = EmulatedStore { hart: 7, pc: Gpa::new(0) };

fn refused(error: BusError) -> Refused {
    match error {
        BusError::Denied(denial) => Refused::Denied(denial),
        BusError::Unmapped(_) => Refused::Unmapped,
        BusError::ReadOnly(_) => Refused::ReadOnly,
        BusError::OutOfMemory(_) => Refused::OutOfMemory,
        no_correct_software => panic!("{no_correct_software}"),
    }
}

/// A CPU of the [`Hypervisor`]: keeps each translation, the place of each last-level table, and what
/// it has read of sub-pages, until a shoot-down; translations until a fault only. On Arm a fault is
/// not enough: there a refusal stays until it is flushed.
pub struct VirtualCpu<'m, F: Format, M: Memory> {
    pub(super) mmu: &'m Mmu<F, Hypervisor<M>>,
    pub(super) vcpu: Option<Vcpu<'m, F, Hypervisor<M>>>,
    pub(super) space: AddressSpace,
    pub(super) number: usize,
    on_retry: OnRetry,
    pub(super) told: Told,
}

/// So many faults in a row for one access are too many.
const FOR_EVER: usize = 10_000;

/// An access that did not come through.
#[derive(Clone, Copy)]
pub(super) enum Stopped {
    /// The translation that it met refuses it.
    Refused,
    /// There is no translation.
    Absent,
    /// The entry changed under the walk.
    Changed,
    /// The walk of the sub-page permission table ended so.
    AtSubPages(SubPageEvent),
    /// D would be set, and the page-modification log is full.
    LogFull,
}

/// An access that the processor does not make.
enum NotMade {
    /// Nobody does.
    Refused(Refused),
    /// The hypervisor does.
    ToEmulate,
}

impl<'m, F: Format, M: Memory> VirtualCpu<'m, F, M> {
    /// The `number`-th CPU, for good in `space`.
    ///
    /// # Errors
    /// The library has no memory for a vCPU.
    pub fn new(
        mmu: &'m Mmu<F, Hypervisor<M>>,
        number: usize,
        space: AddressSpace,
    ) -> Result<Self, vellum_mmu::OutOfMemory> {
        let (on_retry, told) = (OnRetry::Waits, Told::Yes);
        let cpu = Self { mmu, vcpu: Some(mmu.vcpu()?), space, number, on_retry, told };
        cpu.claim_page_log();
        Ok(cpu)
    }

    /// One that does so where memory is being changed.
    #[must_use]
    pub fn that(mut self, on_retry: OnRetry) -> Self {
        self.on_retry = on_retry;
        self
    }

    /// One that was told so.
    #[must_use]
    pub fn told(mut self, told: Told) -> Self {
        self.told = told;
        self
    }

    /// Does `act` to the frames behind the pages of an access: by the TLB if it can, else by the
    /// tables, else after a fault. No shoot-down comes between the translations and the act.
    fn access<T>(
        &mut self,
        (at, length): (Gpa, usize),
        access: Access,
        act: impl Fn(&Hypervisor<M>, [Pfn; 2]) -> T,
    ) -> Result<T, NotMade> {
        let hypervisor = self.mmu.embedder();
        let mut faults = 0;
        while faults < FOR_EVER {
            let mut tlb = locked(&hypervisor.tlbs[self.number]);
            let (part, stopped) = match self.translate_parts(&mut tlb, (at, length), access) {
                Ok(frames) => return Ok(act(hypervisor, frames)),
                Err(stopped) => stopped,
            };
            match stopped {
                Stopped::Changed => continue,
                // Arm keeps a translation that refuses (Arm ARM D8.16).
                Stopped::Refused if is_arm::<F>() => {}
                Stopped::AtSubPages(_) | Stopped::LogFull => {}
                _ => hypervisor.memory.unlimited(|| tlb.forget(part.at.gfn())),
            }
            drop(tlb);
            faults += self.exit(part.at, access, stopped)?;
        }
        panic!("it faults for ever at {at}");
    }

    /// Asks the library; gives how much nearer that is to for ever.
    fn exit(&mut self, at: Gpa, access: Access, stopped: Stopped) -> Result<usize, NotMade> {
        RUNNING.set(self.number);
        if let Stopped::LogFull = stopped {
            self.hand_over_page_log();
            return Ok(1);
        }
        let vcpu = self.vcpu.as_mut().expect("it has come");
        let outcome = match stopped {
            Stopped::AtSubPages(event) => vcpu.sub_page_event(self.space, at, event),
            _ => vcpu.fault(self.space, at, access),
        };
        Err(NotMade::Refused(match (outcome, self.on_retry) {
            (Outcome::Mapped | Outcome::Spurious, _) => return Ok(1),
            (Outcome::Retry, OnRetry::Waits) => {
                std::thread::yield_now();
                return Ok(0);
            }
            (Outcome::Emulate, _) => return Err(NotMade::ToEmulate),
            (Outcome::Retry, OnRetry::GivesUp) => Refused::Retry,
            (Outcome::Mmio, _) => Refused::Unmapped,
            (Outcome::NoBacking, _) => Refused::NoBacking,
            (Outcome::ReadOnly, _) => Refused::ReadOnly,
            (Outcome::Denied(denial), _) => Refused::Denied(denial),
            (Outcome::OutOfMemory, _) => Refused::OutOfMemory,
            (Outcome::Misconfigured, _) => panic!("misconfigured sub-pages at {at}"),
        }))
    }

    /// All pages that an access touches.
    fn translate_parts(
        &self,
        tlb: &mut super::tlb::Tlb,
        (at, length): (Gpa, usize),
        access: Access,
    ) -> Result<[Pfn; 2], (Part, Stopped)> {
        let mut frames = [Pfn::new(0); 2];
        for (frame, part) in frames.iter_mut().zip(parts(at, length)) {
            *frame = self.translate(tlb, part, access).map_err(|stopped| (part, stopped))?;
        }
        Ok(frames)
    }

    /// The store that the processor did not make.
    fn emulate(&self, at: Gpa, bytes: &[u8]) -> Result<Way, Refused> {
        let writer = self.mmu.guest_writer(Origin::Vcpu(self.number()));
        match writer.write(self.space, at, bytes) {
            Ok(()) => Ok(Way::Emulated),
            Err(WriteError::NoSlot(_)) => Err(Refused::Unmapped),
            Err(WriteError::ReadOnly(_)) => Err(Refused::ReadOnly),
            Err(WriteError::NoBacking(_)) => Err(Refused::NoBacking),
            Err(WriteError::Denied(denial)) => Err(Refused::Denied(denial)),
        }
    }
}

impl<F: Format, M: Memory> Drop for VirtualCpu<'_, F, M> {
    fn drop(&mut self) {
        self.hand_over_page_log();
    }
}

/// Whether the processor is one whose tables carry no permissions, and which keeps a refusal.
pub(super) const fn is_arm<F: Format>() -> bool {
    matches!(F::CLOSED_TABLE, ClosedTable::Parked)
}

impl<F: Format, M: Memory> Cpu for VirtualCpu<'_, F, M> {
    fn on_retry(&self) -> OnRetry {
        self.on_retry
    }

    fn sub_pages(&self) -> Told {
        self.told
    }

    fn number(&self) -> u32 {
        u32::try_from(self.number).expect("few")
    }

    /// It asks for the root of sub-page permissions at each access.
    fn enter(&mut self, space: AddressSpace) {
        assert_eq!(space, self.space, "it stays there for good");
    }

    fn may_enter(&self) -> Entry {
        match self.vcpu.as_ref().expect("it has come").may_enter() {
            Ok(()) => Entry::Granted,
            Err(RingFull) => Entry::KeptOut,
        }
    }

    /// What it has logged does not go with it.
    fn leave(&mut self) -> Presence {
        self.hand_over_page_log();
        self.vcpu.take().map_or(Presence::AsItWas, |_| Presence::Changed)
    }

    fn come(&mut self) -> Result<Presence, vellum_mmu::OutOfMemory> {
        if self.vcpu.is_some() {
            return Ok(Presence::AsItWas);
        }
        self.vcpu = Some(self.mmu.vcpu()?);
        Ok(Presence::Changed)
    }

    fn forge(&mut self, address: u64) -> Forged {
        self.forge_entry(address)
    }

    fn store_bytes(&mut self, at: Gpa, bytes: &[u8], by: By) -> Result<Way, Refused> {
        let access = match by {
            By::Instruction => Access::Write,
            By::Walk => Access::Walk,
        };
        let stored = self.access((at, bytes.len()), access, |hypervisor, frames| {
            let mut rest = bytes;
            for (part, frame) in parts(at, bytes.len()).zip(frames) {
                let (here, after) = rest.split_at(part.length);
                let store = || locked(&hypervisor.host).store(frame, part.at.offset(), here);
                hypervisor.memory.unlimited(store);
                rest = after;
            }
        });
        match stored {
            Ok(()) => Ok(Way::Direct),
            Err(NotMade::ToEmulate) => self.emulate(at, bytes),
            Err(NotMade::Refused(refused)) => Err(refused),
        }
    }

    fn load(&mut self, at: Gpa) -> Result<u64, Refused> {
        assert!(at.get().is_multiple_of(8) && at.offset() < PAGE_SIZE, "aligned");
        let offset = usize::try_from(at.offset()).expect("in the page");
        let loaded = self.access((at, 8), Access::Read, |hypervisor, [frame, _]| {
            let page: Page = locked(&hypervisor.host).load(frame);
            u64::from_le_bytes(page[offset..offset + 8].try_into().expect("eight"))
        });
        loaded.map_err(|not_made| match not_made {
            NotMade::Refused(refused) => refused,
            NotMade::ToEmulate => panic!("a load at {at} is to be emulated"),
        })
    }
}
