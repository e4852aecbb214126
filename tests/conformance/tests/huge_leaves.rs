//! Huge leaves by the hundred: all are split, none is passed over, and all come back at once. Counted
//! by events, table frames and faults.

use vellum_conformance::hypervisor::{
    Backings, Cpu, Hypervisor, Plenty, Refused, Rule, VirtualCpu,
};
use vellum_conformance::scene::Op;
use vellum_conformance::script::Setup;
use vellum_memory::{Region, RegionSet};
use vellum_mmu::{
    ClearRange, Config, Event, HugeLeaves, Initial, LogMode, Mmu, Protect, SlotAccess, SlotSpec,
    SplitError,
};
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Gpa, Npt, SlotId, Stage2};

const SLOT: SlotId = SlotId(4);
const SPACE: AddressSpace = AddressSpace::NORMAL;
/// Pages of a leaf of 2 MiB, and of 1 GiB.
const LARGE: u64 = 1 << 9;
const HUGE: u64 = 1 << 18;
/// The slot begins and ends inside a leaf, which is small there.
const FIRST: u64 = HUGE - 5;
const LEAVES: u64 = 150;
const PAGES: u64 = 5 + LEAVES * LARGE + 7;

type Guest<F> = Mmu<F, Hypervisor>;

fn guest<F: Format>(backings: Backings, pages: u64) -> Guest<F> {
    let hypervisor = Hypervisor::with_memory(Plenty).backed_by(Rule { backings, skew: 0 });
    let mmu = Mmu::new(hypervisor, Config::default()).expect("memory");
    mmu.create_slot(SlotSpec::new(SLOT, SPACE, range(pages))).expect("fits");
    mmu
}

fn range(pages: u64) -> GfnRange {
    GfnRange::new(Gfn::new(FIRST), pages).expect("in range")
}

/// A page of the slot.
fn at(page: u64) -> Gpa {
    Gfn::new(FIRST + page).gpa()
}

/// The pages from `within` on, one a leaf.
fn one_a_leaf(within: u64) -> impl Iterator<Item = u64> {
    (0..LEAVES).map(move |leaf| 5 + leaf * LARGE + within)
}

fn store<F: Format>(mmu: &Guest<F>, pages: impl Iterator<Item = u64>) -> Result<(), Refused> {
    let mut cpu = VirtualCpu::new(mmu, 0, SPACE).expect("memory");
    pages.into_iter().try_for_each(|page| cpu.store(at(page), page))
}

/// The pages that the log names.
fn named<F: Format>(mmu: &Guest<F>) -> Vec<u64> {
    let region = Region { slot: SLOT, space: SPACE, range: range(PAGES) };
    let mut set = RegionSet::try_new(region).expect("memory");
    mmu.take_dirty(SLOT, Protect::Pages, &mut set).expect("its log is on");
    set.pages().collect()
}

/// How often each of these happened in `work`.
fn counting<F: Format, const N: usize>(
    mmu: &Guest<F>,
    events: [Event; N],
    work: impl FnOnce(),
) -> [u64; N] {
    let before = mmu.counters();
    work();
    events.map(|event| mmu.counters().since(&before, event))
}

fn in_all_formats(ept: fn(), npt: fn(), stage_2: fn()) {
    [ept, npt, stage_2].into_iter().for_each(|law| law());
}

fn back_at_once<F: Format>() {
    let mmu = guest::<F>(Backings::Large, PAGES);
    store(&mmu, one_a_leaf(3)).expect("RAM");
    let frames = mmu.embedder().live_frames();
    mmu.start_log(SLOT, Initial::Clean).expect("memory");
    for within in [0, LARGE - 1] {
        store(&mmu, one_a_leaf(within)).expect("RAM");
    }
    assert_eq!(mmu.embedder().live_frames() as u64, frames as u64 + LEAVES, "each is split");
    let stop = || mmu.stop_log(SLOT).expect("it is on");
    let [recovered, faults] = counting(&mmu, [Event::Recovered, Event::Fault], stop);
    assert_eq!((recovered, faults), (LEAVES, 0), "{}", F::NAME);
    assert_eq!(mmu.embedder().live_frames(), frames, "and the tables are given back");
    let [faults] = counting(&mmu, [Event::Fault], || {
        [3, 99].into_iter().for_each(|within| store(&mmu, one_a_leaf(within)).expect("RAM"));
    });
    assert_eq!(faults, 0, "no fault is needed to have them back");
}

#[test]
fn a_log_that_stops_brings_every_huge_leaf_back_without_a_fault() {
    in_all_formats(back_at_once::<Ept>, back_at_once::<Npt>, back_at_once::<Stage2>);
}

fn back_from_two_levels<F: Format>() {
    let mmu = guest::<F>(Backings::Huge, 5 + 2 * HUGE);
    let chosen = [5, 5 + HUGE, 5 + HUGE + 77 * LARGE];
    store(&mmu, chosen.into_iter()).expect("RAM");
    let frames = mmu.embedder().live_frames();
    mmu.start_log(SLOT, Initial::Clean).expect("memory");
    let write = || store(&mmu, chosen.into_iter()).expect("RAM");
    assert_eq!(counting(&mmu, [Event::Split], write), [2 + 3], "two of 1 GiB, three of 2 MiB");
    let stop = || mmu.stop_log(SLOT).expect("it is on");
    let [recovered, faults] = counting(&mmu, [Event::Recovered, Event::Fault], stop);
    assert_eq!((recovered, faults), (2, 0), "{}: in one step, whatever is below", F::NAME);
    assert_eq!(mmu.embedder().live_frames(), frames);
    assert_eq!(counting(&mmu, [Event::Fault], write), [0]);
}

#[test]
fn a_gibibyte_that_was_split_to_pages_comes_back_as_one() {
    in_all_formats(
        back_from_two_levels::<Ept>,
        back_from_two_levels::<Npt>,
        back_from_two_levels::<Stage2>,
    );
}

/// A log that starts all set splits and protects nothing; what is cleared is protected, and split by
/// the write after that.
fn stay_until_cleared<F: Format>() {
    let mmu = guest::<F>(Backings::Large, PAGES);
    store(&mmu, one_a_leaf(3)).expect("RAM");
    mmu.start_log(SLOT, Initial::AllSet).expect("memory");
    let write = || store(&mmu, one_a_leaf(70)).expect("RAM");
    let seen = [Event::Split, Event::Fault, Event::Closed];
    assert_eq!(counting(&mmu, seen, write), [0, 0, 0], "{}: all are storable still", F::NAME);
    let mut set =
        RegionSet::try_new(Region { slot: SLOT, space: SPACE, range: range(PAGES) }).expect("fits");
    let clear = |set: &mut RegionSet| {
        // A group that lies inside the third leaf.
        let group = ClearRange { first: (5 + 2 * LARGE + 64) & !63, pages: 64 };
        mmu.clear_dirty(SLOT, group, &[1 << 9], set).expect("its log is on");
    };
    let [split, closed] = counting(&mmu, [Event::Split, Event::Closed], || clear(&mut set));
    assert_eq!((split, closed, set.count()), (0, 1, 1), "one leaf is protected");
    let [split, opened] = counting(&mmu, [Event::Split, Event::Opened], write);
    assert_eq!((split, opened), (1, 1), "one leaf is split, by its first write");
}

#[test]
fn with_initially_all_set_huge_leaves_stay_until_their_first_clear() {
    in_all_formats(
        stay_until_cleared::<Ept>,
        stay_until_cleared::<Npt>,
        stay_until_cleared::<Stage2>,
    );
}

/// A few at a time, with any number of frames: each call goes on, and at the end no leaf is huge.
fn none_is_passed_over<F: Format>(frames: u64) {
    let mmu = guest::<F>(Backings::Large, PAGES);
    store(&mmu, one_a_leaf(3)).expect("RAM");
    mmu.start_log(SLOT, Initial::AllSet).expect("memory");
    let mut tables = 0;
    loop {
        let report = mmu.split_huge(SLOT, frames).expect("memory");
        assert!(report.tables <= frames);
        tables += report.tables;
        if report.left == HugeLeaves::None {
            break;
        }
        assert_eq!(report.tables, frames, "{}: it stops only where it may no more", F::NAME);
    }
    assert_eq!(tables, LEAVES, "{}: with {frames} at a time", F::NAME);
    let write = || store(&mmu, one_a_leaf(70)).expect("RAM");
    assert_eq!(counting(&mmu, [Event::Split], write), [0]);
}

#[test]
fn no_leaf_is_passed_over_between_two_stretches() {
    for frames in [1, 7, 31, 32, 33, LEAVES, u64::MAX] {
        none_is_passed_over::<Ept>(frames);
        none_is_passed_over::<Npt>(frames);
        none_is_passed_over::<Stage2>(frames);
    }
}

/// Splitting runs out of memory. What was split stays so, and no store passes it by a translation
/// from before: the log that starts then finds nothing there to protect.
fn out_of_memory_half_way<F: Format>() {
    // More than one stretch.
    const SPLIT: usize = 40;
    let mmu = guest::<F>(Backings::Large, PAGES);
    store(&mmu, one_a_leaf(3)).expect("RAM");
    let frames = mmu.embedder().live_frames();
    mmu.embedder().limit_frames(frames + SPLIT);
    let split = mmu.split_huge(SLOT, u64::MAX);
    assert!(matches!(split, Err(SplitError::OutOfMemory(_))), "{}: {split:?}", F::NAME);
    assert_eq!(mmu.embedder().live_frames(), frames + SPLIT, "all that there was is used");
    mmu.start_log(SLOT, Initial::Clean).expect("memory for a log");
    store(&mmu, one_a_leaf(9).take(SPLIT)).expect("they are split");
    let stored: Vec<u64> = one_a_leaf(9).take(SPLIT).collect();
    assert_eq!(named(&mmu), stored, "{}: each store is logged", F::NAME);
    assert_eq!(store(&mmu, one_a_leaf(9).skip(SPLIT)), Err(Refused::OutOfMemory));
    mmu.stop_log(SLOT).expect("it is on");
    assert_eq!(mmu.embedder().live_frames(), frames, "that needs no memory");
    store(&mmu, one_a_leaf(3)).expect("all are there");
}

#[test]
fn a_split_that_runs_out_of_memory_half_way_makes_its_flush() {
    in_all_formats(
        out_of_memory_half_way::<Ept>,
        out_of_memory_half_way::<Npt>,
        out_of_memory_half_way::<Stage2>,
    );
}

/// Small pages and a huge leaf in one group of 64: what protects the group goes on behind the leaf,
/// and names and protects each page by its own place.
fn in_step<F: Format>(take: &Op) {
    let store = |page| Op::Store { cpu: 0, page, word: 0, value: page };
    let borders = [474, 475, 476, 986, 987, 988].map(store);
    let create = |log| Op::Create {
        id: 0,
        space: 0,
        first: 0,
        pages: 1490,
        access: SlotAccess::ReadWrite,
        log,
    };
    let mut ops = vec![create(LogMode::Off)];
    ops.extend([470, 480, 990].map(store));
    ops.extend([Op::Start(0, Initial::AllSet), take.clone()]);
    ops.extend(borders.clone());
    ops.extend([Op::Read(0), take.clone()]);
    ops.extend(borders);
    ops.push(Op::Read(0));
    let setup = Setup::new(F::ADDRESS_BITS, Rule { backings: Backings::Large, skew: 0 });
    setup.run::<F>(&ops);
}

#[test]
fn a_huge_leaf_in_the_way_does_not_put_the_pages_out_of_step() {
    let clear = Op::Clear { id: 0, first: 0, pages: None, mask: vec![u64::MAX; 24] };
    for take in [clear, Op::TakePages(0), Op::TakeAll] {
        in_step::<Ept>(&take);
        in_step::<Npt>(&take);
        in_step::<Stage2>(&take);
    }
}
