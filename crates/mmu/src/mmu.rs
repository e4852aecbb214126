//! One VM's second stage.

use crate::allocate::{OutOfMemory, try_box};
use crate::breaks::Breaks;
use crate::counters::Tally;
use crate::debts::{Debts, Takes};
use crate::dirty::{DirtySet, Initial};
use crate::dirty_bits::{DirtyBits, Touched};
use crate::embedder::Embedder;
use crate::invalidation::Invalidations;
use crate::log::{Log, Origin};
use crate::protection::Protection;
use crate::read_side::{ReadGuard, ReadSide};
use crate::ring::RingSize;
use crate::roots::Roots;
use crate::slots::Slots;
use crate::sub_pages::{Enforcement, SubPageHardware};
use crate::sync::AtomicU32;
use crate::track::Listeners;
use crate::vcpu::Vcpu;
use crate::vm_context::Context;
use crate::writer::GuestWriter;
use alloc::boxed::Box;
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, PAGE_SHIFT, Pfn, Root};

/// How a VM's second stage is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many address spaces, each with a root of its own. At least one is made.
    pub spaces: u16,
    /// How many bits of guest address the tables translate; `None` for the format's usual number.
    pub address_bits: Option<u32>,
    /// Whether hardware sets A in leaves.
    pub accessed: AccessedBits,
    /// Whether the processor has tables of sub-page permissions.
    pub sub_pages: SubPageHardware,
    /// Whether the VMM can write the guest's memory.
    pub memory: GuestMemory,
    /// Whether each vCPU has a dirty ring, and how large. What a ring has no room for, and writes that
    /// no vCPU makes, are in the slots' bitmaps.
    pub ring: Option<RingSize>,
    /// Whether writes are logged by hardware's D bits.
    pub dirty_bits: DirtyBits,
    /// The deliberate bug of this VM, if any.
    #[cfg(feature = "breaks")]
    pub broken: Option<crate::breaks::Break>,
}

impl Default for Config {
    /// One address space of the usual size, on hardware that sets A and has no sub-page permissions,
    /// of memory that the VMM can write, without rings, logged by write-protection; nothing broken.
    fn default() -> Self {
        Self {
            spaces: 1,
            address_bits: None,
            accessed: AccessedBits::Set,
            sub_pages: SubPageHardware::Absent,
            memory: GuestMemory::Open,
            ring: None,
            dirty_bits: DirtyBits::Unused,
            #[cfg(feature = "breaks")]
            broken: None,
        }
    }
}

impl Config {
    fn breaks(self) -> Breaks {
        Breaks {
            #[cfg(feature = "breaks")]
            chosen: self.broken,
        }
    }
}

/// Whether hardware sets A in the leaves that it uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessedBits {
    /// It does (EPT with EPTP bit 6, NPT always, Arm with VTCR_EL2.HA).
    Set,
    /// It does not: ageing takes mappings away and sees who comes back (EPT), or the fault sets A
    /// (Arm).
    NotSet,
}

/// Whether the VMM can write the guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestMemory {
    /// It can.
    Open,
    /// It is encrypted or out of reach: no write can be emulated, so page tracking and sub-page
    /// permissions are refused.
    Confidential,
}

/// Why a VM could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CreateVmError {
    /// The format has no tables that translate so many bits of guest address.
    #[error("no tables of this format translate {0} bits of guest address")]
    AddressBits(u32),
    /// Hardware that sets no A sets no D.
    #[error("D bits cannot be the log of hardware that sets no A bits")]
    DirtyWithoutAccessed,
    /// Hardware that logs pages by itself may hand over 512 at once: the rings' size was made for less.
    #[error("dirty rings keep no room for what a page-modification log may hand over")]
    RingReserve,
    /// No frame for a root, or no memory for its software half.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// What faults read and slot changes alter.
pub(crate) struct State<F: Format> {
    pub(crate) slots: Slots,
    pub(crate) roots: Roots<F>,
    pub(crate) sub_pages: Enforcement<F>,
    /// Whether the VM may run guests of its own.
    pub(crate) nested: bool,
    /// The page after the last that the tables translate.
    pub(crate) limit: Gfn,
}

impl<F: Format> State<F> {
    /// The part of `range` that tables of `space` translate.
    pub(crate) fn in_reach(&self, space: AddressSpace, range: GfnRange) -> Option<GfnRange> {
        let all = GfnRange::new(Gfn::new(0), self.limit.get())?;
        all.intersection(range).filter(|_| self.roots.has(space))
    }
}

/// One VM's second stage: its memslots, its tables of format `F`, and who wrote where.
///
/// Any number in one process; nothing is global. All functions may be called from any thread at
/// the same time. Out of memory at any allocation leaves a working VM.
///
/// Before it is dropped, no processor has its roots any more (EPTP, nCR3, VTTBR_EL2): one that stands
/// idle may walk ahead all the same.
pub struct Mmu<F: Format, E: Embedder> {
    pub(crate) read_side: ReadSide<State<F>>,
    pub(crate) protection: Protection,
    pub(crate) debts: Debts,
    pub(crate) invalidations: Invalidations,
    pub(crate) embedder: E,
    /// What is counted outside of faults.
    pub(crate) tally: Tally,
    pub(crate) breaks: Breaks,
    pub(crate) config: Config,
    /// Whether pages may be tracked: 0 or 1.
    pub(crate) tracking: AtomicU32,
    pub(crate) listeners: Listeners<F, E>,
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// A VM without slots, with an empty root for each address space.
    ///
    /// # Errors
    /// [`CreateVmError`].
    pub fn new(embedder: E, config: Config) -> Result<Self, CreateVmError> {
        let breaks = config.breaks();
        if config.dirty_bits != DirtyBits::Unused && config.accessed == AccessedBits::NotSet {
            return Err(CreateVmError::DirtyWithoutAccessed);
        }
        let small = |ring: RingSize| ring.reserve() < RingSize::RESERVE_WITH_PML;
        if config.dirty_bits == DirtyBits::Logged && config.ring.is_some_and(small) {
            return Err(CreateVmError::RingReserve);
        }
        let bits = config.address_bits.unwrap_or(F::ADDRESS_BITS);
        let shape = F::root(bits).ok_or(CreateVmError::AddressBits(bits))?;
        let roots = Roots::new(config.spaces.max(1), shape, &embedder)?;
        let limit = Gfn::new(1 << bits.saturating_sub(PAGE_SHIFT));
        let sub_pages = Enforcement::Inactive;
        let state = State { slots: Slots::default(), roots, sub_pages, nested: false, limit };
        Ok(Self {
            read_side: ReadSide::new(state, &embedder, breaks),
            protection: Protection::new(),
            debts: Debts::new(),
            invalidations: Invalidations::new(breaks),
            embedder,
            tally: Tally::shared(),
            breaks,
            config,
            tracking: AtomicU32::new(0),
            listeners: Listeners::new(),
        })
    }

    /// The embedder that it was made with.
    pub const fn embedder(&self) -> &E {
        &self.embedder
    }

    /// What it was made for: whoever sets a processor up for it switches on what this says, A and D bits
    /// (EPTP bit 6, VTCR_EL2.{HA,HD}), the page-modification log, tables of sub-page permissions.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The frame of an address space's root table, for EPTP (Intel SDM vol. 3C, 25.6.11), nCR3 (AMD
    /// APM vol. 2, 15.25.4) or VTTBR_EL2 (Arm ARM D19.2); the first, where there are several side by
    /// side. It stays the same as long as the VM lives. `None` where the VM was made with fewer
    /// address spaces.
    pub fn root(&self, space: AddressSpace) -> Option<Pfn> {
        self.enter().roots.first(space)
    }

    /// At which level walks begin, and with how many root tables.
    pub fn root_shape(&self) -> Root {
        self.enter().roots.shape()
    }

    /// A handle for one vCPU's faults. To be made at any time, on any thread.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn vcpu(&self) -> Result<Vcpu<'_, F, E>, OutOfMemory> {
        let seat = self.read_side.take_seat()?;
        // From here on the handle gives the seat back.
        let vcpu = Vcpu::new(self, seat);
        self.config.ring.map_or(Ok(()), |size| seat.make_ring(size, self.breaks))?;
        Ok(vcpu)
    }

    /// For writes to guest memory that no vCPU makes by itself, on behalf of `origin`.
    pub const fn guest_writer(&self, origin: Origin) -> GuestWriter<'_, F, E> {
        GuestWriter::new(self, origin)
    }

    /// Counts of everything so far.
    #[cfg(feature = "counters")]
    pub fn counters(&self) -> crate::counters::CounterSnapshot {
        let mut sum = crate::counters::CounterSnapshot::default();
        sum.add(&self.tally);
        self.read_side.tallies().for_each(|tally| sum.add(tally));
        sum
    }

    pub(crate) fn new_log(&self, pages: u64, initial: Initial) -> Result<Box<Log>, OutOfMemory> {
        // What hardware has logged so far is in no log that begins now.
        self.drain_logs();
        let touched = match self.config.dirty_bits {
            DirtyBits::Scanned => Some(Touched::new::<F>(pages, initial, self.breaks)?),
            DirtyBits::Unused | DirtyBits::Logged => None,
        };
        let pages = DirtySet::new(pages, initial, self.breaks)?;
        try_box(Log { pages, touched }).map_err(|(error, _)| error)
    }

    /// Enters the read side without a seat.
    pub(crate) fn enter(&self) -> ReadGuard<'_, State<F>> {
        self.read_side.enter_unseated(&self.embedder)
    }

    pub(crate) const fn context(&self) -> Context<'_, E> {
        let Self { embedder, tally, debts, config, breaks, .. } = self;
        Context { embedder, tally, debts, dirty_bits: config.dirty_bits, breaks: *breaks }
    }
}

impl<F: Format, E: Embedder> Drop for Mmu<F, E> {
    /// Gives all frames back. No vCPU runs any more: their handles borrow this. But processors may
    /// remember the tables, and the next VM's may get the same frames.
    fn drop(&mut self) {
        let debt = self.debts.raise_for(Takes::Mappings, self.context());
        let mut state = self.read_side.exclude(&self.embedder);
        let roots = core::mem::replace(&mut state.roots, Roots::none());
        let sub_pages = core::mem::replace(&mut state.sub_pages, Enforcement::Inactive);
        drop(state);
        debt.pay();
        roots.release(&self.embedder);
        sub_pages.release(&self.embedder);
    }
}
