//! Is the port as forgetful, and as stubborn, as hardware? The tables are spoilt by hand, behind
//! the library's back, and nobody is told until the test says so.

use super::super::fault::Refused;
use super::super::local_flush::{flush_local, flushed_by};
use super::{Each, byte, each_format, probe};
use crate::board::{Board, BoardConfig};
use crate::bus::{Bus, Width};
use crate::port::{Port, ShootDown};
use crate::walker::probe::Probe;
use crate::walker::{AccessFlags, AfterFault, Walk, WalkedFormat};
use vellum_mmu::{Access, Initial, Outcome};
use vellum_pte::{
    AddressSpace, ClearAccessed, Ept, Format, Gpa, Npt, PAGE_SIZE, Raw, SlotId, Stage2,
};

const BASE: u64 = 0x8000_0000;
/// Entries of the TLB: pages this far apart share a place.
const TLB_PAGES: u64 = 1024;

fn page(number: u64) -> Gpa {
    Gpa::new(BASE + number * PAGE_SIZE)
}

fn config() -> BoardConfig {
    BoardConfig::with_memory(16 << 20).expect("in range")
}

/// A board for each format and each way that this host offers.
fn each_board(test: impl Each) {
    for shoot_down in [ShootDown::Restartable, ShootDown::Waiting] {
        if shoot_down == ShootDown::Waiting || ShootDown::best() == shoot_down {
            each_format(&BoardConfig { shoot_down, ..config() }, &test);
        }
    }
}

fn store<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa, value: u64) {
    port.store(at, Width::Double, value).expect("RAM is there");
}

fn load<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa) -> u64 {
    port.load(at, Width::Double).expect("RAM is there")
}

/// Takes storability from the entry at `level`.
fn close<F: Format>(tables: Probe, at: Gpa, level: u8) {
    tables.write(at, level, F::close(Raw(tables.read(at, level))).0);
}

fn is_open<F: Format>(tables: Probe, at: Gpa, level: u8) -> bool {
    F::is_storable(Raw(tables.read(at, level)))
}

struct StaleLeaf;

impl Each for StaleLeaf {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let (tables, mut port) = (probe(board), board.port().expect("memory"));
        store(&mut port, page(3), 1);
        close::<F>(tables, page(3), 1);
        store(&mut port, page(3), 2);
        assert_eq!(load(&mut port, page(3)), 2);
        assert!(!is_open::<F>(tables, page(3), 1), "the stale store did not fault");
        board.embedder().hub().shoot_down();
        store(&mut port, page(3), 3);
        assert!(is_open::<F>(tables, page(3), 1), "this one did");
    }
}

#[test]
fn a_stale_writable_translation_stores_until_it_is_shot_down() {
    each_board(StaleLeaf);
}

struct StaleUpper;

impl Each for StaleUpper {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let (tables, mut port) = (probe(board), board.port().expect("memory"));
        for level in 2..=board.regime().level {
            // Page 4 is mapped and dirty, its path is in the walk cache, and the TLB has lost it.
            store(&mut port, page(4), 1);
            store(&mut port, page(4 + TLB_PAGES), 1);
            close::<F>(tables, page(4), level);
            store(&mut port, page(4), 2);
            assert!(!is_open::<F>(tables, page(4), level), "by the stale upper entry");
            board.embedder().hub().shoot_down();
            store(&mut port, page(4), 3);
            assert!(is_open::<F>(tables, page(4), level), "this one faulted");
        }
    }
}

#[test]
fn a_stale_upper_entry_serves_until_it_is_shot_down() {
    each_board(StaleUpper);
}

struct OtherPorts;

impl Each for OtherPorts {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let (mut one, mut other) = (board.port().expect("memory"), board.port().expect("memory"));
        let tables = probe(board);
        store(&mut one, page(5), 1);
        store(&mut other, page(5), 2);
        close::<F>(tables, page(5), 1);
        board.embedder().hub().shoot_down();
        store(&mut one, page(5), 3);
        close::<F>(tables, page(5), 1);
        store(&mut other, page(5), 4);
        assert!(is_open::<F>(tables, page(5), 1), "the other port's translation had died too");
    }
}

#[test]
fn a_shoot_down_reaches_every_port() {
    each_board(OtherPorts);
}

struct Bits;

impl Each for Bits {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let (tables, mut port) = (probe(board), board.port().expect("memory"));
        let (upper, leaf) = (F::Walker::TABLE_ACCESSED, F::Walker::ACCESSED);
        load(&mut port, page(6));
        let has = |level, bits| tables.read(page(6), level) & bits == bits;
        assert!((2..=board.regime().level).all(|level| has(level, upper)) && has(1, leaf));
        let is_dirty = || has(1, F::Walker::DIRTY);
        // Where W and D are one bit, the library has set it.
        tables.clear(page(6), 1, F::Walker::DIRTY);
        board.embedder().hub().shoot_down();
        load(&mut port, page(6));
        assert!(!is_dirty(), "a load sets no D");
        store(&mut port, page(6), 1);
        assert!(is_dirty(), "a store sets D");
        // The TLB knows that D was set, and does not look again until it is told.
        tables.clear(page(6), 1, F::Walker::DIRTY);
        store(&mut port, page(6), 2);
        assert!(!is_dirty());
        board.embedder().hub().shoot_down();
        load(&mut port, page(6));
        assert!(!is_dirty(), "a load sets no D");
        store(&mut port, page(6), 3);
        assert!(is_dirty(), "an entry with D clear is walked again");
    }
}

#[test]
fn accesses_set_a_and_d_as_hardware_does() {
    each_board(Bits);
}

/// Maps a page for reading in a logged slot: a store there faults, and opens it.
fn map_for_reading<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>, at: Gpa) {
    board.mmu().start_log(SlotId(0), Initial::Clean).expect("memory");
    load(port, at);
    assert!(!is_open::<F>(probe(board), at, 1));
}

/// What a CPU would do whose hypervisor does not flush when the library says so: it faults, and
/// nobody hears of the flush.
fn fault_unheard<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa) -> Outcome {
    port.vcpu.fault(AddressSpace::NORMAL, at, Access::Write)
}

struct Unflushed;

impl Each for Unflushed {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let mut port = board.port().expect("memory");
        map_for_reading(board, &mut port, page(7));
        assert_eq!(fault_unheard(&mut port, page(7)), Outcome::Mapped);
        assert!(is_open::<F>(probe(board), page(7), 1), "the tables allow the store");
        for _ in 0..100 {
            let (_, found) = port.look_up(byte(page(7), Access::Write));
            match F::Walker::AFTER_FAULT {
                AfterFault::Nothing => assert!(found.is_ok(), "{}", F::NAME),
                AfterFault::Everything => {
                    assert_eq!(found, Err(Refused::ByTlb), "{}", F::NAME);
                    assert_eq!(fault_unheard(&mut port, page(7)), Outcome::Spurious);
                }
            }
        }
        store(&mut port, page(7), 1);
        assert_eq!(load(&mut port, page(7)), 1);
    }
}

#[test]
fn what_refused_a_store_refuses_it_for_ever_where_a_fault_does_not_forget() {
    each_board(Unflushed);
}

struct Opened;

impl Each for Opened {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let (mut one, mut other) = (board.port().expect("memory"), board.port().expect("memory"));
        map_for_reading(board, &mut one, page(8));
        store(&mut other, page(8), 1);
        let refused = one.look_up(byte(page(8), Access::Write)).1.is_err();
        let keeps = F::Walker::AFTER_FAULT == AfterFault::Everything;
        assert_eq!(refused, keeps, "a flush is local, {}", F::NAME);
        store(&mut one, page(8), 2);
        assert_eq!(load(&mut other, page(8)), 2);
    }
}

#[test]
fn a_page_that_another_port_opened_refuses_until_this_one_has_faulted() {
    each_board(Opened);
}

struct Reads;

impl Each for Reads {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let mut port = board.port().expect("memory");
        map_for_reading(board, &mut port, page(9));
        let (_, refused) = port.look_up(byte(page(9), Access::Write));
        assert!(refused.is_err());
        assert!(port.look_up(byte(page(9), Access::Read)).1.is_ok(), "a load passes all the while");
        assert!(port.look_up(byte(page(9), Access::Execute)).1.is_ok(), "and a fetch");
        board.embedder().hub().shoot_down();
        let (_, refused) = port.look_up(byte(page(9), Access::Write));
        assert_ne!(refused, Err(Refused::ByTlb), "a shoot-down forgets refusals too");
    }
}

#[test]
fn a_refusal_is_of_what_was_refused_and_of_its_epoch() {
    each_board(Reads);
}

#[test]
fn a_flush_is_heard_on_its_own_thread_alone_and_once() {
    let elsewhere =
        || std::thread::scope(|scope| drop(scope.spawn(|| flush_local(page(1))).join()));
    flush_local(page(2));
    assert_eq!(flushed_by(elsewhere).1, None, "another's, and one from before");
    assert_eq!(flushed_by(|| flush_local(page(3))).1, Some(page(3)));
    assert_eq!(flushed_by(|| ()).1, None);
}

struct SoftwareFlags;

impl Each for SoftwareFlags {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let (tables, mut port) = (probe(board), board.port().expect("memory"));
        load(&mut port, page(1));
        let mapped = Raw(tables.read(page(1), 1));
        store(&mut port, page(1), 1);
        assert_eq!(tables.read(page(1), 1), mapped.0, "nobody sets anything");
        if F::CLEAR_ACCESSED == ClearAccessed::Passes {
            return assert_eq!(mapped.0 & F::Walker::DIRTY, 0);
        }
        assert!(F::is_accessed(mapped), "the first use would fault again otherwise");
        tables.write(page(1), 1, F::clear_accessed(mapped).0);
        store(&mut port, page(1), 2);
        assert!(!F::is_accessed(Raw(tables.read(page(1), 1))), "by the TLB");
        board.embedder().hub().shoot_down();
        assert_eq!(load(&mut port, page(1)), 2);
        assert_eq!(tables.read(page(1), 1), mapped.0, "by an access flag fault");
    }
}

#[test]
fn the_library_serves_processors_that_set_neither_a_nor_d() {
    let config = BoardConfig { flags: AccessFlags::BySoftware, ..config() };
    SoftwareFlags.on(&super::board::<Ept>(&config));
    SoftwareFlags.on(&super::board::<Stage2>(&config));
    assert!(Board::<Npt>::new(&config).is_err(), "AMD's sets them always");
}
