//! Sub-page write permissions: every outcome of the walk, one row a rule of the manual (Intel SDM
//! vol. 3C, 29.3.4), on tables written by hand.

use super::*;

const SPP: u64 = 1 << 61;
const EPT_R: u64 = 1 << 0;
/// Each sub-page may be written.
const ALL: u64 = 0x5555_5555_5555_5555;

/// A sub-page permission table with a path for [`GPA`].
struct SppTables {
    _frames: Frames,
    /// Of level 4 first; the last is the vector.
    entries: Vec<EntryAt>,
}

impl SppTables {
    fn new(vector: u64) -> Self {
        let frames = Frames::new(None);
        let tables = (1..=4u8).rev();
        let entries: Vec<EntryAt> = tables
            .map(|level| EntryAt {
                table: frames.allocate(&NoWalks).expect("the host has memory"),
                index: index(GPA, level),
            })
            .collect();
        for pair in entries.windows(2) {
            pair[0].store(pair[1].table.address() | 1);
        }
        entries[3].store(vector);
        Self { _frames: frames, entries }
    }

    fn root(&self) -> Pfn {
        self.entries[0].table
    }

    fn entry(&self, level: u8) -> EntryAt {
        self.entries[usize::from(4 - level)]
    }

    fn change(&self, level: u8, bits: u64) {
        self.entry(level).store(self.entry(level).load() ^ bits);
    }
}

/// How a write ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It retires, and nobody looked at sub-pages.
    Stored,
    /// It retires by its sub-pages.
    Permitted,
    /// An EPT violation.
    Violation,
    /// An SPP-related event: a miss.
    Miss,
    /// An SPP-related event: a misconfiguration.
    Misconfiguration,
    /// An EPT misconfiguration.
    EptMisconfiguration,
}

fn end(result: Result<Translation, Violation>) -> End {
    match result {
        Ok(found) if found.sub_pages == SubPages::NONE => End::Stored,
        Ok(_) => End::Permitted,
        Err(Violation::Denied(_) | Violation::NotPresent) => End::Violation,
        Err(Violation::Spp(SppFailure::Miss)) => End::Miss,
        Err(Violation::Spp(SppFailure::Misconfigured)) => End::Misconfiguration,
        Err(Violation::Misconfigured) => End::EptMisconfiguration,
        Err(Violation::NotAccessed) => panic!("no EPT walker says so"),
    }
}

/// One access under one rule.
#[derive(Clone, Copy)]
struct Row {
    rule: &'static str,
    /// Toggled in the EPT entry of a level, on top of a writable path.
    ept: &'static [(u8, u64)],
    /// The level of the EPT leaf.
    leaf: u8,
    /// Toggled in the SPP entry of a level, on top of a valid path.
    spp: &'static [(u8, u64)],
    vector: u64,
    /// Whether the processor was given an SPPTP.
    root: Root,
    access: Access,
    offset: u64,
    bytes: u64,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Root {
    Given,
    None,
}

/// A double word in sub-page 3 of a read-only 4 KiB leaf with bit 61; sub-page 3 alone permits it.
const BASE: Row = Row {
    rule: "W = 0, bit 61, every SPP entry valid, the sub-page's bit set: the write retires",
    ept: &[(1, EPT_W | SPP)],
    leaf: 1,
    spp: &[],
    vector: 1 << 6,
    root: Root::Given,
    access: Access::Write,
    offset: 3 * 128 + 8,
    bytes: 8,
    end: End::Permitted,
};

const ROWS: &[Row] = &[
    BASE,
    Row {
        rule: "its bit clear: an EPT violation",
        vector: ALL ^ 1 << 6,
        end: End::Violation,
        ..BASE
    },
    Row { rule: "no bit set: an EPT violation", vector: 0, end: End::Violation, ..BASE },
    // Which accesses ask.
    Row {
        rule: "W = 1 on the whole path ignores the table",
        ept: &[(1, SPP)],
        vector: 0,
        end: End::Stored,
        ..BASE
    },
    Row {
        rule: "W = 1 on the whole path never misses",
        ept: &[(1, SPP)],
        spp: &[(4, 1)],
        end: End::Stored,
        ..BASE
    },
    Row { rule: "W = 0 at level 2 asks", ept: &[(1, SPP), (2, EPT_W)], ..BASE },
    Row { rule: "W = 0 at level 3 asks", ept: &[(1, SPP), (3, EPT_W)], ..BASE },
    Row { rule: "W = 0 at level 4 asks", ept: &[(1, SPP), (4, EPT_W)], ..BASE },
    Row {
        rule: "W = 0 everywhere asks",
        ept: &[(1, SPP | EPT_W), (2, EPT_W), (3, EPT_W), (4, EPT_W)],
        ..BASE
    },
    Row { rule: "bit 61 clear: nobody asks", ept: &[(1, EPT_W)], end: End::Violation, ..BASE },
    Row {
        rule: "bit 61 clear: no miss",
        ept: &[(1, EPT_W)],
        spp: &[(4, 1)],
        end: End::Violation,
        ..BASE
    },
    Row {
        rule: "bit 61 above the leaf means nothing",
        ept: &[(1, EPT_W), (2, SPP)],
        end: End::Violation,
        ..BASE
    },
    Row {
        rule: "a 2 MiB leaf ignores bit 61",
        ept: &[(2, EPT_W | SPP)],
        leaf: 2,
        end: End::Violation,
        ..BASE
    },
    Row {
        rule: "a 1 GiB leaf ignores bit 61",
        ept: &[(3, EPT_W | SPP)],
        leaf: 3,
        end: End::Violation,
        ..BASE
    },
    Row { rule: "SPP off: bit 61 is ignored", root: Root::None, end: End::Violation, ..BASE },
    Row {
        rule: "a read passes by its own bit",
        access: Access::Read,
        vector: 0,
        end: End::Stored,
        ..BASE
    },
    Row {
        rule: "a read never misses",
        access: Access::Read,
        spp: &[(4, 1)],
        end: End::Stored,
        ..BASE
    },
    Row {
        rule: "a fetch passes by its own bit",
        access: Access::Execute,
        vector: 0,
        end: End::Stored,
        ..BASE
    },
    Row {
        rule: "the processor's own write to the guest's page tables does not ask",
        access: Access::Walk,
        end: End::Violation,
        ..BASE
    },
    Row {
        rule: "nor does it miss",
        access: Access::Walk,
        spp: &[(4, 1)],
        end: End::Violation,
        ..BASE
    },
    Row {
        rule: "a page that may not be read may not be written",
        ept: &[(1, EPT_W | EPT_R | SPP)],
        end: End::Violation,
        ..BASE
    },
    Row {
        rule: "an EPT misconfiguration comes first",
        ept: &[(1, EPT_W | SPP | 1 << 3)],
        spp: &[(4, 1)],
        end: End::EptMisconfiguration,
        ..BASE
    },
    // Entries above the vector.
    Row { rule: "level 4 not valid: a miss", spp: &[(4, 1)], end: End::Miss, ..BASE },
    Row { rule: "level 3 not valid: a miss", spp: &[(3, 1)], end: End::Miss, ..BASE },
    Row { rule: "level 2 not valid: a miss", spp: &[(2, 1)], end: End::Miss, ..BASE },
    Row {
        rule: "not valid: reserved bits do not count",
        spp: &[(3, 1 | 1 << 5)],
        end: End::Miss,
        ..BASE
    },
    Row {
        rule: "the first entry that is not valid counts",
        spp: &[(3, 1), (2, 1 << 5)],
        end: End::Miss,
        ..BASE
    },
    Row {
        rule: "the first reserved bit counts",
        spp: &[(3, 1 << 5), (2, 1)],
        end: End::Misconfiguration,
        ..BASE
    },
    Row { rule: "bit 0 of a vector is a sub-page, not valid", vector: ALL ^ 1, ..BASE },
    // The vector.
    Row {
        rule: "an odd bit: a misconfiguration",
        vector: 1 << 6 | 1 << 1,
        end: End::Misconfiguration,
        ..BASE
    },
    Row {
        rule: "the odd bit of another sub-page: a misconfiguration",
        vector: ALL | 1 << 63,
        end: End::Misconfiguration,
        ..BASE
    },
    Row {
        rule: "an odd bit where the write is denied: a misconfiguration",
        vector: 1 << 7,
        end: End::Misconfiguration,
        ..BASE
    },
    // Straddling.
    Row { rule: "a write up to its sub-page's end touches no other", offset: 4 * 128 - 8, ..BASE },
    Row {
        rule: "a write over the end needs the next one",
        offset: 4 * 128 - 7,
        end: End::Violation,
        ..BASE
    },
    Row {
        rule: "a write over the end needs this one",
        offset: 3 * 128 - 7,
        end: End::Violation,
        ..BASE
    },
    Row {
        rule: "a write over the end passes by both",
        offset: 4 * 128 - 7,
        vector: 1 << 6 | 1 << 8,
        ..BASE
    },
    Row {
        rule: "a byte at the end of the page is the last sub-page's",
        offset: 4095,
        bytes: 1,
        vector: 1 << 62,
        ..BASE
    },
    Row {
        rule: "what ends with the page touches no other page",
        offset: 4088,
        vector: 1 << 62,
        ..BASE
    },
    Row {
        rule: "the last sub-page denies too",
        offset: 4088,
        vector: ALL ^ 1 << 62,
        end: End::Violation,
        ..BASE
    },
    Row { rule: "the first sub-page is bit 0", offset: 0, vector: 1, ..BASE },
];

fn ept_path(row: &Row) -> Tables {
    let large = if row.leaf > 1 { HUGE } else { 0 };
    let page = if row.leaf > 1 { 0x4000_0000 } else { PAGE };
    let tables = Tables::new(5 - row.leaf, EPT_TABLE, page | EPT_LEAF | large);
    for &(level, bits) in row.ept {
        tables.entry(level).store(tables.entry(level).load() ^ bits);
    }
    tables
}

fn spp_path(row: &Row) -> SppTables {
    let tables = SppTables::new(row.vector);
    for &(level, bits) in row.spp {
        tables.change(level, bits);
    }
    tables
}

fn request(row: &Row, ept: &Tables, spp: &SppTables) -> Request {
    Request {
        root: ept.root,
        regime: ept.regime,
        gpa: Gpa::new(GPA.gfn().gpa().get() + row.offset),
        access: row.access,
        bytes: row.bytes,
        spp_root: (row.root == Root::Given).then(|| spp.root()),
        epoch: EPOCH,
    }
}

fn walk_row(row: &Row) -> Result<Translation, Violation> {
    let (ept, spp) = (ept_path(row), spp_path(row));
    walk::<EptWalker>(request(row, &ept, &spp), &mut WalkCache::new())
}

#[test]
fn every_rule_of_the_manual_holds() {
    for row in ROWS {
        assert_eq!(end(walk_row(row)), row.end, "{}", row.rule);
    }
}

#[test]
fn every_reserved_bit_above_the_vector_is_a_misconfiguration() {
    for level in 2..=4 {
        for bit in (1..12).chain(48..64) {
            let spp = SppTables::new(BASE.vector);
            spp.change(level, 1 << bit);
            let ept = ept_path(&BASE);
            let ended = end(walk::<EptWalker>(request(&BASE, &ept, &spp), &mut WalkCache::new()));
            assert_eq!(ended, End::Misconfiguration, "bit {bit} at level {level}");
        }
    }
}

#[test]
fn every_sub_page_has_its_own_bit_and_every_other_bit_is_reserved() {
    for sub_page in 0..32 {
        let row = Row { offset: sub_page * 128, bytes: 128, vector: 1 << (2 * sub_page), ..BASE };
        let found = walk_row(&row).expect("permitted");
        assert_eq!(found.sub_pages, SubPages::new(1 << sub_page));
        let others = Row { vector: ALL ^ row.vector, ..row };
        assert_eq!(end(walk_row(&others)), End::Violation, "sub-page {sub_page}");
        let odd = Row { vector: ALL | row.vector << 1, ..row };
        assert_eq!(end(walk_row(&odd)), End::Misconfiguration, "sub-page {sub_page}");
    }
}

#[test]
fn a_permitted_write_sets_a_everywhere_and_d_at_the_leaf() {
    let (ept, spp) = (ept_path(&BASE), spp_path(&BASE));
    walk::<EptWalker>(request(&BASE, &ept, &spp), &mut WalkCache::new()).expect("permitted");
    assert!((1..=4).all(|level| ept.has(level, EPT_A)) && ept.has(1, EPT_D));
    assert!((2..=4).all(|level| !ept.has(level, EPT_D)), "D is the leaf's alone");
}

#[test]
fn a_write_that_sub_pages_refuse_sets_neither_a_nor_d() {
    for row in ROWS.iter().filter(|row| !matches!(row.end, End::Permitted | End::Stored)) {
        let (ept, spp) = (ept_path(row), spp_path(row));
        let _ = walk::<EptWalker>(request(row, &ept, &spp), &mut WalkCache::new());
        assert!((row.leaf..=4).all(|level| !ept.has(level, EPT_A)), "{}", row.rule);
        assert!(!ept.has(row.leaf, EPT_D), "{}", row.rule);
    }
}

#[test]
fn no_other_processor_knows_sub_pages() {
    let spp = SppTables::new(ALL);
    let npt = Tables::new(4, NPT_TABLE, PAGE | NPT_LEAF & !NPT_W | SPP);
    let ended = walk::<NptWalker>(request(&BASE, &npt, &spp), &mut WalkCache::new());
    assert_ne!(end(ended), End::Permitted);
    assert_eq!((NptWalker::SUB_PAGE_WRITES, Stage2Walker::SUB_PAGE_WRITES), (0, 0));
}

/// A path that was walked once, with what the walk has cached.
struct Walked {
    ept: Tables,
    spp: SppTables,
    cache: WalkCache,
}

impl Walked {
    fn new() -> Self {
        let (ept, spp) = (ept_path(&BASE), spp_path(&BASE));
        let mut walked = Self { ept, spp, cache: WalkCache::new() };
        assert_eq!(walked.again(EPOCH), End::Permitted);
        walked
    }

    fn again(&mut self, epoch: u64) -> End {
        let request = Request { epoch, ..request(&BASE, &self.ept, &self.spp) };
        end(walk::<EptWalker>(request, &mut self.cache))
    }
}

#[test]
fn an_invalidated_entry_serves_until_the_epoch_moves_on() {
    for level in 2..=4 {
        let mut walked = Walked::new();
        walked.spp.change(level, 1);
        assert_eq!(walked.again(EPOCH), End::Permitted, "level {level}: nobody shot it down");
        assert_eq!(walked.again(EPOCH + 1), End::Miss, "level {level}");
    }
}

#[test]
fn an_invalidated_entry_serves_until_its_address_is_forgotten() {
    for level in 2..=4 {
        let mut walked = Walked::new();
        walked.spp.change(level, 1);
        walked.cache.forget(Gpa::new(GPA.get() ^ 1 << 47));
        assert_eq!(walked.again(EPOCH), End::Permitted, "another address");
        walked.cache.forget(GPA);
        assert_eq!(walked.again(EPOCH), End::Miss, "level {level}");
    }
}

#[test]
fn what_is_not_valid_is_not_cached() {
    for level in 2..=4 {
        let (ept, spp) = (ept_path(&BASE), spp_path(&BASE));
        spp.change(level, 1);
        let mut walked = Walked { ept, spp, cache: WalkCache::new() };
        assert_eq!(walked.again(EPOCH), End::Miss);
        walked.spp.change(level, 1);
        assert_eq!(walked.again(EPOCH), End::Permitted, "level {level}");
    }
}

#[test]
fn the_vector_is_no_walk_cache_s() {
    let mut walked = Walked::new();
    walked.spp.change(1, 1 << 6);
    assert_eq!(walked.again(EPOCH), End::Violation);
}
