//! Who listens to writes: what they hear, in which order, what they may do from inside of a call, and
//! how they come and go.

mod coming_and_going;
#[path = "../owned/mod.rs"]
mod owned;
mod regions;

use owned::{Recorder, SPACE, slot, vm, write_fault};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vellum_conformance::hypervisor::{Change, Home, Hypervisor};
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::*;
use vellum_pte::{Ept, Gfn, Gpa, SlotId};

type Vm = Mmu<Ept, Hypervisor>;
type Inside<'a> = Call<'a, Ept, Hypervisor>;

const WRITE: TrackMode = TrackMode::Write;
/// A slot with a log, its neighbour, and a hole after it.
const SLOTS: [(u64, u64); 2] = [(100, 50), (150, 50)];
const LOGGED: SlotId = SlotId(0);
const PAGE: u64 = 110;

fn board() -> Arc<Vm> {
    board_with(Config::default())
}

fn board_with(config: Config) -> Arc<Vm> {
    let mmu = vm(Hypervisor::default(), config, &SLOTS);
    mmu.start_log(LOGGED, Initial::Clean).expect("memory");
    mmu
}

/// A place in a page.
fn at(page: u64, offset: u64) -> Gpa {
    Gpa::new(Gfn::new(page).gpa().get() + offset)
}

fn write(mmu: &Vm, gpa: Gpa, bytes: &[u8]) {
    mmu.guest_writer(Origin::Device).write(SPACE, gpa, bytes).expect("RAM");
}

/// The pages of the first slot that are dirty.
fn dirty(mmu: &Vm) -> Vec<u64> {
    let (id, range) = (LOGGED, slot(0, SLOTS[0].0, SLOTS[0].1).range);
    let layout = Layout::new(vec![Region { slot: id, space: SPACE, range }]).expect("one region");
    let mut set = PageSet::new(&layout);
    mmu.read_dirty(id, &mut set.regions_mut()[0]).expect("it is logged");
    set.regions()[0].pages().map(|page| SLOTS[0].0 + page).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what a test says.
struct Doing<W, R = fn(&Inside<'_>, &RemovedRegion)> {
    write: W,
    removed: R,
}

impl<W, R> WriteListener<Ept, Hypervisor> for Doing<W, R>
where
    W: Fn(&Inside<'_>, &Written<'_>) + Send + Sync,
    R: Fn(&Inside<'_>, &RemovedRegion) + Send + Sync,
{
    fn write(&self, call: &Inside<'_>, written: &Written<'_>) {
        (self.write)(call, written);
    }

    fn region_removed(&self, call: &Inside<'_>, removed: &RemovedRegion) {
        (self.removed)(call, removed);
    }
}

fn on_write<W: Fn(&Inside<'_>, &Written<'_>) + Send + Sync>(write: W) -> Arc<Doing<W>> {
    Arc::new(Doing { write, removed: |_, _| () })
}

#[test]
fn a_write_is_in_memory_and_in_the_log_when_it_is_heard_of() {
    let mmu = board();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let listener = on_write(move |call, written| {
        let bytes: [u8; 8] = written.bytes.try_into().expect("eight");
        assert_eq!(call.mmu().embedder().peek(written.gpa), u64::from_le_bytes(bytes));
        assert_eq!(dirty(call.mmu()), [PAGE]);
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let registration = Mmu::listen(&*mmu, listener).expect("memory");
    write(&mmu, at(PAGE, 8), &7_u64.to_le_bytes());
    write(&mmu, at(PAGE, 16), &9_u64.to_le_bytes());
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    registration.unregister();
}

#[test]
fn a_write_is_heard_of_once_and_whole_whatever_is_tracked_and_whoever_wrote() {
    let mmu = board();
    let listener = Arc::new(Recorder::default());
    let registration = Mmu::listen(&*mmu, listener.clone()).expect("memory");
    mmu.track(SPACE, Gfn::new(PAGE), WRITE).expect("memory");
    // Tracked; not tracked; over the end of a page, of a slot; three pages at once.
    let writes = [(at(PAGE, 0), 1), (at(PAGE + 1, 5), 3), (at(PAGE, 4094), 4), (at(149, 4090), 12)];
    for (number, (gpa, length)) in (1..).zip(writes.into_iter().chain([(at(160, 4000), 5000)])) {
        let bytes = vec![number; length];
        let origin = Origin::Vcpu(u32::from(number));
        mmu.guest_writer(origin).write(SPACE, gpa, &bytes).expect("RAM");
        assert_eq!(listener.heard(), [owned::Heard { gpa, bytes, origin }]);
    }
    registration.unregister();
    write(&mmu, at(PAGE, 0), &[1]);
    assert_eq!(listener.heard(), [], "nor is anything heard of after the end");
}

#[test]
fn what_a_write_has_done_before_it_failed_is_heard_of() {
    let mmu = board();
    let listener = Arc::new(Recorder::default());
    let registration = Mmu::listen(&*mmu, listener.clone()).expect("memory");
    mmu.embedder().change(Home(PAGE + 1)..Home(PAGE + 2), Change::Withhold);
    let result = mmu.guest_writer(Origin::Device).write(SPACE, at(PAGE, 4092), &[3; 8]);
    assert_eq!(result, Err(WriteError::NoBacking(at(PAGE + 1, 0))));
    let (gpa, bytes, origin) = (at(PAGE, 4092), vec![3; 4], Origin::Device);
    assert_eq!(listener.heard(), [owned::Heard { gpa, bytes, origin }]);
    assert_eq!(dirty(&mmu), [PAGE]);
    registration.unregister();
}

#[test]
fn listeners_are_called_in_the_order_in_which_they_came() {
    let mmu = board();
    let order = Arc::new(Mutex::new(String::new()));
    let named = |name| {
        let order = order.clone();
        on_write(move |_, _| locked(&order).push(name))
    };
    let mut first = Some(Mmu::listen(&*mmu, named('a')).expect("memory"));
    let others = ['b', 'c'].map(|name| Mmu::listen(&*mmu, named(name)).expect("memory"));
    let told = || {
        write(&mmu, at(PAGE, 0), &[1]);
        std::mem::take(&mut *locked(&order))
    };
    assert_eq!(told(), "abc");
    first.take().expect("it is there").unregister();
    assert_eq!(told(), "bc");
    let first = Mmu::listen(&*mmu, named('a')).expect("memory");
    assert_eq!(told(), "bca");
    drop(others);
    assert_eq!(told(), "a");
    drop(first);
    assert_eq!(told(), "");
}

#[test]
fn a_listener_tracks_and_untracks_from_inside_of_its_call() {
    let mmu = board();
    let (gives_up, takes) = (PAGE, 160);
    let listener = on_write(move |call, written| {
        let [old, new] = [written.gpa.gfn(), Gfn::new(u64::from(written.bytes[0]))];
        call.mmu().track(SPACE, new, WRITE).expect("memory");
        call.mmu().untrack(SPACE, old, WRITE).expect("it is tracked");
    });
    let registration = Mmu::listen(&*mmu, listener).expect("memory");
    for page in [gives_up, takes] {
        assert_eq!(write_fault(&mmu, page), Outcome::Mapped);
    }
    mmu.track(SPACE, Gfn::new(gives_up), WRITE).expect("memory");
    for (old, new) in [(gives_up, takes), (takes, gives_up)] {
        assert_eq!(write_fault(&mmu, old), Outcome::Emulate);
        write(&mmu, at(old, 0), &[u8::try_from(new).expect("small")]);
        assert_eq!(write_fault(&mmu, new), Outcome::Emulate, "tracked on return");
        assert_eq!(write_fault(&mmu, old), Outcome::Mapped, "and the other is not");
    }
    registration.unregister();
}

/// The first listener writes once more for each write to one page. The second hears of that write
/// within the call to the first, so before it hears of the one that caused it.
#[test]
fn a_listener_writes_from_inside_and_both_writes_are_heard_of() {
    let mmu = board();
    let echo = on_write(|call, written| {
        if written.gpa.gfn() == Gfn::new(PAGE) {
            let twin = at(160, written.gpa.offset());
            write(call.mmu(), twin, written.bytes);
        }
    });
    let after = Arc::new(Recorder::default());
    let registrations = (
        Mmu::listen(&*mmu, echo).expect("memory"),
        Mmu::listen(&*mmu, after.clone()).expect("memory"),
    );
    write(&mmu, at(PAGE, 24), &5_u64.to_le_bytes());
    assert_eq!(after.places(), [at(160, 24).get(), at(PAGE, 24).get()]);
    assert_eq!(mmu.embedder().peek(at(160, 24)), 5);
    drop(registrations);
}

#[test]
fn a_listener_may_remove_a_slot_from_inside_and_hears_of_that_within_its_call() {
    let mmu = board();
    let (inside, removed) = (AtomicBool::new(false), Arc::new(Mutex::new(Vec::new())));
    let told = removed.clone();
    let inside = Arc::new(inside);
    let flag = inside.clone();
    let listener = Arc::new(Doing {
        write: move |call: &Inside<'_>, _: &Written<'_>| {
            inside.store(true, Ordering::Relaxed);
            call.mmu().delete_slot(SlotId(1)).expect("it is there");
            inside.store(false, Ordering::Relaxed);
        },
        removed: move |_: &Inside<'_>, region: &RemovedRegion| {
            locked(&told).push((region.slot, flag.load(Ordering::Relaxed)));
        },
    });
    let registration = Mmu::listen(&*mmu, listener).expect("memory");
    write(&mmu, at(PAGE, 0), &[1]);
    assert_eq!(*locked(&removed), [(SlotId(1), true)]);
    assert_eq!(write_fault(&mmu, 160), Outcome::Mmio);
    registration.unregister();
}

#[test]
fn a_listener_that_unregisters_itself_is_dropped_after_that_call_and_never_called_again() {
    let mmu = board();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let listener = on_write(move |call, _| {
        call.unregister();
        call.unregister();
        // A write from inside is heard by nobody any more.
        write(call.mmu(), at(PAGE, 8), &[2]);
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let alive = Arc::downgrade(&listener);
    let registration = Mmu::listen(&*mmu, listener).expect("memory");
    write(&mmu, at(PAGE, 0), &[1]);
    assert!(alive.upgrade().is_none(), "its last call is over");
    write(&mmu, at(PAGE, 0), &[1]);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    registration.unregister();
}

#[test]
fn a_listener_may_drop_its_own_registration_from_inside() {
    let mmu = board();
    let kept = Arc::new(Mutex::new(None::<Registration<Arc<Vm>>>));
    let mine = kept.clone();
    let listener = on_write(move |_, _| drop(locked(&mine).take()));
    let alive = Arc::downgrade(&listener);
    *locked(&kept) = Some(Mmu::listen(mmu.clone(), listener).expect("memory"));
    write(&mmu, at(PAGE, 0), &[1]);
    assert!(locked(&kept).is_none());
    assert!(alive.upgrade().is_none());
}

/// It ends the one after it, which then does not hear of the write at hand, and the one before it,
/// which has.
#[test]
fn a_listener_unregisters_others_from_inside() {
    let mmu = board();
    let victims = Arc::new(Mutex::new(Vec::<Registration<Arc<Vm>>>::new()));
    let theirs = victims.clone();
    let killer = on_write(move |_, _| {
        let registrations = std::mem::take(&mut *locked(&theirs));
        registrations.into_iter().for_each(Registration::unregister);
    });
    let (before, after) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
    let first = Mmu::listen(mmu.clone(), before.clone()).expect("memory");
    let killing = Mmu::listen(mmu.clone(), killer).expect("memory");
    let last = Mmu::listen(mmu.clone(), after.clone()).expect("memory");
    locked(&victims).extend([first, last]);
    write(&mmu, at(PAGE, 0), &[1]);
    write(&mmu, at(PAGE, 1), &[1]);
    assert_eq!((before.places(), after.places()), (vec![at(PAGE, 0).get()], vec![]));
    assert_eq!((Arc::strong_count(&before), Arc::strong_count(&after)), (1, 1));
    killing.unregister();
}

#[test]
fn a_listener_registers_another_from_inside() {
    let mmu = board();
    let (late, kept) = (Arc::new(Recorder::default()), Arc::new(Mutex::new(Vec::new())));
    let (newcomer, theirs) = (late.clone(), kept.clone());
    let weak = Arc::downgrade(&mmu);
    let host = on_write(move |_, _| {
        let mut kept = locked(&theirs);
        if kept.is_empty() {
            let mmu = weak.upgrade().expect("it is in a call");
            kept.push(Mmu::listen(mmu, newcomer.clone()).expect("memory"));
        }
    });
    let registration = Mmu::listen(&*mmu, host).expect("memory");
    write(&mmu, at(PAGE, 0), &[1]);
    late.places();
    write(&mmu, at(PAGE, 1), &[1]);
    assert_eq!(late.places(), [at(PAGE, 1).get()]);
    registration.unregister();
    locked(&kept).clear();
    write(&mmu, at(PAGE, 2), &[1]);
    assert!(late.heard().is_empty());
}

#[test]
fn a_listener_that_panics_takes_neither_the_write_nor_the_vm_along() {
    let mmu = board();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let listener = on_write(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::panic::panic_any("as a listener might");
    });
    let alive = Arc::downgrade(&listener);
    let [before, after] = [(); 2].map(|()| Arc::new(Recorder::default()));
    let registrations = (
        Mmu::listen(&*mmu, before.clone()).expect("memory"),
        Mmu::listen(&*mmu, listener).expect("memory"),
        Mmu::listen(&*mmu, after.clone()).expect("memory"),
    );
    mmu.track(SPACE, Gfn::new(PAGE), WRITE).expect("memory");
    for number in 1..3_u64 {
        let gpa = at(PAGE + number, 8 * number);
        let writing = || write(&mmu, gpa, &number.to_le_bytes());
        let panic = catch_unwind(AssertUnwindSafe(writing)).expect_err("it reaches the writer");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"as a listener might"));
        assert_eq!(mmu.embedder().peek(gpa), number, "the write is in memory");
        assert_eq!(dirty(&mmu), (1..=number).map(|page| PAGE + page).collect::<Vec<_>>());
        assert_eq!((before.places(), after.places()), (vec![gpa.get()], vec![]));
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2, "it stays registered");
    // No lock is left held, no call under way.
    assert_eq!(write_fault(&mmu, PAGE), Outcome::Emulate);
    assert_eq!(write_fault(&mmu, PAGE + 3), Outcome::Mapped);
    mmu.untrack(SPACE, Gfn::new(PAGE), WRITE).expect("it is tracked");
    registrations.1.unregister();
    assert!(alive.upgrade().is_none());
    write(&mmu, at(PAGE, 0), &[1]);
    assert_eq!(after.places(), [at(PAGE, 0).get()], "nobody panics any more");
    registrations.0.unregister();
    registrations.2.unregister();
}
