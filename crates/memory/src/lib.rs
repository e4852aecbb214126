//! What a consumer of dirty tracking needs, and all that it needs: where the guest's memory is
//! ([`Layout`]), which pages changed ([`DirtySource`], [`PageSet`]), and, with the feature
//! `vm-memory`, the bytes themselves ([`guest`]).
//!
//! Live migration, snapshots and comparison are written against this crate alone, so they run over
//! every backend. To bring a backend of your own, implement [`DirtySource`];
//! `examples/another_hypervisor.rs` does it for a hypervisor of forty lines.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod layout;
mod page_set;
mod source;

#[cfg(feature = "vm-memory")]
pub mod guest;

pub use layout::{Layout, LayoutError, Region};
pub use page_set::{PageSet, RegionSet};
pub use source::DirtySource;
pub use vellum_pte::{AddressSpace, Gfn, GfnRange, Gpa, PAGE_SHIFT, PAGE_SIZE, SlotId};
