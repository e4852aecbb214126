//! Arm's walker against descriptors written by hand.

use super::*;

pub(super) const TABLE: u64 = 0b11;
/// Normal write-back memory, readable, inner shareable, with neither AF nor DBM.
const MEMORY: u64 = 0b1111 << 2 | S2AP_READ | 0b11 << 8;
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
const AF: u64 = 1 << 10;
const DBM: u64 = 1 << 51;
const XN: [u64; 4] = [0, 1 << 53, 1 << 54, 3 << 53];
/// A page, and a block, that stores may dirty.
const LEAF: u64 = 0b11 | MEMORY | DBM;
pub(super) const BLOCK: u64 = 0b01 | MEMORY | DBM;

/// 40 bits: two root tables at Arm's level 1.
pub(super) const USUAL: Regime =
    Regime { level: 3, address_bits: 40, flags: AccessFlags::ByHardware };

fn tables() -> Tables {
    Tables::under(USUAL, 3, TABLE, PAGE | LEAF)
}

fn without_hardware_flags(leaf: u64) -> Tables {
    let regime = Regime { flags: AccessFlags::BySoftware, ..USUAL };
    Tables::under(regime, 3, TABLE, PAGE | leaf)
}

fn walk(tables: &Tables, access: Access) -> Result<Translation, Violation> {
    tables.walk::<Stage2Walker>(access)
}

fn request(tables: &Tables, gpa: u64) -> Request {
    let (root, regime) = (tables.root, tables.regime);
    let access = Access::Read;
    Request { root, regime, gpa: Gpa::new(gpa), access, bytes: 1, spp_root: None, epoch: EPOCH }
}

#[test]
fn every_start_level_and_number_of_root_tables_is_walked() {
    for (address_bits, level, roots) in [
        (32, 2, 4),
        (33, 2, 8),
        (34, 2, 16),
        (35, 3, 1),
        (39, 3, 1),
        (40, 3, 2),
        (43, 3, 16),
        (44, 4, 1),
        (48, 4, 1),
    ] {
        let regime = Regime { level, address_bits, ..USUAL };
        assert_eq!(Stage2Walker::accept(regime), Some(regime));
        let made = Tables::under(regime, level, TABLE, PAGE | LEAF);
        let last = root_table(request(&made, (1 << address_bits) - 1));
        assert_eq!(root_table(request(&made, 0)), made.root);
        assert_eq!(last.get() - made.root.get(), roots - 1, "{address_bits} bits");
        assert_eq!(frame(walk(&made, Access::Read)), Pfn::of_address(PAGE), "{address_bits} bits");
    }
}

#[test]
fn a_start_level_that_does_not_fit_the_address_is_refused() {
    for (level, address_bits) in
        [(1, 12), (2, 21), (2, 35), (3, 30), (3, 44), (4, 39), (4, 49), (5, 48), (0, 40)]
    {
        let regime = Regime { level, address_bits, ..USUAL };
        assert_eq!(Stage2Walker::accept(regime), None, "{level} {address_bits}");
    }
}

#[test]
fn nothing_is_mapped_beyond_the_address_bits() {
    for address_bits in [35, 39, 40] {
        let regime = Regime { address_bits, ..USUAL };
        let made = Tables::under(regime, 3, TABLE, PAGE | LEAF);
        let first = made.entry(3);
        // Every entry of the root maps the page, those that the address bits do not reach too.
        (0..512).for_each(|index| EntryAt { index, ..first }.store(first.load()));
        for bit in address_bits..64 {
            let beyond = request(&made, made.gpa().get() | 1 << bit);
            let found = super::walk::<Stage2Walker>(beyond, &mut WalkCache::new());
            assert_eq!(found, Err(Violation::NotPresent), "bit {bit} of {address_bits}");
        }
    }
}

#[test]
fn an_entry_without_its_valid_bit_is_not_present_whatever_else_it_says() {
    for level in 1..=3 {
        let made = tables();
        made.set(level, 0b1_1111 << 55);
        made.clear(level, 1);
        assert_eq!(walk(&made, Access::Read), Err(Violation::NotPresent), "level {level}");
    }
}

#[test]
fn a_reserved_kind_of_descriptor_is_not_present() {
    let made = tables();
    made.clear(1, 0b10);
    assert_eq!(walk(&made, Access::Read), Err(Violation::NotPresent), "0b01 at Arm's level 3");
    let four = Regime { level: 4, address_bits: 48, ..USUAL };
    let made = Tables::under(four, 1, TABLE, BLOCK);
    assert_eq!(walk(&made, Access::Read), Err(Violation::NotPresent), "a block at Arm's level 0");
}

#[test]
fn reserved_bits_are_misconfigurations() {
    let refuses = |depth: u8, leaf: u64, level, bit: u32| {
        let made = Tables::under(USUAL, depth, TABLE, leaf);
        made.set(level, 1 << bit);
        walk(&made, Access::Read) == Err(Violation::Misconfigured)
    };
    let in_table = |level, bit| refuses(3, PAGE | LEAF, level, bit);
    for bit in (48..=50).chain(59..=63) {
        assert!(in_table(2, bit) && in_table(3, bit), "bit {bit} of a table");
    }
    assert!((2..=11).chain(51..=58).all(|bit| !in_table(2, bit)), "ignored in a table");
    let in_page = |bit| refuses(3, PAGE | LEAF, 1, bit);
    assert!([11, 48, 49, 50].into_iter().all(in_page));
    assert!(!(55..=63).any(in_page), "software's, or ignored");
    let in_2m = |bit| refuses(2, BLOCK, 2, bit);
    assert!((11..=20).chain(48..=50).all(in_2m) && !in_2m(21));
    let in_1g = |bit| refuses(1, BLOCK, 3, bit);
    assert!((11..=29).chain(48..=50).all(in_1g) && !in_1g(30));
}

#[test]
fn memory_that_is_not_write_back_and_inner_shareable_stops_the_machine() {
    for (attributes, shareability) in (0..16).flat_map(|a| (0..4).map(move |s| (a, s))) {
        let made = tables();
        made.clear(1, 0b1111 << 2 | 0b11 << 8);
        made.set(1, attributes << 2 | shareability << 8);
        let good = (attributes, shareability) == (0b1111, 0b11);
        let found = walk(&made, Access::Read);
        assert_eq!(found.is_ok(), good, "{attributes:#b} {shareability:#b}");
        assert_eq!(found == Err(Violation::Misconfigured), !good);
    }
}

#[test]
fn loads_and_stores_need_s2ap() {
    for (read, write) in [(0, 0), (0, S2AP_WRITE), (S2AP_READ, 0), (S2AP_READ, S2AP_WRITE)] {
        let made = tables();
        made.clear(1, S2AP_READ | S2AP_WRITE | DBM);
        made.set(1, read | write);
        assert_eq!(denied(walk(&made, Access::Read)), read == 0);
        assert_eq!(denied(walk(&made, Access::Write)), write == 0);
        assert!(walk(&made, Access::Execute).is_ok(), "a fetch needs neither");
    }
}

#[test]
fn a_fetch_at_el1_is_refused_by_xn() {
    for (xn, refused) in XN.into_iter().zip([false, true, true, false]) {
        let made = tables();
        made.set(1, xn);
        assert_eq!(denied(walk(&made, Access::Execute)), refused, "{:#b}", xn >> 53);
        assert!(walk(&made, Access::Read).is_ok() && walk(&made, Access::Write).is_ok());
    }
}

#[test]
fn a_use_sets_af_in_the_leaf_and_in_no_table() {
    let made = tables();
    let upper = [made.entry(3).load(), made.entry(2).load()];
    walk(&made, Access::Read).expect("translated");
    assert!(made.has(1, AF) && !made.has(1, S2AP_WRITE), "a read dirties nothing");
    walk(&made, Access::Write).expect("translated");
    assert_eq!([made.entry(3).load(), made.entry(2).load()], upper);
}

#[test]
fn a_store_through_dbm_sets_s2ap_1_and_without_it_faults() {
    let made = tables();
    let read = walk(&made, Access::Read).expect("translated");
    assert_eq!(read.dirty, Dirty::Clear, "the first store walks again");
    assert!(read.permits.allow(Access::Write), "it is not refused");
    let written = walk(&made, Access::Write).expect("translated");
    assert!(made.has(1, S2AP_WRITE | DBM) && written.dirty == Dirty::Set);
    let made = tables();
    made.clear(1, DBM);
    assert!(denied(walk(&made, Access::Write)));
    assert!(!made.has(1, S2AP_WRITE) && !made.has(1, AF));
}

#[test]
fn without_hardware_flags_a_use_needs_af_and_a_store_s2ap_1() {
    let made = without_hardware_flags(LEAF);
    for access in [Access::Read, Access::Write, Access::Execute] {
        assert_eq!(walk(&made, access), Err(Violation::NotAccessed));
    }
    assert!(!made.has(1, AF));
    let made = without_hardware_flags(LEAF | AF);
    assert!(walk(&made, Access::Read).is_ok());
    assert!(denied(walk(&made, Access::Write)), "whatever DBM says");
    assert!(!made.has(1, S2AP_WRITE));
    let made = without_hardware_flags(LEAF | AF | S2AP_WRITE);
    assert_eq!(walk(&made, Access::Write).expect("translated").dirty, Dirty::Set);
}

#[test]
fn the_access_flag_is_asked_for_before_permissions() {
    let made = without_hardware_flags(0b11 | MEMORY);
    assert_eq!(walk(&made, Access::Write), Err(Violation::NotAccessed));
}

#[test]
fn the_walk_cache_does_not_see_a_parked_table_until_the_epoch_moves_on() {
    let made = tables();
    let mut cache = WalkCache::new();
    made.walk_in::<Stage2Walker>(Access::Write, EPOCH, &mut cache).expect("translated");
    made.clear(3, 1);
    assert!(made.walk_in::<Stage2Walker>(Access::Write, EPOCH, &mut cache).is_ok());
    let after = made.walk_in::<Stage2Walker>(Access::Write, EPOCH + 1, &mut cache);
    assert_eq!(after, Err(Violation::NotPresent));
}
