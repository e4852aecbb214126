//! Addresses and their units. Alignment and units live in these types, so that no bare `u64`
//! address crosses a public signature.

use core::fmt;

/// log2 of the size of a page.
pub const PAGE_SHIFT: u32 = 12;
/// The size of a page in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Wraps the bare number.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The bare number, for hardware and ioctls.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

hex_newtype! {
    /// A guest physical address, in bytes.
    Gpa
}
hex_newtype! {
    /// A guest frame number: a guest physical address in 4 KiB pages.
    Gfn
}
hex_newtype! {
    /// A host frame number: a host physical address in 4 KiB pages.
    Pfn
}

impl Gpa {
    /// The page that holds this byte.
    #[must_use]
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }

    /// The byte's place in its page, below [`PAGE_SIZE`].
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Gfn {
    /// The first byte of the page.
    #[must_use]
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }

    /// The frame `pages` further up, or `None` past the end of the number space.
    #[must_use]
    pub const fn checked_add(self, pages: u64) -> Option<Self> {
        match self.0.checked_add(pages) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// How many pages `self` lies above `base`, or `None` below it.
    #[must_use]
    pub const fn checked_sub(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }
}

impl Pfn {
    /// The host physical address of the frame, in bytes.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The frame at a host physical address, which is rounded down.
    #[must_use]
    pub const fn of_address(address: u64) -> Self {
        Self(address >> PAGE_SHIFT)
    }
}

/// Consecutive guest pages: the first, and how many.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GfnRange {
    first: Gfn,
    pages: u64,
}

impl GfnRange {
    /// `pages` pages from `first` on, or `None` where the end cannot be expressed.
    #[must_use]
    pub const fn new(first: Gfn, pages: u64) -> Option<Self> {
        match first.checked_add(pages) {
            Some(_) => Some(Self { first, pages }),
            None => None,
        }
    }

    /// The first page.
    #[must_use]
    pub const fn first(self) -> Gfn {
        self.first
    }

    /// How many pages.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// The page after the last.
    #[must_use]
    pub const fn end(self) -> Gfn {
        Gfn(self.first.0 + self.pages)
    }

    /// Whether `gfn` is one of these pages.
    #[must_use]
    pub const fn contains(self, gfn: Gfn) -> bool {
        self.offset_of(gfn).is_some()
    }

    /// The place of `gfn` in this range, in pages.
    #[must_use]
    pub const fn offset_of(self, gfn: Gfn) -> Option<u64> {
        match gfn.checked_sub(self.first) {
            Some(offset) if offset < self.pages => Some(offset),
            _ => None,
        }
    }

    /// The pages that both have; `None` if there are none.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let first = self.first.max(other.first);
        let pages = self.end().min(other.end()).checked_sub(first)?;
        if pages > 0 { Self::new(first, pages) } else { None }
    }

    /// Whether the two share a page.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first.0 < other.end().0 && other.first.0 < self.end().0
    }
}

/// A level of a page table, as x86 counts: 1 holds leaves of 4 KiB, the root is the highest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Level(u8);

impl Level {
    /// Page table: leaves of 4 KiB.
    pub const L1: Self = Self(1);
    /// Page directory: leaves of 2 MiB.
    pub const L2: Self = Self(2);
    /// Page-directory-pointer table: leaves of 1 GiB.
    pub const L3: Self = Self(3);
    /// The root of a four-level table.
    pub const L4: Self = Self(4);

    /// The number, from 1.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The level below; `None` below the last.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        if self.0 > 1 { Some(Self(self.0 - 1)) } else { None }
    }

    /// The level above; `None` above the root.
    #[must_use]
    pub const fn above(self) -> Option<Self> {
        if self.0 < 4 { Some(Self(self.0 + 1)) } else { None }
    }
}

/// Which address space a guest frame number belongs to: x86 has a second one for system
/// management mode. Ordinary guests use [`AddressSpace::NORMAL`] alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AddressSpace(pub u16);

impl AddressSpace {
    /// What the guest sees outside system management mode.
    pub const NORMAL: Self = Self(0);
    /// System management mode.
    pub const SMM: Self = Self(1);
}

/// The embedder's name for a memslot. Unique in its VM, over all address spaces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId(pub u16);
