//! What the library spells, the walkers read as it was meant.

use super::*;
use proptest::prelude::*;
use vellum_pte::{
    ClosedTable, Entry, Gate, Leaf, Level, PAGE_SIZE, Sppt, SubPageFormat, SubPageMap, TableFormat,
    Write,
};

const LEVELS: [Level; 4] = [Level::L1, Level::L2, Level::L3, Level::L4];

fn read<F: WalkedFormat>(entry: Entry, level: Level, flags: AccessFlags) -> Step {
    F::Walker::read(F::encode(entry, level).0, level.get(), flags)
}

/// A leaf at a frame of its size.
fn leaf_at(level: Level, number: u64, write: Write) -> Leaf {
    let pages = 1u64 << (INDEX_BITS * u32::from(level.get() - 1));
    let frames = 1 << (PHYSICAL_ADDRESS_BITS - PAGE_SHIFT);
    Leaf { accessed: true, ..Leaf::new(Pfn::new(number * pages % frames), write) }
}

fn on_leaves<F: WalkedFormat>(leaf: Leaf, level: Level) -> Result<(), TestCaseError> {
    let step = read::<F>(Entry::Leaf(leaf), level, AccessFlags::ByHardware);
    let Step::Page(link) = step else { panic!("{step:?} for a page") };
    prop_assert_eq!(link.frame, leaf.frame);
    prop_assert_eq!(link.permits.allow(Access::Write), leaf.write == Write::Storable);
    prop_assert!(link.permits.allow(Access::Read) && link.permits.allow(Access::Execute));
    Ok(())
}

fn on_tables<F: WalkedFormat>(child: Pfn, gate: Gate, level: Level) -> Result<(), TestCaseError> {
    let step = read::<F>(Entry::table(child, gate), level, AccessFlags::ByHardware);
    if (F::CLOSED_TABLE, gate) == (ClosedTable::Parked, Gate::Closed) {
        prop_assert_eq!(step, Step::NotPresent);
        return Ok(());
    }
    let Step::Table(link) = step else { panic!("{step:?} for a table") };
    prop_assert_eq!(link.frame, child);
    prop_assert_eq!(link.permits.allow(Access::Write), gate == Gate::Open);
    prop_assert!(link.permits.allow(Access::Read) && link.permits.allow(Access::Execute));
    Ok(())
}

/// What the walker says to an upper entry of a sub-page permission table.
fn next_of(child: Pfn, gate: Gate, level: Level) -> Result<Pfn, SppFailure> {
    crate::walker::spp::next_table(Sppt::encode(Entry::table(child, gate), level).0)
}

proptest! {
    #[test]
    fn on_vectors_of_sub_pages(bits in any::<u32>()) {
        let vector = Sppt::vector(SubPageMap::new(bits));
        prop_assert_eq!(SubPages::of_vector(vector.0), Some(SubPages::new(bits)));
        let map = SubPageMap::new(bits);
        for offset in (0..PAGE_SIZE).step_by(64) {
            let walked = SubPages::new(bits).permit(Gpa::new(offset), 64);
            prop_assert_eq!(walked, map.first_denied(offset..offset + 64).is_none());
        }
    }

    #[test]
    fn on_tables_above_vectors(
        frame in 0u64..1 << 36,
        level in prop::sample::select(LEVELS[1..].to_vec()),
    ) {
        let child = Pfn::new(frame);
        prop_assert_eq!(next_of(child, Gate::Open, level), Ok(child));
        prop_assert_eq!(next_of(child, Gate::Closed, level), Err(SppFailure::Miss));
    }

    #[test]
    fn on_which_leaves_ask_for_sub_pages(
        number in any::<u32>(),
        write in prop::sample::select(
            vec![Write::Storable, Write::Liftable, Write::Denied, Write::Partial],
        ),
    ) {
        let leaf = leaf_at(Level::L1, u64::from(number), write);
        let raw = Ept::encode(Entry::Leaf(leaf), Level::L1).0;
        let asks = raw & EptWalker::SUB_PAGE_WRITES != 0;
        prop_assert_eq!(asks, write == Write::Partial);
        on_leaves::<Ept>(leaf, Level::L1)?;
    }

    #[test]
    fn on_leaves_of_all_sizes(
        number in any::<u32>(),
        write in prop::sample::select(vec![Write::Storable, Write::Liftable, Write::Denied]),
        dirty in any::<bool>(),
        level in prop::sample::select(LEVELS[..3].to_vec()),
    ) {
        let leaf = Leaf { dirty, ..leaf_at(level, u64::from(number), write) };
        on_leaves::<Ept>(leaf, level)?;
        on_leaves::<Npt>(leaf, level)?;
        on_leaves::<Stage2>(leaf, level)?;
    }

    #[test]
    fn on_tables_open_and_closed(
        frame in 0u64..1 << 36,
        gate in prop::sample::select(vec![Gate::Open, Gate::Closed]),
        level in prop::sample::select(LEVELS[1..].to_vec()),
    ) {
        on_tables::<Ept>(Pfn::new(frame), gate, level)?;
        on_tables::<Npt>(Pfn::new(frame), gate, level)?;
        on_tables::<Stage2>(Pfn::new(frame), gate, level)?;
    }

    #[test]
    fn on_what_is_frozen_or_absent(
        frame in 0u64..1 << 36,
        level in prop::sample::select(LEVELS.to_vec()),
    ) {
        for entry in [Entry::Absent, Entry::Frozen { table: Pfn::new(frame) }] {
            for flags in [AccessFlags::ByHardware, AccessFlags::BySoftware] {
                prop_assert_eq!(read::<Ept>(entry, level, flags), Step::NotPresent);
                prop_assert_eq!(read::<Npt>(entry, level, flags), Step::NotPresent);
                prop_assert_eq!(read::<Stage2>(entry, level, flags), Step::NotPresent);
            }
        }
    }

    #[test]
    fn no_bits_make_a_walker_panic(bits in any::<u64>(), level in 1u8..=4) {
        for flags in [AccessFlags::ByHardware, AccessFlags::BySoftware] {
            let _ = EptWalker::read(bits, level, flags);
            let _ = NptWalker::read(bits, level, flags);
            let _ = Stage2Walker::read(bits, level, flags);
        }
    }
}

/// How many numbers of address bits the format has tables for.
fn roots_agree<F: WalkedFormat>() -> usize {
    let roots = (0..=64).filter_map(|bits| Some((bits, F::root(bits)?)));
    let agreed = roots.map(|(address_bits, root)| {
        let flags = AccessFlags::ByHardware;
        let regime = Regime { level: root.level.get(), address_bits, flags };
        let accepted = F::Walker::accept(regime).expect("the processor can be told so");
        let bits_of_one = PAGE_SHIFT + INDEX_BITS * u32::from(regime.level);
        let walked = 1u64 << accepted.address_bits.saturating_sub(bits_of_one);
        assert_eq!(walked, u64::from(root.tables), "{address_bits} bits of {}", F::NAME);
    });
    agreed.count()
}

#[test]
fn on_how_many_root_tables_there_are() {
    assert_eq!((roots_agree::<Ept>(), roots_agree::<Npt>()), (49, 49));
    assert_eq!(roots_agree::<Stage2>(), 17, "32 to 48 bits");
}
