//! Second-stage page-table entries: what an entry *means* and how hardware *spells* it.
//!
//! | format | manual | levels | leaf sizes |
//! |---|---|---|---|
//! | [`Ept`] | Intel SDM vol. 3C, 29.3 "The Extended Page Table Mechanism" | 4 | 4 KiB, 2 MiB, 1 GiB |
//! | [`Npt`] | AMD APM vol. 2, 15.25 "Nested Paging" (long-mode tables, APM vol. 2, 5.3) | 4 | 4 KiB, 2 MiB, 1 GiB |
//! | [`Sppt`] | Intel SDM vol. 3C, 29.3.4 "Sub-Page Write Permissions" | 4 | none: 128-byte permissions of 4 KiB pages |
//! | [`Stage2`] | Arm ARM (DDI 0487) D8, VMSAv8-64 stage 2, 4 KiB granule | 2 to 4, up to 16 roots side by side | 4 KiB, 2 MiB, 1 GiB |
//!
//! Formats are types, so several can live in one binary. A format only encodes and decodes; the
//! law `decode(encode(entry)) == entry` is a property test.
//!
//! ```
//! use vellum_pte::{Ept, Entry, Leaf, Level, Pfn, TableFormat, Write};
//!
//! let leaf = Leaf::new(Pfn::new(0x1234), Write::Liftable);
//! let raw = Ept::encode(Entry::Leaf(leaf), Level::L1);
//! assert!(!Ept::is_storable(raw));
//! let opened = Ept::open(raw);
//! assert!(Ept::is_storable(opened));
//! assert_eq!(Ept::close(opened), raw);
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod bits;
mod entry;
mod ept;
mod format;
mod npt;
mod sppt;
mod stage2;
mod sub_pages;
#[cfg(test)]
mod tests;
mod x86;

pub use address::{AddressSpace, Gfn, GfnRange, Gpa, Level, PAGE_SHIFT, PAGE_SIZE, Pfn, SlotId};
pub use entry::{Entry, Gate, Leaf, Write};
pub use ept::Ept;
pub use format::{
    ClearAccessed, ClosedTable, Format, Opened, Raw, Replace, Root, SubPageFormat, SubPageTables,
    TableFormat,
};
pub use npt::Npt;
pub use sppt::{Sppt, SubPageEvent};
pub use stage2::Stage2;
pub use sub_pages::{SUB_PAGE_SIZE, SubPageMap};
