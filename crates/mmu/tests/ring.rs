//! Dirty rings: what a vCPU logs, when it stops, and what a reset takes back.
#![cfg(not(loom))]
#![allow(unsafe_code, reason = "an embedder lends out frames")]

mod lender;

use lender::Lender;
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Npt, SlotId, Stage2};

const SPACE: AddressSpace = AddressSpace::NORMAL;
const SLOT: SlotId = SlotId(5);
/// Room for 64 before a vCPU has to stop, and 64 more.
const ENTRIES: u32 = 128;
const PAGES: u64 = 1000;

fn range() -> GfnRange {
    GfnRange::new(Gfn::new(0x1000), PAGES).expect("in range")
}

fn vm<F: Format>() -> (Lender, Mmu<F, Lender>) {
    let lender = Lender::default();
    let ring = Some(RingSize::new(ENTRIES, 0).expect("a power of two above the reserve"));
    let mmu = Mmu::new(lender.clone(), Config { ring, ..Config::default() }).expect("memory");
    let spec = SlotSpec { log: LogMode::On, ..SlotSpec::new(SLOT, SPACE, range()) };
    mmu.create_slot(spec).expect("fits");
    (lender, mmu)
}

fn write<F: Format>(vcpu: &mut Vcpu<'_, F, Lender>, page: u64) -> Outcome {
    vcpu.fault(SPACE, Gfn::new(range().first().get() + page).gpa(), Access::Write)
}

fn harvest<F: Format>(mmu: &Mmu<F, Lender>) -> Vec<u64> {
    let mut pages = Vec::new();
    let count = mmu.harvest_rings(|named| {
        assert_eq!(named.slot, SLOT);
        pages.push(named.page);
    });
    assert_eq!(count, pages.len() as u64);
    pages
}

/// What is in the slot's bitmap.
fn bitmap<F: Format>(mmu: &Mmu<F, Lender>) -> Vec<u64> {
    let layout = Layout::new(vec![Region { slot: SLOT, space: SPACE, range: range() }]);
    let mut set = PageSet::new(&layout.expect("one region"));
    mmu.take_dirty(SLOT, Protect::Pages, &mut set.regions_mut()[0]).expect("logged");
    set.regions()[0].pages().collect()
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
    a_write_is_in_the_ring_once_until_it_is_reset => once_until_reset;
    a_reset_makes_every_page_fault_again_with_one_shoot_down => reset_protects;
    a_vcpu_stays_out_from_the_soft_limit_to_the_reset => soft_full;
    what_finds_no_room_is_in_the_bitmap => no_room;
    what_no_vcpu_writes_is_in_the_bitmap => no_vcpu;
    what_an_embedder_has_stored_for_a_vcpu_is_in_its_ring_if_it_says_so => stored_for_a_vcpu;
    an_entry_of_a_slot_that_is_gone_is_taken_back => slot_gone;
    what_a_vcpu_logged_outlives_it => vcpu_gone;
    a_slot_without_a_log_is_in_no_ring => unlogged;
}

fn once_until_reset<F: Format>() {
    let (_, mmu) = vm::<F>();
    let mut vcpu = mmu.vcpu().expect("memory");
    for page in [7, 3, 999] {
        assert_eq!(write(&mut vcpu, page), Outcome::Mapped);
        assert_eq!(write(&mut vcpu, page), Outcome::Spurious);
    }
    assert_eq!(harvest(&mmu), [7, 3, 999]);
    assert!(harvest(&mmu).is_empty());
    assert_eq!(write(&mut vcpu, 7), Outcome::Spurious, "not protected before the reset");
    assert_eq!(mmu.reset_rings(Again::Pages), 3);
    assert_eq!(mmu.reset_rings(Again::Pages), 0);
    assert_eq!(write(&mut vcpu, 7), Outcome::Mapped);
    assert_eq!(harvest(&mmu), [7]);
    assert!(bitmap(&mmu).is_empty());
}

fn reset_protects<F: Format>() {
    for again in [Again::Pages, Again::Everything] {
        let (lender, mmu) = vm::<F>();
        let mut vcpu = mmu.vcpu().expect("memory");
        let pages = [0, 1, 63, 64, 65, 500, 2, 511, 512];
        for page in pages {
            assert_eq!(write(&mut vcpu, page), Outcome::Mapped);
        }
        harvest(&mmu);
        let before = lender.shoot_downs();
        assert_eq!(mmu.reset_rings(again), pages.len() as u64);
        assert_eq!(lender.shoot_downs(), before + 1);
        for page in pages {
            assert_eq!(write(&mut vcpu, page), Outcome::Mapped, "{} {again:?} {page}", F::NAME);
        }
        assert_eq!(harvest(&mmu), pages);
    }
}

fn soft_full<F: Format>() {
    let (_, mmu) = vm::<F>();
    let mut vcpu = mmu.vcpu().expect("memory");
    for page in 0..64 {
        assert_eq!(vcpu.may_enter(), Ok(()));
        assert_eq!(write(&mut vcpu, page), Outcome::Mapped);
    }
    assert_eq!(vcpu.may_enter(), Err(RingFull));
    assert_eq!(vcpu.may_enter(), Err(RingFull), "and again at once");
    harvest(&mmu);
    assert_eq!(vcpu.may_enter(), Err(RingFull), "harvested is not reset");
    assert_eq!(mmu.reset_rings(Again::Pages), 64);
    assert_eq!(vcpu.may_enter(), Ok(()));
}

fn no_room<F: Format>() {
    let (_, mmu) = vm::<F>();
    let mut vcpu = mmu.vcpu().expect("memory");
    for page in 0..u64::from(ENTRIES) + 3 {
        assert_eq!(write(&mut vcpu, page), Outcome::Mapped);
    }
    assert_eq!(harvest(&mmu).len() as u64, u64::from(ENTRIES));
    assert_eq!(bitmap(&mmu), [128, 129, 130]);
}

fn no_vcpu<F: Format>() {
    let (_, mmu) = vm::<F>();
    let gpa = |page: u64| Gfn::new(range().first().get() + page).gpa();
    mmu.guest_writer(Origin::Device).write(SPACE, gpa(4), &[1]).expect("writable");
    mmu.mark_dirty(SPACE, gpa(5).gfn());
    mmu.owe(SLOT, 0, 1 << 6).expect("logged");
    assert!(harvest(&mmu).is_empty());
    let found = bitmap(&mmu);
    assert!([4, 5, 6].iter().all(|page| found.contains(page)), "{found:?}");
}

fn stored_for_a_vcpu<F: Format>() {
    let (_, mmu) = vm::<F>();
    let (mut one, mut other) = (mmu.vcpu().expect("memory"), mmu.vcpu().expect("memory"));
    let first = range().first().gpa().get();
    let pages = |pages: std::ops::Range<u64>| pages.map(move |page| first + page * 4096 + 9);
    other.log_stores(SPACE, &pages(0..64).collect::<Vec<_>>());
    assert_eq!((one.may_enter(), other.may_enter()), (Ok(()), Err(RingFull)));
    one.log_stores(SPACE, &pages(70..71).collect::<Vec<_>>());
    assert_eq!(harvest(&mmu), [70].into_iter().chain(0..64).collect::<Vec<_>>());
    assert!(bitmap(&mmu).is_empty());
}

fn slot_gone<F: Format>() {
    let (_, mmu) = vm::<F>();
    let mut vcpu = mmu.vcpu().expect("memory");
    assert_eq!(write(&mut vcpu, 1), Outcome::Mapped);
    assert_eq!(write(&mut vcpu, 900), Outcome::Mapped);
    harvest(&mmu);
    mmu.delete_slot(SLOT).expect("there");
    let small = GfnRange::new(range().first(), 10).expect("in range");
    let spec = SlotSpec { log: LogMode::On, ..SlotSpec::new(SLOT, SPACE, small) };
    mmu.create_slot(spec).expect("fits");
    assert_eq!(mmu.reset_rings(Again::Pages), 2, "one is past the end of the new slot");
}

fn vcpu_gone<F: Format>() {
    let (_, mmu) = vm::<F>();
    let mut vcpu = mmu.vcpu().expect("memory");
    assert_eq!(write(&mut vcpu, 8), Outcome::Mapped);
    drop(vcpu);
    assert_eq!(harvest(&mmu), [8]);
    assert_eq!(mmu.reset_rings(Again::Pages), 1);
    let mut next = mmu.vcpu().expect("memory");
    assert_eq!(write(&mut next, 8), Outcome::Mapped);
    assert_eq!(harvest(&mmu), [8]);
}

fn unlogged<F: Format>() {
    let (_, mmu) = vm::<F>();
    mmu.stop_log(SLOT).expect("logged");
    let mut vcpu = mmu.vcpu().expect("memory");
    assert_eq!(write(&mut vcpu, 8), Outcome::Mapped);
    assert!(harvest(&mmu).is_empty());
}

/// Stores go on while somebody harvests and resets: each page stored since it was last reset is in a
/// later harvest. The vCPUs count their stores page by page.
#[test]
fn several_vcpus_fill_their_rings_while_one_consumer_empties_them() {
    let (_, mmu) = vm::<Ept>();
    let written = std::sync::atomic::AtomicU64::new(0);
    let mut seen = 0;
    std::thread::scope(|scope| {
        let vcpus: Vec<_> = (0..3)
            .map(|number| {
                let (mmu, written) = (&mmu, &written);
                scope.spawn(move || {
                    let mut vcpu = mmu.vcpu().expect("memory");
                    for round in 0..300 {
                        while vcpu.may_enter().is_err() {
                            std::thread::yield_now();
                        }
                        let page = number * 300 + round;
                        assert_eq!(write(&mut vcpu, page), Outcome::Mapped);
                        written.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                })
            })
            .collect();
        while !vcpus.iter().all(|vcpu| vcpu.is_finished()) {
            let harvested = harvest(&mmu).len() as u64;
            seen += harvested;
            assert_eq!(mmu.reset_rings(Again::Pages), harvested, "equals what was harvested");
        }
    });
    seen += harvest(&mmu).len() as u64;
    assert_eq!(seen, written.into_inner(), "each once, none lost");
}
