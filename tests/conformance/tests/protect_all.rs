//! Write-protect-all in O(1): what it changes in the frames, and what a round after it costs.

use vellum_conformance::backend::Random;
use vellum_conformance::hypervisor::{Cpu, Hypervisor, Plenty, VirtualCpu, changed_entries};
use vellum_mmu::{Config, Event, LogMode, Mmu, SlotAccess, SlotSpec};
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Npt, PAGE_SIZE, Pfn, SlotId};

const SMALL: u64 = (64 << 20) / PAGE_SIZE;
const LARGE: u64 = (1 << 40) / PAGE_SIZE;

type Guest<F> = Mmu<F, Hypervisor>;

/// A VM with a slot of `pages` in each of `spaces` address spaces.
fn guest<F: Format>(pages: u64, spaces: u16) -> Guest<F> {
    let config = Config { spaces, ..Config::default() };
    let mmu = Mmu::new(Hypervisor::with_memory(Plenty), config).expect("memory");
    for space in 0..spaces {
        let range = GfnRange::new(Gfn::new(3), pages).expect("in range");
        let (id, space) = (SlotId(space), AddressSpace(space));
        let (access, log) = (SlotAccess::ReadWrite, LogMode::On);
        mmu.create_slot(SlotSpec { access, log, ..SlotSpec::new(id, space, range) })
            .expect("memory");
    }
    mmu
}

/// Up to 2000 pages of a slot, scattered, in order and each once.
fn scattered(pages: u64) -> Vec<Gfn> {
    let mut random = Random::new(7);
    let mut chosen: Vec<_> = (0..2000).map(|_| Gfn::new(3 + random.below(pages))).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

fn store_all<F: Format>(cpu: &mut VirtualCpu<'_, F, Plenty>, pages: &[Gfn]) {
    pages.iter().for_each(|page| cpu.store(page.gpa(), 1).expect("a slot"));
}

fn touches_only_the_roots<F: Format>(pages: u64, spaces: u16) {
    let mmu = guest::<F>(pages, spaces);
    let chosen = scattered(pages);
    for space in (0..spaces).map(AddressSpace) {
        store_all(&mut VirtualCpu::new(&mmu, 0, space).expect("memory"), &chosen);
    }
    let mut roots: Vec<Pfn> =
        (0..spaces).map(|space| mmu.root(AddressSpace(space)).expect("it is")).collect();
    roots.sort_unstable();
    for _ in 0..3 {
        let (frames, counts) = (mmu.embedder().snapshot(), mmu.counters());
        mmu.write_protect_all();
        let changed = changed_entries::<F>(&frames, &mmu.embedder().snapshot());
        let changed = changed.expect("entries lost their stores and nothing else");
        assert_eq!(changed.into_keys().collect::<Vec<_>>(), roots);
        assert_eq!(mmu.counters().since(&counts, Event::ShootDown), 1);
        assert_eq!(mmu.counters().since(&counts, Event::Settled), u64::from(spaces));
        for space in (0..spaces).map(AddressSpace) {
            store_all(&mut VirtualCpu::new(&mmu, 0, space).expect("memory"), &chosen);
        }
    }
}

#[test]
fn it_changes_one_table_a_root_and_makes_one_shoot_down_at_64_mib() {
    touches_only_the_roots::<Ept>(SMALL, 1);
    touches_only_the_roots::<Npt>(SMALL, 2);
}

#[test]
fn it_changes_one_table_a_root_and_makes_one_shoot_down_at_1_tib() {
    touches_only_the_roots::<Ept>(LARGE, 2);
    touches_only_the_roots::<Npt>(LARGE, 1);
}

#[test]
fn a_diff_of_frames_notices_any_other_change() {
    let mmu = guest::<Ept>(SMALL, 1);
    let mut cpu = VirtualCpu::new(&mmu, 0, AddressSpace::NORMAL).expect("memory");
    store_all(&mut cpu, &[Gfn::new(5)]);
    let before = mmu.embedder().snapshot();
    store_all(&mut cpu, &[Gfn::new(6)]);
    assert_eq!(changed_entries::<Ept>(&before, &mmu.embedder().snapshot()), None, "a leaf more");
    store_all(&mut cpu, &[Gfn::new(600)]);
    assert_eq!(changed_entries::<Ept>(&before, &mmu.embedder().snapshot()), None, "a table more");
}

#[test]
fn reads_do_not_fault_because_of_it() {
    for pages in [SMALL, LARGE] {
        let mmu = guest::<Ept>(pages, 1);
        let chosen = scattered(pages);
        let mut cpu = VirtualCpu::new(&mmu, 0, AddressSpace::NORMAL).expect("memory");
        store_all(&mut cpu, &chosen);
        let counts = mmu.counters();
        for _ in 0..3 {
            mmu.write_protect_all();
            chosen.iter().for_each(|page| assert_eq!(cpu.load(page.gpa()), Ok(1)));
        }
        assert_eq!(mmu.counters().since(&counts, Event::Fault), 0);
    }
}

fn a_round_costs<F: Format>(pages: u64) {
    let mmu = guest::<F>(pages, 1);
    let chosen = scattered(pages);
    let mut cpu = VirtualCpu::new(&mmu, 0, AddressSpace::NORMAL).expect("memory");
    store_all(&mut cpu, &chosen);
    let tables = mmu.embedder().live_frames() as u64 - 1;
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

/// Entries that point to a table, less the root's, which `write_protect_all` itself closed.
fn closed_above<F: Format>(mmu: &Guest<F>, tables: u64) -> u64 {
    let root = mmu.root(AddressSpace::NORMAL).expect("it is");
    let entries = &mmu.embedder().snapshot()[&root];
    tables - entries.iter().filter(|entry| F::is_present(**entry)).count() as u64
}

#[test]
fn a_round_costs_one_fault_a_page_and_one_push_down_a_table() {
    a_round_costs::<Ept>(SMALL);
    a_round_costs::<Npt>(LARGE);
}

#[test]
fn turning_it_off_opens_everything_at_the_next_write_and_not_before() {
    let mmu = guest::<Npt>(SMALL, 1);
    let chosen = scattered(SMALL);
    let mut cpu = VirtualCpu::new(&mmu, 0, AddressSpace::NORMAL).expect("memory");
    store_all(&mut cpu, &chosen);
    mmu.write_protect_all();
    let frames = mmu.embedder().snapshot();
    mmu.write_protect_all_off();
    assert_eq!(frames, mmu.embedder().snapshot(), "it is lazy");
    let counts = mmu.counters();
    store_all(&mut cpu, &chosen);
    assert_eq!(mmu.counters().since(&counts, Event::Fault), chosen.len() as u64);
}
