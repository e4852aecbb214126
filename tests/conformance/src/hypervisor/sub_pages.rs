//! The sub-page permission table as a processor reads it (Intel SDM vol. 3C, 29.3.4), from the manual
//! and not from the library's spelling of it.

use super::Memory;
use super::cpu::{Stopped, Told, VirtualCpu};
use super::tlb::Tlb;
use crate::parts::Part;
use std::ops::Range;
use vellum_pte::{Format, Gfn, Level, Pfn, SubPageEvent};

const VALID: u64 = 1;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Of a vector.
const RESERVED: u64 = 0xaaaa_aaaa_aaaa_aaaa;

impl<F: Format, M: Memory> VirtualCpu<'_, F, M> {
    /// Whether each sub-page that a store touches may be written. Without a table, the leaf's bit 61
    /// is ignored.
    pub(super) fn ask_sub_pages(&self, tlb: &mut Tlb, part: Part) -> Result<(), Stopped> {
        let gfn = part.at.gfn();
        let root = self.mmu.sub_page_root(self.space).filter(|_| self.told == Told::Yes);
        let root = root.ok_or(Stopped::Refused)?;
        let vector = match tlb.vector(self.space, gfn) {
            Some(vector) => vector,
            None => self.walk_sub_pages(tlb, root, gfn)?,
        };
        let permitted = |sub_page: u64| vector >> (2 * sub_page) & 1 == 1;
        if sub_pages(part).all(permitted) { Ok(()) } else { Err(Stopped::Refused) }
    }

    fn walk_sub_pages(&self, tlb: &mut Tlb, root: Pfn, gfn: Gfn) -> Result<u64, Stopped> {
        let unlimited = |keep: &mut dyn FnMut()| self.mmu.embedder().memory.unlimited(keep);
        let table = match tlb.vectors(self.space, gfn) {
            Some(table) => table,
            None => self.table_of_vectors(root, gfn)?,
        };
        unlimited(&mut || tlb.keep_vectors((self.space, gfn), table));
        let vector = self.entry(table, Level::L1, gfn).0;
        if vector & RESERVED != 0 {
            return Err(Stopped::AtSubPages(SubPageEvent::Misconfiguration));
        }
        unlimited(&mut || tlb.keep_vector((self.space, gfn), vector));
        Ok(vector)
    }

    fn table_of_vectors(&self, root: Pfn, gfn: Gfn) -> Result<Pfn, Stopped> {
        let mut table = root;
        for level in [Level::L4, Level::L3, Level::L2] {
            let entry = self.entry(table, level, gfn).0;
            if entry & VALID == 0 {
                return Err(Stopped::AtSubPages(SubPageEvent::Miss));
            }
            if entry & !(VALID | ADDRESS) != 0 {
                return Err(Stopped::AtSubPages(SubPageEvent::Misconfiguration));
            }
            table = Pfn::of_address(entry & ADDRESS);
        }
        Ok(table)
    }
}

/// The numbers of the 128-byte parts that a store touches.
fn sub_pages(part: Part) -> impl Iterator<Item = u64> {
    let offsets: Range<u64> = part.at.offset()..part.at.offset() + part.length as u64;
    (0..32).filter(move |number| offsets.start < 128 * (number + 1) && 128 * number < offsets.end)
}
