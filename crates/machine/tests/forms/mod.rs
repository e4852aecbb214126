//! Every way to enforce a map of sub-pages: hardware's tables, and emulation on each format.

#![allow(dead_code, reason = "each test uses a part of it")]

use super::storm::{self, at};
use vellum_machine::board::{Board, BoardConfig, SubPageHardware};
use vellum_machine::port::ShootDown;
use vellum_machine::walker::WalkedFormat;
use vellum_mmu::{SubPageForm, SubPageRange};
use vellum_pte::{AddressSpace, Gfn, SubPageMap};

/// Runs a test that is generic over the format on each way to enforce maps.
macro_rules! on_each_form {
    ($test:ident($($argument:expr),*)) => {{
        use vellum_machine::board::SubPageHardware::{Absent, Present};
        $test::<vellum_pte::Ept>(Present $(, $argument)*);
        $test::<vellum_pte::Ept>(Absent $(, $argument)*);
        $test::<vellum_pte::Npt>(Present $(, $argument)*);
        $test::<vellum_pte::Stage2>(Present $(, $argument)*);
    }};
}

/// A board for the storm, with sub-page permissions active.
pub(crate) fn active<F: WalkedFormat>(sub_pages: SubPageHardware, way: ShootDown) -> Board<F> {
    activated(&BoardConfig { sub_pages, ..storm::config(way) })
}

pub(crate) fn activated<F: WalkedFormat>(config: &BoardConfig) -> Board<F> {
    let board = Board::<F>::new(config).expect("the host has memory");
    board.mmu().activate_sub_pages().expect("memory");
    board
}

/// Whether the processors of the board look at maps themselves.
pub(crate) fn by_tables<F: WalkedFormat>(board: &Board<F>) -> bool {
    board.mmu().sub_page_form() == SubPageForm::ByTables
}

/// Gives a page of the storm's RAM a map.
pub(crate) fn restrict<F: WalkedFormat>(board: &Board<F>, page: u64, bits: u32) {
    restrict_in(board, AddressSpace::NORMAL, at(page, 0).gfn(), bits);
}

pub(crate) fn restrict_in<F: WalkedFormat>(
    board: &Board<F>,
    space: AddressSpace,
    gfn: Gfn,
    bits: u32,
) {
    let done = board.mmu().set_sub_pages(SubPageRange::new(space, gfn), &[SubPageMap::new(bits)]);
    assert_eq!(done, Ok(1));
}

/// Gives all pages of the storm's RAM a map.
pub(crate) fn restrict_all<F: WalkedFormat>(board: &Board<F>, bits: u32) {
    let maps = [SubPageMap::new(bits); 512];
    for first in (0..storm::PAGES).step_by(maps.len()) {
        let count = (storm::PAGES - first).min(512) as usize;
        let range = SubPageRange::new(AddressSpace::NORMAL, at(first, 0).gfn());
        assert_eq!(board.mmu().set_sub_pages(range, &maps[..count]), Ok(count));
    }
}
