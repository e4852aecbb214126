//! D bits as the log: a processor in software sets them, and every way of reading the log hears of it.
#![cfg(not(loom))]
#![allow(unsafe_code, reason = "an embedder lends out frames, and a processor walks them")]

mod lender;

use lender::Lender;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::*;
use vellum_pte::{
    AddressSpace, Entry, Ept, Format, Gate, Gfn, GfnRange, Leaf, Npt, Pfn, Raw, SlotId, Stage2,
    Write,
};

const SPACE: AddressSpace = AddressSpace::NORMAL;
const FIRST: u64 = 0x4_0100;
/// Two slots that meet in the middle of a table of leaves.
const SLOTS: [(SlotId, u64, u64); 2] = [(SlotId(1), FIRST, 900), (SlotId(2), FIRST + 900, 1500)];
const PAGES: u64 = 2400;

/// One vCPU of hardware that sets D, and caches that it has.
struct Hardware<'m, F: Format> {
    mmu: &'m Mmu<F, Lender>,
    lender: Lender,
    vcpu: Vcpu<'m, F, Lender>,
    /// Pages that its TLB holds as writable and dirty, until a shoot-down.
    cached: BTreeSet<u64>,
    shoot_downs: usize,
    faults: Cell<usize>,
    log: DirtyBits,
}

fn config(dirty_bits: DirtyBits) -> Config {
    Config { dirty_bits, ..Config::default() }
}

fn vm<F: Format>(lender: &Lender, dirty_bits: DirtyBits) -> Mmu<F, Lender> {
    broken(lender, config(dirty_bits))
}

fn broken<F: Format>(lender: &Lender, config: Config) -> Mmu<F, Lender> {
    let mmu = Mmu::new(lender.clone(), config).expect("memory");
    for (id, first, pages) in SLOTS {
        let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
        let spec = SlotSpec { log: LogMode::On, ..SlotSpec::new(id, SPACE, range) };
        mmu.create_slot(spec).expect("fits");
    }
    mmu
}

impl<'m, F: Format> Hardware<'m, F> {
    fn new(mmu: &'m Mmu<F, Lender>, lender: &Lender, log: DirtyBits) -> Self {
        let vcpu = mmu.vcpu().expect("memory");
        let (lender, faults) = (lender.clone(), Cell::new(0));
        Self { mmu, lender, vcpu, cached: BTreeSet::new(), shoot_downs: 0, faults, log }
    }

    fn store(&mut self, page: u64) {
        let gfn = Gfn::new(FIRST + page);
        if self.lender.shoot_downs() != self.shoot_downs {
            self.cached.clear();
            self.shoot_downs = self.lender.shoot_downs();
        }
        while !self.cached.contains(&page) && !self.sets_dirty(gfn) {
            self.faults.set(self.faults.get() + 1);
            let outcome = self.vcpu.fault(SPACE, gfn.gpa(), Access::Write);
            assert!(matches!(outcome, Outcome::Mapped | Outcome::Spurious), "{outcome:?}");
        }
        self.cached.insert(page);
    }

    /// Walks; at a leaf that a store passes, sets D, and logs where it was clear.
    fn sets_dirty(&mut self, gfn: Gfn) -> bool {
        let shape = self.mmu.root_shape();
        let (mut level, bits) = (shape.level, u32::from(shape.level.get()) * F::INDEX_BITS);
        let root = self.mmu.root(SPACE).expect("there").get() + (gfn.get() >> bits);
        let mut table = Pfn::new(root);
        loop {
            let shift = u32::from(level.get() - 1) * F::INDEX_BITS;
            let index = gfn.get() >> shift & 0x1ff;
            let entry = (table.address() + index * 8) as *const EntryWord;
            // SAFETY: tables are of leaked memory, aligned, of 512 entries.
            let entry = unsafe { &*entry };
            let raw = Raw(entry.load(Ordering::Relaxed));
            match F::decode(raw, level) {
                Entry::Table { child, gate: Gate::Open, .. } => table = child,
                Entry::Leaf(leaf) if leaf.write == Write::Storable => {
                    if !leaf.dirty && self.log == DirtyBits::Logged {
                        self.lender.log(gfn.gpa().get() | 0xabc);
                    }
                    let dirty = F::encode(Entry::Leaf(Leaf { dirty: true, ..leaf }), level);
                    entry.store(dirty.0, Ordering::Relaxed);
                    return true;
                }
                _ => return false,
            }
            level = level.below().expect("leaves end it");
        }
    }

    fn exit(&mut self) {
        let logged = self.lender.take_logged();
        self.vcpu.log_stores(SPACE, &logged);
    }

    /// What one way of harvesting finds, of both slots.
    fn harvest(&mut self, way: Way) -> BTreeSet<u64> {
        self.exit();
        let mut found = BTreeSet::new();
        for (id, first, pages) in SLOTS {
            let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
            let layout = Layout::new(vec![Region { slot: id, space: SPACE, range }]);
            let mut set = PageSet::new(&layout.expect("one region"));
            let into = &mut set.regions_mut()[0];
            match way {
                Way::Pages => self.mmu.take_dirty(id, Protect::Pages, into).expect("logged"),
                Way::Everything => self.mmu.take_dirty(id, Protect::Nothing, into).expect("logged"),
                Way::Manual => {
                    self.mmu.read_dirty(id, into).expect("logged");
                    let whole = ClearRange { first: 0, pages };
                    self.mmu.clear_dirty(id, whole, &[u64::MAX; 30], into).expect("in range");
                }
            }
            found.extend(set.regions()[0].pages().map(|page| first - FIRST + page));
        }
        if way == Way::Everything {
            self.mmu.write_protect_all();
        }
        found
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Pages,
    Everything,
    Manual,
}

const WAYS: [Way; 3] = [Way::Pages, Way::Everything, Way::Manual];

macro_rules! in_all_formats {
    ($($name:ident => $law:ident;)*) => {$(
        #[test]
        fn $name() {
            for log in [DirtyBits::Scanned, DirtyBits::Logged] {
                $law::<Ept>(log);
                $law::<Npt>(log);
                $law::<Stage2>(log);
            }
        }
    )*};
}

in_all_formats! {
    each_store_is_in_the_next_harvest_and_nothing_else_is => random_rounds;
    a_page_that_was_written_once_faults_no_more => no_fault_a_page;
    after_write_protect_all_a_round_costs_one_fault_a_table => one_fault_a_table;
    what_was_stored_before_the_log_began_is_in_no_harvest => begins_clean;
    a_leaf_that_goes_leaves_its_page_in_the_log => gone_leaves;
    a_slot_that_moves_takes_along_what_hardware_knows => moved;
    who_starts_a_log_that_another_is_starting_pays_for_its_shoot_down => started_twice;
    what_is_forgotten_is_in_no_harvest_until_it_is_stored_again => forgotten;
}

/// A few hundred rounds of stores and harvests of all kinds, against a set.
fn random_rounds<F: Format>(log: DirtyBits) {
    let lender = Lender::default();
    let mmu = vm::<F>(&lender, log);
    let mut hardware = Hardware::new(&mmu, &lender, log);
    assert_eq!(rounds(&mut hardware, 300), None, "{} {log:?}", F::NAME);
}

/// Says at which round a harvest and the stores disagreed, and how.
fn rounds<F: Format>(
    hardware: &mut Hardware<'_, F>,
    count: usize,
) -> Option<(usize, Way, BTreeSet<u64>, BTreeSet<u64>)> {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for round in 0..count {
        let around = next(PAGES);
        let stored: BTreeSet<_> = (0..next(40)).map(|_| (around + next(300)) % PAGES).collect();
        stored.iter().for_each(|page| hardware.store(*page));
        match next(8) {
            0 => hardware.mmu.write_protect_all(),
            1 => {
                hardware.exit();
                let some = GfnRange::new(Gfn::new(FIRST + around), 200).expect("in range");
                drop(hardware.mmu.invalidate(SPACE, some));
            }
            _ => {}
        }
        let way = WAYS[usize::try_from(next(3)).expect("small")];
        let found = hardware.harvest(way);
        if found != stored {
            return Some((round, way, stored, found));
        }
    }
    None
}

fn no_fault_a_page<F: Format>(log: DirtyBits) {
    let lender = Lender::default();
    let mmu = vm::<F>(&lender, log);
    let mut hardware = Hardware::new(&mmu, &lender, log);
    (0..500).for_each(|page| hardware.store(page));
    hardware.harvest(Way::Pages);
    hardware.faults.set(0);
    (0..500).for_each(|page| hardware.store(page));
    assert_eq!(hardware.faults.get(), 0);
    assert_eq!(hardware.harvest(Way::Pages), (0..500).collect());
}

fn one_fault_a_table<F: Format>(log: DirtyBits) {
    let lender = Lender::default();
    let mmu = vm::<F>(&lender, log);
    let mut hardware = Hardware::new(&mmu, &lender, log);
    (0..PAGES).for_each(|page| hardware.store(page));
    for _ in 0..3 {
        assert_eq!(hardware.harvest(Way::Everything).len() as u64, PAGES);
        hardware.faults.set(0);
        (0..PAGES).for_each(|page| hardware.store(page));
        let last = FIRST + PAGES - 1;
        let tables = last / 512 - FIRST / 512 + 1;
        assert_eq!(hardware.faults.get() as u64, tables, "{}", F::NAME);
    }
    hardware.harvest(Way::Everything);
    assert_eq!(hardware.harvest(Way::Everything), BTreeSet::new(), "nothing twice");
}

fn begins_clean<F: Format>(log: DirtyBits) {
    let lender = Lender::default();
    let mmu = vm::<F>(&lender, log);
    let mut hardware = Hardware::new(&mmu, &lender, log);
    for (id, ..) in SLOTS {
        mmu.stop_log(id).expect("logged");
    }
    (0..PAGES).for_each(|page| hardware.store(page));
    hardware.exit();
    for (id, ..) in SLOTS {
        mmu.start_log(id, Initial::Clean).expect("memory");
    }
    hardware.store(17);
    hardware.store(2000);
    assert_eq!(hardware.harvest(Way::Pages), [17, 2000].into());
}

fn started_twice<F: Format>(log: DirtyBits) {
    let lender = Lender::default();
    let mmu = Arc::new(vm::<F>(&lender, log));
    let (id, ..) = SLOTS[0];
    mmu.stop_log(id).expect("logged");
    Hardware::new(&mmu, &lender, log).store(17);
    let (another, shot_down) = (Arc::clone(&mmu), lender.clone());
    lender.before_shoot_down(move || {
        let before = shot_down.shoot_downs();
        another.start_log(id, Initial::Clean).expect("it is on");
        assert!(shot_down.shoot_downs() > before, "a processor has the page as dirty: {log:?}");
    });
    mmu.start_log(id, Initial::Clean).expect("memory");
}

fn gone_leaves<F: Format>(log: DirtyBits) {
    let lender = Lender::default();
    let mmu = vm::<F>(&lender, log);
    let mut hardware = Hardware::new(&mmu, &lender, log);
    (0..50).for_each(|page| hardware.store(page));
    hardware.harvest(Way::Everything);
    (0..50).for_each(|page| hardware.store(page));
    hardware.exit();
    drop(mmu.invalidate(SPACE, GfnRange::new(Gfn::new(FIRST), PAGES).expect("in range")));
    assert_eq!(hardware.harvest(Way::Everything), (0..50).collect());
}

fn moved<F: Format>(log: DirtyBits) {
    let lender = Lender::default();
    let mmu = vm::<F>(&lender, log);
    let mut hardware = Hardware::new(&mmu, &lender, log);
    (0..50).for_each(|page| hardware.store(page));
    hardware.harvest(Way::Pages);
    (0..50).for_each(|page| hardware.store(page));
    hardware.exit();
    there_and_back(&mmu);
    assert_eq!(hardware.harvest(Way::Pages), (0..50).collect());
}

fn there_and_back<F: Format>(mmu: &Mmu<F, Lender>) {
    let (id, first, pages) = SLOTS[0];
    for to in [0x8_0007, first] {
        let range = GfnRange::new(Gfn::new(to), pages).expect("in range");
        let spec = SlotSpec::new(id, SPACE, range);
        let moved = SlotSpec { log: LogMode::On, memory: MemoryId(first), ..spec };
        mmu.change_slot(moved).expect("free there");
    }
}

fn forgotten<F: Format>(log: DirtyBits) {
    let lender = Lender::default();
    let mmu = vm::<F>(&lender, log);
    let mut hardware = Hardware::new(&mmu, &lender, log);
    (0..50).for_each(|page| hardware.store(page));
    hardware.harvest(Way::Everything);
    (0..50).for_each(|page| hardware.store(page));
    mmu.forget(SPACE, GfnRange::new(Gfn::new(FIRST), 20).expect("in range"));
    hardware.store(3);
    assert_eq!(hardware.harvest(Way::Pages), [3].into_iter().chain(20..50).collect());
}

/// The processor sets D and logs it when the move has begun and the slot is still there.
#[test]
fn a_slot_that_moves_takes_along_what_is_logged_meanwhile() {
    let lender = Lender::default();
    let mmu = vm::<Ept>(&lender, DirtyBits::Logged);
    let mut hardware = Hardware::new(&mmu, &lender, DirtyBits::Logged);
    hardware.store(7);
    hardware.harvest(Way::Pages);
    lender.log_after_asking(Gfn::new(FIRST + 7).gpa().get());
    there_and_back(&mmu);
    assert_eq!(hardware.harvest(Way::Pages), [7].into());
}

#[test]
fn hardware_that_sets_no_accessed_bits_cannot_log() {
    let config = Config { accessed: AccessedBits::NotSet, ..config(DirtyBits::Scanned) };
    let made = Mmu::<Ept, _>::new(Lender::default(), config);
    assert!(matches!(made, Err(CreateVmError::DirtyWithoutAccessed)));
}

#[test]
fn a_ring_keeps_room_for_what_hardware_logs() {
    let made = |buffered| {
        let ring = Some(RingSize::new(4096, buffered).expect("above the reserve"));
        Mmu::<Ept, _>::new(Lender::default(), Config { ring, ..config(DirtyBits::Logged) })
    };
    assert!(matches!(made(0), Err(CreateVmError::RingReserve)));
    assert!(made(512).is_ok());
}

/// Each rule of the scan is needed.
#[cfg(feature = "breaks")]
#[test]
fn a_scan_that_breaks_a_rule_loses_a_store() {
    for bug in [Break::ForgetTouched, Break::ClearQuietly, Break::DropCredit] {
        let lender = Lender::default();
        let config = Config { broken: Some(bug), ..config(DirtyBits::Scanned) };
        let mmu = broken::<Ept>(&lender, config);
        let mut hardware = Hardware::new(&mmu, &lender, DirtyBits::Scanned);
        let lost =
            rounds(&mut hardware, 300).map(|(_, _, stored, found)| !found.is_superset(&stored));
        assert_eq!(lost, Some(true), "{bug:?}");
    }
}
