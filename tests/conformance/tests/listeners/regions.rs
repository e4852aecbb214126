//! Memslots that go while somebody listens.

use super::owned::{Recorder, SPACE, slot, write_fault};
use super::{Doing, Inside, WRITE, board, locked};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use vellum_mmu::*;
use vellum_pte::{Gfn, SlotId};

#[test]
fn a_region_is_removed_by_a_deletion_and_by_a_move_and_by_nothing_else() {
    let mmu = board();
    let listener = Arc::new(Recorder::default());
    let registration = Mmu::listen(&*mmu, listener.clone()).expect("memory");
    let [mine, neighbour] = [slot(0, 100, 50), slot(1, 150, 50)];
    let logged = SlotSpec { log: LogMode::On, memory: mine.memory, ..mine };
    // Refused, and what is no removal.
    mmu.delete_slot(SlotId(7)).expect_err("there is none");
    mmu.create_slot(slot(2, 149, 1)).expect_err("it overlaps");
    for clash in [160, 140, 199] {
        let there = SlotSpec { range: slot(0, clash, 50).range, ..logged };
        mmu.change_slot(there).expect_err("its neighbour is there");
    }
    mmu.change_slot(SlotSpec { range: slot(0, 100, 49).range, ..logged }).expect_err("smaller");
    mmu.change_slot(SlotSpec { access: SlotAccess::ReadOnly, ..logged }).expect_err("read-only");
    mmu.change_slot(logged).expect("nothing to do");
    mmu.change_slot(SlotSpec { log: LogMode::Off, ..logged }).expect("its log stops");
    mmu.change_slot(logged).expect("its log starts");
    mmu.create_slot(slot(2, 400, 4)).expect("the place is free");
    assert_eq!(listener.removed(), []);

    let removed = |spec: SlotSpec| {
        vec![RemovedRegion { slot: spec.id, space: spec.space, range: spec.range }]
    };
    let moved = SlotSpec { range: slot(0, 300, 50).range, ..logged };
    mmu.change_slot(moved).expect("the place is free");
    assert_eq!(listener.removed(), removed(mine), "where it was");
    mmu.delete_slot(SlotId(0)).expect("it is there");
    assert_eq!(listener.removed(), removed(moved), "where it is");
    mmu.delete_slot(SlotId(1)).expect("it is there");
    assert_eq!(listener.removed(), removed(neighbour));
    registration.unregister();
}

#[test]
fn a_region_is_gone_when_its_removal_is_heard_of() {
    let mmu = board();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let told = answers.clone();
    let listener = Arc::new(Doing {
        write: |_: &Inside<'_>, _: &Written<'_>| (),
        removed: move |call: &Inside<'_>, region: &RemovedRegion| {
            let first = region.range.first();
            let outcome = write_fault(call.mmu(), first.get());
            locked(&told).push((call.mmu().is_tracked(SPACE, first, WRITE), outcome));
        },
    });
    let registration = Mmu::listen(&*mmu, listener).expect("memory");
    mmu.track(SPACE, Gfn::new(150), WRITE).expect("memory");
    mmu.change_slot(slot(1, 150, 50)).expect("nothing to do");
    assert!(mmu.is_tracked(SPACE, Gfn::new(150), WRITE), "no removal, no loss");
    let elsewhere = SlotSpec { range: slot(1, 500, 50).range, ..slot(1, 150, 50) };
    mmu.change_slot(elsewhere).expect("the place is free");
    assert!(!mmu.is_tracked(SPACE, Gfn::new(500), WRITE), "counts do not go along");
    mmu.track(SPACE, Gfn::new(500), WRITE).expect("memory");
    mmu.delete_slot(SlotId(1)).expect("it is there");
    assert_eq!(*locked(&answers), [(false, Outcome::Mmio); 2]);
    registration.unregister();
}

#[test]
fn a_listener_that_panics_at_a_removal_brings_no_slot_back() {
    let mmu = board();
    let listener = Arc::new(Doing {
        write: |_: &Inside<'_>, _: &Written<'_>| (),
        removed: |_: &Inside<'_>, _: &RemovedRegion| std::panic::panic_any(()),
    });
    let registration = Mmu::listen(&*mmu, listener).expect("memory");
    assert_eq!(write_fault(&mmu, 160), Outcome::Mapped);
    let elsewhere = SlotSpec { range: slot(1, 500, 50).range, ..slot(1, 150, 50) };
    catch_unwind(AssertUnwindSafe(|| mmu.change_slot(elsewhere))).expect_err("it panics");
    assert_eq!([write_fault(&mmu, 160), write_fault(&mmu, 510)], [Outcome::Mmio, Outcome::Mapped]);
    catch_unwind(AssertUnwindSafe(|| mmu.delete_slot(SlotId(1)))).expect_err("it panics");
    assert_eq!(write_fault(&mmu, 510), Outcome::Mmio);
    registration.unregister();
    mmu.create_slot(slot(1, 150, 50)).expect("name and place are free");
    assert_eq!(write_fault(&mmu, 160), Outcome::Mapped);
}
