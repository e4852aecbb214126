//! Choosing a way for a VM, before it has vCPUs.

use crate::calls::Vm;
use crate::capabilities::{Capabilities, Capability, Missing, Way};
use kvm_bindings as kvm;
use kvm_ioctls::VmFd;
use std::io;

/// How many entries a vCPU's ring has: a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingSize(u32);

/// Why a ring cannot have this size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RingSizeError {
    /// Not a power of two.
    #[error("a ring has a power of two of entries, not {0}")]
    NoPowerOfTwo(u32),
    /// Less than the kernel needs as a reserve, or more than it gives.
    #[error("a ring has 1,024 to 65,536 entries, not {0}")]
    OutOfRange(u32),
}

impl RingSize {
    /// `entries`: 1,024 to 65,536. With fewer, a kernel that keeps a page-modification log would have no
    /// place but its reserve.
    ///
    /// # Errors
    /// [`RingSizeError`].
    pub const fn new(entries: u32) -> Result<Self, RingSizeError> {
        match entries {
            _ if !entries.is_power_of_two() => Err(RingSizeError::NoPowerOfTwo(entries)),
            1024..=65_536 => Ok(Self(entries)),
            _ => Err(RingSizeError::OutOfRange(entries)),
        }
    }

    /// Entries.
    #[must_use]
    pub const fn entries(self) -> u32 {
        self.0
    }

    fn bytes(self) -> u64 {
        u64::from(self.0) * size_of::<kvm::kvm_dirty_gfn>() as u64
    }
}

impl Default for RingSize {
    /// 65,536 entries, 1 MiB a vCPU: the largest, since a full one stops the guest.
    fn default() -> Self {
        Self(65_536)
    }
}

/// A VM whose way of tracking is settled. [`log`](Self::log) makes the log of it.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) vm: Vm,
    pub(crate) way: Way,
    pub(crate) ring: RingSize,
}

/// Why a VM cannot be tracked in the way that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The kernel cannot.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The kernel's rings are smaller.
    #[error("the kernel's rings have at most {most} entries, not {asked}")]
    RingTooLarge {
        /// What was asked for.
        asked: u32,
        /// What there is.
        most: u64,
    },
    /// The kernel can, and would not.
    #[error(
        "the kernel did not enable {capability}: rings are enabled once, before the first vCPU, and \
         their bitmaps before the first memslot"
    )]
    Refused {
        /// What it would not enable.
        capability: Capability,
        /// What it said.
        source: io::Error,
    },
    /// No other descriptor of the VM.
    #[error("the VM's descriptor could not be duplicated")]
    Duplicate(#[source] io::Error),
}

/// Settles how `vm` is tracked. With rings it has no vCPUs yet, and with their bitmaps no memslots
/// either; the others can be chosen whenever nothing is logged. `ring` counts only with rings.
///
/// # Errors
/// [`PrepareError`]; the VM is as it was, or has rings that it will not use.
pub fn prepare(vm: &VmFd, way: Way, ring: RingSize) -> Result<Prepared, PrepareError> {
    let capabilities = Capabilities::of(vm);
    capabilities.supports(way)?;
    let prepared = Prepared { vm: Vm::of(vm).map_err(PrepareError::Duplicate)?, way, ring };
    match way {
        // A VM that was prepared for another way before must not keep it.
        Way::ClearingGet if capabilities.supports(Way::Manual).is_ok() => prepared.manual(0)?,
        Way::ClearingGet => {}
        Way::Manual => prepared.manual(kvm::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)?,
        Way::ManualAllSet => prepared
            .manual(kvm::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | kvm::KVM_DIRTY_LOG_INITIALLY_SET)?,
        Way::Ring => prepared.rings(&capabilities)?,
        Way::RingWithBitmap => {
            prepared.rings(&capabilities)?;
            prepared.bitmaps()?;
        }
    }
    Ok(prepared)
}

impl Prepared {
    /// How the VM is tracked.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    fn manual(&self, flags: u32) -> Result<(), PrepareError> {
        let capability = Capability::ManualDirtyLogProtect2;
        self.enable(capability, kvm::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, flags.into())
    }

    fn rings(&self, capabilities: &Capabilities) -> Result<(), PrepareError> {
        let (asked, most) = (self.ring.entries(), capabilities.ring_entries());
        if u64::from(asked) > most {
            return Err(PrepareError::RingTooLarge { asked, most });
        }
        self.enable(Capability::DirtyLogRing, capabilities.ring_number(), self.ring.bytes())
    }

    fn bitmaps(&self) -> Result<(), PrepareError> {
        let capability = Capability::DirtyLogRingWithBitmap;
        self.enable(capability, kvm::KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0)
    }

    fn enable(
        &self,
        capability: Capability,
        number: u32,
        argument: u64,
    ) -> Result<(), PrepareError> {
        self.vm
            .enable(number, argument)
            .map_err(|source| PrepareError::Refused { capability, source })
    }
}
