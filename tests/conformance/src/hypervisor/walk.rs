//! How the hypervisor's CPUs translate: the TLB, then the tables.

use super::cpu::{Stopped, VirtualCpu, is_arm};
use super::tlb::{Answer, CachedWrite, Tlb, is_store};
use super::{Memory, locked, pages_of};
use crate::parts::Part;
use std::sync::TryLockError;
use std::sync::atomic::Ordering;
use vellum_mmu::{Access, AccessedBits};
use vellum_pte::{Entry, Format, Gate, Gfn, Leaf, Level, Pfn, Raw, Write};

impl<F: Format, M: Memory> VirtualCpu<'_, F, M> {
    /// The frame behind one page of an access that may be made.
    pub(super) fn translate(
        &self,
        tlb: &mut Tlb,
        part: Part,
        access: Access,
    ) -> Result<Pfn, Stopped> {
        match tlb.answer(self.space, part.at.gfn(), access) {
            Answer::Passes(frame) => Ok(frame),
            Answer::PassesInPart(frame) => self.ask_sub_pages(tlb, part).map(|()| frame),
            Answer::Refuses if is_arm::<F>() => Err(Stopped::Refused),
            Answer::Refuses | Answer::Unknown => self.walk(tlb, part, access),
        }
    }

    /// What the tables say, cached. Stores pass if every entry on the way lets them.
    fn walk(&self, tlb: &mut Tlb, part: Part, access: Access) -> Result<Pfn, Stopped> {
        let gfn = part.at.gfn();
        let known = tlb.table(self.space, gfn);
        let known = known.map(|(table, write)| (table, Level::L1, write));
        let (mut table, mut level, mut write) =
            known.or_else(|| self.root(gfn)).ok_or(Stopped::Absent)?;
        loop {
            let raw = self.entry(table, level, gfn);
            match F::decode(raw, level) {
                Entry::Absent | Entry::Frozen { .. } => return Err(Stopped::Absent),
                // Parked: for hardware it is not there.
                Entry::Table { gate: Gate::Closed, .. } if is_arm::<F>() => {
                    return Err(Stopped::Absent);
                }
                Entry::Table { child, gate, .. } => {
                    write = if gate == Gate::Open { write } else { CachedWrite::Refused };
                    self.use_table((table, level, gfn), raw)?;
                    (table, level) = (child, level.below().ok_or(Stopped::Absent)?);
                    if level == Level::L1 {
                        let keep = || tlb.keep_table((self.space, gfn), table, write);
                        self.mmu.embedder().memory.unlimited(keep);
                    }
                }
                Entry::Leaf(leaf) => {
                    let at = (table, level, part);
                    return self.at_leaf(tlb, at, (raw, leaf), access, write);
                }
            }
        }
    }

    /// Where a walk begins: one of the root tables, if there is one for the address.
    fn root(&self, gfn: Gfn) -> Option<(Pfn, Level, CachedWrite)> {
        let shape = self.mmu.root_shape();
        let place = gfn.get() >> (u32::from(shape.level.get()) * F::INDEX_BITS);
        let first = self.mmu.root(self.space).filter(|_| place < u64::from(shape.tables))?;
        Some((Pfn::new(first.get() + place), shape.level, CachedWrite::Allowed))
    }

    fn index(level: Level, gfn: Gfn) -> usize {
        let index = gfn.get() >> (u32::from(level.get() - 1) * F::INDEX_BITS) & 511;
        usize::try_from(index).expect("nine bits")
    }

    pub(super) fn entry(&self, table: Pfn, level: Level, gfn: Gfn) -> Raw {
        let bank = locked(&self.mmu.embedder().bank);
        Raw(bank.entry(table, Self::index(level, gfn)).load(Ordering::Acquire))
    }

    /// What hardware writes to an entry. Says whether the entry still was `old`.
    fn update(&self, (table, level, gfn): (Pfn, Level, Gfn), old: Raw, new: Raw) -> bool {
        let bank = locked(&self.mmu.embedder().bank);
        let entry = bank.entry(table, Self::index(level, gfn));
        entry.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn sets_bits(&self) -> bool {
        self.mmu.embedder().accessed == AccessedBits::Set
    }

    /// x86 sets A at every level.
    fn use_table(&self, at: (Pfn, Level, Gfn), raw: Raw) -> Result<(), Stopped> {
        let sets = self.sets_bits() && !is_arm::<F>();
        let done = !sets || self.update(at, raw, F::set_accessed(raw));
        if done { Ok(()) } else { Err(Stopped::Changed) }
    }

    /// Keeps what was found, and says whether the access passes. Where a store is what sets D, stores
    /// pass what has it; on Arm, D is the permission.
    fn at_leaf(
        &self,
        tlb: &mut Tlb,
        (table, level, part): (Pfn, Level, Part),
        (raw, leaf): (Raw, Leaf),
        access: Access,
        above: CachedWrite,
    ) -> Result<Pfn, Stopped> {
        let gfn = part.at.gfn();
        if is_arm::<F>() && !self.sets_bits() && !leaf.accessed {
            return Err(Stopped::Absent);
        }
        let open = stores(leaf.write, above);
        let passes = match (access, open) {
            (Access::Read | Access::Execute, _) | (_, CachedWrite::Allowed) => true,
            (Access::Write, CachedWrite::InPart) => {
                self.ask_sub_pages(tlb, part)?;
                true
            }
            (Access::Write | Access::Walk, _) => false,
        };
        let leaf = match passes && self.sets_bits() {
            true => self.use_leaf((table, level, gfn), (raw, leaf), access)?,
            false => leaf,
        };
        let dirty = leaf.dirty || !self.sets_bits() && !is_arm::<F>();
        let write = if dirty { open } else { CachedWrite::Refused };
        self.check_sizes(tlb, gfn, level);
        let keep = || tlb.keep_leaf((self.space, gfn), level, leaf.frame, write);
        self.mmu.embedder().memory.unlimited(keep);
        let within = gfn.get() & (pages_of(level) - 1);
        let done = passes && (!is_store(access) || write != CachedWrite::Refused);
        if done { Ok(Pfn::new(leaf.frame.get() + within)) } else { Err(Stopped::Refused) }
    }

    /// Sets A, and D for a store.
    fn use_leaf(
        &self,
        at: (Pfn, Level, Gfn),
        (raw, leaf): (Raw, Leaf),
        access: Access,
    ) -> Result<Leaf, Stopped> {
        let dirty = leaf.dirty || is_store(access);
        let sets_dirty = dirty && !leaf.dirty;
        if sets_dirty {
            self.log_has_room()?;
        }
        let used = Leaf { accessed: true, dirty, ..leaf };
        if !self.update(at, raw, F::encode(Entry::Leaf(used), at.1)) {
            return Err(Stopped::Changed);
        }
        if sets_dirty {
            self.log_dirty(at.2.gpa());
        }
        Ok(used)
    }

    /// Any CPU may walk at any time: no TLB may hold another size. One that is busy is passed over.
    fn check_sizes(&self, mine: &Tlb, gfn: Gfn, level: Level) {
        mine.check_size::<F>(self.space, gfn, level);
        for tlb in &self.mmu.embedder().tlbs {
            match tlb.try_lock() {
                Ok(tlb) => tlb.check_size::<F>(self.space, gfn, level),
                Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => {}
            }
        }
    }
}

/// Whether stores pass a leaf. The path above counts for nothing where the leaf asks the sub-page
/// permission table: that is consulted when a permission on the way is missing (Intel SDM vol. 3C,
/// 29.3.4.1).
fn stores(leaf: Write, above: CachedWrite) -> CachedWrite {
    match leaf {
        Write::Storable => above,
        Write::Partial => CachedWrite::InPart,
        Write::Liftable | Write::Denied => CachedWrite::Refused,
    }
}
