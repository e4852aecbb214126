//! Huge leaves: used, split by the log, brought back.

use crate::Check;
use crate::lab::{DATA, DATA_PAGES, Lab, done, page, settle_in};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{HugeLeaves, Initial, LogMode, Outcome, Protect};
use vellum_mmu::{SubPageRange, TrackMode};
use vellum_pte::SubPageMap;
use vm::{Processor, Ran, SPACE};

const LEAVES: u64 = DATA_PAGES / 512;

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    vec![
        Check::new("huge-map", huge_map),
        Check::new("huge-split-by-a-write", split_by_a_write),
        Check::new("huge-split-ahead", split_ahead),
        Check::new("huge-brought-back", brought_back),
        Check::new("huge-not-over-forbidden", not_over_forbidden),
    ]
}

/// One fault maps 2 MiB.
fn huge_map<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::Off);
    let mut guest = vm.guest();
    settle_in(&mut guest);
    let before = guest.exits().faults;
    done(guest.store_pages(page(0), DATA_PAGES, 7));
    let faults = guest.exits().faults - before;
    assert_eq!(faults, LEAVES, "one for each huge leaf");
    assert_eq!(vm.read(page(DATA_PAGES - 1)), 7);
    format!("{faults} faults for {DATA_PAGES} pages")
}

/// A log that starts finds one huge leaf a write, and logs 4 KiB of it.
fn split_by_a_write<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::Off);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
    let expected = [3, 4, 700, 1500];
    for index in expected {
        done(guest.store(page(index), 2));
    }
    assert_eq!(vm.harvest(Protect::Pages), expected);
    done(guest.store(page(4), 3));
    assert_eq!(vm.harvest(Protect::Pages), [4]);
    assert_eq!(guest.load(page(5)), Ran::Done(1), "what was not stored to is still there");
    assert_eq!(guest.load(page(4)), Ran::Done(3));
    format!("{expected:?} of {DATA_PAGES} pages")
}

/// Split ahead of its writes, a leaf costs its writers a fault for each page and no split.
fn split_ahead<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::Off);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
    let report = vm.mmu.split_huge(DATA, u64::MAX).expect("a slot with memory for tables");
    assert_eq!((report.tables, report.left), (LEAVES, HugeLeaves::None));
    let before = vm.shoot_downs();
    done(guest.store_pages(page(0), DATA_PAGES, 2));
    assert_eq!(vm.shoot_downs(), before, "the writes split nothing");
    assert_eq!(vm.harvest(Protect::Pages).len() as u64, DATA_PAGES);
    format!("{LEAVES} leaves split")
}

/// When the log ends, small leaves become huge ones again, and the memory is what it was.
fn brought_back<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::On);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 5));
    assert_eq!(vm.harvest(Protect::Pages).len() as u64, DATA_PAGES, "each is protected now");
    vm.mmu.stop_log(DATA).expect("a logged slot");
    let before = guest.exits().faults;
    for index in [0, 511, 512, 2047] {
        assert_eq!(guest.load(page(index)), Ran::Done(5));
    }
    done(guest.store_pages(page(0), DATA_PAGES, 6));
    let faults = guest.exits().faults - before;
    assert!(faults <= LEAVES, "{faults} faults: the leaves are huge");
    format!("{faults} faults for {DATA_PAGES} pages after the log")
}

/// No huge leaf comes over a page that is tracked or restricted, and one that is there goes.
fn not_over_forbidden<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::Off);
    let mut guest = vm.guest();
    vm.mmu.activate_sub_pages().expect("memory for sub-page tables");
    guest.load_sub_pages();
    vm.mmu.enable_tracking().expect("memory for counts");
    let restrict = |index: u64| {
        let range = SubPageRange::new(SPACE, page(index).gfn());
        assert_eq!(vm.mmu.set_sub_pages(range, &[SubPageMap::NONE]), Ok(1));
    };
    let track = |index: u64| {
        vm.mmu.track(SPACE, page(index).gfn(), TrackMode::Write).expect("a page of a slot");
    };
    restrict(3);
    track(512 + 3);
    for leaf in 0..LEAVES {
        done(guest.store(page(leaf * 512), 1));
    }
    restrict(1024 + 3);
    track(1536 + 3);
    for leaf in [0, 2] {
        let ran = guest.store(page(leaf * 512 + 3), 2);
        assert!(matches!(ran, Ran::Stopped(Outcome::Denied(_))), "{ran:?} in leaf {leaf}");
        assert_eq!(vm.read(page(leaf * 512 + 3)), 0, "nothing was written");
    }
    for leaf in [1, 3] {
        done(guest.store(page(leaf * 512 + 3), 2));
    }
    assert_eq!(guest.exits().emulated, 2, "the stores to tracked pages");
    done(guest.store_pages(page(4), 500, 3));
    assert_eq!(guest.exits().emulated, 2, "nobody forbids their neighbours");
    String::from("2 of 4 before they were mapped, 2 after")
}
