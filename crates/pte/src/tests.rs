//! The laws every format obeys, and spellings checked against the manuals by hand.

use crate::*;
use proptest::prelude::*;

fn any_level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::L1), Just(Level::L2), Just(Level::L3)]
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![
        Just(Write::Storable),
        Just(Write::Liftable),
        Just(Write::Denied),
        Just(Write::Partial)
    ]
}

fn any_gate() -> impl Strategy<Value = Gate> {
    prop_oneof![Just(Gate::Open), Just(Gate::Closed)]
}

fn any_pfn() -> impl Strategy<Value = Pfn> {
    (0..1u64 << 36).prop_map(Pfn::new)
}

fn any_leaf() -> impl Strategy<Value = Leaf> {
    (any_pfn(), any_write(), any::<bool>(), any::<bool>())
        .prop_map(|(frame, write, accessed, dirty)| Leaf { frame, write, accessed, dirty })
}

/// An entry and a level at which it can stand.
fn any_entry() -> impl Strategy<Value = (Entry, Level)> {
    prop_oneof![
        any_level().prop_map(|level| (Entry::Absent, level)),
        (any_pfn(), any_level()).prop_map(|(table, level)| (Entry::Frozen { table }, level)),
        (any_leaf(), any_level()).prop_map(|(leaf, level)| (Entry::Leaf(leaf), level)),
        (
            any_pfn(),
            any_gate(),
            any::<bool>(),
            prop_oneof![Just(Level::L2), Just(Level::L3), Just(Level::L4)]
        )
            .prop_map(|(child, gate, accessed, level)| {
                (Entry::Table { child, gate, accessed }, level)
            }),
    ]
}

/// What a format can say of an entry: tables on Arm have no A, and only 4 KiB leaves of EPT are
/// partly writable.
fn spoken<F: Format>(entry: Entry, level: Level) -> Entry {
    let whole = F::SUB_PAGES == SubPageTables::None || level > Level::L1;
    match entry {
        Entry::Leaf(leaf) if leaf.write == Write::Partial && whole => {
            Entry::Leaf(Leaf { write: Write::Denied, ..leaf })
        }
        Entry::Table { child, gate, .. } if F::NAME == Stage2::NAME => Entry::table(child, gate),
        other => other,
    }
}

fn opened<F: Format>(entry: Entry) -> Entry {
    match entry {
        Entry::Table { child, accessed, .. } => Entry::Table { child, gate: Gate::Open, accessed },
        Entry::Leaf(leaf) => {
            let dirty = leaf.dirty || F::OPENED == Opened::IsDirty;
            Entry::Leaf(Leaf { write: Write::Storable, dirty, ..leaf })
        }
        other => other,
    }
}

fn closed(entry: Entry) -> Entry {
    match entry {
        Entry::Table { child, accessed, .. } => {
            Entry::Table { child, gate: Gate::Closed, accessed }
        }
        Entry::Leaf(leaf) if leaf.write == Write::Storable => {
            Entry::Leaf(Leaf { write: Write::Liftable, ..leaf })
        }
        Entry::Leaf(leaf) if leaf.write == Write::Partial => with(leaf, Write::Denied),
        other => other,
    }
}

fn with(leaf: Leaf, write: Write) -> Entry {
    Entry::Leaf(Leaf { write, ..leaf })
}

/// A leaf that is storable and dirty stays dirty when it is denied.
fn write_laws<F: Format>(leaf: Leaf, level: Level) -> Result<(), TestCaseError> {
    let raw = F::encode(Entry::Leaf(leaf), level);
    let denied = F::deny(raw);
    prop_assert_eq!(F::decode(denied, level), with(leaf, Write::Denied));
    prop_assert_eq!(F::decode(F::lift(denied), level), with(leaf, Write::Liftable));
    prop_assert_eq!(F::is_partial(raw), leaf.write == Write::Partial);
    if level == Level::L1 {
        let partly = F::decode(F::permit_partly(denied), level);
        prop_assert_eq!(partly, spoken::<F>(with(leaf, Write::Partial), level));
    }
    Ok(())
}

fn may_open(entry: Entry) -> bool {
    match entry {
        Entry::Absent | Entry::Frozen { .. } => false,
        Entry::Table { .. } => true,
        Entry::Leaf(leaf) => matches!(leaf.write, Write::Storable | Write::Liftable),
    }
}

fn laws<F: Format>(entry: Entry, level: Level) -> Result<(), TestCaseError> {
    let entry = spoken::<F>(entry, level);
    let raw = F::encode(entry, level);
    prop_assert_eq!(F::decode(raw, level), entry);
    prop_assert_eq!(F::is_present(raw), entry != Entry::Absent);
    let storable = matches!(entry, Entry::Table { gate: Gate::Open, .. })
        || matches!(entry, Entry::Leaf(leaf) if matches!(leaf.write, Write::Storable | Write::Partial));
    prop_assert_eq!(F::is_storable(raw), storable);
    prop_assert_eq!(F::is_leaf(raw, level), matches!(entry, Entry::Leaf(_)));
    if let Entry::Leaf(leaf) = entry {
        prop_assert_eq!(F::is_liftable(raw), may_open(entry));
        write_laws::<F>(leaf, level)?;
        prop_assert_eq!(F::is_accessed(raw), leaf.accessed);
        prop_assert_eq!(F::is_dirty(raw), leaf.dirty);
        let clean = Entry::Leaf(Leaf { dirty: false, ..leaf });
        prop_assert_eq!(F::decode(F::clear_dirty(raw), level), clean);
        let used = Entry::Leaf(Leaf { accessed: true, ..leaf });
        prop_assert_eq!(F::decode(F::set_accessed(raw), level), used);
        let unused = Entry::Leaf(Leaf { accessed: false, ..leaf });
        prop_assert_eq!(F::decode(F::clear_accessed(raw), level), unused);
    }
    if may_open(entry) {
        prop_assert_eq!(F::decode(F::open(raw), level), opened::<F>(entry));
    }
    prop_assert_eq!(F::decode(F::close(raw), level), closed(entry));
    Ok(())
}

proptest! {
    #[test]
    fn an_ept_entry_means_what_it_was_told((entry, level) in any_entry()) {
        laws::<Ept>(entry, level)?;
    }

    #[test]
    fn an_npt_entry_means_what_it_was_told((entry, level) in any_entry()) {
        laws::<Npt>(entry, level)?;
    }

    #[test]
    fn a_stage_2_entry_means_what_it_was_told((entry, level) in any_entry()) {
        laws::<Stage2>(entry, level)?;
    }

    #[test]
    fn a_vector_has_the_bits_of_its_map_at_even_places(bits in any::<u32>()) {
        let vector = Sppt::vector(SubPageMap::new(bits)).0;
        for place in 0..64 {
            let expected = place % 2 == 0 && bits >> (place / 2) & 1 == 1;
            prop_assert_eq!(vector >> place & 1 == 1, expected);
        }
    }

    #[test]
    fn a_write_is_denied_at_its_first_byte_in_a_denied_sub_page(
        bits in any::<u32>(), start in 0u64..4096, length in 0u64..300,
    ) {
        let end = (start + length).min(4096);
        let naive = (start..end).find(|byte| bits >> (byte / 128) & 1 == 0);
        prop_assert_eq!(SubPageMap::new(bits).first_denied(start..end), naive);
    }

    #[test]
    fn roots_translate_what_they_are_asked_for_and_less_than_twice_that(bits in 0u32..64) {
        if let Some(root) = Stage2::root(bits) {
            let a_table = 12 + u32::from(root.level.get()) * 9;
            let translated = a_table + root.tables.ilog2();
            prop_assert!(translated == bits || root.tables == 1 && translated > bits);
            prop_assert!(root.tables <= 16);
        } else {
            prop_assert!(!(32..=48).contains(&bits));
        }
    }

    #[test]
    fn any_bits_decode_to_something_that_encodes_stably(bits in any::<u64>(), level in any_level()) {
        let once = Ept::decode(Raw(bits), level);
        prop_assert_eq!(Ept::decode(Ept::encode(once, level), level), once);
        let once = Npt::decode(Raw(bits), level);
        prop_assert_eq!(Npt::decode(Npt::encode(once, level), level), once);
        let once = Stage2::decode(Raw(bits), level);
        prop_assert_eq!(Stage2::decode(Stage2::encode(once, level), level), once);
    }

    #[test]
    fn a_range_contains_exactly_its_pages(first in 0u64..1 << 52, pages in 0u64..1 << 20, at in 0u64..1 << 53) {
        let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
        prop_assert_eq!(range.contains(Gfn::new(at)), at >= first && at < first + pages);
    }
}

#[test]
fn ept_spells_a_writable_4k_leaf_as_the_manual_does() {
    let raw = Ept::encode(Entry::Leaf(Leaf::new(Pfn::new(0xabcde), Write::Storable)), Level::L1);
    assert_eq!(raw.0 & !(1 << 52), 0xabcd_e037, "R W X, write-back");
}

#[test]
fn npt_spells_a_writable_4k_leaf_as_the_manual_does() {
    let raw = Npt::encode(Entry::Leaf(Leaf::new(Pfn::new(0xabcde), Write::Storable)), Level::L1);
    assert_eq!(raw.0 & !(1 << 52), 0xabcd_e007, "P RW US");
}

/// The software bits of a leaf.
const OURS: u64 = 0xf << 55;

#[test]
fn stage_2_spells_leaves_as_the_manual_does() {
    let leaf =
        Leaf { accessed: true, dirty: true, ..Leaf::new(Pfn::new(0xabcde), Write::Storable) };
    let page = Stage2::encode(Entry::Leaf(leaf), Level::L1).0 & !OURS;
    assert_eq!(page, 1 << 51 | 0xabcd_e7ff, "DBM, AF, inner shareable, S2AP RW, write-back, page");
    let block = Leaf::new(Pfn::new(0x200), Write::Denied);
    assert_eq!(Stage2::encode(Entry::Leaf(block), Level::L2).0 & !OURS, 0x20_037d, "read-only");
}

#[test]
fn a_closed_stage_2_table_is_invalid_and_keeps_its_address() {
    let open = Stage2::encode(Entry::table(Pfn::new(0xabcde), Gate::Open), Level::L2);
    assert_eq!(open.0, 0xabcd_e003);
    let closed = Stage2::close(open);
    assert_eq!(closed.0 & 1, 0);
    assert_eq!(Stage2::open(closed), open);
}

#[test]
fn roots_are_concatenated_up_to_sixteen_as_sl0_allows() {
    let root = |bits| Stage2::root(bits).map(|root| (root.level, root.tables));
    assert_eq!(root(39), Some((Level::L3, 1)));
    assert_eq!(root(40), Some((Level::L3, 2)));
    assert_eq!(root(43), Some((Level::L3, 16)));
    assert_eq!(root(44), Some((Level::L4, 1)));
    assert_eq!(root(48), Some((Level::L4, 1)));
    assert_eq!(root(34), Some((Level::L2, 16)));
    assert_eq!(root(49), None);
}

#[test]
fn what_is_frozen_is_not_present_for_hardware() {
    let frozen = Entry::Frozen { table: Pfn::new(0xabcde) };
    assert_eq!(Ept::encode(frozen, Level::L2).0 & 7, 0);
    assert_eq!(Npt::encode(frozen, Level::L2).0 & 1, 0);
    assert_eq!(Stage2::encode(frozen, Level::L2).0 & 1, 0);
}

#[test]
fn a_huge_leaf_has_bit_7_in_both_formats() {
    let leaf = Entry::Leaf(Leaf::new(Pfn::new(0x200), Write::Denied));
    assert_eq!(Ept::encode(leaf, Level::L2).0, 0x20_00b5);
    assert_eq!(Npt::encode(leaf, Level::L3).0, 0x20_0085);
}

#[test]
fn a_range_that_ends_past_the_number_space_is_refused() {
    assert_eq!(GfnRange::new(Gfn::new(u64::MAX), 1), None);
    assert_eq!(GfnRange::new(Gfn::new(u64::MAX), 0).map(GfnRange::pages), Some(0));
}

#[test]
fn a_sub_page_table_entry_is_spelt_as_the_manual_does() {
    let open = Sppt::encode(Entry::table(Pfn::new(0xabcde), Gate::Open), Level::L3);
    assert_eq!(open.0, 0xabcd_e001);
    assert_eq!(Sppt::close(open).0, 0xabcd_e000, "a miss, the address kept");
    assert_eq!(Sppt::open(Sppt::close(open)), open);
    assert_eq!(Sppt::vector(SubPageMap::new(0x8000_0001)).0, 1 << 62 | 1);
}

#[test]
fn a_partly_writable_leaf_is_read_only_with_bit_61() {
    let raw = Ept::encode(Entry::Leaf(Leaf::new(Pfn::new(0xabcde), Write::Partial)), Level::L1);
    assert_eq!(raw.0, 1 << 61 | 0xabcd_e035);
}

#[test]
fn exit_66_tells_a_miss_from_a_misconfiguration() {
    assert_eq!(SubPageEvent::from_qualification(1 << 11), SubPageEvent::Miss);
    assert_eq!(SubPageEvent::from_qualification(1 << 12), SubPageEvent::Misconfiguration);
    assert!(SubPageEvent::unblocked_nmi(1 << 12));
    assert!(!SubPageEvent::unblocked_nmi(1 << 11));
}

#[test]
fn a_write_that_ends_at_a_sub_pages_last_byte_does_not_touch_the_next() {
    let first_only = SubPageMap::new(1);
    assert_eq!(first_only.first_denied(0..128), None);
    assert_eq!(first_only.first_denied(0..129), Some(128));
    assert_eq!(SubPageMap::new(1 << 31).first_denied(3968..4096), None);
    assert_eq!(SubPageMap::NONE.first_denied(5..5), None);
}
