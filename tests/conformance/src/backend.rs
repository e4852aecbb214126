//! What a backend offers to be held to the suite.

use std::sync::atomic::Ordering;
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap};
use vellum_memory::{DirtySource, PAGE_SIZE};
use vellum_pte::Gfn;

/// Pages at the start of the slot that a [`Plan`] leaves out, and that a guest may keep for itself.
pub const RESERVED: u64 = 256;
/// The oracles' slot: 1 GiB and 3 pages, so that nothing ends where a word or a table does.
pub const PAGES: u64 = (1 << 18) + 3;

/// Makes guests.
pub trait Backend {
    /// The guests it makes.
    type Guest: Guest;

    /// Which backend, format and way of tracking, for messages.
    fn name(&self) -> String;

    /// What the first round after a start names.
    fn begins(&self) -> Begins {
        Begins::Clean
    }

    /// A paused guest of one slot of [`PAGES`] pages, all zero, that follows `plan`. Its number is
    /// 1, and no log is on.
    fn guest(&self, plan: Plan) -> Self::Guest;
}

/// What a log's first round names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begins {
    /// What was written since the start.
    Clean,
    /// All pages: the consumer lets that round be its full copy.
    AllSet,
}

/// What a guest is to do: each vCPU stores the guest's number, again and again, to the first eight
/// bytes of pages that it draws from the plan's table.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many vCPUs.
    pub vcpus: usize,
    /// What random numbers are made from.
    pub seed: u64,
    /// The pages to draw from, [`Plan::TABLE`] entries; some occur often.
    pub table: Vec<u64>,
}

impl Plan {
    /// Entries of the table: a power of two.
    pub const TABLE: usize = 8192;

    /// Half of the draws go anywhere in the slot, half to some sixty pages: the slot's last, and a
    /// few neighbourhoods whose tables and TLB entries stay warm.
    #[must_use]
    pub fn new(vcpus: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let hot = hot_pages(&mut random);
        let anywhere = |random: &mut Random| RESERVED + random.below(PAGES - RESERVED);
        let table = (0..Self::TABLE).map(|entry| match entry % 2 {
            0 => anywhere(&mut random),
            _ => hot[entry / 2 % hot.len()],
        });
        Self { vcpus, seed, table: table.collect() }
    }

    /// The pages of the table, each once, in order.
    #[must_use]
    pub fn pages(&self) -> Vec<u64> {
        let mut pages = self.table.clone();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// What vCPU `index` begins its random numbers with.
    #[must_use]
    pub fn seed_of(&self, index: usize) -> Random {
        Random::new(self.seed ^ (index as u64 + 1) << 32)
    }
}

fn hot_pages(random: &mut Random) -> Vec<u64> {
    const NEIGHBOURS: u64 = 20;
    let bases: Vec<u64> =
        (0..3).map(|_| RESERVED + random.below(PAGES - RESERVED - NEIGHBOURS)).collect();
    let near = bases.iter().flat_map(|base| *base..base + NEIGHBOURS);
    near.chain([RESERVED]).chain(PAGES - 3..PAGES).collect()
}

/// A guest that follows a [`Plan`].
pub trait Guest {
    /// Its dirty log.
    type Source<'g>: DirtySource
    where
        Self: 'g;

    /// Its dirty log, which whoever asks starts. It is asked for once.
    fn source(&self) -> Self::Source<'_>;

    /// Which region of the log's layout is the slot.
    fn region(&self) -> usize {
        0
    }

    /// How many pages at the start of the slot, at most [`RESERVED`], it keeps for itself: nobody asks
    /// what a log says of them.
    fn kept(&self) -> u64 {
        0
    }

    /// From its next store on, each vCPU stores `number`.
    fn set_number(&self, number: u64);

    /// Lets the vCPUs run.
    fn resume(&self);

    /// On return no vCPU is in an access or a fault.
    fn pause(&self);

    /// The smallest number that a vCPU may still store.
    ///
    /// # Panics
    /// A vCPU has failed, so that waiting for it would be in vain. The same below.
    fn oldest_number(&self) -> u64;

    /// How many stores each vCPU has made; counted after the store has retired and before the
    /// next begins.
    fn stores(&self) -> Vec<u64>;

    /// The pages whose stores the vCPUs have begun and may not have made: paused, a vCPU that is stopped
    /// at any instruction may stand before one store, of the number that it has read already. Empty
    /// where a pause waits for the store.
    fn pending(&self) -> Vec<u64> {
        Vec::new()
    }

    /// The guest's memory, behind the log's back.
    fn memory(&self) -> &GuestMemoryMmap;

    /// The same memory as a device maps it: where the log is of a mapping, another mapping of it, if
    /// there can be one.
    fn devices_memory(&self) -> GuestMemoryMmap {
        self.memory().clone()
    }

    /// Where the slot begins in it.
    fn base(&self) -> Gfn;

    /// The number in a page of the slot.
    fn number_in(&self, page: u64) -> u64 {
        self.memory().load(self.address(page), Ordering::Acquire).expect("the page is RAM")
    }

    /// Where a page of the slot is.
    fn address(&self, page: u64) -> GuestAddress {
        GuestAddress(self.base().gpa().get() + page * PAGE_SIZE)
    }
}

/// Marsaglia's xorshift with 13, 7, 17: the same in Rust and in a few instructions of a guest.
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Different seeds give different numbers from the first on.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub const fn step(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub const fn below(&mut self, limit: u64) -> u64 {
        self.step() % limit
    }
}
