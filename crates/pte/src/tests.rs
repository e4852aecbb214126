//! The laws every format obeys, and spellings checked against the manuals by hand.

use crate::*;
use proptest::prelude::*;

fn any_level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::L1), Just(Level::L2), Just(Level::L3)]
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![Just(Write::Storable), Just(Write::Liftable), Just(Write::Denied)]
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

/// What a format can say of an entry: tables on Arm have no A.
fn spoken<F: Format>(entry: Entry) -> Entry {
    match entry {
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
        other => other,
    }
}

fn may_open(entry: Entry) -> bool {
    match entry {
        Entry::Absent | Entry::Frozen { .. } => false,
        Entry::Table { .. } => true,
        Entry::Leaf(leaf) => leaf.write != Write::Denied,
    }
}

fn laws<F: Format>(entry: Entry, level: Level) -> Result<(), TestCaseError> {
    let entry = spoken::<F>(entry);
    let raw = F::encode(entry, level);
    prop_assert_eq!(F::decode(raw, level), entry);
    prop_assert_eq!(F::is_present(raw), entry != Entry::Absent);
    let storable = matches!(entry, Entry::Table { gate: Gate::Open, .. })
        || matches!(entry, Entry::Leaf(leaf) if leaf.write == Write::Storable);
    prop_assert_eq!(F::is_storable(raw), storable);
    prop_assert_eq!(F::is_leaf(raw, level), matches!(entry, Entry::Leaf(_)));
    if let Entry::Leaf(leaf) = entry {
        prop_assert_eq!(F::is_liftable(raw), leaf.write != Write::Denied);
        prop_assert_eq!(F::is_accessed(raw), leaf.accessed);
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
