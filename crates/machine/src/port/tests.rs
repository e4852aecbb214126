//! The shoot-down, without tables: does an access under a stale translation ever land?

mod across;
mod partial;
mod sizes;
mod stale;
mod sub_pages;

use super::fault::Part;
use super::host::HostAddress;
use super::shoot_down::{Hub, ShootDown};
use super::tlb::Tlb;
use super::window::{Target, Window};
use crate::board::{Board, BoardConfig};
use crate::bus::Width;
use crate::frames::Walks;
use crate::walker::probe::Probe;
use crate::walker::{Dirty, Permissions, SetsDirty, SubPages, Translation, WalkedFormat};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vellum_mmu::Access;
use vellum_pte::{AddressSpace, Ept, Gfn, Gpa, Npt, Pfn, Stage2};

/// A page that the test looks at directly.
#[repr(align(4096))]
struct Page([AtomicU64; 512]);

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self(std::array::from_fn(|_| AtomicU64::new(0))))
    }

    fn at(&self, offset: u64) -> HostAddress {
        let address = std::ptr::from_ref(self).expose_provenance() as u64;
        HostAddress::new(Pfn::of_address(address), offset)
    }

    fn get(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::SeqCst)
    }
}

/// The ways that this host offers.
fn hubs() -> impl Iterator<Item = (ShootDown, Hub)> {
    [ShootDown::Restartable, ShootDown::Waiting]
        .into_iter()
        .filter_map(|way| Hub::new(way).map(|hub| (way, hub)))
}

fn target(hub: &Hub, page: &Page, offset: u64) -> Target {
    Target { host: page.at(offset), epoch: hub.epoch() }
}

const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];

fn low(width: Width, value: u64) -> u64 {
    value & (u64::MAX >> (64 - 8 * width.bytes()))
}

/// A test that is generic over the format.
trait Each {
    fn on<F: WalkedFormat>(&self, board: &Board<F>);
}

/// Runs `test` on a board of each format.
fn each_format(config: &BoardConfig, test: &impl Each) {
    test.on(&board::<Ept>(config));
    test.on(&board::<Npt>(config));
    test.on(&board::<Stage2>(config));
}

fn board<F: WalkedFormat>(config: &BoardConfig) -> Board<F> {
    Board::new(config).expect("the host has memory")
}

fn probe<F: WalkedFormat>(board: &Board<F>) -> Probe {
    let root = board.mmu().root(AddressSpace::NORMAL).expect("there is one space");
    Probe { root, regime: board.regime() }
}

/// An access to one byte.
fn byte(gpa: Gpa, access: Access) -> Part {
    Part { gpa, bytes: 1, access }
}

#[test]
fn every_width_loads_what_it_stored_and_touches_nothing_else() {
    for (way, hub) in hubs() {
        let window = Window::new(&hub);
        for width in WIDTHS {
            for offset in 0..9 {
                let page = Page::new();
                let at = target(&hub, &page, 64 + offset);
                window.store(at, width, 0x8182_8384_8586_8788).expect("not stale");
                let loaded = window.load(at, width).expect("not stale");
                assert_eq!(loaded, low(width, 0x8182_8384_8586_8788), "{way:?} {width:?}");
                let bytes = (0..512).flat_map(|index| page.get(index).to_le_bytes());
                let stored = bytes.filter(|&byte| byte != 0).count() as u64;
                assert_eq!(stored, width.bytes(), "{way:?} {width:?} at {offset}");
            }
        }
    }
}

#[test]
fn a_compare_exchange_returns_what_memory_held() {
    for (way, hub) in hubs() {
        let window = Window::new(&hub);
        for width in [Width::Word, Width::Double] {
            let page = Page::new();
            let at = target(&hub, &page, 8);
            let swap = |exchange| window.compare_exchange(at, width, exchange).expect("not stale");
            assert_eq!(swap((0, 0x9000_0001)), 0, "{way:?} {width:?}");
            assert_eq!(swap((5, 6)), 0x9000_0001, "refused: zero-extended");
            assert_eq!(swap((0x9000_0001, 7)), 0x9000_0001);
            assert_eq!(page.get(1), 7);
            assert_eq!((page.get(0), page.get(2)), (0, 0));
        }
    }
}

#[test]
fn a_stale_translation_is_good_for_nothing() {
    for (_, hub) in hubs() {
        let page = Page::new();
        let window = Window::new(&hub);
        let at = target(&hub, &page, 0);
        hub.shoot_down();
        for width in WIDTHS {
            assert_eq!(window.load(at, width), None);
            assert_eq!(window.store(at, width, 1), None);
        }
        assert_eq!(window.compare_exchange(at, Width::Word, (0, 1)), None);
        assert_eq!(window.compare_exchange(at, Width::Double, (0, 1)), None);
        assert_eq!(window.load_page(at, &mut [0; 1024]), None);
        assert_eq!(page.get(0), 0);
    }
}

/// What the storing thread does between its stores.
type Between = fn(&mut Window<'_>);

/// How often a store landed after `shoot_down` had returned. One thread stores whenever its
/// translation is of the epoch `valid`, and spends nearly all of its time between its look at the
/// epoch and its commit; another ends the epoch and looks on for longer than that.
fn late_stores(hub: &Hub, shoot_down: fn(&Hub), rounds: usize, between: Between) -> usize {
    let page = Page::new();
    let valid = AtomicU64::new(hub.epoch());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| dawdle(hub, &page, &valid, &over, between));
        let late = (0..rounds).filter(|_| lands_late(hub, &page, &valid, shoot_down)).count();
        over.store(true, Ordering::Relaxed);
        late
    })
}

fn dawdle(hub: &Hub, page: &Page, valid: &AtomicU64, over: &AtomicBool, between: Between) {
    let mut window = Window::new(hub);
    let mut value = 0;
    while !over.load(Ordering::Relaxed) {
        between(&mut window);
        let at = Target { host: page.at(8), epoch: valid.load(Ordering::Relaxed) };
        value += 1;
        if window.store_late(at, value).is_none() {
            std::thread::yield_now();
        }
    }
}

/// Lets it store, shoots down, and looks on.
fn lands_late(hub: &Hub, page: &Page, valid: &AtomicU64, shoot_down: fn(&Hub)) -> bool {
    let before = page.get(1);
    while page.get(1) == before {
        std::thread::yield_now();
    }
    shoot_down(hub);
    let seen = page.get(1);
    let late = (0..20_000).any(|_| page.get(1) != seen);
    valid.store(hub.epoch(), Ordering::Relaxed);
    late
}

#[test]
fn no_store_lands_after_a_shoot_down() {
    for (way, hub) in hubs() {
        assert_eq!(late_stores(&hub, Hub::shoot_down, 300, |_| {}), 0, "{way:?}");
    }
}

/// The negative control: a shoot-down that leaves accesses in flight alone is found.
#[test]
fn the_storm_finds_a_shoot_down_that_leaves_accesses_alone() {
    for (way, hub) in hubs() {
        let found = (0..200).any(|_| late_stores(&hub, Hub::begin_epoch, 200, |_| {}) > 0);
        assert!(found, "{way:?}");
    }
}

#[test]
fn no_store_lands_after_a_shoot_down_that_met_a_port_at_rest() {
    for (way, hub) in hubs() {
        let late = late_stores(&hub, Hub::shoot_down, 300, |window| drop(window.rest()));
        assert_eq!(late, 0, "{way:?}");
    }
}

/// The negative control: a port that says it rests and stores all the same is found.
#[test]
fn the_storm_finds_a_port_that_does_not_rest_when_it_says_so() {
    for (way, hub) in hubs() {
        let lie: Between = |window| std::mem::forget(window.rest());
        let found = (0..200).any(|_| late_stores(&hub, Hub::shoot_down, 200, lie) > 0);
        assert!(found, "{way:?}");
    }
}

#[test]
fn the_tlb_finds_only_the_page_and_the_permission_it_was_given() {
    let mut tlb = Tlb::new();
    let frame = Pfn::new(0x1000);
    let gfn = Gfn::new(5);
    let gpa = Gpa::new((5 << 12) + 8);
    let all = Translation {
        frame,
        permits: Permissions::ALL,
        dirty: Dirty::Set,
        sets_dirty: SetsDirty::No,
        level: 1,
        sub_pages: SubPages::NONE,
    };
    tlb.insert(gfn, 1, Translation { permits: Permissions::READ, ..all });
    assert!(tlb.for_read(gpa).is_some());
    assert!(tlb.for_write(gpa).is_none());
    let alias = Gpa::new(((5 + 1024) << 12) + 8);
    assert!(tlb.for_read(alias).is_none(), "the same place, another page");
    tlb.forget(alias.gfn());
    assert!(tlb.for_read(gpa).is_some(), "another page's fault");
    tlb.forget(gfn);
    assert!(tlb.for_read(gpa).is_none());
    tlb.insert(gfn, 1, Translation { dirty: Dirty::Clear, ..all });
    assert!(tlb.for_read(gpa).is_some());
    assert!(tlb.for_write(gpa).is_none(), "the first store walks, to set D");
    tlb.insert(gfn, 1, all);
    assert_eq!(tlb.for_write(gpa).expect("writable").host, HostAddress::new(frame, 8));
    tlb.clear();
    assert!(tlb.for_read(gpa).is_none());
}

#[test]
fn a_walk_under_way_is_seen_until_it_is_over() {
    for (_, hub) in hubs() {
        let window = Window::new(&hub);
        let idle = Window::new(&hub);
        assert_eq!(hub.oldest(), u64::MAX);
        window.walking(|epoch| {
            hub.shoot_down();
            assert_eq!(hub.oldest(), epoch, "frames hidden since are not reused");
            assert!(hub.now() > epoch);
        });
        assert_eq!(hub.oldest(), u64::MAX);
        drop(idle);
    }
}
