//! Huge leaves: when there are some, when they are split, and when they come back.
#![cfg(not(loom))]
#![allow(unsafe_code, reason = "an embedder lends out frames")]

mod lender;

use lender::Lender;
use std::sync::{Arc, Mutex};
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Level, Npt, Replace, SlotId, Stage2};

const SPACE: AddressSpace = AddressSpace::NORMAL;
const SLOT: SlotId = SlotId(3);
/// Pages of a leaf of 2 MiB, and of 1 GiB.
const LARGE: u64 = 512;
const HUGE: u64 = 512 * 512;

/// A slot of 2 GiB from 3 GiB on.
const FIRST: u64 = 3 * HUGE;
const PAGES: u64 = 2 * HUGE;

fn vm<F: Format>(largest: Level, offset: u64) -> (Lender, Mmu<F, Lender>) {
    let lender = Lender::default();
    lender.set_memory(largest, offset);
    let mmu = Mmu::new(lender.clone(), Config::default()).expect("memory");
    let range = GfnRange::new(Gfn::new(FIRST), PAGES).expect("in range");
    mmu.create_slot(SlotSpec::new(SLOT, SPACE, range)).expect("fits");
    (lender, mmu)
}

fn fault<F: Format>(mmu: &Mmu<F, Lender>, page: u64, access: Access) -> Outcome {
    let mut vcpu = mmu.vcpu().expect("memory");
    vcpu.fault(SPACE, Gfn::new(FIRST + page).gpa(), access)
}

/// Faults on every page up to `pages` that the one at page 7 has mapped too.
fn mapped_together<F: Format>(mmu: &Mmu<F, Lender>) -> u64 {
    assert_eq!(fault(mmu, 7, Access::Write), Outcome::Mapped);
    (0..).find(|page| fault(mmu, *page, Access::Write) != Outcome::Spurious).expect("an end")
}

macro_rules! in_all_formats {
    ($($name:ident => $law:ident;)*) => {$(
        #[test]
        fn $name() {
            $law::<Ept>();
            $law::<Npt>();
            $law::<Stage2>();
        }
    )*};
}

in_all_formats! {
    a_leaf_is_as_large_as_the_memory_behind_it => as_large_as_the_memory;
    a_leaf_is_small_where_guest_and_host_are_not_aligned_alike => aligned_alike;
    a_logged_write_splits_a_leaf_and_the_end_of_the_log_brings_it_back => split_and_back;
    splitting_ahead_stays_within_its_memory => within_its_memory;
    splitting_ahead_leaves_nothing_to_split => nothing_left;
    a_log_that_starts_all_set_touches_no_entry => untouched_when_all_set;
    what_comes_back_respects_an_invalidation => invalidated_meanwhile;
}

fn as_large_as_the_memory<F: Format>() {
    for (level, pages) in [(Level::L1, 8), (Level::L2, LARGE), (Level::L3, HUGE)] {
        let (_, mmu) = vm::<F>(level, 0);
        if level == Level::L1 {
            assert_eq!(fault(&mmu, 6, Access::Write), Outcome::Mapped);
            assert_eq!(fault(&mmu, 7, Access::Write), Outcome::Mapped);
        } else {
            assert_eq!(mapped_together(&mmu), pages, "{} {level:?}", F::NAME);
        }
    }
}

fn aligned_alike<F: Format>() {
    let (_, mmu) = vm::<F>(Level::L3, LARGE);
    assert_eq!(mapped_together(&mmu), LARGE, "alike to 2 MiB, not to 1 GiB");
    let (_, mmu) = vm::<F>(Level::L3, 1);
    assert_eq!(fault(&mmu, 7, Access::Write), Outcome::Mapped);
    assert_eq!(fault(&mmu, 8, Access::Write), Outcome::Mapped);
}

fn split_and_back<F: Format>() {
    let (lender, mmu) = vm::<F>(Level::L3, 0);
    assert_eq!(fault(&mmu, 0, Access::Write), Outcome::Mapped);
    let frames = lender.out();
    mmu.start_log(SLOT, Initial::Clean).expect("memory");
    assert_eq!(fault(&mmu, 5, Access::Read), Outcome::Spurious, "{}: reads pass", F::NAME);
    assert_eq!(fault(&mmu, 5, Access::Write), Outcome::Mapped);
    assert_eq!(lender.out(), frames + 2, "one table of 2 MiB leaves, one of 4 KiB");
    assert_eq!(fault(&mmu, 6, Access::Write), Outcome::Mapped, "each page is logged");
    lender.walk();
    mmu.stop_log(SLOT).expect("it is on");
    assert_eq!(lender.out(), frames, "the tables went back");
    assert_eq!(fault(&mmu, HUGE - 1, Access::Write), Outcome::Spurious, "and the leaf is back");
}

fn within_its_memory<F: Format>() {
    let (lender, mmu) = vm::<F>(Level::L2, 0);
    (0..100).for_each(|leaf| assert_eq!(fault(&mmu, leaf * LARGE, Access::Read), Outcome::Mapped));
    mmu.start_log(SLOT, Initial::Clean).expect("memory");
    let frames = lender.out();
    let report = mmu.split_huge(SLOT, 40).expect("memory");
    assert_eq!(report, SplitReport { tables: 40, left: HugeLeaves::Some });
    assert_eq!(lender.out(), frames + 40);
    lender.set_left(Some(10));
    assert_eq!(mmu.split_huge(SLOT, 100), Err(SplitError::OutOfMemory(OutOfMemory)));
    lender.set_left(None);
    let report = mmu.split_huge(SLOT, 100).expect("memory");
    assert_eq!(report, SplitReport { tables: 50, left: HugeLeaves::None });
}

fn nothing_left<F: Format>() {
    let (lender, mmu) = vm::<F>(Level::L3, 0);
    assert_eq!(fault(&mmu, 0, Access::Write), Outcome::Mapped);
    mmu.start_log(SLOT, Initial::AllSet).expect("memory");
    let frames = lender.out();
    let report = mmu.split_huge(SLOT, u64::MAX).expect("memory");
    assert_eq!(report, SplitReport { tables: 1 + 512, left: HugeLeaves::None });
    assert_eq!(fault(&mmu, 77, Access::Write), Outcome::Mapped);
    assert_eq!(lender.out(), frames + 513, "no write splits anything");
}

fn untouched_when_all_set<F: Format>() {
    let (lender, mmu) = vm::<F>(Level::L2, 0);
    assert_eq!(mapped_together(&mmu), LARGE);
    let before = lender.shoot_downs();
    mmu.start_log(SLOT, Initial::AllSet).expect("memory");
    assert_eq!(fault(&mmu, 100, Access::Write), Outcome::Spurious, "still one leaf");
    assert_eq!(lender.shoot_downs(), before);
}

fn invalidated_meanwhile<F: Format>() {
    let (_, mmu) = vm::<F>(Level::L2, 0);
    assert_eq!(fault(&mmu, 0, Access::Write), Outcome::Mapped);
    mmu.start_log(SLOT, Initial::Clean).expect("memory");
    assert_eq!(fault(&mmu, 0, Access::Write), Outcome::Mapped);
    let range = GfnRange::new(Gfn::new(FIRST + 1), 1).expect("in range");
    let invalidation = mmu.invalidate(SPACE, range);
    mmu.stop_log(SLOT).expect("it is on");
    assert_eq!(fault(&mmu, 0, Access::Write), Outcome::Retry, "a leaf here would have page 1");
    drop(invalidation);
    assert_eq!(mapped_together(&mmu), LARGE);
}

/// What a write to a page ends as that shared a huge leaf with one that is invalidated, and whose slot
/// is logged by now, after the leaf is gone and before it is shot down.
fn before_the_break_is_over<F: Format>() -> Outcome {
    let (lender, mmu) = vm::<F>(Level::L2, 0);
    let (mmu, seen) = (Arc::new(mmu), Arc::new(Mutex::new(None)));
    assert_eq!(fault(&mmu, 0, Access::Read), Outcome::Mapped);
    mmu.start_log(SLOT, Initial::AllSet).expect("memory");
    let (other, told) = (mmu.clone(), seen.clone());
    lender.before_shoot_down(move || {
        *told.lock().expect("no panics inside") = Some(fault(&other, 5, Access::Write));
    });
    let range = GfnRange::new(Gfn::new(FIRST + LARGE - 1), 1).expect("in range");
    drop(mmu.invalidate(SPACE, range));
    assert_eq!(fault(&mmu, 5, Access::Write), last_outcome::<F>());
    seen.lock().expect("no panics inside").expect("there was a shoot-down")
}

/// When it is over, the page is mapped, by the fault meanwhile or by this one.
fn last_outcome<F: Format>() -> Outcome {
    match F::REPLACE {
        Replace::AtOnce => Outcome::Spurious,
        Replace::BreakFirst => Outcome::Mapped,
    }
}

#[test]
fn nothing_is_mapped_where_a_leaf_of_another_size_is_not_shot_down_yet() {
    assert_eq!(before_the_break_is_over::<Stage2>(), Outcome::Retry, "break before make");
    assert_eq!(before_the_break_is_over::<Ept>(), Outcome::Mapped);
    assert_eq!(before_the_break_is_over::<Npt>(), Outcome::Mapped);
}
