//! What tracking pages and restricting parts of them costs in memory, by default in a slot of 39 bits:
//! what a sandbox maps that shows a whole process's addresses to its guest (the seed's example).
//!
//! In the process's resident size, as its `smaps_rollup` says: what the host really pays, the
//! allocator's own part included. (The library's bytes alone are counted by a test.) Once each: it is
//! the same every time.

use super::announce;
use super::result::{BenchResult, Target};
use super::sample::Sample;
use crate::failure::Failure;
use crate::quantity::Size;
use std::io;
use vellum_machine::RAM_BASE;
use vellum_machine::board::{Board, BoardConfig};
use vellum_mmu::{SubPageRange, TrackMode};
use vellum_pte::{AddressSpace, Ept, Gfn, PAGE_SIZE, SubPageMap};

const SPACE: AddressSpace = AddressSpace::NORMAL;

/// Pages that are used where some are, no two near each other.
const SOME: u64 = 1000;

/// KVM counts in a `u16` a page and mode, for every page of every slot from the first listener on.
const KVM_BYTES_A_PAGE: u64 = 2;

const MIB: u64 = 1 << 20;

/// The whole table.
pub(super) fn run(slot: Size) -> Result<BenchResult, Failure> {
    let pages = slot.bytes() / PAGE_SIZE;
    let mut result = BenchResult::new("metadata");
    result.parameter("slot-bytes", slot.bytes());
    result.parameter("pages", pages);
    result.parameter("scattered-pages", SOME);
    result.parameter("kvm-bytes-computed", KVM_BYTES_A_PAGE * pages);
    // Boards stay until the end: what they freed would be used again, and cost nothing.
    let boards = [board(slot)?, board(slot)?, board(slot)?, board(slot)?];
    warm_up(&boards[3])?;
    tracking(&mut result, &boards, pages)?;
    sub_pages(&mut result, &boards[2], pages)?;
    Ok(result)
}

fn board(slot: Size) -> Result<Board<Ept>, Failure> {
    let config = BoardConfig::with_memory(slot.bytes());
    Ok(Board::new(&config.ok_or(Failure::TooMuchMemory(slot.bytes()))?)?)
}

/// What is done for the first time costs the program itself some memory.
fn warm_up(board: &Board<Ept>) -> Result<(), Failure> {
    announce("the program itself");
    costs(|| Ok(board.mmu().enable_tracking()?))?;
    costs(|| Ok(board.mmu().activate_sub_pages().map(drop)?))?;
    costs(|| track(board, 0).and_then(|()| restrict(board, 0))).map(drop)
}

fn tracking(result: &mut BenchResult, boards: &[Board<Ept>; 4], pages: u64) -> Result<(), Failure> {
    let kvm = KVM_BYTES_A_PAGE * pages;
    announce("nothing tracked");
    let nothing =
        costs(|| boards[..2].iter().try_for_each(|board| Ok(board.mmu().enable_tracking()?)))?;
    announce("1000 scattered pages tracked");
    let some = costs(|| scattered(pages).try_for_each(|page| track(&boards[0], page)))?;
    announce("all pages tracked");
    let all = costs(|| (0..pages).try_for_each(|page| track(&boards[1], page)))?;
    result.mark("nothing tracked, bytes", Target::AtMost(0.0), nothing as f64);
    let most = (5 * MIB) as f64;
    result.mark("1000 scattered pages tracked, bytes", Target::AtMost(most), some as f64);
    let each = all as f64 / pages as f64;
    result.mark("all pages tracked, bytes a page", Target::AtMost(2.0 * 1.02), each);
    result.ratio("KVM (computed) against 1000 pages tracked", kvm as f64 / some as f64);
    result.ratio("all pages tracked against KVM (computed)", all as f64 / kvm as f64);
    result.sample("nothing tracked", Sample::bytes(nothing));
    result.sample("1000 scattered pages tracked", Sample::bytes(some));
    result.sample("all pages tracked", Sample::bytes(all));
    result.sample("KVM, whatever is tracked (computed)", Sample::bytes(kvm));
    Ok(())
}

/// Maps in the slot; tables for the processor are made when it asks for them.
fn sub_pages(result: &mut BenchResult, board: &Board<Ept>, pages: u64) -> Result<(), Failure> {
    announce("maps of sub-pages");
    let active = costs(|| Ok(board.mmu().activate_sub_pages().map(drop)?))?;
    let some = costs(|| scattered(pages).try_for_each(|page| restrict(board, page)))?;
    result.sample("sub-pages active, and their root table", Sample::bytes(active));
    result.sample("1000 scattered pages restricted", Sample::bytes(some));
    Ok(())
}

fn gfn(page: u64) -> Gfn {
    Gfn::new(RAM_BASE.get() + page)
}

fn track(board: &Board<Ept>, page: u64) -> Result<(), Failure> {
    Ok(board.mmu().track(SPACE, gfn(page), TrackMode::Write)?)
}

fn restrict(board: &Board<Ept>, page: u64) -> Result<(), Failure> {
    let range = SubPageRange::new(SPACE, gfn(page));
    Ok(board.mmu().set_sub_pages(range, &[SubPageMap::NONE]).map(drop)?)
}

/// By the golden ratio: as far from each other as so many of `pages` can be.
fn scattered(pages: u64) -> impl Iterator<Item = u64> {
    let fractions = (0..SOME).map(|index: u64| index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
    fractions.map(move |fraction| (fraction * (pages >> 8)) >> 24)
}

/// How much more is resident after `work` than before.
fn costs(work: impl FnOnce() -> Result<(), Failure>) -> Result<u64, Failure> {
    let before = resident()?;
    work()?;
    Ok(resident()?.saturating_sub(before))
}

/// Bytes of this process in the host's memory that are no file's.
fn resident() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").map_err(Failure::Resident)?;
    anonymous(&text).ok_or_else(|| Failure::Resident(io::ErrorKind::InvalidData.into()))
}

/// The line `Anonymous:   1234 kB`.
fn anonymous(smaps_rollup: &str) -> Option<u64> {
    let line = smaps_rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn scattered_pages_are_in_the_slot_and_no_two_in_one_chunk() {
        let pages = 1 << 27;
        let chunks: BTreeSet<_> = scattered(pages).map(|page| page / 1024).collect();
        assert_eq!(chunks.len() as u64, SOME);
        assert!(scattered(pages).all(|page| page < pages));
    }

    #[test]
    fn the_resident_size_is_read_from_its_line() {
        let text = "00400000-7ffd rollup\nRss:  1936 kB\nAnonymous:           124 kB\nSwap: 0 kB\n";
        assert_eq!(anonymous(text), Some(124 << 10));
        assert_eq!(anonymous("Anonymous: many kB"), None);
        assert_eq!(anonymous("Rss: 1 kB"), None);
    }

    #[test]
    fn memory_that_is_used_is_resident() {
        let mut used = Vec::new();
        let bytes = costs(|| {
            used = vec![1_u8; 64 << 20];
            Ok(())
        });
        // Other tests give memory back meanwhile.
        assert!(bytes.is_ok_and(|bytes| bytes >= 32 << 20));
        assert_eq!(used.len(), 64 << 20);
    }
}
