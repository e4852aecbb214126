//! Slots that come and go while vCPUs store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::port::{Port, ShootDown};
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::{Bytes, GuestAddress};
use vellum_memory::{Region, RegionSet};
use vellum_mmu::{LogMode, Protect, SlotAccess, SlotSpec};
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, Gpa, Npt, SlotId, Stage2};

/// Two neighbours that share a last-level table.
const STAYS: (u64, u64) = (700, 400);
const GOES: (u64, u64) = (1100, 50);
const ROUNDS: u64 = 200;

fn region(slot: u16, (first, pages): (u64, u64)) -> Region {
    let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
    Region { slot: SlotId(slot), space: AddressSpace::NORMAL, range }
}

fn board<F: WalkedFormat>(shoot_down: ShootDown) -> Board<F> {
    let regions = vec![region(0, STAYS), region(1, GOES)];
    let config = BoardConfig { shoot_down, ..BoardConfig::with_regions(regions) };
    Board::new(&config).expect("the host has memory")
}

fn create<F: WalkedFormat>(board: &Board<F>, log: LogMode) {
    let Region { slot: id, space, range } = region(1, GOES);
    let access = SlotAccess::ReadWrite;
    board
        .mmu()
        .create_slot(SlotSpec { access, log, ..SlotSpec::new(id, space, range) })
        .expect("memory");
}

fn delete<F: WalkedFormat>(board: &Board<F>) {
    board.mmu().delete_slot(SlotId(1)).expect("it is there");
}

/// Stores to all pages of a slot in turn, until `over`.
fn storm<F: WalkedFormat>(mut port: Port<'_, F>, over: &AtomicBool, stores: &AtomicU64) {
    while !over.load(Ordering::Relaxed) {
        for page in STAYS.0..STAYS.0 + STAYS.1 {
            let stored = port.store(Gfn::new(page).gpa(), Width::Double, page);
            stored.expect("its slot is always there");
            stores.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn a_neighbour_comes_and_goes<F: WalkedFormat>(shoot_down: ShootDown) {
    let board = board::<F>(shoot_down);
    let (over, stores) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    let total = || stores.iter().map(|stores| stores.load(Ordering::Relaxed)).sum::<u64>();
    std::thread::scope(|scope| {
        let storms = stores.each_ref().map(|stores| {
            let port = board.port().expect("memory");
            let over = &over;
            scope.spawn(move || storm(port, over, stores))
        });
        for round in 0..ROUNDS {
            delete(&board);
            create(&board, if round % 2 == 0 { LogMode::On } else { LogMode::Off });
            let before = total();
            while total() == before && !storms.iter().any(|storm| storm.is_finished()) {
                std::thread::yield_now();
            }
        }
        over.store(true, Ordering::Relaxed);
        storms.into_iter().for_each(|storm| storm.join().expect("no store failed"));
    });
}

#[test]
fn a_vcpu_does_not_notice_that_a_neighbouring_slot_comes_and_goes() {
    a_neighbour_comes_and_goes::<Ept>(ShootDown::best());
    a_neighbour_comes_and_goes::<Npt>(ShootDown::Waiting);
    a_neighbour_comes_and_goes::<Stage2>(ShootDown::best());
}

/// Counts up in a page until there is no such page.
fn count_up<F: WalkedFormat>(mut port: Port<'_, F>, at: Gpa, stores: &AtomicU64) {
    for count in 1.. {
        match port.store(at, Width::Double, count) {
            Ok(()) => stores.store(count, Ordering::Relaxed),
            Err(error) => return assert_eq!(error, BusError::Unmapped(at)),
        }
    }
}

/// Deletes the slot under a counting vCPU. What its memory held then, and what it held when the
/// vCPU had noticed.
fn held_after_deletion<F: WalkedFormat>(board: &Board<F>, at: Gpa, least: u64) -> (u64, u64) {
    let stores = AtomicU64::new(0);
    let held = || {
        let at = GuestAddress(at.get());
        board.memory().load::<u64>(at, Ordering::Acquire).expect("RAM")
    };
    std::thread::scope(|scope| {
        let port = board.port().expect("memory");
        let counting = scope.spawn(|| count_up(port, at, &stores));
        while stores.load(Ordering::Relaxed) < least && !counting.is_finished() {
            std::thread::yield_now();
        }
        delete(board);
        let at_once = held();
        counting.join().expect("it ends when the slot is gone");
        (at_once, held())
    })
}

fn nothing_lands<F: WalkedFormat>(shoot_down: ShootDown) {
    let board = board::<F>(shoot_down);
    let at = Gfn::new(GOES.0 + 7).gpa();
    for round in 0..ROUNDS {
        let (at_once, at_last) = held_after_deletion(&board, at, 1 + round * 7);
        assert_eq!(at_once, at_last, "a store landed after round {round}'s deletion");
        create(&board, LogMode::Off);
    }
}

#[test]
fn no_store_lands_in_a_slot_once_its_deletion_has_returned() {
    nothing_lands::<Ept>(ShootDown::best());
    nothing_lands::<Npt>(ShootDown::Waiting);
    nothing_lands::<Stage2>(ShootDown::best());
}

/// Where the slot that moves is in turn; the second place shares pages with the first.
const PLACES: [u64; 3] = [GOES.0, GOES.0 + 17, GOES.0 + 600];

/// Counts up in a page of the moving slot, wherever it is, until `over`.
fn count_anywhere<F: WalkedFormat>(mut port: Port<'_, F>, over: &AtomicBool, stores: &AtomicU64) {
    while !over.load(Ordering::Relaxed) {
        for place in PLACES {
            let at = Gfn::new(place + 31).gpa();
            let count = stores.load(Ordering::Relaxed) + 1;
            match port.store(at, Width::Double, count) {
                Ok(()) => stores.store(count, Ordering::Relaxed),
                Err(error) => assert_eq!(error, BusError::Unmapped(at)),
            }
        }
    }
}

/// A logged slot moves and moves back under a storing vCPU, harvested in between: at the end the copy
/// that was made of what the harvests named is what its memory holds.
fn it_moves_under_load<F: WalkedFormat>(protect: Protect) {
    let board = board::<F>(ShootDown::best());
    let Region { slot: id, space, range } = region(1, GOES);
    let spec = SlotSpec { log: LogMode::On, ..SlotSpec::new(id, space, range) };
    board.mmu().change_slot(spec).expect("memory for a log");
    let (over, stores) = (AtomicBool::new(false), AtomicU64::new(0));
    let held = |page: u64| {
        let at = GuestAddress(Gfn::new(GOES.0 + page).gpa().get());
        board.memory().load::<u64>(at, Ordering::Acquire).expect("RAM")
    };
    let mut copy = BTreeMap::new();
    let round = |copy: &mut BTreeMap<u64, u64>| {
        let mut dirty = RegionSet::try_new(region(1, GOES)).expect("memory");
        board.mmu().take_dirty(id, protect, &mut dirty).expect("its log moves along");
        if protect == Protect::Nothing {
            board.mmu().write_protect_all();
        }
        copy.extend(dirty.pages().map(|page| (page, held(page))));
    };
    std::thread::scope(|scope| {
        let port = board.port().expect("memory");
        let counting = scope.spawn(|| count_anywhere(port, &over, &stores));
        for place in PLACES.into_iter().cycle().take(40) {
            let range = GfnRange::new(Gfn::new(place), GOES.1).expect("in range");
            board.mmu().change_slot(SlotSpec { range, ..spec }).expect("the place is free");
            round(&mut copy);
            let before = stores.load(Ordering::Relaxed);
            while stores.load(Ordering::Relaxed) == before && !counting.is_finished() {
                std::thread::yield_now();
            }
        }
        over.store(true, Ordering::Relaxed);
        counting.join().expect("no other error");
    });
    round(&mut copy);
    for page in 0..GOES.1 {
        assert_eq!(copy.get(&page).copied().unwrap_or(0), held(page), "page {page}");
    }
}

#[test]
fn a_slot_that_moves_under_a_storing_vcpu_loses_nothing() {
    for protect in [Protect::Pages, Protect::Nothing] {
        it_moves_under_load::<Ept>(protect);
        it_moves_under_load::<Npt>(protect);
        it_moves_under_load::<Stage2>(protect);
    }
}
