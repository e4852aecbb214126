//! The memory behind guest pages changes under running vCPUs: pages move, and are given back.

#[macro_use]
mod storm;

use std::collections::BTreeSet;
use storm::{PAGES, at, config, ways, while_storing};
use vellum_machine::board::{Board, BoardConfig, PageSize, Place};
use vellum_machine::bus::{Bus, Width};
use vellum_machine::error::RamError;
#[cfg(feature = "breaks")]
use vellum_machine::port::ShootDown;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::Region;
use vellum_memory::guest::{Bytes, GuestAddress};
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, SlotId, Stage2};

const SIZES: [PageSize; 3] = [PageSize::Small, PageSize::Huge2M, PageSize::Huge1G];

fn board<F: WalkedFormat>(pages: PageSize) -> Board<F> {
    let config = BoardConfig::with_memory(3 << 30).expect("in range");
    Board::new(&BoardConfig { pages, ..config }).expect("the host has memory")
}

fn shown<F: WalkedFormat>(board: &Board<F>, page: u64) -> u64 {
    board.memory().read_obj(GuestAddress(at(page, 8).get())).expect("RAM")
}

fn a_page_moves<F: WalkedFormat>(pages: PageSize) {
    let board = board::<F>(pages);
    let mut port = board.port().expect("memory");
    let mut other = board.port().expect("memory");
    for page in [0, 700] {
        port.store(at(page, 8), Width::Double, 7).expect("RAM");
        other.store(at(page, 16), Width::Double, 8).expect("RAM");
        assert_eq!(board.move_page(at(page, 0).gfn()).expect("RAM"), Place::Away);
        assert_eq!(port.load(at(page, 8), Width::Double), Ok(7), "{} {pages:?}", F::NAME);
        assert_ne!(shown(&board, page), 7, "it is not there any more");
        port.store(at(page, 8), Width::Double, 9).expect("RAM");
        let writer = board.mmu().guest_writer(vellum_mmu::Origin::Device);
        writer.write(AddressSpace::NORMAL, at(page, 4088), &[3; 8]).expect("RAM");
        other.store(at(page + 1, 8), Width::Double, 10).expect("its neighbour is at home");
        assert_eq!(shown(&board, page + 1), 10);
        assert_eq!(board.move_page(at(page, 0).gfn()).expect("RAM"), Place::Home);
        assert_eq!((other.load(at(page, 8), Width::Double), shown(&board, page)), (Ok(9), 9));
        assert_eq!(other.load(at(page, 16), Width::Double), Ok(8));
        assert_eq!(port.load(at(page, 4088), Width::Byte), Ok(3));
    }
}

#[test]
fn a_page_that_has_moved_is_found_where_it_went() {
    for pages in SIZES {
        on_each_format!(a_page_moves(pages));
    }
}

#[test]
fn where_there_is_no_ram_nothing_moves() {
    let board = board::<Ept>(PageSize::Small);
    for gfn in [Gfn::new(0), Gfn::new(u64::MAX >> 12)] {
        assert!(matches!(board.move_page(gfn), Err(RamError::NoRam(at)) if at == gfn));
    }
    board.discard(GfnRange::new(Gfn::new(0), 100).expect("in range"));
}

fn zeros_are_left<F: WalkedFormat>(pages: PageSize) {
    let board = board::<F>(pages);
    let mut port = board.port().expect("memory");
    for page in 0..10 {
        port.store(at(page, 8), Width::Double, 7).expect("RAM");
    }
    board.move_page(at(5, 0).gfn()).expect("RAM");
    board.discard(GfnRange::new(at(3, 0).gfn(), 4).expect("in range"));
    let found: Vec<u64> =
        (0..10).map(|page| port.load(at(page, 8), Width::Double).expect("RAM")).collect();
    assert_eq!(found, [7, 7, 7, 0, 0, 0, 0, 7, 7, 7], "{} {pages:?}", F::NAME);
    port.store(at(5, 8), Width::Double, 8).expect("RAM");
    assert_eq!(shown(&board, 5), 8, "nobody is away any more");
}

#[test]
fn a_discarded_range_is_zeros_and_can_be_stored_to() {
    for pages in SIZES {
        on_each_format!(zeros_are_left(pages));
    }
}

#[test]
fn a_page_moves_in_every_address_space_that_shows_it() {
    let range = GfnRange::new(Gfn::new(512), 2048).expect("in range");
    let region = |slot, space| Region { slot: SlotId(slot), space, range };
    let regions = vec![region(0, AddressSpace::NORMAL), region(1, AddressSpace::SMM)];
    let pages = PageSize::Huge2M;
    let board = Board::<Stage2>::new(&BoardConfig { pages, ..BoardConfig::with_regions(regions) });
    let board = board.expect("the host has memory");
    let at = Gfn::new(600).gpa();
    let mut ports = [board.port().expect("memory"), board.port().expect("memory")];
    ports[1].enter_space(AddressSpace::SMM).expect("there are two");
    for (value, port) in (1..).zip(&mut ports) {
        port.store(at, Width::Double, value).expect("RAM");
    }
    board.move_page(at.gfn()).expect("RAM");
    for (value, port) in (3..).zip(&mut ports) {
        assert_eq!(port.load(at, Width::Double), Ok(value - 1));
        port.store(at, Width::Double, value).expect("RAM");
    }
    board.move_page(at.gfn()).expect("RAM");
    let home: u64 = board.memory().read_obj(GuestAddress(at.get())).expect("RAM");
    assert_eq!(home, 4);
}

/// How many words are missed where pages move while writers store: a store lands where a page was.
fn missed_by_moves<F: WalkedFormat>(config: &BoardConfig) -> usize {
    let board = Board::<F>::new(config).expect("the host has memory");
    while_storing(&board, |wait| {
        let mut away = BTreeSet::new();
        for round in 0..2 * storm::rounds(config.shoot_down) as u64 {
            let page = round * 7 % PAGES;
            match board.move_page(at(page, 0).gfn()).expect("memory") {
                Place::Away => away.insert(page),
                Place::Home => away.remove(&page),
            };
            wait();
        }
        for page in away {
            board.move_page(at(page, 0).gfn()).expect("memory");
        }
    })
}

fn no_store_is_missed<F: WalkedFormat>(config: &BoardConfig) {
    assert_eq!(missed_by_moves::<F>(config), 0, "{} {config:?}", F::NAME);
}

#[test]
fn no_store_is_missed_where_pages_move() {
    for way in ways() {
        for pages in [PageSize::Small, PageSize::Huge2M] {
            let config = BoardConfig { pages, ..config(way) };
            on_each_format!(no_store_is_missed(&config));
        }
    }
}

/// The storm finds a library that installs what it resolved before the page moved.
#[cfg(feature = "breaks")]
#[test]
fn the_storm_finds_a_backing_that_was_trusted() {
    let broken = Some(vellum_mmu::Break::TrustBacking);
    let config = BoardConfig { broken, ..config(ShootDown::best()) };
    assert!((0..100).any(|_| missed_by_moves::<Ept>(&config) > 0));
}
