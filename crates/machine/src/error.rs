//! Why a machine could not be built.

use crate::port::ShootDown;
use crate::walker::Regime;
use vellum_memory::LayoutError;
use vellum_pte::{Gfn, GfnRange};

/// Why guest RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The region is larger than this host can address.
    #[error("a region of {} pages is larger than this host can address", .0.pages())]
    TooLarge(GfnRange),
    /// The host gives no memory for the region.
    #[error("no memory for a region of {} pages at frame {}", .range.pages(), .range.first())]
    Refused {
        /// The region.
        range: GfnRange,
        /// What the host said.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// Two regions cover the same page without being the same.
    #[error("regions share pages: {0}")]
    Overlap(#[from] vm_memory::GuestRegionCollectionError),
    /// There is no RAM at the page.
    #[error("no RAM at frame {0}")]
    NoRam(Gfn),
    /// The region does not end inside the address space.
    #[error("a region at frame {} ends past the last address", .0.first())]
    PastTheEnd(GfnRange),
}

/// Why a board could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The regions are no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// No guest RAM.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// This host cannot do the shoot-down that was asked for.
    #[error("this host does not offer the shoot-down {0:?}")]
    ShootDown(ShootDown),
    /// No processor walks this format's tables so.
    #[error("no {format} processor can be told {regime:?}")]
    Regime {
        /// The format's name.
        format: &'static str,
        /// What it was to be told.
        regime: Regime,
    },
    /// No processor with this format logs the pages that it writes.
    #[error("no {0} processor has a page-modification log: it is Intel's, with ept")]
    NoPageLog(&'static str),
    /// The library could not make its tables.
    #[error("the second-stage tables: {0}")]
    Tables(#[from] vellum_mmu::CreateVmError),
    /// A memslot could not be created.
    #[error(transparent)]
    Slot(#[from] vellum_mmu::CreateSlotError),
}
