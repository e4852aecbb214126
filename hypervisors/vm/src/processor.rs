//! What a processor does for a hypervisor.

use crate::memory::GuestMemory;
use vellum_mmu::{Access, SubPageHardware};
use vellum_pte::{Format, Gpa, Pfn, Root, SubPageEvent};

/// A processor with a guest on it: VMX, SVM, or Arm's EL2. A value is one vCPU's state; it stays on
/// the CPU that made it.
pub trait Processor: Sized {
    /// How its second-stage tables are spelt.
    type Format: Format;

    /// What the hardware at hand can do.
    fn features() -> Features;

    /// Writes the guest's program, and what page tables of its own it needs, to the first pages of
    /// its memory, below [`PROGRAM_BYTES`](crate::PROGRAM_BYTES).
    fn lay_out(memory: GuestMemory);

    /// A vCPU on `tables`, whose guest stands at its start, in guest page 0.
    fn new(tables: Tables) -> Self;

    /// Other tables for a guest that exists: a sub-page root that came later.
    fn load(&mut self, tables: Tables);

    /// What the guest does at its next entries, until [`Exit::Done`].
    fn begin(&mut self, work: Work);

    /// Runs the guest until something is for the hypervisor to see.
    fn enter(&mut self) -> Exit;

    /// The store that the guest stands at after a fault, decoded from its `memory` where the processor
    /// has not done it: `None` for an instruction that this hypervisor does not emulate.
    fn store(&self, memory: GuestMemory) -> Option<Store>;

    /// Takes the guest past the instruction that [`store`](Self::store) told of.
    fn skip(&mut self, store: &Store);

    /// Makes what was written to a new table visible to walkers, before anybody links it: see
    /// `docs/stage2.md`, "What the hypervisor owes". Nothing on x86.
    fn publish() {}

    /// Makes every CPU forget all translations of the guest: see
    /// [`Embedder::shoot_down`](vellum_mmu::Embedder::shoot_down).
    fn shoot_down();

    /// Makes this CPU's walker see the tables, and forget a refusal of `gpa`: see
    /// [`Embedder::flush_local`](vellum_mmu::Embedder::flush_local).
    fn flush_local(gpa: Gpa) {
        let _ = gpa;
    }

    /// Hands over and empties what hardware has logged on this CPU, where it logs.
    fn drain_log(log: &mut dyn FnMut(u64)) {
        let _ = log;
    }

    /// The same on all CPUs: one that is in its guest leaves it for that.
    fn drain_all_logs(log: &mut dyn FnMut(u64)) {
        Self::drain_log(log);
    }
}

/// What the hardware at hand can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// It sets A and D bits in second-stage leaves.
    pub accessed_dirty: bool,
    /// It logs the pages whose D it sets.
    pub page_log: bool,
    /// It walks tables of sub-page permissions.
    pub sub_pages: SubPageHardware,
}

/// The tables that a processor walks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tables {
    /// The (first) root.
    pub root: Pfn,
    /// The root's level, and how many there are side by side.
    pub shape: Root,
    /// The root of the tables of sub-page permissions, once they are active.
    pub sub_pages: Option<Pfn>,
    /// Whether hardware is to set A and D bits.
    pub accessed_dirty: bool,
    /// Whether hardware is to log the pages whose D it sets.
    pub page_log: bool,
}

/// Why the guest stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Its work is done. What it loaded last, if it loaded.
    Done(u64),
    /// The second stage refused an access.
    Fault {
        /// Where.
        gpa: Gpa,
        /// What kind.
        access: Access,
    },
    /// A walk of the sub-page tables ended.
    SubPage {
        /// For a store there.
        gpa: Gpa,
        /// Why.
        event: SubPageEvent,
    },
    /// The buffer of the page log is full.
    LogFull,
    /// An entry of the tables is not one (EPT misconfiguration).
    Misconfigured(Gpa),
    /// Anything else: the processor's own number for it.
    Other(u64),
}

/// What a guest does: `count` times the same, `stride` bytes apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// What.
    pub op: Op,
    /// Where first.
    pub first: Gpa,
    /// Bytes from one to the next.
    pub stride: u64,
    /// How often, at least once.
    pub count: u64,
    /// What is stored.
    pub value: u64,
}

/// One kind of access, of eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// A store.
    Store,
    /// A load.
    Load,
}

/// A store, decoded from the guest's instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Store {
    /// Its first byte.
    pub gpa: Gpa,
    /// What it stores, in the low bytes of a little-endian number.
    pub value: u64,
    /// How many bytes.
    pub width: usize,
    /// The instruction's length, in bytes.
    pub length: u64,
}

impl Store {
    /// The bytes it stores.
    #[must_use]
    pub fn bytes(&self) -> ([u8; 8], usize) {
        (self.value.to_le_bytes(), self.width)
    }
}
