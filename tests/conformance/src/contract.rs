//! What every backend's log must do, call by call, with a guest that stands while it is read.
//!
//! Each scene makes a guest, lets it run for a number of stores, pauses it, and compares a round with the
//! pages whose numbers have changed. It panics if the two differ.

mod controls;

pub use controls::{a_union_without_the_devices_log_is_found, each_scene_finds_its_break};

use crate::backend::{Backend, Begins, Guest, Plan, RESERVED};
use crate::oracle::{harvest, run_for};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vellum_memory::guest::{Bytes, logged_view};
use vellum_memory::{
    AddressSpace, AlwaysLogs, DeviceLog, DirtySource, ForeignLog, Gfn, GfnRange, Layout, Mark,
    Marker, Misuse, PageSet, Region, Sources,
};

/// Stores between two looks: most pages of the plan are left out, and some are stored to many times.
const STORES: u64 = 600;
const VCPUS: usize = 2;
const SPACE: AddressSpace = AddressSpace::NORMAL;

/// A guest, and what its pages held when they were last looked at.
struct Stage<'g, G> {
    guest: &'g G,
    pages: Vec<u64>,
    held: Vec<u64>,
    number: u64,
    /// The stores that the last pause came before, and this one.
    pending: [Vec<u64>; 2],
}

impl<'g, G: Guest> Stage<'g, G> {
    /// It has run a while.
    fn new(guest: &'g G, pages: Vec<u64>) -> Self {
        let held = vec![0; pages.len()];
        let mut stage = Self { guest, pages, held, number: 1, pending: [Vec::new(), Vec::new()] };
        stage.run();
        stage
    }

    /// Lets it run, with a number that it has not stored yet. The pages that have changed.
    fn run(&mut self) -> BTreeSet<u64> {
        self.number += 1;
        self.guest.set_number(self.number);
        self.guest.resume();
        run_for(self.guest, STORES);
        self.guest.pause();
        self.pending.rotate_left(1);
        self.pending[1] = self.guest.pending();
        self.look()
    }

    /// The pages that have changed since the last look.
    fn look(&mut self) -> BTreeSet<u64> {
        let now: Vec<u64> = self.pages.iter().map(|page| self.guest.number_in(*page)).collect();
        let before = std::mem::replace(&mut self.held, now);
        let changed = self.pages.iter().zip(before.iter().zip(&self.held));
        changed.filter(|(_, (before, now))| before != now).map(|(page, _)| *page).collect()
    }

    /// The guest's pages in a round.
    fn named(&self, round: &PageSet) -> BTreeSet<u64> {
        let slot = &round.regions()[self.guest.region()];
        slot.pages().filter(|page| *page >= self.guest.kept()).collect()
    }

    /// Whether `round` has the pages `changed`, and beside them only such whose store a pause came
    /// before.
    fn judge(&self, round: &PageSet, changed: &BTreeSet<u64>, who: &str) {
        let named = self.named(round);
        none(changed.difference(&named), "lost", who);
        let about_to = |page: &u64| self.pending.iter().flatten().any(|pending| pending == page);
        none(named.difference(changed).filter(|page| !about_to(page)), "stray", who);
    }

    /// Whether `round` has no page of the guest's.
    fn judge_empty(&self, round: &PageSet, who: &str) {
        none(self.named(round).iter(), "stray", who);
    }
}

/// Whether there are no such pages.
fn none<'p>(pages: impl Iterator<Item = &'p u64>, what: &str, who: &str) {
    let pages: Vec<_> = pages.collect();
    let some = &pages[..pages.len().min(5)];
    assert!(pages.is_empty(), "{who}: {} {what}, {some:?} and so on", pages.len());
}

/// Does `scene` with a guest of `backend` that stands, and its log, which has not started.
fn on<B: Backend>(
    backend: &B,
    scene: impl for<'g> FnOnce(&mut Stage<'g, B::Guest>, <B::Guest as Guest>::Source<'g>, &str),
) {
    let plan = Plan::new(VCPUS, 7);
    let pages = plan.pages();
    let guest = backend.guest(plan);
    scene(&mut Stage::new(&guest, pages), guest.source(), &backend.name());
}

/// A round of the contract.
fn round<S: DirtySource>(source: &mut S) -> PageSet {
    let mut round = PageSet::new(source.layout());
    harvest(source, &mut round);
    round
}

/// Starts, and takes the round that names everything from a log which begins so.
fn start<B: Backend, S: DirtySource>(backend: &B, source: &mut S) {
    source.start().expect("the log starts");
    if backend.begins() == Begins::AllSet {
        assert_eq!(round(source), PageSet::full(source.layout()), "{}", backend.name());
    }
}

fn refused<T: Debug, E: std::error::Error>(answer: &Result<T, E>, saying: &[&str], who: &str) {
    let said = answer.as_ref().expect_err(who).to_string();
    assert!(saying.iter().any(|saying| said.contains(saying)), "{who}: {said}");
}

/// Before the start and after the stop a round is refused, and stopping twice is the same as once.
///
/// # Panics
/// It is not so. The same below.
pub fn a_log_that_is_off_says_so<B: Backend>(backend: &B) {
    // The library speaks of its slot, everybody else of the log.
    let off = [&*Misuse::Off.to_string(), "has no dirty log"];
    on(backend, |stage, mut source, who| {
        let mut round = PageSet::new(source.layout());
        refused(&source.collect(&mut round), &off, who);
        start(backend, &mut source);
        stage.run();
        source.stop().expect("it is on");
        source.stop().expect("it is off");
        refused(&source.collect(&mut round), &off, who);
        assert!(round.is_empty(), "{who}");
    });
}

/// A set over other regions is refused, and what there was to take is in the next round.
pub fn a_set_over_another_layout_is_refused<B: Backend>(backend: &B) {
    let other = [&*Misuse::OtherLayout.to_string(), "the slot has"];
    on(backend, |stage, mut source, who| {
        start(backend, &mut source);
        let changed = stage.run();
        let shorter = |region: &Region| {
            let range = GfnRange::new(region.range.first(), region.range.pages() - 1);
            Region { range: range.expect("a region has pages"), ..*region }
        };
        let regions = source.layout().regions().iter().map(shorter).collect();
        let mut wrong = PageSet::new(&Layout::new(regions).expect("as far apart"));
        refused(&source.collect(&mut wrong), &other, who);
        stage.judge(&round(&mut source), &changed, who);
    });
}

/// Each round has the pages that changed since the last one, and no other.
pub fn a_round_has_each_page_that_changed_and_no_other<B: Backend>(backend: &B) {
    on(backend, |stage, mut source, who| {
        start(backend, &mut source);
        for _ in 0..6 {
            let changed = stage.run();
            assert!(changed.len() > 100, "{who}: the guest runs");
            stage.judge(&round(&mut source), &changed, who);
            stage.judge_empty(&round(&mut source), who);
        }
    });
}

/// A store between collecting and protecting is in this round or in the next.
pub fn a_store_before_the_protection_is_not_lost<B: Backend>(backend: &B) {
    on(backend, |stage, mut source, who| {
        start(backend, &mut source);
        let slot = stage.guest.region();
        let range = source.layout().regions()[slot].range;
        for _ in 0..4 {
            let mut changed = stage.run();
            let mut first = PageSet::new(source.layout());
            source.collect(&mut first).expect("it is on");
            changed.extend(stage.run());
            source.protect(slot, range, &mut first).expect("it is on");
            first.merge(&round(&mut source));
            none(changed.difference(&stage.named(&first)), "lost", who);
        }
    });
}

/// What is owed is in the next round, and in one.
pub fn what_is_owed_comes_back_once<B: Backend>(backend: &B) {
    on(backend, |stage, mut source, who| {
        start(backend, &mut source);
        let mut changed = stage.run();
        let undelivered = round(&mut source);
        source.owe(&undelivered);
        let first = stage.pending[0].clone();
        changed.extend(stage.run());
        stage.pending[0].extend(first);
        stage.judge(&round(&mut source), &changed, who);
        stage.judge_empty(&round(&mut source), who);
    });
}

/// A log that is started again, on or off, knows nothing of what was before.
pub fn a_start_begins_anew<B: Backend>(backend: &B) {
    on(backend, |stage, mut source, who| {
        start(backend, &mut source);
        stage.run();
        start(backend, &mut source);
        stage.judge_empty(&round(&mut source), &format!("{who}, started twice"));
        let changed = stage.run();
        stage.judge(&round(&mut source), &changed, who);
        let owed = round(&mut source);
        stage.run();
        source.stop().expect("it is on");
        source.owe(&owed);
        stage.run();
        start(backend, &mut source);
        stage.judge_empty(&round(&mut source), &format!("{who}, stopped between"));
        let changed = stage.run();
        stage.judge(&round(&mut source), &changed, who);
    });
}

/// So does a union, with each of its members.
pub fn a_unions_start_begins_anew<B: Backend>(backend: &B)
where
    for<'g> <B::Guest as Guest>::Source<'g>: Send,
{
    on(backend, |stage, source, who| {
        let mut union = Sources::new(source).expect("memory");
        let others = Others::of(stage, &mut union);
        starts_anew(backend, stage, &others, &mut union, who);
    });
}

fn starts_anew<B: Backend, S: DirtySource>(
    backend: &B,
    stage: &mut Stage<'_, B::Guest>,
    others: &Others,
    union: &mut S,
    who: &str,
) {
    start(backend, union);
    for _ in 0..2 {
        stage.run();
        others.write();
        union.owe(&PageSet::full(union.layout()));
        start(backend, union);
        stage.judge_empty(&round(union), who);
        let mut changed = stage.run();
        changed.extend(others.write());
        stage.judge(&round(union), &changed, who);
    }
}

/// Pages that the guest does not write: a device with a log writes the first, a back-end with a bitmap
/// the second.
struct Others {
    pages: [u64; 2],
    first: Gfn,
    device: Marker,
    bits: Arc<[AtomicU64]>,
}

impl Others {
    /// Whose logs join the union.
    fn of<G: Guest>(stage: &Stage<'_, G>, union: &mut Sources<'_>) -> Self {
        let layout = union.layout().clone();
        let devices = DeviceLog::new(&layout).expect("memory");
        let end = layout.regions().iter().map(|region| region.range.end().get()).max();
        let words = end.expect("a layout has regions").div_ceil(64);
        let bits: Arc<[_]> = (0..words).map(|_| AtomicU64::new(0)).collect();
        let back_end = ForeignLog::new(&layout, SPACE, Arc::clone(&bits), AlwaysLogs);
        let page = quiet_page(stage, RESERVED);
        let pages = [page, quiet_page(stage, page + 1)];
        let first = layout.regions()[stage.guest.region()].range.first();
        let others = Self { pages, first, device: devices.marker(), bits };
        union.add(devices).expect("the same layout");
        union.add(back_end.expect("a bit for each page")).expect("the same layout");
        others
    }

    /// Both say that they have written. The pages.
    fn write(&self) -> [u64; 2] {
        let [first, second] = self.pages.map(|page| self.first.get() + page);
        self.device.mark(SPACE, GfnRange::new(Gfn::new(first), 1).expect("in range"));
        let word = usize::try_from(second / 64).expect("an index");
        self.bits[word].fetch_or((1_u64 << (second % 64)).to_le(), WRITE);
        self.pages
    }
}

/// What a backend knows of a write that somebody else makes to the guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostWrites {
    /// Nothing: its log is of what vCPUs do.
    Unseen,
    /// All of it: its log is of the memory.
    Seen,
}

/// What a device writes behind the log's back is in its rounds, or is not, as `seen` says.
pub fn a_devices_write_is_in_the_log_as_declared<B: Backend>(backend: &B, seen: HostWrites) {
    on(backend, |stage, mut source, who| {
        start(backend, &mut source);
        let mut changed = stage.run();
        let quiet = quiet_page(stage, RESERVED);
        stage.guest.memory().store(u64::MAX, stage.guest.address(quiet), WRITE).expect("RAM");
        if seen == HostWrites::Seen {
            changed.insert(quiet);
        }
        stage.judge(&round(&mut source), &changed, who);
    });
}

/// What a device writes through vm-memory is in a union of a device's log and the backend's, beside
/// what the guest writes, also if it is to the same page.
pub fn a_devices_write_is_in_a_union<B: Backend>(backend: &B)
where
    for<'g> <B::Guest as Guest>::Source<'g>: Send,
{
    a_devices_write_is_in(backend, DevicesLog::Joins);
}

/// What becomes of the device's log in a scene of a union.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DevicesLog {
    /// It is a member of the union.
    Joins,
    /// It is left out, as the control.
    StaysAway,
}

fn a_devices_write_is_in<B: Backend>(backend: &B, joining: DevicesLog)
where
    for<'g> <B::Guest as Guest>::Source<'g>: Send,
{
    on(backend, |stage, source, who| {
        let devices = DeviceLog::new(source.layout()).expect("memory");
        let memory = stage.guest.devices_memory();
        let view = logged_view(&memory, SPACE, &devices.marker()).expect("a view");
        let mut union = Sources::new(source).expect("memory");
        if joining == DevicesLog::Joins {
            union.add(devices).expect("the same layout");
        }
        start_union(backend, &mut union);
        for _ in 0..3 {
            let mut changed = stage.run();
            let also_the_guests = *changed.first().expect("the guest runs");
            for page in [quiet_page(stage, RESERVED), also_the_guests] {
                view.write_slice(&[7], stage.guest.address(page)).expect("RAM");
                changed.insert(page);
            }
            stage.look();
            stage.judge(&round(&mut union), &changed, who);
            stage.judge_empty(&round(&mut union), who);
        }
    });
}

/// A round in which another member of a union fails is in the next, although the backend's log has
/// handed it over.
pub fn a_round_that_failed_is_in_the_next<B: Backend>(backend: &B)
where
    for<'g> <B::Guest as Guest>::Source<'g>: Send,
{
    on(backend, |stage, source, who| {
        let mut union = sulking_union(source);
        start_union(backend, &mut union);
        rounds_that_fail(stage, &mut union, who);
    });
}

/// A union whose other member fails in every second round.
fn sulking_union<'g, S: DirtySource + Send + 'g>(source: S) -> Sources<'g> {
    let log = DeviceLog::new(source.layout()).expect("memory");
    let mut union = Sources::new(source).expect("memory");
    union.add(Sulking { log, sulks: false }).expect("the same layout");
    union
}

fn rounds_that_fail<G: Guest, S: DirtySource>(stage: &mut Stage<'_, G>, union: &mut S, who: &str) {
    for _ in 0..2 {
        let mut changed = stage.run();
        let mut lost = PageSet::new(union.layout());
        union.collect(&mut lost).expect_err("every second one fails");
        let first = stage.pending[0].clone();
        changed.extend(stage.run());
        stage.pending[0].extend(first);
        stage.judge(&round(union), &changed, who);
    }
}

/// A union's member that begins all set makes the union's first round one of all pages. What a sulking
/// member makes of that round comes in the one after.
fn start_union<B: Backend, S: DirtySource>(backend: &B, union: &mut S) {
    union.start().expect("the logs start");
    if backend.begins() == Begins::AllSet {
        let all = round(union);
        assert_eq!(all, PageSet::full(union.layout()), "{}", backend.name());
    } else {
        assert_eq!(round(union).count(), 0, "{}", backend.name());
    }
}

const WRITE: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Release;

/// A page that the guest never writes, from this one on.
fn quiet_page<G>(stage: &Stage<'_, G>, from: u64) -> u64 {
    let quiet = (from..).find(|page| stage.pages.binary_search(page).is_err());
    quiet.expect("the plan does not have all")
}

/// A log whose every second `collect` fails, from the second on.
struct Sulking {
    log: DeviceLog,
    sulks: bool,
}

impl DirtySource for Sulking {
    type Error = Misuse;

    fn method(&self) -> &'static str {
        "sulking"
    }

    fn layout(&self) -> &Layout {
        self.log.layout()
    }

    fn start(&mut self) -> Result<(), Misuse> {
        self.log.start()
    }

    fn stop(&mut self) -> Result<(), Misuse> {
        self.log.stop()
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), Misuse> {
        self.sulks = !self.sulks;
        if !self.sulks { Err(Misuse::Off) } else { self.log.collect(round) }
    }

    fn owe(&mut self, pages: &PageSet) {
        self.log.owe(pages);
    }
}

/// Every scene that needs nothing but the backend.
pub fn all<B: Backend>(backend: &B)
where
    for<'g> <B::Guest as Guest>::Source<'g>: Send,
{
    a_log_that_is_off_says_so(backend);
    a_set_over_another_layout_is_refused(backend);
    a_round_has_each_page_that_changed_and_no_other(backend);
    a_store_before_the_protection_is_not_lost(backend);
    what_is_owed_comes_back_once(backend);
    a_start_begins_anew(backend);
    a_unions_start_begins_anew(backend);
    a_devices_write_is_in_a_union(backend);
    a_round_that_failed_is_in_the_next(backend);
}
