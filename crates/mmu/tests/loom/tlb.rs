//! What a vCPU remembers of its walks.

use vellum_mmu::Access;
use vellum_pte::Level;

/// A byte that is accessed.
#[derive(Clone, Copy)]
pub struct Place {
    pub page: usize,
    pub sub_page: u32,
}

impl Place {
    /// The first byte of a page.
    pub const fn of(page: usize) -> Self {
        Self { page, sub_page: 0 }
    }
}

/// Which stores a translation lets pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stores {
    /// None.
    None,
    /// Those that the sub-page tables permit, whoever looks there: it came by a load.
    Asks,
    /// Those to sub-pages whose bit is set.
    Partly(u64),
    /// All.
    All,
}

/// A leaf, with the permission of the whole path to it.
#[derive(Clone, Copy)]
pub struct Translation {
    pub first: usize,
    pub pages: usize,
    pub frame: usize,
    pub stores: Stores,
}

impl Translation {
    pub fn lets_pass(&self, place: Place, access: Access) -> bool {
        access == Access::Read
            || match self.stores {
                Stores::None | Stores::Asks => false,
                Stores::Partly(vector) => vector >> place.sub_page & 1 != 0,
                Stores::All => true,
            }
    }

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

/// Leaves of both sizes, and upper entries, those of sub-page tables too. The least helpful one that
/// architectures allow: it loses nothing by itself, and of two leaves for a page takes the one that
/// lets a store pass.
#[derive(Default)]
pub struct Tlb {
    leaves: Vec<Translation>,
    uppers: Vec<Upper>,
    sub_page_tables: Vec<Upper>,
    /// Pages whose D this vCPU has set and nobody has asked for: its page-modification log.
    logged: Vec<usize>,
}

impl Tlb {
    /// What a shoot-down leaves: no translation.
    pub fn forget_all(&mut self) {
        *self = Self { logged: self.take_logged(), ..Self::default() };
    }

    pub fn log(&mut self, page: usize) {
        self.logged.push(page);
    }

    pub fn take_logged(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.logged)
    }

    /// A leaf that lets an access pass.
    pub fn find(&self, place: Place, access: Access) -> Option<Translation> {
        let there = self.leaves.iter().filter(|leaf| leaf.covers(place.page));
        there.copied().find(|leaf| leaf.lets_pass(place, access))
    }

    /// A leaf that leaves it to the sub-page tables.
    pub fn asks(&self, place: Place, access: Access) -> Option<Translation> {
        let asks = |leaf: &&Translation| leaf.covers(place.page) && leaf.stores == Stores::Asks;
        self.leaves.iter().find(asks).filter(|_| access != Access::Read).copied()
    }

    /// The lowest table above a page that is cached.
    pub fn upper(&self, page: usize) -> Option<Upper> {
        lowest(&self.uppers, page)
    }

    /// The lowest sub-page table above a page that is cached.
    pub fn sub_page_table(&self, page: usize) -> Option<Upper> {
        lowest(&self.sub_page_tables, page)
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

    pub fn keep_sub_page_table(&mut self, table: Upper) {
        self.sub_page_tables.push(table);
    }

    /// A page has faulted. What is known of sub-page tables stays: no manual says that it goes.
    pub fn forget(&mut self, page: usize) {
        self.leaves.retain(|leaf| !leaf.covers(page));
        self.uppers.retain(|upper| !upper.covers(page));
    }
}

fn lowest(cached: &[Upper], page: usize) -> Option<Upper> {
    let above = cached.iter().copied().filter(|upper| upper.covers(page));
    above.min_by_key(|upper| upper.pages)
}
