//! Table frames: when they are taken, and when they go back. And slots at the edges of what tables
//! reach.
#![cfg(not(loom))]
#![allow(unsafe_code, reason = "an embedder lends out frames")]

mod lender;

use lender::Lender;
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, SlotId};

const SPACE: AddressSpace = AddressSpace::NORMAL;

fn limited(left: usize) -> Lender {
    let lender = Lender::default();
    lender.set_left(Some(left));
    lender
}

fn vm() -> (Lender, Mmu<Ept, Lender>) {
    let lender = Lender::default();
    let mmu = Mmu::new(lender.clone(), Config::default()).expect("memory");
    (lender, mmu)
}

fn create(mmu: &Mmu<Ept, Lender>, id: u16, first: u64, pages: u64) {
    let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
    mmu.create_slot(SlotSpec::new(SlotId(id), SPACE, range)).expect("fits");
}

fn touch(mmu: &Mmu<Ept, Lender>, gfn: u64) {
    let mut vcpu = mmu.vcpu().expect("memory");
    assert_eq!(vcpu.fault(SPACE, Gfn::new(gfn).gpa(), Access::Write), Outcome::Mapped);
}

#[test]
fn a_slot_that_wanders_leaves_no_tables_behind() {
    let (lender, mmu) = vm();
    let empty = lender.out();
    for step in 0..100 {
        let first = step * 0x4_0201 + 1;
        create(&mmu, 0, first, 1);
        touch(&mmu, first);
        lender.walk();
        mmu.delete_slot(SlotId(0)).expect("it is there");
        assert_eq!(lender.out(), empty, "tables of a slot that is gone");
    }
}

#[test]
fn a_neighbour_in_the_same_table_keeps_it() {
    let (lender, mmu) = vm();
    create(&mmu, 0, 100, 5);
    create(&mmu, 1, 105, 5);
    touch(&mmu, 104);
    touch(&mmu, 105);
    let tables = lender.out();
    mmu.delete_slot(SlotId(0)).expect("it is there");
    assert_eq!(lender.out(), tables);
    let mut vcpu = mmu.vcpu().expect("memory");
    assert_eq!(vcpu.fault(SPACE, Gfn::new(105).gpa(), Access::Write), Outcome::Spurious);
    assert_eq!(vcpu.fault(SPACE, Gfn::new(104).gpa(), Access::Write), Outcome::Mmio);
}

#[test]
fn a_vm_that_goes_is_forgotten_before_its_frames_go_back() {
    let (lender, mmu) = vm();
    create(&mmu, 0, 0, 1 << 20);
    touch(&mmu, 7);
    lender.walk();
    drop(mmu);
    assert_eq!(lender.out(), 0);
}

#[test]
fn a_vm_without_frames_for_its_roots_keeps_none() {
    for left in 0..3 {
        let lender = limited(left);
        let config = Config { spaces: 3, ..Config::default() };
        assert_eq!(Mmu::<Ept, _>::new(lender.clone(), config).err(), Some(OutOfMemory.into()));
        assert_eq!(lender.out(), 0);
    }
}

#[test]
fn a_fault_that_finds_no_frame_may_be_tried_again() {
    for left in 1..4 {
        let lender = limited(left);
        let mmu = Mmu::new(lender.clone(), Config::default()).expect("a frame for the root");
        create(&mmu, 0, 0, 512);
        let mut vcpu = mmu.vcpu().expect("memory");
        let mut fault = || vcpu.fault(SPACE, Gfn::new(3).gpa(), Access::Write);
        assert_eq!(fault(), Outcome::OutOfMemory);
        lender.set_left(None);
        assert_eq!(fault(), Outcome::Mapped);
        mmu.delete_slot(SlotId(0)).expect("it is there");
        assert_eq!(lender.out(), 1);
    }
}

#[test]
fn a_slot_may_end_with_the_tables_and_no_later() {
    let (_lender, mmu) = vm();
    let end = 1 << 36;
    let spec = |pages| {
        let range = GfnRange::new(Gfn::new(end - 3), pages).expect("in range");
        SlotSpec { log: LogMode::On, ..SlotSpec::new(SlotId(0), SPACE, range) }
    };
    let (found, limit) = (Gfn::new(end + 1), Gfn::new(end));
    let refused = CreateSlotError::OutOfReach { end: found, limit };
    assert_eq!(mmu.create_slot(spec(4)), Err(refused));
    mmu.create_slot(spec(3)).expect("it ends there");
    touch(&mmu, end - 1);
    let region = Region { slot: SlotId(0), space: SPACE, range: spec(3).range };
    let mut round = PageSet::new(&Layout::new(vec![region]).expect("one region"));
    let pages = &mut round.regions_mut()[0];
    mmu.take_dirty(SlotId(0), Protect::Pages, pages).expect("logged");
    assert_eq!(pages.pages().collect::<Vec<_>>(), [2]);
    touch(&mmu, end - 1);
    mmu.delete_slot(SlotId(0)).expect("it is there");
}
