//! Writes to guest memory that no vCPU makes.

use crate::embedder::{Embedder, NoBacking};
use crate::mmu::{Mmu, State};
use crate::slots::{Slot, SlotAccess};
use vellum_pte::{AddressSpace, Format, Gpa, PAGE_SIZE};

/// Why a write was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WriteError {
    /// A page of it is in no memslot. Nothing was written.
    #[error("no memslot at {0}")]
    NoSlot(Gpa),
    /// A page of it is in a read-only memslot. Nothing was written.
    #[error("the memslot at {0} is read-only")]
    ReadOnly(Gpa),
    /// The embedder has no memory behind a page. What lies before it was written and logged.
    #[error("no memory behind {0}")]
    NoBacking(Gpa),
}

/// For an instruction that the embedder emulates, or a device of its own: writes, then logs.
pub struct GuestWriter<'m, F: Format, E: Embedder> {
    mmu: &'m Mmu<F, E>,
}

impl<'m, F: Format, E: Embedder> GuestWriter<'m, F, E> {
    pub(crate) const fn new(mmu: &'m Mmu<F, E>) -> Self {
        Self { mmu }
    }

    /// Writes `bytes` at `gpa` and marks the pages dirty, in that order: a harvest in between
    /// leaves them for the next one (D1). May cross pages and slots.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, space: AddressSpace, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        let state = self.mmu.enter();
        for (at, _) in pages(gpa, bytes) {
            writable_slot(&state, space, at)?;
        }
        for (at, part) in pages(gpa, bytes) {
            let slot = writable_slot(&state, space, at)?;
            let page = slot.guest_page(at.gfn());
            let written = self.mmu.embedder.write(page, at.offset(), part);
            written.map_err(|NoBacking| WriteError::NoBacking(at))?;
            slot.prepare(at.gfn());
            slot.mark(at.gfn());
        }
        Ok(())
    }
}

fn writable_slot<F: Format>(
    state: &State<F>,
    space: AddressSpace,
    at: Gpa,
) -> Result<&Slot, WriteError> {
    let slot = state.slots.find(space, at.gfn()).ok_or(WriteError::NoSlot(at))?;
    match slot.spec.access {
        SlotAccess::ReadWrite => Ok(slot),
        SlotAccess::ReadOnly => Err(WriteError::ReadOnly(at)),
    }
}

/// The parts of a write that lie in one page each.
fn pages(gpa: Gpa, bytes: &[u8]) -> impl Iterator<Item = (Gpa, &[u8])> {
    let mut rest = bytes;
    let mut at = gpa;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let room = usize::try_from(PAGE_SIZE - at.offset()).unwrap_or(usize::MAX);
        let (part, after) = rest.split_at(room.min(rest.len()));
        let here = at;
        rest = after;
        at = Gpa::new(at.get().wrapping_add(part.len() as u64));
        Some((here, part))
    })
}
