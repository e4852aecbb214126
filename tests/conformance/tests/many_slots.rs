//! Thousands of memslots, in two address spaces: each is found, none is another's.

use vellum_conformance::hypervisor::{Cpu, Hypervisor, Plenty, Refused, VirtualCpu};
use vellum_mmu::{
    ChangeSlotError, Config, CreateSlotError, LogMode, Mmu, NoSlot, SlotAccess, SlotSpec,
};
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Gpa, Npt, SlotId, Stage2};

/// Slots in each space, three pages each, with five free pages after each.
const SLOTS: u16 = 4000;
const PAGES: u64 = 3;
const STRIDE: u64 = 8;
const SPACES: [AddressSpace; 2] = [AddressSpace::NORMAL, AddressSpace::SMM];

type Guest<F> = Mmu<F, Hypervisor<Plenty>>;

fn guest<F: Format>() -> Guest<F> {
    let config = Config { spaces: 2, ..Config::default() };
    Mmu::new(Hypervisor::with_memory(Plenty), config).expect("memory")
}

fn id(space: AddressSpace, number: u16) -> SlotId {
    SlotId(space.0 * SLOTS + number)
}

/// Slot `number`, so many pages from where it was made.
fn spec(space: AddressSpace, number: u16, moved: u64) -> SlotSpec {
    let home = u64::from(number) * STRIDE;
    let range = |first| GfnRange::new(Gfn::new(first), PAGES).expect("in range");
    let made = SlotSpec::new(id(space, number), space, range(home + 1_000_000));
    SlotSpec { range: range(home + 1_000_000 + moved), ..made }
}

fn page(spec: &SlotSpec, index: u64) -> Gpa {
    Gfn::new(spec.range.first().get() + index).gpa()
}

/// All slots, neither in the order of their pages nor backwards.
fn numbers() -> impl Iterator<Item = (AddressSpace, u16)> {
    let number = |step: u32| u16::try_from(step * 1237 % u32::from(SLOTS)).expect("below SLOTS");
    (0..u32::from(SLOTS)).map(number).flat_map(|number| SPACES.map(|space| (space, number)))
}

fn fill<F: Format>(mmu: &Guest<F>) {
    for (space, number) in numbers() {
        mmu.create_slot(spec(space, number, 0)).expect("the place is free");
    }
}

/// Whether stores reach the slot's first and last page, and none past its end.
fn is_there<F: Format>(mmu: &Guest<F>, spec: &SlotSpec) -> bool {
    let mut cpu = VirtualCpu::new(mmu, 0, spec.space).expect("memory");
    let first = cpu.store(page(spec, 0), u64::from(spec.id.0));
    let last = cpu.store(page(spec, PAGES - 1), 1);
    assert_eq!(first, last);
    assert_eq!(cpu.store(page(spec, PAGES), 1), Err(Refused::Unmapped));
    first.is_ok()
}

fn thousands<F: Format>() {
    let mmu = guest::<F>();
    fill(&mmu);
    for (space, number) in numbers().step_by(17) {
        assert!(is_there(&mmu, &spec(space, number, 0)));
    }
    for (space, number) in numbers().step_by(3) {
        mmu.delete_slot(id(space, number)).expect("it is there");
        assert_eq!(mmu.delete_slot(id(space, number)), Err(NoSlot(id(space, number))));
    }
    for ((space, number), place) in numbers().zip(0..) {
        assert_eq!(is_there(&mmu, &spec(space, number, 0)), place % 3 != 0);
    }
}

#[test]
fn thousands_of_slots_are_found_and_deleted() {
    thousands::<Ept>();
    thousands::<Npt>();
    thousands::<Stage2>();
}

fn moved<F: Format>() {
    let mmu = guest::<F>();
    fill(&mmu);
    for (space, number) in numbers().step_by(5) {
        let (before, after) = (spec(space, number, 0), spec(space, number, 4));
        assert!(is_there(&mmu, &before));
        mmu.change_slot(after).expect("the place is free");
        let mut cpu = VirtualCpu::new(&mmu, 1, space).expect("memory");
        assert_eq!(cpu.load(page(&after, 0)), Ok(u64::from(after.id.0)), "its memory goes with it");
        assert!(is_there(&mmu, &after));
        assert_eq!(cpu.load(page(&before, 0)), Err(Refused::Unmapped));
        mmu.change_slot(after).expect("a change to what it is");
    }
}

#[test]
fn a_slot_that_moves_takes_its_memory_along() {
    moved::<Ept>();
    moved::<Npt>();
    moved::<Stage2>();
}

/// Whatever is refused, the slot stays as it was: where it is, its memory, its log.
fn refused<F: Format>() {
    let mmu = guest::<F>();
    fill(&mmu);
    let space = AddressSpace::NORMAL;
    let kept = SlotSpec { log: LogMode::On, ..spec(space, 7, 0) };
    mmu.change_slot(kept).expect("logged");
    assert!(is_there(&mmu, &kept));
    let pages = |pages| GfnRange::new(kept.range.first(), pages).expect("in range");
    let fixed = Err(ChangeSlotError::Fixed(kept.id));
    assert_eq!(mmu.change_slot(SlotSpec { range: pages(2), ..kept }), fixed);
    assert_eq!(mmu.change_slot(SlotSpec { access: SlotAccess::ReadOnly, ..kept }), fixed);
    assert_eq!(mmu.change_slot(SlotSpec { space: AddressSpace::SMM, ..kept }), fixed);
    assert_eq!(mmu.change_slot(SlotSpec { memory: spec(space, 8, 0).memory, ..kept }), fixed);
    let neighbour = Err(ChangeSlotError::Place(CreateSlotError::Exists(id(space, 8))));
    assert_eq!(mmu.change_slot(spec(space, 7, 6)), neighbour, "the log would have stopped too");
    assert_eq!(
        mmu.change_slot(SlotSpec { id: SlotId(u16::MAX), ..kept }),
        Err(NoSlot(SlotId(u16::MAX)).into())
    );
    let region = vellum_memory::Region { slot: kept.id, space, range: kept.range };
    let mut dirty = vellum_memory::RegionSet::try_new(region).expect("memory");
    mmu.read_dirty(kept.id, &mut dirty).expect("its log is on");
    assert_eq!(dirty.pages().collect::<Vec<_>>(), [0, PAGES - 1]);
    assert!(is_there(&mmu, &kept));
}

#[test]
fn a_change_that_is_refused_leaves_the_slot_whole() {
    refused::<Ept>();
    refused::<Npt>();
    refused::<Stage2>();
}
