//! Whose memory the suite looks into and changes.

use crate::hypervisor::{Change, Home, Hypervisor, Memory};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use vellum_machine::board::{Board, Place};
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::{PAGE_BYTES, Page, read_page};
use vellum_pte::{Gfn, GfnRange};

/// Host memory.
pub trait Host {
    /// Changes what is behind some pages, which the library was told to invalidate. What the host
    /// has told it by itself.
    fn change(&self, homes: Range<Home>, change: Change) -> Option<GfnRange>;

    /// Pages that were written, as far as it knows.
    fn written(&self) -> Vec<Home>;

    /// What a page holds, read behind the tables' back.
    fn page(&self, home: Home) -> Page;
}

impl<M: Memory> Host for Hypervisor<M> {
    fn change(&self, homes: Range<Home>, change: Change) -> Option<GfnRange> {
        self.change(homes, change);
        None
    }

    fn written(&self) -> Vec<Home> {
        self.written()
    }

    fn page(&self, home: Home) -> Page {
        self.page(home)
    }
}

/// The memory of a board: its pages can go away and come back, and be given back.
pub struct BoardMemory<'b, F: WalkedFormat> {
    board: &'b Board<F>,
    /// Those whose memory is elsewhere than the board shows it.
    away: RefCell<BTreeSet<Gfn>>,
}

impl<'b, F: WalkedFormat> BoardMemory<'b, F> {
    /// Of a board that was just made.
    #[must_use]
    pub fn new(board: &'b Board<F>) -> Self {
        Self { board, away: RefCell::default() }
    }

    fn relocate(&self, gfn: Gfn) {
        let mut away = self.away.borrow_mut();
        match self.board.move_page(gfn).expect("the host has a page") {
            Place::Away => away.insert(gfn),
            Place::Home => away.remove(&gfn),
        };
    }
}

impl<F: WalkedFormat> Host for BoardMemory<'_, F> {
    fn change(&self, homes: Range<Home>, change: Change) -> Option<GfnRange> {
        let gfns = homes.start.0..homes.end.0;
        let range = GfnRange::new(Gfn::new(gfns.start), gfns.end - gfns.start).expect("in range");
        match change {
            Change::Nothing => return None,
            Change::Migrate => gfns.map(Gfn::new).for_each(|gfn| self.relocate(gfn)),
            Change::Discard => {
                self.board.discard(range);
                self.away.borrow_mut().retain(|gfn| !range.contains(*gfn));
            }
            Change::Withhold | Change::Seal => panic!("a board cannot {change:?}"),
        }
        Some(range)
    }

    fn written(&self) -> Vec<Home> {
        Vec::new()
    }

    fn page(&self, Home(home): Home) -> Page {
        let gfn = Gfn::new(home);
        let is_away = self.away.borrow().contains(&gfn);
        if is_away {
            self.relocate(gfn);
        }
        let mut page = [0; PAGE_BYTES];
        read_page(self.board.memory(), gfn, &mut page).expect("RAM");
        page
    }
}
