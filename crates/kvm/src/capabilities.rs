//! What the kernel can, and which way of tracking needs which of it.

use core::fmt;
use kvm_bindings as kvm;
use kvm_ioctls::VmFd;

/// How the kernel keeps the log, and how it is read. `docs/kvm.md` compares them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Way {
    /// `KVM_GET_DIRTY_LOG` reads a slot's bitmap, empties it and protects what was in it, all in one
    /// call. Every kernel can.
    ClearingGet,
    /// `KVM_GET_DIRTY_LOG` only reads; `KVM_CLEAR_DIRTY_LOG` empties and protects the range that is
    /// about to be copied, so a page that is written again before it is copied is copied once.
    Manual,
    /// The same, begun with every bit set and nothing protected: starting the log costs next to
    /// nothing, and the first round names all pages. A consumer lets that round be its full copy.
    ManualAllSet,
    /// Each vCPU writes its pages into a ring of its own, and leaves the guest when that is full. Where
    /// a kernel has [`RingWithBitmap`](Self::RingWithBitmap) rings alone are refused: they lose pages.
    Ring,
    /// Rings, and bitmaps for what is written with no vCPU running, as Arm's interrupt tables are.
    RingWithBitmap,
}

/// Something of the kernel that a [`Way`] needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Capability {
    /// A get that only reads, and a clear. Linux 5.2.
    ManualDirtyLogProtect2,
    /// The flag of it by which a log begins all set. Linux 5.7.
    DirtyLogInitiallySet,
    /// A ring a vCPU, on processors that keep stores in order or with a kernel that says
    /// `KVM_CAP_DIRTY_LOG_RING_ACQ_REL`. Linux 5.11, and 6.1.
    DirtyLogRing,
    /// Bitmaps beside the rings. Linux 6.2, where the architecture has a use for it: on Arm.
    DirtyLogRingWithBitmap,
    /// Rings that miss nothing by themselves. Where there are bitmaps beside them they do: what the
    /// kernel writes with no vCPU running, and, in Arm's kernel (6.12 for one), all pages of a huge
    /// mapping but the first that is written.
    CompleteRing,
}

/// The kernel lacks what a way of tracking needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{way} needs {capability}, which this kernel does not have: it has {best}")]
pub struct Missing {
    /// The way that was asked for.
    pub way: Way,
    /// What it would need.
    pub capability: Capability,
    /// The best way that this kernel has.
    pub best: Way,
}

/// What a VM's kernel can track with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    manual: u64,
    ring_bytes: u64,
    ring: u32,
    bitmaps: u64,
}

impl Capabilities {
    /// Asks the kernel of `vm`.
    #[must_use]
    pub fn of(vm: &VmFd) -> Self {
        let ask =
            |capability: u32| u64::try_from(vm.check_extension_raw(capability.into())).unwrap_or(0);
        let ordered = ask(kvm::KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
        let (ring, ring_bytes) = match ordered {
            0 => (kvm::KVM_CAP_DIRTY_LOG_RING, ask(kvm::KVM_CAP_DIRTY_LOG_RING)),
            bytes => (kvm::KVM_CAP_DIRTY_LOG_RING_ACQ_REL, bytes),
        };
        Self {
            manual: ask(kvm::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2),
            ring_bytes,
            ring,
            bitmaps: ask(kvm::KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP),
        }
    }

    /// The way to take unless something speaks for another: [`Way::Manual`], or what an old kernel has.
    /// The others ask something of the monitor (a first round that is everything; a vCPU loop that
    /// knows of full rings), so they are never chosen unasked.
    #[must_use]
    pub fn best(&self) -> Way {
        match self.lacks(Way::Manual) {
            None => Way::Manual,
            Some(_) => Way::ClearingGet,
        }
    }

    /// Whether `way` can be taken.
    ///
    /// # Errors
    /// [`Missing`] names what the kernel would need.
    pub fn supports(&self, way: Way) -> Result<(), Missing> {
        match self.lacks(way) {
            None => Ok(()),
            Some(capability) => Err(Missing { way, capability, best: self.best() }),
        }
    }

    /// The most entries that a ring may have; 0 where there are no rings.
    #[must_use]
    pub fn ring_entries(&self) -> u64 {
        self.ring_bytes / size_of::<kvm::kvm_dirty_gfn>() as u64
    }

    /// The number of the capability by which rings are enabled.
    pub(crate) fn ring_number(&self) -> u32 {
        self.ring
    }

    fn lacks(&self, way: Way) -> Option<Capability> {
        way.needs().iter().copied().find(|&capability| !self.has(capability))
    }

    fn has(&self, capability: Capability) -> bool {
        let flag = |flag: u32| self.manual & u64::from(flag) != 0;
        match capability {
            Capability::ManualDirtyLogProtect2 => flag(kvm::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE),
            Capability::DirtyLogInitiallySet => flag(kvm::KVM_DIRTY_LOG_INITIALLY_SET),
            Capability::DirtyLogRing => self.ring_bytes != 0,
            Capability::DirtyLogRingWithBitmap => self.bitmaps != 0,
            Capability::CompleteRing => self.bitmaps == 0,
        }
    }
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ClearingGet, Self::Manual, Self::ManualAllSet, Self::Ring, Self::RingWithBitmap];

    /// What it is called, in a word or two.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClearingGet => "clearing-get",
            Self::Manual => "manual",
            Self::ManualAllSet => "manual-all-set",
            Self::Ring => "ring",
            Self::RingWithBitmap => "ring-with-bitmap",
        }
    }

    /// What the kernel must have for it.
    #[must_use]
    pub const fn needs(self) -> &'static [Capability] {
        match self {
            Self::ClearingGet => &[],
            Self::Manual => &[Capability::ManualDirtyLogProtect2],
            Self::ManualAllSet => {
                &[Capability::ManualDirtyLogProtect2, Capability::DirtyLogInitiallySet]
            }
            Self::Ring => &[Capability::DirtyLogRing, Capability::CompleteRing],
            Self::RingWithBitmap => &[Capability::DirtyLogRing, Capability::DirtyLogRingWithBitmap],
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ManualDirtyLogProtect2 => "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (Linux 5.2)",
            Self::DirtyLogInitiallySet => "KVM_DIRTY_LOG_INITIALLY_SET (Linux 5.7)",
            Self::DirtyLogRing => "KVM_CAP_DIRTY_LOG_RING (Linux 5.11)",
            Self::DirtyLogRingWithBitmap => {
                "KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP (Linux 6.2, on Arm)"
            }
            Self::CompleteRing => "rings that lose nothing without bitmaps (not on Arm)",
        })
    }
}

#[cfg(test)]
mod tests;
