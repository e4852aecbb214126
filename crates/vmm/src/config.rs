//! What a machine is to have.

use std::fmt;
use vellum_kvm::{RingSize, Way};

/// The least memory that every guest of this crate runs in, in bytes.
pub const MINIMUM_MEMORY: u64 = 8 << 20;
/// The most memory of a machine, in bytes: what one table of the third level maps, less the 4 GiB
/// below RAM.
pub const MOST_MEMORY: u64 = (512 - 4) << 30;
/// The most vCPUs of a machine.
pub const MOST_VCPUS: usize = 64;

/// What a machine is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Bytes of RAM: [`MINIMUM_MEMORY`] to [`MOST_MEMORY`], rounded up to pages.
    pub memory: u64,
    /// vCPUs: 1 to [`MOST_VCPUS`].
    pub vcpus: usize,
    /// What is behind RAM.
    pub backing: Backing,
    /// How the kernel logs writes.
    pub way: Way,
    /// How large dirty rings are, in a way that has them.
    pub ring: RingSize,
    /// What the guest makes its random numbers from.
    pub seed: u64,
    /// A number for the guest: of the writers, how many bytes they write to. See [`crate::Guest`].
    pub word: u64,
}

impl Config {
    /// With pages of 4 KiB, manual protection, the largest ring, seed 1 and word 0.
    #[must_use]
    pub fn new(memory: u64, vcpus: usize) -> Self {
        Self {
            memory,
            vcpus,
            backing: Backing::default(),
            way: Way::Manual,
            ring: RingSize::default(),
            seed: 1,
            word: 0,
        }
    }
}

/// The host's pages behind RAM.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Backing {
    /// 4 KiB each: the host is told to make no huge pages (`MADV_NOHUGEPAGE`).
    #[default]
    Small,
    /// The host is asked for transparent huge pages (`MADV_HUGEPAGE`), and guest and host addresses are
    /// aligned alike for them. It may decline.
    Transparent,
    /// Pages of 2 MiB from the host's pool (`MAP_HUGETLB`), all reserved when the machine is made.
    Huge,
}

impl Backing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Small, Self::Transparent, Self::Huge];

    /// Its name on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Transparent => "transparent",
            Self::Huge => "huge",
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
