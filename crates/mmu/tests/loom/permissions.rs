//! The machine's walk of the sub-page tables.

use crate::hardware::{ENTRIES, Hardware, Objection, Registers, below};
use crate::tiny;
use crate::tlb::{Stores, Tlb, Upper};
use loom::sync::atomic::Ordering;
use vellum_pte::{Format, Level, Pfn};

impl<F: Format> Hardware<F> {
    /// Which stores to a page its vector permits; none on a processor that was told of no tables.
    /// `None`: a miss. From the lowest table that is cached, or from the root.
    pub fn permitted(
        &self,
        on: Registers,
        tlb: &mut Tlb,
        page: usize,
    ) -> Result<Option<Stores>, Objection> {
        let Some(root) = on.sub_page_root(page) else { return Ok(Some(Stores::None)) };
        let mut at = tlb.sub_page_table(page).unwrap_or(root);
        loop {
            let pages = at.pages / ENTRIES;
            let word = self.word(at.table, page / pages % ENTRIES)?;
            let raw = word.load(Ordering::Acquire);
            if at.level == Level::L1 {
                return Ok(Some(Stores::Partly(raw)));
            }
            if raw & tiny::SUB_PAGE_TABLE_VALID == 0 {
                return Ok(None);
            }
            let (first, table) = (page & !(pages - 1), Pfn::of_address(raw).get());
            at = Upper { first, pages, level: below(at.level), table, open: true };
            tlb.keep_sub_page_table(at);
        }
    }
}
