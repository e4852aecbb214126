//! Second-stage page tables that track every guest write.
//!
//! For hypervisors: `no_std` and `alloc`, no globals, fallible allocation only. The library owns
//! the tables of one VM ([`Mmu`]) and tells which pages changed; the hypervisor brings frames,
//! shoot-downs and backing memory ([`Embedder`]) and calls [`Vcpu::fault`] from its exit handler.
//! Whole hypervisors to copy from, for VMX, SVM and Arm's EL2, are in `hypervisors/` of the repository;
//! [`Access::of_ept_violation`] and its like turn what the processor says into what a fault is.
//!
//! What it supports: memslots; mappings of 4 KiB, 2 MiB and 1 GiB in Intel EPT, AMD NPT and Arm
//! stage-2 format; parallel faults; a dirty log that is harvested page by page
//! ([`Protect::Pages`]), range by range ([`Mmu::clear_dirty`]) or with write-protect-all in O(1)
//! ([`Mmu::write_protect_all`]); page tracking with listeners ([`Mmu::track`], [`Mmu::listen`]);
//! permissions for 128-byte sub-pages ([`Mmu::set_sub_pages`]); and writes that no vCPU makes
//! ([`GuestWriter`]).
//!
//! What it promises, under these names throughout its code and docs:
//!
//! - **D1 No lost write.** Every byte written before a harvest's shoot-down is in that harvest or a
//!   later one; once the guest is paused, in that harvest. *Paused*: no vCPU is in an access or a
//!   fault, no [`GuestWriter`] is under way.
//! - **D2 No lost harvest.** What could not be delivered is given back by [`Mmu::owe`].
//! - **W1 Settled above, settled below.** While write-protect-all is on, an entry that points to a
//!   table is storable only if that table's generation equals its own table's.
//! - **W2 The set covers.** A storable entry is in its table's writable set, or the vCPU that made
//!   it storable is still inside its fault.
//! - **T1 Linked tables are atomic.** No `&mut` to an entry of a linked table.
//! - **T2 Tables outlive their readers.**
//! - **F1 A flush is a value**, paid before frames are released.
//! - **F2 Another's debt is mine.** A shoot-down is skipped only if none is outstanding anywhere.
//! - **P1 Counts never lie.** Tracking counts neither wrap nor go below 0; a refused change leaves
//!   them as they were.
//! - **S1 Denied stays denied.** No path lets a vCPU or a [`GuestWriter`] write a denied sub-page.
//! - **M1 Memory follows use.** Metadata of a feature costs nothing until it is used, and grows with
//!   the pages used. Marking dirty never fails and never allocates.
//!
//! ```
//! # #[cfg(not(loom))] {
//! use std::ptr::NonNull;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use vellum_memory::{Layout, PageSet, Region};
//! use vellum_mmu::*;
//! use vellum_pte::*;
//!
//! /// The least a hypervisor brings: frames from the heap, and memory that starts at 1 GiB.
//! struct Hypervisor;
//!
//! impl Embedder for Hypervisor {
//!     fn allocate_frame(&self) -> Option<Frame> {
//!         let table = Box::leak(Box::new([const { AtomicU64::new(0) }; 512]));
//!         let entries = NonNull::new(table.as_mut_ptr())?;
//!         // SAFETY: 512 zeroed entries, leaked, and nobody else's.
//!         Some(unsafe { Frame::from_raw(Pfn::of_address(entries.as_ptr() as u64), entries) })
//!     }
//!     fn release_frame(&self, _: Frame) {}
//!     fn shoot_down(&self, _: Scope) { /* INVEPT on every CPU */ }
//!     fn has_barrier_all(&self) -> bool { false }
//!     fn barrier_all(&self) {}
//!     fn relax(&self) { std::thread::yield_now() }
//!     fn resolve(&self, page: GuestPage) -> Option<Backing> {
//!         let frame = Pfn::new(0x4_0000 + page.gfn.get());
//!         Some(Backing { frame, write: BackingWrite::Allowed, largest: Level::L1 })
//!     }
//!     fn write(&self, _: GuestPage, _: u64, _: &[u8]) -> Result<(), NoBacking> { Ok(()) }
//! }
//!
//! let mmu = Mmu::<Ept, _>::new(Hypervisor, Config::default())?;
//! let range = GfnRange::new(Gfn::new(0), 1024).expect("in range");
//! let (id, space) = (SlotId(0), AddressSpace::NORMAL);
//! mmu.create_slot(SlotSpec { log: LogMode::On, ..SlotSpec::new(id, space, range) })?;
//!
//! // In the exit handler:
//! let mut vcpu = mmu.vcpu()?;
//! assert_eq!(vcpu.fault(space, Gpa::new(0x5678), Access::Write), Outcome::Mapped);
//!
//! // Whoever wants to know what changed:
//! let layout = Layout::new(vec![Region { slot: id, space, range }])?;
//! let mut round = PageSet::new(&layout);
//! mmu.take_dirty(id, Protect::Pages, &mut round.regions_mut()[0])?;
//! assert_eq!(round.regions()[0].pages().collect::<Vec<_>>(), [5]);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod ageing;
mod allocate;
mod batch;
mod breaks;
mod counters;
mod debts;
mod dirty;
mod dirty_bits;
mod embedder;
mod fault;
mod frame;
mod huge;
mod invalidation;
mod lock;
mod log;
mod manual;
mod mmu;
mod once_box;
mod protect_all;
mod protection;
mod protector;
mod read_side;
mod ring;
mod roots;
mod slot_changes;
mod slots;
mod sparse;
mod sub_pages;
mod sync;
mod table;
mod track;
mod vcpu;
mod vm_context;
mod writer;

pub use ageing::AgeError;
pub use allocate::OutOfMemory;
pub use breaks::Break;
#[cfg(feature = "counters")]
pub use counters::CounterSnapshot;
pub use counters::Event;
pub use dirty::Initial;
pub use dirty_bits::DirtyBits;
pub use embedder::{Backing, BackingWrite, CallerId, Embedder, GuestPage, NoBacking, Scope};
pub use fault::{Access, Outcome};
pub use frame::{EntryWord, Frame};
pub use huge::{HugeLeaves, SplitError, SplitReport};
pub use invalidation::Invalidation;
pub use log::{LogError, Origin, Protect};
pub use manual::{ClearError, ClearRange};
pub use mmu::{AccessedBits, Config, CreateVmError, GuestMemory, Mmu};
pub use ring::{Again, RingFull, RingPage, RingSize, RingSizeError};
pub use slots::{
    ChangeSlotError, CreateSlotError, LogMode, MemoryId, NoSlot, SlotAccess, SlotSpec,
};
pub use sub_pages::{
    ActivateError, Denial, MAX_SUB_PAGE_MAPS, SubPageError, SubPageFlags, SubPageForm,
    SubPageHardware, SubPageRange, SubPagesActive,
};
pub use track::{
    Call, EnableTrackingError, ListenError, MAX_SHADOW_USERS, Registration, RemovedRegion,
    TrackError, TrackMode, Unregister, WriteListener, Written,
};
pub use vcpu::Vcpu;
pub use writer::{GuestWriter, WriteError};
