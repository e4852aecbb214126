//! What a consumer of dirty tracking needs, and all that it needs: where the guest's memory is
//! ([`Layout`]), which pages changed ([`DirtySource`], [`PageSet`]), and, with the feature
//! `vm-memory`, the bytes themselves (`guest`).
//!
//! Live migration, snapshots and comparison are written against this crate alone, so they run over
//! every backend. To bring a backend of your own, implement [`DirtySource`];
//! `examples/another_hypervisor.rs` does it for a hypervisor of forty lines.
//!
//! What no MMU sees, a device's writes or a vhost back-end's, has logs of its own, [`DeviceLog`] and
//! [`ForeignLog`], and [`Sources`] makes one of several. `docs/devices.md` tells which to take.
#![cfg_attr(not(feature = "std"), no_std)]
#![cfg_attr(not(feature = "vm-memory"), forbid(unsafe_code))]

extern crate alloc;

mod device_log;
mod foreign;
mod layout;
mod mark;
mod page_set;
mod source;
mod sources;
mod sync;

#[cfg(all(test, not(loom)))]
mod scene;

#[cfg(feature = "vm-memory")]
pub mod guest;

pub use device_log::{DeviceLog, Marker};
pub use foreign::{AlwaysLogs, BitmapError, ForeignError, ForeignLog, ForeignWriter, SharedBits};
pub use layout::{Layout, LayoutError, Region};
pub use mark::Mark;
pub use page_set::{PageSet, RegionSet};
pub use source::{DirtySource, LogState, Misuse};
pub use sources::{JoinError, Sources, SourcesError};
pub use vellum_pte::{AddressSpace, Gfn, GfnRange, Gpa, PAGE_SHIFT, PAGE_SIZE, SlotId};
