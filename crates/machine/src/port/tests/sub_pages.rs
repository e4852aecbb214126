//! Is the port as stubborn with sub-page permissions as hardware? Their table is spoilt by hand,
//! behind the library's back, and nobody is told until the test says so.

use super::board;
use crate::board::{Board, BoardConfig};
use crate::bus::{Bus, BusError, Width};
use crate::port::{Port, ShootDown};
use crate::walker::probe::Probe;
use vellum_mmu::{Denial, SubPageRange};
use vellum_pte::{AddressSpace, Ept, Gpa, PAGE_SIZE, Pfn, SubPageMap};

const SPACE: AddressSpace = AddressSpace::NORMAL;
/// Entries of the TLB for sub-pages: pages this far apart share a place.
const PARTIAL_TLB_PAGES: u64 = 256;
/// The even bit of sub-page 0 in a vector.
const FIRST: u64 = 1;
/// The valid bit of an entry above.
const VALID: u64 = 1;

fn page(number: u64) -> Gpa {
    Gpa::new(0x8000_0000 + number * PAGE_SIZE)
}

/// A board with the first sub-page of pages 3 and `3 + PARTIAL_TLB_PAGES` permitted.
fn restricted(shoot_down: ShootDown) -> Board<Ept> {
    let config = BoardConfig::with_memory(16 << 20).expect("in range");
    let board = board::<Ept>(&BoardConfig { shoot_down, ..config });
    board.mmu().activate_sub_pages().expect("memory");
    for number in [3, 3 + PARTIAL_TLB_PAGES] {
        let range = SubPageRange::new(SPACE, page(number).gfn());
        board.mmu().set_sub_pages(range, &[SubPageMap::new(1)]).expect("memory");
    }
    board
}

fn each_way(test: impl Fn(&Board<Ept>, &mut Port<'_, Ept>, Pfn)) {
    for shoot_down in [ShootDown::Waiting, ShootDown::best()] {
        let board = restricted(shoot_down);
        let root = board.mmu().sub_page_root(SPACE).expect("they are active");
        test(&board, &mut board.port().expect("memory"), root);
    }
}

fn store(port: &mut Port<'_, Ept>, at: Gpa) -> Result<(), BusError> {
    port.store(at, Width::Double, 7)
}

/// Makes the TLB lose page 3, but not the walk cache.
fn evict(port: &mut Port<'_, Ept>) {
    store(port, page(3 + PARTIAL_TLB_PAGES)).expect("permitted");
}

#[test]
fn a_cached_vector_permits_until_it_is_shot_down() {
    each_way(|board, port, root| {
        store(port, page(3)).expect("permitted");
        Probe::toggle_spp(root, page(3), 1, FIRST);
        assert_eq!(store(port, page(3)), Ok(()), "nobody shot it down");
        board.embedder().hub().shoot_down();
        // The library's map permits it still: its own table is not what it wrote.
        assert_eq!(store(port, page(3)), Err(BusError::Emulate(page(3))));
    });
}

#[test]
fn a_cached_vector_permits_no_more_than_it_says() {
    each_way(|_, port, root| {
        store(port, page(3)).expect("permitted");
        Probe::toggle_spp(root, page(3), 1, FIRST << 2);
        let second = Gpa::new(page(3).get() + 128);
        assert_eq!(store(port, second), Ok(()), "what it refuses is walked for");
    });
}

#[test]
fn a_violation_makes_the_processor_forget_the_vector() {
    each_way(|_, port, root| {
        store(port, page(3)).expect("permitted");
        Probe::toggle_spp(root, page(3), 1, FIRST);
        let denied = Gpa::new(page(3).get() + 128);
        let map = SubPageMap::new(1);
        assert_eq!(store(port, denied), Err(BusError::Denied(Denial { gpa: denied, map })));
        assert_eq!(store(port, page(3)), Err(BusError::Emulate(page(3))));
    });
}

#[test]
fn a_cached_upper_entry_serves_until_it_is_shot_down() {
    each_way(|board, port, root| {
        for level in 2..=4 {
            store(port, page(3)).expect("permitted");
            evict(port);
            Probe::toggle_spp(root, page(3), level, VALID);
            assert_eq!(store(port, page(3)), Ok(()), "level {level}: by the walk cache");
            let valid = Probe::spp(root, page(3), level) & VALID;
            assert_eq!(valid, 0, "it did not miss");
            board.embedder().hub().shoot_down();
            assert_eq!(store(port, page(3)), Ok(()), "level {level}: by a miss");
            let valid = Probe::spp(root, page(3), level) & VALID;
            assert_eq!(valid, VALID, "which the library has filled");
        }
    });
}

#[test]
fn a_reserved_bit_stops_the_machine() {
    each_way(|board, port, root| {
        for (level, bit) in [(1, 1 << 1), (2, 1 << 3), (3, 1 << 63), (4, 1 << 11)] {
            store(port, page(3)).expect("permitted");
            Probe::toggle_spp(root, page(3), level, bit);
            assert_eq!(store(port, page(3)), Ok(()), "nobody shot it down");
            board.embedder().hub().shoot_down();
            let stopped = store(port, page(3));
            assert_eq!(stopped, Err(BusError::Misconfigured(page(3))), "level {level}");
            Probe::toggle_spp(root, page(3), level, bit);
        }
    });
}

#[test]
fn a_processor_without_the_root_ignores_the_table() {
    each_way(|_, port, _| {
        port.spp_root = None;
        let told = store(port, page(3));
        assert_eq!(told, Err(BusError::Emulate(page(3))), "it faulted, whatever the leaf says");
        assert!(port.spp_root.is_some(), "it was given the root with the next entry");
        assert_eq!(store(port, page(3)), Ok(()));
    });
}
