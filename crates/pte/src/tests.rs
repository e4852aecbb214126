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
    (0..1u64 << 40).prop_map(Pfn::new)
}

fn any_leaf() -> impl Strategy<Value = Leaf> {
    (any_pfn(), any_write(), any::<bool>(), any::<bool>())
        .prop_map(|(frame, write, accessed, dirty)| Leaf { frame, write, accessed, dirty })
}

/// An entry and a level at which it can stand.
fn any_entry() -> impl Strategy<Value = (Entry, Level)> {
    prop_oneof![
        any_level().prop_map(|level| (Entry::Absent, level)),
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

fn opened(entry: Entry) -> Entry {
    match entry {
        Entry::Table { child, accessed, .. } => Entry::Table { child, gate: Gate::Open, accessed },
        Entry::Leaf(leaf) => Entry::Leaf(Leaf { write: Write::Storable, ..leaf }),
        Entry::Absent => Entry::Absent,
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
        Entry::Absent => false,
        Entry::Table { .. } => true,
        Entry::Leaf(leaf) => leaf.write != Write::Denied,
    }
}

fn laws<F: Format>(entry: Entry, level: Level) -> Result<(), TestCaseError> {
    let raw = F::encode(entry, level);
    prop_assert_eq!(F::decode(raw, level), entry);
    prop_assert_eq!(F::is_present(raw), entry != Entry::Absent);
    let storable = matches!(entry, Entry::Table { gate: Gate::Open, .. })
        || matches!(entry, Entry::Leaf(leaf) if leaf.write == Write::Storable);
    prop_assert_eq!(F::is_storable(raw), storable);
    if let Entry::Leaf(leaf) = entry {
        prop_assert_eq!(F::is_liftable(raw), leaf.write != Write::Denied);
    }
    if may_open(entry) {
        prop_assert_eq!(F::decode(F::open(raw), level), opened(entry));
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
    fn any_bits_decode_to_something_that_encodes_stably(bits in any::<u64>(), level in any_level()) {
        let once = Ept::decode(Raw(bits), level);
        prop_assert_eq!(Ept::decode(Ept::encode(once, level), level), once);
        let once = Npt::decode(Raw(bits), level);
        prop_assert_eq!(Npt::decode(Npt::encode(once, level), level), once);
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
