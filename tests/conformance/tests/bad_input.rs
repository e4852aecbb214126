//! What callers of page tracking, sub-page permissions and listeners get wrong: each is a named
//! error, and nothing has changed.

mod owned;

use owned::{Owned, Recorder, SPACE, slot, vm, write_fault};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use vellum_conformance::hypervisor::Snapshot;
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Ept, Gfn, Gpa, SubPageMap};

type Vm = Mmu<Ept, Owned>;

/// Two neighbours, a hole, and one more, at the very end of what the tables translate.
const SLOTS: [(u64, u64); 3] = [(0, 700), (700, 300), ((1 << 36) - 64, 64)];
/// The hole.
const HOLE: u64 = 1000;
const WRITE: TrackMode = TrackMode::Write;
/// Maps of which no two neighbours are alike.
const MAPS: [SubPageMap; 4] =
    [SubPageMap::new(!1), SubPageMap::NONE, SubPageMap::new(0xffff), SubPageMap::new(5)];

fn with(config: Config) -> Arc<Vm> {
    vm(Owned::default(), config, &SLOTS)
}

/// By tables and by emulation.
fn both_forms(law: impl Fn(&Vm)) {
    for sub_pages in [SubPageHardware::Absent, SubPageHardware::Present] {
        let config = Config { sub_pages, ..Config::default() };
        law(&with(Config { address_bits: Some(48), ..config }));
    }
}

/// All that a refused call could have changed.
#[derive(PartialEq, Debug)]
struct Image {
    tables: Snapshot,
    shoot_downs: u64,
    tracked: Vec<bool>,
    maps: Vec<Result<usize, SubPageError>>,
    bits: Vec<SubPageMap>,
}

fn image(mmu: &Vm) -> Image {
    let pages = SLOTS.into_iter().flat_map(|(first, pages)| first..first + pages).map(Gfn::new);
    let (mut maps, mut bits) = (Vec::new(), Vec::new());
    for gfn in pages.clone() {
        let mut map = [SubPageMap::ALL];
        maps.push(mmu.sub_pages(SubPageRange::new(SPACE, gfn), &mut map));
        bits.extend(map);
    }
    let embedder = &mmu.embedder().inner;
    Image {
        tables: embedder.snapshot(),
        shoot_downs: embedder.shoot_downs(),
        tracked: pages.map(|gfn| mmu.is_tracked(SPACE, gfn, WRITE)).collect(),
        maps,
        bits,
    }
}

/// Holds a call to its error, and to having done nothing.
fn refused<T: PartialEq + Debug, E: PartialEq + Debug>(
    mmu: &Vm,
    error: E,
    call: impl FnOnce() -> Result<T, E>,
) {
    let before = image(mmu);
    assert_eq!(call(), Err(error));
    assert_eq!(image(mmu), before, "a refused call changes nothing");
}

/// Maps some pages of each slot, so that there is something to change.
fn touch(mmu: &Vm) {
    for page in [0, 1, 650, 699, 700, 701, 999] {
        assert!(matches!(write_fault(mmu, page), Outcome::Mapped | Outcome::Spurious));
    }
}

fn at(page: u64) -> SubPageRange {
    SubPageRange::new(SPACE, Gfn::new(page))
}

#[test]
fn tracking_that_is_off_says_so() {
    let mmu = with(Config::default());
    touch(&mmu);
    refused(&mmu, TrackError::Off, || mmu.track(SPACE, Gfn::new(1), WRITE));
    refused(&mmu, TrackError::Off, || mmu.untrack(SPACE, Gfn::new(1), WRITE));
    mmu.enable_tracking().expect("the memory is open");
    mmu.enable_tracking().expect("and on while on");
    mmu.track(SPACE, Gfn::new(1), WRITE).expect("it is on");
    assert_eq!(write_fault(&mmu, 1), Outcome::Emulate);
}

#[test]
fn a_page_outside_of_all_slots_is_not_tracked() {
    let mmu = with(Config { address_bits: Some(48), ..Config::default() });
    touch(&mmu);
    mmu.enable_tracking().expect("the memory is open");
    for page in [HOLE, HOLE - 1 + 64, 1 << 36, 1 << 52, u64::MAX].map(Gfn::new) {
        refused(&mmu, TrackError::NoSlot(page), || mmu.track(SPACE, page, WRITE));
        refused(&mmu, TrackError::NoSlot(page), || mmu.untrack(SPACE, page, WRITE));
        assert!(!mmu.is_tracked(SPACE, page, WRITE));
    }
    for space in [AddressSpace::SMM, AddressSpace(u16::MAX)] {
        let page = Gfn::new(1);
        refused(&mmu, TrackError::NoSlot(page), || mmu.track(space, page, WRITE));
        assert!(!mmu.is_tracked(space, page, WRITE));
    }
}

#[test]
fn a_count_neither_wraps_nor_underflows() {
    let mmu = with(Config::default());
    mmu.enable_tracking().expect("the memory is open");
    let page = Gfn::new(650);
    for _ in 0..65_535 {
        mmu.track(SPACE, page, WRITE).expect("there is room");
    }
    refused(&mmu, TrackError::TooMany(page), || mmu.track(SPACE, page, WRITE));
    for _ in 0..65_535 {
        assert_eq!(write_fault(&mmu, page.get()), Outcome::Emulate);
        mmu.untrack(SPACE, page, WRITE).expect("it is tracked");
    }
    refused(&mmu, TrackError::NotTracked(page), || mmu.untrack(SPACE, page, WRITE));
    assert_eq!(write_fault(&mmu, page.get()), Outcome::Mapped);
    refused(&mmu, TrackError::NotTracked(page), || mmu.untrack(SPACE, page, WRITE));
}

#[test]
fn sub_pages_that_are_inactive_say_so() {
    both_forms(|mmu| {
        touch(mmu);
        assert_eq!(mmu.sub_page_root(SPACE), None);
        refused(mmu, SubPageError::Inactive, || mmu.set_sub_pages(at(0), &MAPS));
        refused(mmu, SubPageError::Inactive, || mmu.sub_pages(at(0), &mut []));
        refused(mmu, SubPageError::Inactive, || mmu.set_sub_pages(at(HOLE), &[]));
        let form = mmu.activate_sub_pages().expect("memory");
        assert_eq!(mmu.set_sub_pages(at(0), &MAPS), Ok(4));
        let before = image(mmu);
        assert_eq!(mmu.activate_sub_pages(), Ok(form), "a second time");
        assert_eq!(image(mmu), before, "changes nothing");
    });
}

#[test]
fn no_pages_are_no_error_wherever_they_are() {
    both_forms(|mmu| {
        mmu.activate_sub_pages().expect("memory");
        touch(mmu);
        let before = image(mmu);
        for page in [0, HOLE, u64::MAX] {
            assert_eq!(mmu.set_sub_pages(at(page), &[]), Ok(0));
            assert_eq!(mmu.sub_pages(at(page), &mut []), Ok(0));
        }
        assert_eq!(image(mmu), before);
    });
}

#[test]
fn more_than_512_pages_are_too_many_and_512_are_not() {
    both_forms(|mmu| {
        mmu.activate_sub_pages().expect("memory");
        touch(mmu);
        let mut maps = [SubPageMap::NONE; 513];
        refused(mmu, SubPageError::TooMany(513), || mmu.set_sub_pages(at(100), &maps));
        refused(mmu, SubPageError::TooMany(513), || mmu.sub_pages(at(100), &mut maps));
        assert_eq!(maps, [SubPageMap::NONE; 513], "nor is anything handed over");
        assert_eq!(mmu.set_sub_pages(at(300), &maps[1..]), Ok(512));
        assert_eq!(mmu.sub_pages(at(300), &mut maps[1..]), Ok(512));
    });
}

#[test]
fn unknown_flags_are_refused() {
    both_forms(|mmu| {
        mmu.activate_sub_pages().expect("memory");
        touch(mmu);
        for bits in [1, 1 << 31, u32::MAX] {
            let range = SubPageRange { flags: SubPageFlags::from_bits(bits), ..at(0) };
            refused(mmu, SubPageError::UnknownFlags(bits), || mmu.set_sub_pages(range, &MAPS));
            refused(mmu, SubPageError::UnknownFlags(bits), || mmu.sub_pages(range, &mut []));
        }
        let none = SubPageRange { flags: SubPageFlags::from_bits(0), ..at(0) };
        assert_eq!(mmu.set_sub_pages(none, &MAPS), Ok(4));
    });
}

#[test]
fn a_list_that_leaves_the_slots_changes_none_of_them() {
    both_forms(|mmu| {
        mmu.activate_sub_pages().expect("memory");
        touch(mmu);
        // The page that has no slot: in the middle of the list, at its end, at its start, past what
        // the tables translate, and where page numbers wrap to a slot that is there.
        let end = 1 << 36;
        let lists = [
            (HOLE - 2, HOLE),
            (HOLE - 3, HOLE),
            (HOLE, HOLE),
            (end - 2, end),
            (u64::MAX - 1, u64::MAX - 1),
            (1 << 52, 1 << 52),
        ];
        for (first, missing) in lists {
            let error = SubPageError::NoSlot(Gfn::new(missing));
            refused(mmu, error, || mmu.set_sub_pages(at(first), &MAPS));
            let mut maps = MAPS;
            refused(mmu, error, || mmu.sub_pages(at(first), &mut maps));
            assert_eq!(maps, MAPS, "nor is anything handed over");
        }
        for space in [AddressSpace::SMM, AddressSpace(u16::MAX)] {
            let elsewhere = SubPageRange { space, ..at(0) };
            let error = SubPageError::NoSlot(Gfn::new(0));
            refused(mmu, error, || mmu.set_sub_pages(elsewhere, &MAPS));
            assert_eq!(mmu.sub_page_root(space), None);
        }
    });
}

#[test]
fn nested_guests_and_sub_pages_exclude_each_other_in_both_orders() {
    both_forms(|mmu| {
        touch(mmu);
        mmu.allow_nested().expect("nothing is restricted");
        mmu.allow_nested().expect("on while on");
        refused(mmu, ActivateError::Nested, || mmu.activate_sub_pages());
        refused(mmu, SubPageError::Inactive, || mmu.set_sub_pages(at(0), &MAPS));
        assert_eq!(mmu.sub_page_root(SPACE), None);
    });
    both_forms(|mmu| {
        touch(mmu);
        mmu.activate_sub_pages().expect("memory");
        mmu.set_sub_pages(at(0), &MAPS).expect("memory");
        refused(mmu, SubPagesActive, || mmu.allow_nested());
        refused(mmu, SubPagesActive, || mmu.allow_nested());
        assert!(matches!(write_fault(mmu, 1), Outcome::Denied(_)), "and it stays restricted");
    });
}

#[test]
fn a_confidential_vms_memory_is_neither_tracked_nor_restricted_nor_listened_to() {
    for sub_pages in [SubPageHardware::Absent, SubPageHardware::Present] {
        let memory = GuestMemory::Confidential;
        let mmu = with(Config { sub_pages, memory, ..Config::default() });
        touch(&mmu);
        let listener = Arc::new(Recorder::default());
        let confidential = EnableTrackingError::Confidential;
        refused(&mmu, confidential, || mmu.enable_tracking());
        let listen = || Mmu::listen(&*mmu, listener.clone()).map(drop);
        refused(&mmu, ListenError::Tracking(confidential), listen);
        refused(&mmu, TrackError::Off, || mmu.track(SPACE, Gfn::new(1), WRITE));
        refused(&mmu, ActivateError::Confidential, || mmu.activate_sub_pages());
        refused(&mmu, SubPageError::Inactive, || mmu.set_sub_pages(at(0), &MAPS));
        mmu.guest_writer(Origin::Device).write(SPACE, Gpa::new(8), &[1]).expect("it is no CPU's");
        assert_eq!(Arc::strong_count(&listener), 1, "nobody keeps the listener");
        assert!(listener.heard().is_empty());
    }
}

#[test]
fn another_owners_vm_is_not_listened_to() {
    let mmu = with(Config::default());
    let (mine, foreign) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
    mmu.embedder().change_owner();
    let listen = || Mmu::listen(&*mmu, foreign.clone()).map(drop);
    refused(&mmu, ListenError::NotTheOwner, listen);
    refused(&mmu, TrackError::Off, || mmu.track(SPACE, Gfn::new(1), WRITE));

    let mmu = with(Config::default());
    let registration = Mmu::listen(&*mmu, mine.clone()).expect("it is ours");
    mmu.embedder().change_owner();
    let listen = || Mmu::listen(&*mmu, foreign.clone()).map(drop);
    refused(&mmu, ListenError::NotTheOwner, listen);
    mmu.guest_writer(Origin::Device).write(SPACE, Gpa::new(8), &[1]).expect("RAM");
    assert_eq!((mine.places(), foreign.places()), (vec![8], vec![]));
    registration.unregister();
}

/// What happens to a registration that comes while a slot is being added.
fn listen_during_a_slot_change(
    mmu: &Arc<Vm>,
    how: impl FnOnce(Arc<Vm>) -> Result<(), ListenError> + Send + 'static,
) -> Result<(), ListenError> {
    let answer = Arc::new(Mutex::new(None));
    let (weak, theirs) = (Arc::downgrade(mmu), answer.clone());
    mmu.embedder().during_next_slot_change(move || {
        let mmu = weak.upgrade().expect("it is in a call");
        *theirs.lock().expect("no panics inside") = Some(how(mmu));
    });
    mmu.create_slot(slot(9, 2000, 10)).expect("the place is free");
    mmu.delete_slot(vellum_pte::SlotId(9)).expect("it is there");
    let answer = answer.lock().expect("no panics inside").take();
    answer.expect("a slot change has a barrier")
}

#[test]
fn registering_from_inside_of_a_slot_change_is_refused_and_does_not_hang() {
    let mmu = with(Config::default());
    let listener = Arc::new(Recorder::default());
    let theirs = listener.clone();
    let inside = listen_during_a_slot_change(&mmu, |mmu| {
        assert_eq!(mmu.enable_tracking(), Err(EnableTrackingError::InsideSlotChange));
        Mmu::listen(&*mmu, theirs).map(drop)
    });
    assert_eq!(inside, Err(ListenError::Tracking(EnableTrackingError::InsideSlotChange)));
    assert_eq!(Arc::strong_count(&listener), 1, "nobody keeps the listener");
    refused(&mmu, TrackError::Off, || mmu.track(SPACE, Gfn::new(1), WRITE));
    Mmu::listen(&*mmu, listener).expect("now it is over").unregister();
}

#[test]
fn another_thread_may_register_while_a_slot_changes() {
    let mmu = with(Config::default());
    let waiting = Arc::new(Mutex::new(None));
    let theirs = waiting.clone();
    listen_during_a_slot_change(&mmu, move |mmu| {
        let listen = move || Mmu::listen(&*mmu, Arc::new(Recorder::default())).map(drop);
        *theirs.lock().expect("no panics inside") = Some(std::thread::spawn(listen));
        Ok(())
    })
    .expect("it was started");
    let thread = waiting.lock().expect("no panics inside").take().expect("it was started");
    assert_eq!(thread.join().expect("no panic"), Ok(()), "it waits for the slot change's end");
}

#[test]
fn a_write_that_is_refused_is_neither_made_nor_heard_of() {
    both_forms(|mmu| {
        mmu.activate_sub_pages().expect("memory");
        let listener = Arc::new(Recorder::default());
        let registration = Mmu::listen(mmu, listener.clone()).expect("it is ours");
        mmu.set_sub_pages(at(699), &[SubPageMap::new(!(1 << 31)), SubPageMap::new(!1)])
            .expect("ok");
        let hole = Gfn::new(HOLE).gpa();
        let end = Gfn::new(1 << 36).gpa();
        let denied = |gpa: u64, bits: u32| {
            let denial = Denial { gpa: Gpa::new(gpa), map: SubPageMap::new(bits) };
            WriteError::Denied(denial)
        };
        let border = Gfn::new(700).gpa().get();
        let writes = [
            (hole.get() - 3, WriteError::NoSlot(hole)),
            (hole.get(), WriteError::NoSlot(hole)),
            (end.get() - 3, WriteError::NoSlot(end)),
            // From the last byte that there is to the first, which is RAM.
            (u64::MAX - 3, WriteError::NoSlot(Gpa::new(u64::MAX - 3))),
            (border - 128 - 7, denied(border - 128, !(1 << 31))),
            (border - 4, denied(border - 4, !(1 << 31))),
            (border + 127, denied(border + 127, !1)),
        ];
        for (gpa, error) in writes {
            let write = || mmu.guest_writer(Origin::Device).write(SPACE, Gpa::new(gpa), &[0xff; 8]);
            refused(mmu, error, write);
        }
        mmu.guest_writer(Origin::Device).write(SPACE, hole, &[]).expect("no bytes go nowhere");
        assert_eq!(listener.heard(), []);
        let inner = &mmu.embedder().inner;
        assert_eq!(inner.written(), [], "and no byte is anywhere");
        registration.unregister();
    });
}
