//! Is the port as forgetful, and as stubborn, as hardware? The tables are spoilt by hand, behind
//! the library's back, and nobody is told until the test says so.

use crate::board::{Board, BoardConfig};
use crate::bus::{Bus, Width};
use crate::port::{Port, ShootDown};
use crate::walker::{Walk, WalkedFormat, probe};
use vellum_pte::{AddressSpace, Ept, Gpa, Npt, PAGE_SIZE, Pfn};

/// W, in both formats.
const WRITE: u64 = 1 << 1;
const BASE: u64 = 0x8000_0000;
/// Entries of the TLB: pages this far apart share a place.
const TLB_PAGES: u64 = 1024;

fn page(number: u64) -> Gpa {
    Gpa::new(BASE + number * PAGE_SIZE)
}

/// A board and its root, once for each format and each way that this host offers.
fn each_board(test: impl Each) {
    for shoot_down in [ShootDown::Restartable, ShootDown::Waiting] {
        if shoot_down == ShootDown::Waiting || ShootDown::best() == shoot_down {
            test.on(&board::<Ept>(shoot_down));
            test.on(&board::<Npt>(shoot_down));
        }
    }
}

/// A test that is generic over the format.
trait Each {
    fn on<F: WalkedFormat>(&self, board: &Board<F>);
}

fn board<F: WalkedFormat>(shoot_down: ShootDown) -> Board<F> {
    let config = BoardConfig::with_memory(16 << 20).expect("in range");
    Board::new(&BoardConfig { shoot_down, ..config }).expect("the host has memory")
}

fn root<F: WalkedFormat>(board: &Board<F>) -> Pfn {
    board.mmu().root(AddressSpace::NORMAL).expect("there is one space")
}

fn store<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa, value: u64) {
    port.store(at, Width::Double, value).expect("RAM is there");
}

fn load<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa) -> u64 {
    port.load(at, Width::Double).expect("RAM is there")
}

struct StaleLeaf;

impl Each for StaleLeaf {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let (root, mut port) = (root(board), board.port().expect("memory"));
        store(&mut port, page(3), 1);
        probe::clear(root, page(3), 1, WRITE);
        store(&mut port, page(3), 2);
        assert_eq!(load(&mut port, page(3)), 2);
        assert_eq!(probe::read(root, page(3), 1) & WRITE, 0, "the stale store did not fault");
        board.embedder().hub().shoot_down();
        store(&mut port, page(3), 3);
        assert_eq!(probe::read(root, page(3), 1) & WRITE, WRITE, "this one did");
    }
}

#[test]
fn a_stale_writable_translation_stores_until_it_is_shot_down() {
    each_board(StaleLeaf);
}

struct StaleUpper(u8);

impl Each for StaleUpper {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let level = self.0;
        let (root, mut port) = (root(board), board.port().expect("memory"));
        // Page 4 is mapped and dirty, its path is in the walk cache, and the TLB has lost it.
        store(&mut port, page(4), 1);
        store(&mut port, page(4 + TLB_PAGES), 1);
        probe::clear(root, page(4), level, WRITE);
        store(&mut port, page(4), 2);
        assert_eq!(probe::read(root, page(4), level) & WRITE, 0, "by the stale upper entry");
        board.embedder().hub().shoot_down();
        store(&mut port, page(4), 3);
        assert_eq!(probe::read(root, page(4), level) & WRITE, WRITE, "this one faulted");
    }
}

#[test]
fn a_stale_upper_entry_serves_until_it_is_shot_down() {
    for level in 2..=4 {
        each_board(StaleUpper(level));
    }
}

struct OtherPorts;

impl Each for OtherPorts {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let (mut one, mut other) = (board.port().expect("memory"), board.port().expect("memory"));
        store(&mut one, page(5), 1);
        store(&mut other, page(5), 2);
        probe::clear(root(board), page(5), 1, WRITE);
        board.embedder().hub().shoot_down();
        store(&mut one, page(5), 3);
        probe::clear(root(board), page(5), 1, WRITE);
        store(&mut other, page(5), 4);
        let leaf = probe::read(root(board), page(5), 1);
        assert_eq!(leaf & WRITE, WRITE, "the other port's translation had died too");
    }
}

#[test]
fn a_shoot_down_reaches_every_port() {
    each_board(OtherPorts);
}

struct Bits;

impl Each for Bits {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let (root, mut port) = (root(board), board.port().expect("memory"));
        let (a, d) = (F::Walker::ACCESSED, F::Walker::DIRTY);
        load(&mut port, page(6));
        assert!((1..=4).all(|level| probe::read(root, page(6), level) & a != 0));
        store(&mut port, page(6), 1);
        assert_ne!(probe::read(root, page(6), 1) & d, 0, "a store sets D");
        // The TLB knows that D was set, and does not look again until it is told.
        probe::clear(root, page(6), 1, d);
        store(&mut port, page(6), 2);
        assert_eq!(probe::read(root, page(6), 1) & d, 0);
        board.embedder().hub().shoot_down();
        load(&mut port, page(6));
        assert_eq!(probe::read(root, page(6), 1) & d, 0, "a load sets no D");
        store(&mut port, page(6), 3);
        assert_ne!(probe::read(root, page(6), 1) & d, 0, "an entry with D clear is walked again");
    }
}

#[test]
fn accesses_set_a_and_d_as_hardware_does() {
    each_board(Bits);
}
