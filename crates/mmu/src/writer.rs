//! Writes to guest memory that no vCPU makes.

use crate::embedder::{Embedder, NoBacking};
use crate::log::Origin;
use crate::mmu::{Mmu, State};
use crate::slots::{Slot, SlotAccess};
use crate::sub_pages::Denial;
use crate::track::Written;
use vellum_pte::{AddressSpace, Format, Gpa, PAGE_SIZE};

/// Why a write was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WriteError {
    /// A page of it is in no memslot. Nothing was written.
    #[error("no memslot at {0}")]
    NoSlot(Gpa),
    /// A map of sub-pages forbids a byte of it. Nothing was written.
    #[error("the map {map} of its page forbids a write at {gpa}", gpa = .0.gpa, map = .0.map)]
    Denied(Denial),
    /// A page of it is in a read-only memslot. Nothing was written.
    #[error("the memslot at {0} is read-only")]
    ReadOnly(Gpa),
    /// The embedder has no memory behind a page. What lies before it was written and logged.
    #[error("no memory behind {0}")]
    NoBacking(Gpa),
}

/// For an instruction that the embedder emulates, or a device of its own: checks what maps of
/// sub-pages permit, writes, logs, and tells the listeners. In that order.
pub struct GuestWriter<'m, F: Format, E: Embedder> {
    mmu: &'m Mmu<F, E>,
    origin: Origin,
    maps: Maps,
}

/// What maps of sub-pages are to a writer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maps {
    /// They forbid.
    Binding,
    /// They do not.
    Overruled,
}

impl<'m, F: Format, E: Embedder> GuestWriter<'m, F, E> {
    pub(crate) const fn new(mmu: &'m Mmu<F, E>, origin: Origin) -> Self {
        Self { mmu, origin, maps: Maps::Binding }
    }

    /// The same, but no map forbids it anything. For a monitor that was told of a denied store, and
    /// lets this one through: opening the map for it would let every other vCPU through as well.
    #[must_use]
    pub const fn overruling_maps(self) -> Self {
        Self { maps: Maps::Overruled, ..self }
    }

    /// Writes `bytes` at `gpa` and marks the pages dirty, in that order: a harvest in between
    /// leaves them for the next one (D1). May cross pages and slots. The listeners are called
    /// before this returns; if one panics, the write is made and logged.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, space: AddressSpace, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        let (written, result) = self.write_and_log(space, gpa, bytes);
        if written > 0 {
            let (bytes, origin) = (&bytes[..written], self.origin);
            self.mmu.listeners.written(self.mmu, &Written { space, gpa, bytes, origin });
        }
        result
    }

    /// Says how many bytes it has written.
    fn write_and_log(
        &self,
        space: AddressSpace,
        gpa: Gpa,
        bytes: &[u8],
    ) -> (usize, Result<(), WriteError>) {
        let state = self.mmu.enter();
        let checked = pages(gpa, bytes)
            .try_for_each(|(at, part)| self.check(&state, space, at, part.len() as u64));
        if checked.is_err() {
            return (0, checked);
        }
        let mut written = 0;
        let result = pages(gpa, bytes).try_for_each(|(at, part)| {
            self.write_page(&state, space, at, part)?;
            written += part.len();
            Ok(())
        });
        (written, result)
    }

    /// Whether all of a part may be written. The end is exclusive.
    fn check(
        &self,
        state: &State<F>,
        space: AddressSpace,
        at: Gpa,
        length: u64,
    ) -> Result<(), WriteError> {
        let map = writable_slot(state, space, at)?.map(at.gfn());
        match map.first_denied(at.offset()..at.offset() + length) {
            Some(offset) if self.maps == Maps::Binding => {
                let gpa = Gpa::new(at.gfn().gpa().get() + offset);
                Err(WriteError::Denied(Denial { gpa, map }))
            }
            _ => Ok(()),
        }
    }

    fn write_page(
        &self,
        state: &State<F>,
        space: AddressSpace,
        at: Gpa,
        part: &[u8],
    ) -> Result<(), WriteError> {
        let slot = writable_slot(state, space, at)?;
        let written = self.mmu.embedder.write(slot.guest_page(at.gfn()), at.offset(), part);
        written.map_err(|NoBacking| WriteError::NoBacking(at))?;
        slot.prepare(at.gfn());
        slot.mark(at.gfn());
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
