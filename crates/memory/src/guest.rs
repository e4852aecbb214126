//! The guest's bytes, over rust-vmm's `vm-memory`, and the adapters between its devices and our logs.
//!
//! [`logged_view`] gives a device memory that reports each write ([`Logged`]); [`MappedBits`] is a
//! mapping with a vhost back-end's bitmap in it. `docs/devices.md` says which writes of `vm-memory`
//! report and which do not.

mod logged;
mod mapped_bits;
#[cfg(unix)]
mod view;

pub use logged::{Logged, LoggedSlice};
pub use mapped_bits::MappedBits;
#[cfg(unix)]
pub use view::{ViewError, logged_view};

use vellum_pte::{Gfn, PAGE_SHIFT};
pub use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryMmap, MemoryRegionAddress,
};

/// The size of a page as an array length.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;

/// One page's content.
pub type Page = [u8; PAGE_BYTES];

/// Copies the page `gfn` out. The guest may be storing to it meanwhile: the copy may be torn, and
/// the dirty log says so.
///
/// # Errors
/// The page is not in `memory`.
pub fn read_page<M: GuestMemory>(
    memory: &M,
    gfn: Gfn,
    into: &mut Page,
) -> Result<(), vm_memory::GuestMemoryError> {
    memory.read_slice(into, GuestAddress(gfn.gpa().get()))
}

/// Copies `page` in, over the page `gfn`.
///
/// # Errors
/// The page is not in `memory`.
pub fn write_page<M: GuestMemory>(
    memory: &M,
    gfn: Gfn,
    page: &Page,
) -> Result<(), vm_memory::GuestMemoryError> {
    memory.write_slice(page, GuestAddress(gfn.gpa().get()))
}
