//! Write-protect-all in O(1): what it changes in the frames, and what a round after it costs.

use std::collections::BTreeSet;
use vellum_conformance::backend::Random;
use vellum_conformance::hypervisor::{
    Backings, Cpu, Hypervisor, Plenty, Rule, VirtualCpu, changed_entries,
};
use vellum_mmu::{Config, Event, Initial, LogMode, Mmu, SlotSpec};
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Npt, PAGE_SIZE, Pfn, SlotId, Stage2};

const SMALL: u64 = (64 << 20) / PAGE_SIZE;
const LARGE: u64 = (1 << 40) / PAGE_SIZE;
/// Where slots begin: no table's first page.
const FIRST: u64 = 3;

type Guest<F> = Mmu<F, Hypervisor>;

/// A VM with a slot of `pages` in each of `spaces` address spaces.
fn guest_over<F: Format>(backings: Backings, pages: u64, spaces: u16, log: LogMode) -> Guest<F> {
    // Where the format says how many bits to translate, enough of them, and several root tables.
    let address_bits = if F::ADDRESS_BITS < 48 && pages == LARGE { 42 } else { F::ADDRESS_BITS };
    let config = Config { spaces, address_bits: Some(address_bits), ..Config::default() };
    let rule = Rule { backings, skew: 0 };
    let mmu = Mmu::new(Hypervisor::with_memory(Plenty).backed_by(rule), config).expect("memory");
    for space in 0..spaces {
        let range = GfnRange::new(Gfn::new(FIRST), pages).expect("in range");
        let (id, space) = (SlotId(space), AddressSpace(space));
        mmu.create_slot(SlotSpec { log, ..SlotSpec::new(id, space, range) }).expect("memory");
    }
    mmu
}

fn guest<F: Format>(pages: u64, spaces: u16) -> Guest<F> {
    guest_over(Backings::Small, pages, spaces, LogMode::On)
}

/// Up to 2000 pages of a slot, scattered, in order and each once.
fn scattered(pages: u64) -> Vec<Gfn> {
    let mut random = Random::new(7);
    let mut chosen: Vec<_> = (0..2000).map(|_| Gfn::new(FIRST + random.below(pages))).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

fn cpu<F: Format>(mmu: &Guest<F>, space: AddressSpace) -> VirtualCpu<'_, F, Plenty> {
    VirtualCpu::new(mmu, 0, space).expect("memory")
}

fn store_all<F: Format>(cpu: &mut VirtualCpu<'_, F, Plenty>, pages: &[Gfn]) {
    pages.iter().for_each(|page| cpu.store(page.gpa(), 1).expect("a slot"));
}

fn load_all<F: Format>(cpu: &mut VirtualCpu<'_, F, Plenty>, pages: &[Gfn]) {
    pages.iter().for_each(|page| assert_eq!(cpu.load(page.gpa()), Ok(1)));
}

/// All root tables of so many spaces.
fn roots<F: Format>(mmu: &Guest<F>, spaces: u16) -> Vec<Pfn> {
    let first = |space| mmu.root(AddressSpace(space)).expect("it is").get();
    let tables = u64::from(mmu.root_shape().tables);
    let beside = (0..spaces).map(first).flat_map(|first| first..first + tables);
    beside.map(Pfn::new).collect()
}

/// Those that something is mapped below.
fn roots_in_use<F: Format>(mmu: &Guest<F>, spaces: u16) -> Vec<Pfn> {
    let frames = mmu.embedder().snapshot();
    let used = |root: &Pfn| frames[root].iter().any(|entry| F::is_present(*entry));
    let mut used: Vec<_> = roots(mmu, spaces).into_iter().filter(used).collect();
    used.sort_unstable();
    used
}

/// Protects all, and looks at what that changed: the tables that are roots in use, and one
/// shoot-down.
fn protect_all_touches_only_the_roots<F: Format>(mmu: &Guest<F>, spaces: u16) {
    let (frames, counts) = (mmu.embedder().snapshot(), mmu.counters());
    mmu.write_protect_all();
    let changed = changed_entries::<F>(&frames, &mmu.embedder().snapshot());
    let changed = changed.expect("entries lost their stores and nothing else");
    assert_eq!(changed.into_keys().collect::<Vec<_>>(), roots_in_use(mmu, spaces));
    assert_eq!(mmu.counters().since(&counts, Event::ShootDown), 1);
    let settled = mmu.counters().since(&counts, Event::Settled);
    assert_eq!(settled, roots(mmu, spaces).len() as u64, "each root page once");
}

fn touches_only_the_roots<F: Format>(pages: u64, spaces: u16) {
    let mmu = guest::<F>(pages, spaces);
    let chosen = scattered(pages);
    let store = || {
        for space in (0..spaces).map(AddressSpace) {
            store_all(&mut cpu(&mmu, space), &chosen);
        }
    };
    for _ in 0..3 {
        store();
        protect_all_touches_only_the_roots(&mmu, spaces);
    }
}

#[test]
fn it_changes_one_table_a_root_and_makes_one_shoot_down_at_64_mib() {
    touches_only_the_roots::<Ept>(SMALL, 1);
    touches_only_the_roots::<Npt>(SMALL, 2);
    touches_only_the_roots::<Stage2>(SMALL, 2);
}

#[test]
fn it_changes_one_table_a_root_and_makes_one_shoot_down_at_1_tib() {
    touches_only_the_roots::<Ept>(LARGE, 2);
    touches_only_the_roots::<Npt>(LARGE, 1);
    touches_only_the_roots::<Stage2>(LARGE, 2);
}

#[test]
fn a_guest_of_1_tib_on_arm_has_root_tables_side_by_side_in_use() {
    let mmu = guest::<Stage2>(LARGE, 1);
    store_all(&mut cpu(&mmu, AddressSpace::NORMAL), &scattered(LARGE));
    assert_eq!((roots(&mmu, 1).len(), roots_in_use(&mmu, 1).len()), (8, 2));
}

#[test]
fn a_diff_of_frames_notices_any_other_change() {
    let mmu = guest::<Ept>(SMALL, 1);
    let mut cpu = cpu(&mmu, AddressSpace::NORMAL);
    store_all(&mut cpu, &[Gfn::new(5)]);
    let before = mmu.embedder().snapshot();
    store_all(&mut cpu, &[Gfn::new(6)]);
    assert_eq!(changed_entries::<Ept>(&before, &mmu.embedder().snapshot()), None, "a leaf more");
    store_all(&mut cpu, &[Gfn::new(600)]);
    assert_eq!(changed_entries::<Ept>(&before, &mmu.embedder().snapshot()), None, "a table more");
}

fn reads_pass<F: Format>(pages: u64, backings: Backings) {
    let mmu = guest_over::<F>(backings, pages, 1, LogMode::Off);
    let chosen = scattered(pages);
    let mut cpu = cpu(&mmu, AddressSpace::NORMAL);
    store_all(&mut cpu, &chosen);
    let counts = mmu.counters();
    for _ in 0..3 {
        mmu.write_protect_all();
        load_all(&mut cpu, &chosen);
    }
    assert_eq!(mmu.counters().since(&counts, Event::Fault), 0);
}

#[test]
fn reads_do_not_fault_because_of_it_on_x86() {
    for backings in [Backings::Small, Backings::Large, Backings::Huge] {
        reads_pass::<Ept>(SMALL, backings);
        reads_pass::<Npt>(LARGE, backings);
    }
}

/// The leaf of a page: its first page and how many it has. The largest that lies inside the slot.
fn leaf_of(gfn: Gfn, backings: Backings, pages: u64) -> (u64, u64) {
    let inside = |first: u64, size: u64| first >= FIRST && first + size <= FIRST + pages;
    let sizes = [1 << 18, 1 << 9].into_iter().filter(|size| *size <= backings.grain());
    let mut leaves = sizes.map(|size| (gfn.get() & !(size - 1), size));
    leaves.find(|(first, size)| inside(*first, *size)).unwrap_or((gfn.get(), 1))
}

/// How many leaves map these pages.
fn leaves_of(chosen: &[Gfn], backings: Backings, pages: u64) -> u64 {
    let leaf = |gfn: &Gfn| leaf_of(*gfn, backings, pages);
    chosen.iter().map(leaf).collect::<BTreeSet<_>>().len() as u64
}

/// A read links the entries on its path again that nobody has linked before it.
fn a_read_links_its_path(mmu: &Guest<Stage2>, page: Gfn, (_, leaf): (u64, u64)) {
    let counts = mmu.counters();
    load_all(&mut cpu(mmu, AddressSpace::NORMAL), &[page]);
    let since = |event| mmu.counters().since(&counts, event);
    let above = u64::from(mmu.root_shape().level.get()) - u64::from(leaf.ilog2()) / 9 - 1;
    assert!(since(Event::Relinked) <= above, "{page} is {above} entries down");
    assert!(since(Event::Fault) <= since(Event::Relinked), "a fault links something");
}

/// Together they link each entry once, and lift nothing.
fn reads_link_each_parked_entry_once(pages: u64, backings: Backings) {
    let mmu = guest_over::<Stage2>(backings, pages, 1, LogMode::Off);
    let chosen = scattered(pages);
    let mut cpu = cpu(&mmu, AddressSpace::NORMAL);
    store_all(&mut cpu, &chosen);
    let parked = mmu.embedder().live_frames() as u64 - roots(&mmu, 1).len() as u64;
    for _ in 0..3 {
        mmu.write_protect_all();
        let counts = mmu.counters();
        let since = |event| mmu.counters().since(&counts, event);
        for page in &chosen {
            a_read_links_its_path(&mmu, *page, leaf_of(*page, backings, pages));
        }
        assert_eq!(since(Event::Relinked), parked, "each entry that points to a table");
        assert!(since(Event::Opened) == 0 && since(Event::ShootDown) == 0);
        let faults = since(Event::Fault);
        load_all(&mut cpu, &chosen);
        assert_eq!(since(Event::Fault), faults, "a second read costs nothing");
        store_all(&mut cpu, &chosen);
        let leaves = leaves_of(&chosen, backings, pages);
        assert_eq!(since(Event::Opened), leaves, "no read has lifted a leaf");
    }
}

#[test]
fn reads_fault_once_a_parked_entry_on_arm() {
    for backings in [Backings::Small, Backings::Large, Backings::Huge] {
        reads_link_each_parked_entry_once(SMALL, backings);
        reads_link_each_parked_entry_once(LARGE, backings);
    }
}

fn a_round_costs<F: Format>(pages: u64) {
    let mmu = guest::<F>(pages, 1);
    let chosen = scattered(pages);
    let mut cpu = cpu(&mmu, AddressSpace::NORMAL);
    store_all(&mut cpu, &chosen);
    let tables = mmu.embedder().live_frames() as u64 - roots(&mmu, 1).len() as u64;
    for _ in 0..3 {
        mmu.write_protect_all();
        let counts = mmu.counters();
        store_all(&mut cpu, &chosen);
        store_all(&mut cpu, &chosen);
        let since = |event| mmu.counters().since(&counts, event);
        assert_eq!(since(Event::Fault), chosen.len() as u64, "one fault a page");
        assert_eq!(since(Event::Settled), tables, "one push-down a table");
        assert_eq!(since(Event::Closed), chosen.len() as u64 + closed_above(&mmu, tables));
        assert_eq!(since(Event::ShootDown), 0, "no shoot-down of its own");
        assert_eq!(since(Event::Linked), 0, "no table is made anew");
    }
}

/// Entries that point to a table, less the roots', which `write_protect_all` itself closed.
fn closed_above<F: Format>(mmu: &Guest<F>, tables: u64) -> u64 {
    let frames = mmu.embedder().snapshot();
    let entries = roots(mmu, 1).into_iter().flat_map(|root| frames[&root].clone());
    tables - entries.filter(|entry| F::is_present(*entry)).count() as u64
}

#[test]
fn a_round_costs_one_fault_a_page_and_one_push_down_a_table() {
    a_round_costs::<Ept>(SMALL);
    a_round_costs::<Npt>(LARGE);
    a_round_costs::<Stage2>(SMALL);
    a_round_costs::<Stage2>(LARGE);
}

/// Where nothing is logged, huge leaves stay, and one fault opens each of them.
fn huge_leaves_stay<F: Format>(backings: Backings, pages: u64) {
    let mmu = guest_over::<F>(backings, pages, 2, LogMode::Off);
    let chosen = scattered(pages);
    let store = || {
        for space in (0..2).map(AddressSpace) {
            store_all(&mut cpu(&mmu, space), &chosen);
        }
    };
    store();
    for _ in 0..3 {
        protect_all_touches_only_the_roots(&mmu, 2);
        let counts = mmu.counters();
        store();
        let since = |event| mmu.counters().since(&counts, event);
        let leaves = leaves_of(&chosen, backings, pages);
        assert_eq!(since(Event::Fault), 2 * leaves, "{}: one fault a leaf", F::NAME);
        assert_eq!((since(Event::Split), since(Event::ShootDown)), (0, 0));
    }
}

#[test]
fn huge_leaves_of_a_slot_without_a_log_stay_at_64_mib_and_1_tib() {
    for (backings, pages) in [(Backings::Large, SMALL), (Backings::Huge, LARGE)] {
        huge_leaves_stay::<Ept>(backings, pages);
        huge_leaves_stay::<Npt>(backings, pages);
        huge_leaves_stay::<Stage2>(backings, pages);
    }
}

/// In a logged slot the first store after it splits a huge leaf, and every page is logged.
fn huge_leaves_are_split<F: Format>(backings: Backings, pages: u64) {
    let mmu = guest_over::<F>(backings, pages, 1, LogMode::Off);
    let chosen = scattered(pages);
    let mut cpu = cpu(&mmu, AddressSpace::NORMAL);
    store_all(&mut cpu, &chosen);
    mmu.start_log(SlotId(0), Initial::AllSet).expect("memory");
    protect_all_touches_only_the_roots(&mmu, 1);
    let counts = mmu.counters();
    store_all(&mut cpu, &chosen);
    let since = |event| mmu.counters().since(&counts, event);
    assert_eq!(since(Event::Opened), chosen.len() as u64, "{}: one fault a page", F::NAME);
    let levels: u64 = if backings == Backings::Huge { 2 } else { 1 };
    assert!(since(Event::Split) >= levels, "{}: they were huge", F::NAME);
    protect_all_touches_only_the_roots(&mmu, 1);
}

#[test]
fn huge_leaves_of_a_logged_slot_are_split_at_64_mib_and_1_tib() {
    for (backings, pages) in [(Backings::Large, SMALL), (Backings::Huge, LARGE)] {
        huge_leaves_are_split::<Ept>(backings, pages);
        huge_leaves_are_split::<Npt>(backings, pages);
        huge_leaves_are_split::<Stage2>(backings, pages);
    }
}

#[test]
fn turning_it_off_opens_everything_at_the_next_write_and_not_before() {
    let mmu = guest::<Npt>(SMALL, 1);
    let chosen = scattered(SMALL);
    let mut cpu = cpu(&mmu, AddressSpace::NORMAL);
    store_all(&mut cpu, &chosen);
    mmu.write_protect_all();
    let frames = mmu.embedder().snapshot();
    mmu.write_protect_all_off();
    assert_eq!(frames, mmu.embedder().snapshot(), "it is lazy");
    let counts = mmu.counters();
    store_all(&mut cpu, &chosen);
    assert_eq!(mmu.counters().since(&counts, Event::Fault), chosen.len() as u64);
}
