//! Deliberate bugs, each with the few operations that show it. What one thread cannot show, loom
//! does (`crates/mmu/tests/loom/`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use vellum_conformance::hypervisor::{
    Backings, By, Change, Cpu, Home, Hypervisor, Plenty, Rule, VirtualCpu, Way,
};
use vellum_conformance::scene::Op;
use vellum_conformance::script::{Setup, objection};
use vellum_mmu::{
    Break, Call, Config, DirtyBits, Initial, LogMode, Mmu, Origin, SlotAccess, SlotSpec,
    SubPageHardware, SubPageRange, TrackMode, WriteListener, Written,
};
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Npt, SlotId, Stage2, SubPageMap};

const PAGE: u64 = 500;
const OTHER: u64 = 600;

const SMALL: Rule = Rule { backings: Backings::Small, skew: 0 };
const LARGE: Rule = Rule { backings: Backings::Large, skew: 0 };

fn create(id: u16, space: u16, log: LogMode) -> Op {
    Op::Create { id, space, first: 0, pages: 1001, access: SlotAccess::ReadWrite, log }
}

fn store(cpu: usize, page: u64) -> Op {
    Op::Store { cpu, page, word: 0, value: page + 1 }
}

fn load(cpu: usize, page: u64) -> Op {
    Op::Load { cpu, page, word: 0 }
}

/// Whether the operations are right without the bug, and `said` is said with it.
fn is_found<F: Format>(bug: Break, rule: Rule, ops: &[Op], expected: &str) {
    is_found_in::<F>(Setup::new(F::ADDRESS_BITS, rule), bug, ops, expected);
}

fn is_found_in<F: Format>(sound: Setup, bug: Break, ops: &[Op], expected: &str) {
    sound.run::<F>(ops);
    let said = objection(|| {
        Setup { broken: Some(bug), ..sound }.run::<F>(ops);
    });
    let said = said.unwrap_or_else(|| panic!("nobody objected to {bug:?} in {}", F::NAME));
    assert!(said.contains(expected), "{bug:?} in {}: {said}", F::NAME);
}

fn is_found_everywhere(bug: Break, rule: Rule, ops: &[Op], expected: &str) {
    is_found::<Ept>(bug, rule, ops, expected);
    is_found::<Npt>(bug, rule, ops, expected);
    is_found::<Stage2>(bug, rule, ops, expected);
}

#[test]
fn a_harvest_without_its_shoot_down_is_found() {
    let ops = [create(0, 0, LogMode::On), store(0, PAGE), Op::TakePages(0), store(0, PAGE)];
    is_found_everywhere(Break::SkipFlush, SMALL, &ops, "lost a page");
}

#[test]
fn a_clear_of_more_than_was_asked_for_is_found() {
    let clear = Op::Clear { id: 0, first: 448, pages: Some(64), mask: vec![1 << (PAGE - 448)] };
    let ops = [create(0, 0, LogMode::On), store(0, PAGE), store(0, PAGE + 1), clear];
    is_found_everywhere(Break::ClearMore, SMALL, &ops, "lost a page");
}

#[test]
fn a_write_protect_all_that_forgets_a_root_is_found() {
    let ops = [
        create(0, 0, LogMode::On),
        create(1, 1, LogMode::On),
        store(3, PAGE),
        Op::TakeAll,
        store(3, PAGE),
        Op::Read(1),
    ];
    is_found_everywhere(Break::OneRoot, SMALL, &ops, "lost a page");
}

/// What a log that starts looks for are the entries in the tables' sets, and a split that lifts puts
/// none of its own there.
#[test]
fn a_split_that_makes_storable_leaves_is_found() {
    let ops = [
        create(0, 0, LogMode::Off),
        store(0, PAGE),
        Op::SplitHuge { id: 0, frames: 8 },
        Op::Start(0, Initial::Clean),
        store(0, OTHER),
        Op::Read(0),
    ];
    is_found_everywhere(Break::SplitLifts, LARGE, &ops, "lost a page");
}

#[test]
fn a_split_without_a_break_before_it_is_found_on_arm() {
    let ops = [
        create(0, 0, LogMode::Off),
        store(0, PAGE),
        Op::Start(0, Initial::Clean),
        load(1, PAGE),
        store(0, PAGE),
        load(1, OTHER),
    ];
    is_found::<Stage2>(Break::SkipBreak, LARGE, &ops, "both sizes at once");
}

#[test]
fn a_read_that_links_a_parked_table_unsettled_is_found_on_arm() {
    let ops = [
        create(0, 0, LogMode::On),
        store(0, PAGE),
        Op::TakeAll,
        load(0, PAGE),
        store(0, PAGE),
        Op::Read(0),
    ];
    is_found::<Stage2>(Break::ReadLifts, SMALL, &ops, "lost a page");
}

fn track(page: u64) -> Op {
    Op::Track { space: 0, page }
}

fn set_map(page: u64, map: u32) -> Op {
    Op::SetMaps { space: 0, first: page, flags: 0, maps: vec![map] }
}

/// Stores to the second sub-page.
fn store_behind(cpu: usize, page: u64) -> Op {
    Op::Store { cpu, page, word: 16, value: page + 2 }
}

#[test]
fn a_huge_leaf_over_a_page_that_is_tracked_or_restricted_is_found() {
    let tracked = [Op::EnableTracking, create(0, 0, LogMode::Off), track(PAGE)];
    let restricted = [Op::Activate, create(0, 0, LogMode::Off), set_map(PAGE, 0)];
    for begin in [tracked, restricted] {
        let ops = [begin.to_vec(), vec![store(0, OTHER), store(0, PAGE)]].concat();
        is_found_everywhere(Break::IgnoreVeto, LARGE, &ops, "an access at");
    }
}

/// The first map is in the table by the first store; the third store asks for the second one.
#[test]
fn a_map_that_does_not_reach_the_table_is_found() {
    let ops = [
        create(0, 0, LogMode::Off),
        Op::Activate,
        set_map(PAGE, 0xffff_fffb),
        store(0, PAGE),
        set_map(PAGE, 0xffff_fff9),
        store(0, PAGE),
        store_behind(0, PAGE),
    ];
    is_found::<Ept>(Break::StaleVector, SMALL, &ops, "an access at");
}

#[test]
fn permitted_stores_that_write_protect_all_does_not_stop_are_found() {
    let ops = [
        create(0, 0, LogMode::On),
        Op::Activate,
        set_map(PAGE, 0xffff_fffb),
        store(0, PAGE),
        Op::TakeAll,
        store(0, PAGE),
        Op::Read(0),
    ];
    is_found::<Ept>(Break::OpenSubPageRoot, SMALL, &ops, "lost a page");
    is_found::<Ept>(Break::OpenOverLeaves, SMALL, &ops, "lost a page");
}

/// Memory that might change, and in the end does not.
fn change(page: u64, meanwhile: Vec<Op>) -> Op {
    Op::Invalidate { first: page, pages: 1, change: Change::Nothing, meanwhile }
}

#[test]
fn an_invalidation_that_ends_for_all_is_found() {
    let meanwhile = vec![change(OTHER, vec![]), load(0, PAGE)];
    let ops = [create(0, 0, LogMode::Off), store(0, PAGE), change(PAGE, meanwhile)];
    is_found_everywhere(Break::EndForAll, SMALL, &ops, "passes");
}

#[test]
fn a_huge_leaf_that_comes_back_over_changing_memory_is_found() {
    let meanwhile = vec![Op::Stop(0), load(0, OTHER)];
    let ops = [create(0, 0, LogMode::On), store(0, PAGE), change(OTHER, meanwhile)];
    is_found_everywhere(Break::RecoverBlindly, LARGE, &ops, "passes");
}

const SLOT: SlotId = SlotId(0);
const SPACE: AddressSpace = AddressSpace::NORMAL;
/// Aligned to 2 MiB, and not to 1 GiB.
const FIRST: u64 = (1 << 18) + 512;

/// A VM of one slot of 4 MiB, logged or not.
fn vm<F: Format>(rule: Rule, broken: Option<Break>, log: LogMode) -> Mmu<F, Hypervisor> {
    let hypervisor = Hypervisor::with_memory(Plenty).backed_by(rule);
    let sub_pages = SubPageHardware::Present;
    let config = Config { broken, sub_pages, ..Config::default() };
    let mmu = Mmu::new(hypervisor, config).expect("memory");
    let range = GfnRange::new(Gfn::new(FIRST), 1024).expect("in range");
    mmu.create_slot(SlotSpec { log, ..SlotSpec::new(SLOT, SPACE, range) }).expect("fits");
    mmu
}

/// Moves a page's memory, from beginning to end, while an answer about it is on its way.
fn migrate_during_an_answer<F: Format>(mmu: &Mmu<F, Hypervisor>, page: u64, ask: impl FnOnce()) {
    let (asked, is_asked) = mpsc::channel();
    let (moved, is_moved) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            is_asked.recv().expect("somebody asks");
            let gfn = FIRST + page;
            let range = GfnRange::new(Gfn::new(gfn), 1).expect("in range");
            let invalidation = mmu.invalidate(SPACE, range);
            mmu.embedder().change(Home(gfn)..Home(gfn + 1), Change::Migrate);
            drop(invalidation);
            drop(moved);
        });
        mmu.embedder().during_next_answer(move || {
            asked.send(()).expect("the other waits");
            assert!(is_moved.recv().is_err(), "it says nothing and goes away");
        });
        ask();
    });
}

/// A CPU asks what is behind a page, and while it is told, that moves away.
fn a_fault_asks<F: Format>(broken: Option<Break>) {
    let mmu = vm::<F>(SMALL, broken, LogMode::Off);
    let mut cpu = VirtualCpu::new(&mmu, 0, SPACE).expect("memory");
    let at = Gfn::new(FIRST + 7).gpa();
    migrate_during_an_answer(&mmu, 7, || assert_eq!(cpu.store(at, 1), Ok(())));
    assert_eq!(mmu.embedder().peek(at), 1);
}

/// A recovery asks for a leaf's first page, and while it is told, another of its pages moves away.
fn a_recovery_asks<F: Format>(broken: Option<Break>) {
    let mmu = vm::<F>(LARGE, broken, LogMode::On);
    let mut cpu = VirtualCpu::new(&mmu, 0, SPACE).expect("memory");
    let at = Gfn::new(FIRST + 7).gpa();
    cpu.store(at, 1).expect("RAM");
    migrate_during_an_answer(&mmu, 7, || mmu.stop_log(SLOT).expect("it is on"));
    assert_eq!(cpu.load(at), Ok(1));
}

fn trust_is_found(asks: fn(Option<Break>), name: &str) {
    asks(None);
    let said = objection(|| asks(Some(Break::TrustBacking)));
    let said = said.unwrap_or_else(|| panic!("nobody objected in {name}"));
    assert!(said.contains("which went away"), "{name}: {said}");
}

#[test]
fn a_fault_that_trusts_an_answer_from_before_a_change_is_found() {
    trust_is_found(a_fault_asks::<Ept>, "ept");
    trust_is_found(a_fault_asks::<Npt>, "npt");
    trust_is_found(a_fault_asks::<Stage2>, "stage2");
}

#[test]
fn a_recovery_that_trusts_an_answer_from_before_a_change_is_found() {
    trust_is_found(a_recovery_asks::<Ept>, "ept");
    trust_is_found(a_recovery_asks::<Npt>, "npt");
    trust_is_found(a_recovery_asks::<Stage2>, "stage2");
}

/// Stores that set D and fault no more are in no log if the leaf goes without a word, if the record of
/// where they are made goes, or if translations stay that have set D before.
#[test]
fn d_bits_that_nobody_hears_of_are_found() {
    let again = [create(0, 0, LogMode::On), store(0, PAGE), Op::TakePages(0), store(0, PAGE)];
    let gone = [again.to_vec(), vec![change(PAGE, vec![]), Op::Read(0)]].concat();
    let stays = [again.to_vec(), vec![Op::Read(0)]].concat();
    let bugs = [
        (Break::DropCredit, gone),
        (Break::ForgetTouched, stays.clone()),
        (Break::ClearQuietly, stays),
    ];
    let by_bits = |bits| Setup { dirty_bits: DirtyBits::Scanned, ..Setup::new(bits, SMALL) };
    for (bug, ops) in bugs {
        is_found_in::<Ept>(by_bits(48), bug, &ops, "lost a page");
        is_found_in::<Npt>(by_bits(48), bug, &ops, "lost a page");
        is_found_in::<Stage2>(by_bits(40), bug, &ops, "lost a page");
    }
}

/// What restricts a page.
type Restrict<F> = fn(&Mmu<F, Hypervisor>, Gfn);

fn track_page<F: Format>(mmu: &Mmu<F, Hypervisor>, gfn: Gfn) {
    mmu.track(SPACE, gfn, TrackMode::Write).expect("it is on");
}

fn restrict_page<F: Format>(mmu: &Mmu<F, Hypervisor>, gfn: Gfn) {
    let map = SubPageMap::new(0xffff_fffe);
    mmu.set_sub_pages(SubPageRange::new(SPACE, gfn), &[map]).expect("it is active");
}

/// Whoever restricts a page is made to wait, if it waits with faults let in, and another CPU stores to
/// the page then. Afterwards no CPU's own store reaches it.
fn a_store_in_between<F: Format>(restrict: Restrict<F>, broken: Option<Break>) {
    let mmu = vm::<F>(SMALL, broken, LogMode::Off);
    mmu.enable_tracking().expect("open memory");
    mmu.activate_sub_pages().expect("open memory");
    let gfn = Gfn::new(FIRST + 7);
    let mut cpu = VirtualCpu::new(&mmu, 0, SPACE).expect("memory");
    cpu.store(gfn.gpa(), 1).expect("RAM");
    let (let_in, is_let_in) = mpsc::channel();
    let (stored, is_stored) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let mmu = &mmu;
        scope.spawn(move || {
            if is_let_in.recv().is_ok() {
                let mut other = VirtualCpu::new(mmu, 1, SPACE).expect("memory");
                other.store(gfn.gpa(), 2).expect("nobody forbids it yet");
                drop(stored);
            }
        });
        mmu.embedder().during_next_wait(move || {
            let_in.send(()).expect("the other waits");
            assert!(is_stored.recv().is_err(), "it says nothing and goes away");
        });
        restrict(mmu, gfn);
        mmu.embedder().during_next_wait(|| ());
    });
    let stored = cpu.store_bytes(gfn.gpa(), &[3], By::Instruction);
    assert_ne!(stored, Ok(Way::Direct), "a store that is forbidden passes");
}

fn an_early_denial_is_found<F: Format>() {
    for restrict in [track_page, restrict_page] {
        a_store_in_between::<F>(restrict, None);
        let said = objection(|| a_store_in_between::<F>(restrict, Some(Break::ForbidEarly)));
        let said = said.unwrap_or_else(|| panic!("nobody objected in {}", F::NAME));
        assert!(said.contains("passes"), "{said}");
    }
}

#[test]
fn a_page_that_is_denied_before_it_counts_as_restricted_is_found() {
    an_early_denial_is_found::<Ept>();
    an_early_denial_is_found::<Npt>();
    an_early_denial_is_found::<Stage2>();
}

/// A listener that stays in its call until it is let go.
struct Slow {
    called: Mutex<mpsc::Sender<()>>,
    let_go: Mutex<mpsc::Receiver<()>>,
    under_way: AtomicBool,
}

impl<F: Format> WriteListener<F, Hypervisor> for Slow {
    fn write(&self, _: &Call<'_, F, Hypervisor>, _: &Written<'_>) {
        self.under_way.store(true, Ordering::Release);
        self.called.lock().expect("one at a time").send(()).expect("somebody waits");
        assert!(self.let_go.lock().expect("one at a time").recv().is_err(), "nothing is said");
        self.under_way.store(false, Ordering::Release);
    }
}

/// The call ends when whoever unregisters waits for it, or afterwards.
fn a_call_at_the_end(broken: Option<Break>) {
    let mmu = vm::<Npt>(SMALL, broken, LogMode::Off);
    let (called, is_called) = mpsc::channel();
    let (let_go, is_let_go) = mpsc::channel::<()>();
    let slow = Arc::new(Slow {
        called: Mutex::new(called),
        let_go: Mutex::new(is_let_go),
        under_way: AtomicBool::new(false),
    });
    let registration = Mmu::listen(&mmu, slow.clone()).expect("memory");
    let at = Gfn::new(FIRST).gpa();
    let under_way = std::thread::scope(|scope| {
        scope.spawn(|| mmu.guest_writer(Origin::Device).write(SPACE, at, &[1]).expect("RAM"));
        is_called.recv().expect("it listens");
        mmu.embedder().during_next_wait(move || drop(let_go));
        registration.unregister();
        let under_way = slow.under_way.load(Ordering::Acquire);
        mmu.embedder().during_next_wait(|| ());
        under_way
    });
    assert!(!under_way, "a call goes on");
}

#[test]
fn a_registration_that_ends_during_a_call_is_found() {
    a_call_at_the_end(None);
    let said = objection(|| a_call_at_the_end(Some(Break::LeaveUnderCall)));
    assert!(said.expect("somebody objects").contains("a call goes on"));
}
