//! What a vCPU remembers of its walks.

use vellum_mmu::Access;
use vellum_pte::Level;

/// A leaf, with the permission of the whole path to it.
#[derive(Clone, Copy)]
pub struct Translation {
    pub first: usize,
    pub pages: usize,
    pub frame: usize,
    pub storable: bool,
}

impl Translation {
    pub fn frame_of(&self, page: usize) -> usize {
        self.frame + page - self.first
    }

    fn covers(&self, page: usize) -> bool {
        (self.first..self.first + self.pages).contains(&page)
    }
}

/// A table that was reached, with the permission of the path to it.
#[derive(Clone, Copy)]
pub struct Upper {
    pub first: usize,
    pub pages: usize,
    pub level: Level,
    pub table: u64,
    pub open: bool,
}

impl Upper {
    fn covers(&self, page: usize) -> bool {
        (self.first..self.first + self.pages).contains(&page)
    }
}

/// Leaves of both sizes, and upper entries. The least helpful one that architectures allow: it loses
/// nothing by itself, and of two leaves for a page takes the one that lets a store pass.
#[derive(Default)]
pub struct Tlb {
    leaves: Vec<Translation>,
    uppers: Vec<Upper>,
}

impl Tlb {
    /// A leaf that lets an access to the page pass.
    pub fn find(&self, page: usize, access: Access) -> Option<Translation> {
        let passes = |leaf: &&Translation| leaf.storable || access != Access::Write;
        self.leaves.iter().filter(|leaf| leaf.covers(page)).find(passes).copied()
    }

    /// The lowest table above a page that is cached.
    pub fn upper(&self, page: usize) -> Option<Upper> {
        let above = self.uppers.iter().copied().filter(|upper| upper.covers(page));
        above.min_by_key(|upper| upper.pages)
    }

    pub fn has_other_size(&self, leaf: Translation) -> bool {
        self.leaves.iter().any(|other| {
            let (small, large) =
                if other.pages < leaf.pages { (other, &leaf) } else { (&leaf, other) };
            small.pages != large.pages && large.covers(small.first)
        })
    }

    pub fn keep(&mut self, leaf: Translation) {
        self.leaves.retain(|other| (other.first, other.pages) != (leaf.first, leaf.pages));
        self.leaves.push(leaf);
    }

    pub fn keep_upper(&mut self, upper: Upper) {
        self.uppers.push(upper);
    }

    /// A page has faulted.
    pub fn forget(&mut self, page: usize) {
        self.leaves.retain(|leaf| !leaf.covers(page));
        self.uppers.retain(|upper| !upper.covers(page));
    }
}
