//! A format small enough for loom: two levels of two entries, four pages in all.

use vellum_pte::{Entry, Format, Gate, Leaf, Level, Pfn, Raw, Write};

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const LIFTABLE: u64 = 4;
const ADDRESS: u32 = 12;

#[derive(Clone, Copy, Debug)]
pub struct Tiny;

impl Format for Tiny {
    const NAME: &'static str = "tiny";
    const ROOT: Level = Level::L2;
    const INDEX_BITS: u32 = 1;
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;

    fn encode(entry: Entry, _: Level) -> Raw {
        Raw(match entry {
            Entry::Absent => 0,
            Entry::Table { child, gate, .. } => {
                child.get() << ADDRESS | PRESENT | if gate == Gate::Open { WRITE } else { 0 }
            }
            Entry::Leaf(leaf) => {
                leaf.frame.get() << ADDRESS
                    | PRESENT
                    | match leaf.write {
                        Write::Storable => WRITE | LIFTABLE,
                        Write::Liftable => LIFTABLE,
                        Write::Denied => 0,
                    }
            }
        })
    }

    fn decode(raw: Raw, level: Level) -> Entry {
        let frame = Pfn::new(raw.0 >> ADDRESS);
        match (Self::is_present(raw), level > Level::L1) {
            (false, _) => Entry::Absent,
            (true, true) => {
                Entry::table(frame, if Self::is_storable(raw) { Gate::Open } else { Gate::Closed })
            }
            (true, false) => Entry::Leaf(Leaf::new(
                frame,
                match (Self::is_storable(raw), Self::is_liftable(raw)) {
                    (true, _) => Write::Storable,
                    (false, true) => Write::Liftable,
                    (false, false) => Write::Denied,
                },
            )),
        }
    }

    fn is_present(raw: Raw) -> bool {
        raw.0 & PRESENT != 0
    }

    fn is_storable(raw: Raw) -> bool {
        raw.0 & WRITE != 0
    }

    fn is_liftable(raw: Raw) -> bool {
        raw.0 & LIFTABLE != 0
    }

    fn open(raw: Raw) -> Raw {
        Raw(raw.0 | WRITE)
    }

    fn close(raw: Raw) -> Raw {
        Raw(raw.0 & !WRITE)
    }
}
