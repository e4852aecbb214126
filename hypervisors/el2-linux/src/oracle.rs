//! Who changed what, found without the library: a digest of each page of the guest, taken while the
//! guest stands still.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use vellum_memory::RegionSet;
use vellum_pte::PAGE_SIZE;

const WORDS: usize = PAGE_SIZE as usize / size_of::<u64>();
type Page = [u64; WORDS];
type Digest = [u64; 2];

/// The guest's memory as it was at the last harvest.
///
/// What a guest writes while its caches are off goes past this program's on silicon: there the memory
/// would have to be cleaned before it is looked at. The emulator has no caches.
pub(crate) struct Oracle {
    first: *const Page,
    digests: Vec<Digest>,
}

/// What a harvest looks like to it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// Pages that are in the harvest.
    pub(crate) harvested: u64,
    /// Pages whose bytes are others than at the harvest before.
    pub(crate) changed: u64,
    /// Those of them that are not in the harvest: there must be none.
    pub(crate) lost: u64,
}

impl Oracle {
    /// Of `pages` pages from the host address `first` on, as they are now.
    pub(crate) fn new(first: u64, pages: u64) -> Self {
        let first = core::ptr::with_exposed_provenance(first as usize);
        let mut oracle = Self { first, digests: alloc::vec![[0; 2]; pages as usize] };
        oracle.begin();
        oracle
    }

    /// What the memory is now is what the next harvest is compared with.
    pub(crate) fn begin(&mut self) {
        for page in 0..self.digests.len() {
            self.digests[page] = self.digest(page);
        }
    }

    /// Compares `harvest` with what has changed since it was asked last.
    pub(crate) fn judge(&mut self, harvest: &RegionSet) -> Seen {
        let mut seen = Seen { harvested: harvest.count(), ..Seen::default() };
        for page in 0..self.digests.len() {
            let digest = self.digest(page);
            let before = core::mem::replace(&mut self.digests[page], digest);
            if digest != before {
                seen.changed += 1;
                seen.lost += u64::from(!harvest.contains(page as u64));
            }
        }
        seen
    }

    /// Four chains of steps that lose nothing and move every bit; two of them make a half each. So two
    /// pages that differ in one word of each chain at most have the same digest only if two chains of
    /// each half cancel out, and any two pages by a chance of about two to the power of -128.
    fn digest(&self, page: usize) -> Digest {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        // SAFETY: RAM of the guest's, of as many pages as there are digests; the guest stands still.
        let words = unsafe { &*self.first.add(page) };
        let mut chains = [1_u64, 2, 3, 4];
        for four in words.as_chunks::<4>().0 {
            for (chain, word) in chains.iter_mut().zip(four) {
                *chain = (*chain ^ word).wrapping_mul(ODD).rotate_left(32);
            }
        }
        let [a, b, c, d] = chains;
        let fold = |one: u64, other: u64| one.wrapping_mul(ODD).rotate_left(29) ^ other;
        [fold(a, b), fold(c, d)]
    }
}
