//! What this processor can do, by its capability registers (Intel SDM vol. 3D, appendix A).
#![allow(unsafe_code)]

use runtime::x86_64::read_msr;
use vellum_mmu::SubPageHardware;
use vm::Features;

/// A register of capabilities, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Capability {
    /// The VMCS's revision, and whether the `True` registers are there.
    Basic = 0x480,
    /// Bits that CR0 must have.
    Cr0Fixed = 0x486,
    /// Bits that CR4 must have.
    Cr4Fixed = 0x488,
    /// Secondary controls.
    Secondary = 0x48b,
    /// EPT.
    Ept = 0x48c,
    /// Pin-based controls. The older register for the same is 12 before it, as for those below.
    TruePin = 0x48d,
    /// Processor-based controls.
    TrueProcessor = 0x48e,
    /// Exit controls.
    TrueExit = 0x48f,
    /// Entry controls.
    TrueEntry = 0x490,
}

/// EPT capabilities.
const HUGE_2M: u64 = 1 << 16;
const INVEPT_ALL: u64 = 1 << 20 | 1 << 26;
const ACCESSED_DIRTY: u64 = 1 << 21;
/// A walk of four levels, and write-back memory for the tables.
const OUR_TABLES: u64 = 1 << 6 | 1 << 14;

impl Capability {
    /// The register's value.
    pub(crate) fn read(self) -> u64 {
        // SAFETY: a processor with VMX has all of them; the `True` ones are asked for below.
        unsafe { read_msr(self as u32) }
    }

    /// The controls of this group that are set: those wanted, and those that have to be.
    ///
    /// # Panics
    /// Where the processor does not have one of them.
    pub(crate) fn controls(self, wanted: u64) -> u64 {
        let (must, may) = self.bounds();
        let controls = wanted | must;
        let missing = controls & !may;
        assert_eq!(missing, 0, "this processor lacks some of the controls {self:?}");
        controls
    }

    /// Which controls have to be set, and which may be.
    fn bounds(self) -> (u64, u64) {
        let has_true = Self::Basic.read() >> 55 & 1 == 1;
        let older = self as u32 - 12;
        let value = match self {
            Self::TruePin | Self::TrueProcessor | Self::TrueExit | Self::TrueEntry if !has_true => {
                // SAFETY: a processor with VMX has the older ones.
                unsafe { read_msr(older) }
            }
            _ => self.read(),
        };
        (value & 0xffff_ffff, value >> 32)
    }

    fn may(self, control: u64) -> bool {
        self.bounds().1 & control != 0
    }
}

/// Secondary controls (Intel SDM vol. 3C, table 25-7).
pub(crate) const ENABLE_EPT: u64 = 1 << 1;
pub(crate) const ENABLE_PAGE_LOG: u64 = 1 << 17;
pub(crate) const ENABLE_SUB_PAGES: u64 = 1 << 23;

/// What the hypervisor makes use of.
pub(crate) fn features() -> Features {
    let ept = Capability::Ept.read();
    let needed = OUR_TABLES | HUGE_2M | INVEPT_ALL;
    assert_eq!(ept & needed, needed, "this processor's EPT lacks what this hypervisor needs");
    let sub_pages = if Capability::Secondary.may(ENABLE_SUB_PAGES) {
        SubPageHardware::Present
    } else {
        SubPageHardware::Absent
    };
    Features {
        accessed_dirty: ept & ACCESSED_DIRTY != 0,
        page_log: Capability::Secondary.may(ENABLE_PAGE_LOG),
        sub_pages,
    }
}
