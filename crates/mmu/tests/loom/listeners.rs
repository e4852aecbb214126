//! Listeners that come and go, against the writes that they hear of.

use crate::hardware::Embed;
use crate::tiny::X86;
use crate::world::{Guest, World};
use crate::{Plan, explore, must_object};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicBool as Flag, AtomicUsize as Count, Ordering::Relaxed};
use vellum_mmu::{
    Break, Call, LogMode, MemoryId, Mmu, Outcome, SlotSpec, TrackMode, WriteListener, Written,
};
use vellum_pte::{AddressSpace, Gfn, GfnRange, SlotId};

type Tiny = World<X86>;
type TinyCall<'a> = Call<'a, X86, Embed<X86>>;

/// Remembers that it was called.
#[derive(Default)]
struct Hears(Flag);

impl WriteListener<X86, Embed<X86>> for Hears {
    fn write(&self, _: &TinyCall<'_>, _: &Written<'_>) {
        self.0.store(true, Relaxed);
    }
}

/// Somebody registers while a write is made. (A log's marks have barriers of their own.)
fn listen_against_write(plan: Plan, log: LogMode) {
    let world = Tiny::of(plan, Guest { log, ..Guest::LOGGED });
    let device = world.clone();
    let device = thread::spawn(move || device.write(0, 2).expect("memory"));
    world.begin();
    let hears = StdArc::new(Hears::default());
    let registration = Mmu::listen(&world.mmu, hears.clone()).expect("memory");
    let seen = world.hardware.read(0);
    device.join().expect("no panic");
    assert!(seen == 2 || hears.0.load(Relaxed), "a write was lost: it was neither there nor told");
    registration.unregister();
}

fn logged(plan: Plan) {
    listen_against_write(plan, LogMode::On);
}

fn unlogged(plan: Plan) {
    listen_against_write(plan, LogMode::Off);
}

#[test]
fn whoever_registers_sees_a_write_or_hears_of_it() {
    explore([logged, unlogged]);
}

/// Sees whether a call to it goes on after it was sent away.
#[derive(Default)]
struct Leaves {
    gone: AtomicBool,
    called_after: Flag,
}

impl WriteListener<X86, Embed<X86>> for Leaves {
    fn write(&self, call: &TinyCall<'_>, written: &Written<'_>) {
        let _ = call.mmu().is_tracked(written.space, written.gpa.gfn(), TrackMode::Write);
        if self.gone.load(Ordering::Relaxed) {
            self.called_after.store(true, Relaxed);
        }
    }
}

/// Somebody leaves while a write is made.
fn unregister_against_write(plan: Plan) {
    let world = Tiny::new(plan);
    let leaves = StdArc::new(Leaves::default());
    let registration = Mmu::listen(&world.mmu, leaves.clone()).expect("memory");
    let device = world.clone();
    let device = thread::spawn(move || device.write(0, 2).expect("memory"));
    world.begin();
    registration.unregister();
    leaves.gone.store(true, Ordering::Relaxed);
    device.join().expect("no panic");
    assert!(!leaves.called_after.load(Relaxed), "a call went on after its listener had left");
    assert_eq!(StdArc::strong_count(&leaves), 1, "nobody else keeps it");
}

#[test]
fn whoever_has_left_is_not_being_called() {
    explore([unregister_against_write]);
}

#[test]
fn leaving_without_waiting_is_seen() {
    must_object(Break::LeaveUnderCall, [unregister_against_write]);
}

/// What becomes of a listener that leaves by itself.
#[derive(Default)]
struct Fate {
    under_way: Count,
    dropped: Count,
    dropped_under_way: Flag,
}

/// Leaves when it is called.
struct LeavesByItself(StdArc<Fate>);

impl WriteListener<X86, Embed<X86>> for LeavesByItself {
    fn write(&self, call: &TinyCall<'_>, _: &Written<'_>) {
        self.0.under_way.fetch_add(1, Relaxed);
        call.unregister();
        let _ = call.mmu().is_tracked(AddressSpace::NORMAL, Gfn::new(0), TrackMode::Write);
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

impl Drop for LeavesByItself {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Relaxed);
        if self.0.under_way.load(Relaxed) > 0 {
            self.0.dropped_under_way.store(true, Relaxed);
        }
    }
}

/// A listener leaves by itself in two calls at a time, and whoever registered it leaves too.
fn two_writes_to_one_that_leaves(plan: Plan) {
    let world = Tiny::new(plan);
    let fate = StdArc::new(Fate::default());
    let listener = StdArc::new(LeavesByItself(fate.clone()));
    let registration = Mmu::listen(&world.mmu, listener).expect("memory");
    let device = world.clone();
    let device = thread::spawn(move || device.write(0, 2).expect("memory"));
    world.begin();
    world.write(1, 3).expect("memory");
    drop(registration);
    device.join().expect("no panic");
    world.write(0, 4).expect("memory");
    assert_eq!(fate.dropped.load(Relaxed), 1, "it is dropped once");
    assert!(!fate.dropped_under_way.load(Relaxed), "a call went on after its listener was dropped");
}

#[test]
fn one_that_leaves_in_a_call_is_dropped_once_after_the_last() {
    explore([two_writes_to_one_that_leaves]);
}

/// Keeps a copy of a page that it tracks, as shadow paging does.
#[derive(Default)]
struct Shadow(Mutex<u64>);

impl Shadow {
    fn copy(&self, world: &Tiny) {
        let mut shadow = self.0.lock().expect("no panic");
        *shadow = world.hardware.read(0);
    }
}

struct Shadows(StdArc<Shadow>, Arc<Tiny>);

impl WriteListener<X86, Embed<X86>> for Shadows {
    fn write(&self, call: &TinyCall<'_>, written: &Written<'_>) {
        if call.mmu().is_tracked(written.space, written.gpa.gfn(), TrackMode::Write) {
            self.0.copy(&self.1);
        }
    }
}

/// A page comes to be shadowed while a write to it is made.
fn track_against_write(plan: Plan) {
    let world = Tiny::new(plan);
    let shadow = StdArc::new(Shadow::default());
    let listener = StdArc::new(Shadows(shadow.clone(), world.clone()));
    let registration = Mmu::listen(&world.mmu, listener).expect("memory");
    let device = world.clone();
    let device = thread::spawn(move || device.write(0, 2).expect("memory"));
    world.begin();
    world.track(0);
    shadow.copy(&world);
    device.join().expect("no panic");
    let shadowed = *shadow.0.lock().expect("no panic");
    assert_eq!(shadowed, world.hardware.read(0), "a write was lost to who shadows its page");
    registration.unregister();
}

#[test]
fn a_page_that_has_come_to_be_tracked_holds_what_was_written_before() {
    explore([track_against_write]);
}

#[test]
fn tracking_under_a_write_is_seen() {
    must_object(Break::FreeEarly, [track_against_write]);
}

/// Tracks the page after the one that was written.
struct TracksNext;

impl WriteListener<X86, Embed<X86>> for TracksNext {
    fn write(&self, call: &TinyCall<'_>, written: &Written<'_>) {
        let next = Gfn::new(written.gpa.gfn().get() + 1);
        call.mmu().track(written.space, next, TrackMode::Write).expect("memory");
    }
}

/// A listener tracks a page from inside of its call, while a vCPU stores there.
fn track_in_a_call(plan: Plan) {
    let world = Tiny::new(plan);
    world.store(0, 1, 1);
    let registration = Mmu::listen(&world.mmu, StdArc::new(TracksNext)).expect("memory");
    let device = world.clone();
    let device = thread::spawn(move || {
        device.write(0, 2).expect("memory");
        device.hardware.read(1)
    });
    world.begin();
    let _ = world.store_if_there(0, 1, 3);
    let left = device.join().expect("no panic");
    assert_eq!(world.hardware.read(1), left, "a store landed after its page was tracked");
    assert_eq!(world.store_if_there(0, 1, 4), Outcome::Emulate);
    registration.unregister();
}

#[test]
fn a_listener_tracks_from_inside_of_its_call() {
    explore([track_in_a_call]);
}

/// Two turn tracking on, and one of them makes a slot.
fn two_enable(plan: Plan) {
    let world = Tiny::of(plan, Guest { shape: crate::world::Shape::Half, ..Guest::LOGGED });
    let range = GfnRange::new(Gfn::new(2), 2).expect("in range");
    let spec = SlotSpec::new(SlotId(1), AddressSpace::NORMAL, range);
    let spec = SlotSpec { log: LogMode::On, memory: MemoryId(0), ..spec };
    let other = world.clone();
    let other = thread::spawn(move || {
        other.mmu.enable_tracking().expect("outside of a slot change");
        other.track(0);
    });
    world.begin();
    world.mmu.create_slot(spec).expect("fits");
    world.mmu.enable_tracking().expect("outside of a slot change");
    world.track(2);
    other.join().expect("no panic");
    for page in [0, 2] {
        let outcome = world.store_if_there(0, page, 9);
        assert_eq!(outcome, Outcome::Emulate, "a store landed after its page was tracked");
    }
}

#[test]
fn whoever_turns_tracking_on_can_track_in_old_slots_and_new_ones() {
    explore([two_enable]);
}

#[test]
fn enabling_under_a_slot_change_is_seen() {
    must_object(Break::FreeEarly, [two_enable]);
}
