//! Break before make: a valid entry becomes one of another size only by way of an invalid one and a
//! shoot-down. The descriptor is looked at, in memory, at each shoot-down that is asked for.
//!
//! What this machine does not show is a TLB conflict: QEMU's TLB holds pages of 4 KiB, whatever the
//! leaf's size. The software machine has them.
#![allow(unsafe_code)]

use crate::cpu::El2;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use checks::{Check, DATA, Lab, Vm, done, page};
use core::sync::atomic::{AtomicU64, Ordering};
use vellum_mmu::{Initial, LogMode, Protect};
use vellum_pte::{Gpa, Level, Stage2};
use vm::{Exit, Features, GuestMemory, Processor, ShootDowns, Store, Tables, Work};

pub(super) fn checks() -> Vec<Check<El2>> {
    vec![
        Check::new("huge-broken-before-made", broken_before_made),
        Check::new("huge-split-shoot-down-skipped", split_without_shoot_down),
    ]
}

/// What the descriptor at Arm's level 2 for the first page of the data is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Invalid,
    Leaf,
    Table,
}

impl Seen {
    /// In the tables under `root`, which is at Arm's level 1.
    fn under(root: u64) -> Self {
        let level_1 = descriptor(root, page(0).get() >> 30);
        if level_1 & 3 != 3 {
            return Self::Invalid;
        }
        match descriptor(level_1, page(0).get() >> 21 & 511) & 3 {
            1 => Self::Leaf,
            3 => Self::Table,
            _ => Self::Invalid,
        }
    }

    fn now() -> Self {
        Self::under(ROOT.load(Ordering::Relaxed))
    }
}

/// An entry of the table that a descriptor leads to.
#[expect(clippy::cast_possible_truncation, reason = "addresses have 64 bits here")]
fn descriptor(table: u64, index: u64) -> u64 {
    let place = (table & 0x0000_ffff_ffff_f000) + index * 8;
    // SAFETY: the library's tables are linked as long as the VM's vCPU is there, and memory is mapped
    // one to one.
    unsafe { (*(place as usize as *const AtomicU64)).load(Ordering::Relaxed) }
}

/// The root of the VM whose vCPU is there, or 0.
static ROOT: AtomicU64 = AtomicU64::new(0);
/// How many shoot-downs found the descriptor invalid.
static INVALID: AtomicU64 = AtomicU64::new(0);

/// The processor, with a look at the tables at each shoot-down.
struct Watched(El2);

impl Drop for Watched {
    fn drop(&mut self) {
        ROOT.store(0, Ordering::Relaxed);
    }
}

impl Processor for Watched {
    type Format = Stage2;

    fn features() -> Features {
        El2::features()
    }

    fn lay_out(memory: GuestMemory) {
        El2::lay_out(memory);
    }

    fn new(tables: Tables) -> Self {
        assert_eq!(tables.shape.level, Level::L3, "40 bits, by default");
        ROOT.store(tables.root.address(), Ordering::Relaxed);
        Self(El2::new(tables))
    }

    fn load(&mut self, tables: Tables) {
        self.0.load(tables);
    }

    fn begin(&mut self, work: Work) {
        self.0.begin(work);
    }

    fn enter(&mut self) -> Exit {
        self.0.enter()
    }

    fn store(&self, memory: GuestMemory) -> Option<Store> {
        self.0.store(memory)
    }

    fn skip(&mut self, store: &Store) {
        self.0.skip(store);
    }

    fn publish() {
        El2::publish();
    }

    fn shoot_down() {
        let root = ROOT.load(Ordering::Relaxed);
        if root != 0 && Seen::under(root) == Seen::Invalid {
            INVALID.fetch_add(1, Ordering::Relaxed);
        }
        El2::shoot_down();
    }

    fn flush_local(gpa: Gpa) {
        El2::flush_local(gpa);
    }
}

/// A leaf that is split, and a table that becomes a leaf again: at each of the two shoot-downs the entry
/// is invalid.
fn broken_before_made(lab: &Lab<El2>) -> String {
    let lab = Lab::<Watched>::new(lab.host().memory());
    let vm = lab.huge(LogMode::Off);
    let mut guest = vm.guest();
    done(guest.store(page(0), 1));
    assert_eq!(Seen::now(), Seen::Leaf);
    vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
    let before = INVALID.load(Ordering::Relaxed);
    done(guest.store(page(3), 2));
    let split = INVALID.load(Ordering::Relaxed) - before;
    assert_eq!((split, Seen::now()), (1, Seen::Table), "one shoot-down in between");
    assert_eq!(vm.harvest(Protect::Pages), [3]);
    let before = INVALID.load(Ordering::Relaxed);
    vm.mmu.stop_log(DATA).expect("a logged slot");
    done(guest.store(page(4), 3));
    let brought_back = INVALID.load(Ordering::Relaxed) - before;
    assert_eq!((brought_back, Seen::now()), (1, Seen::Leaf), "one shoot-down in between");
    assert_eq!([0, 3, 4].map(|index| vm.read(page(index))), [1, 2, 3]);
    String::from("invalid at the shoot-down of a split, and of a leaf brought back")
}

/// Without the shoot-down of a split, the TLB goes on with the leaf: stores to the pages that it holds
/// of it are lost.
fn split_without_shoot_down(lab: &Lab<El2>) -> String {
    let kept = lost(lab, ShootDowns::Made);
    assert_eq!(kept, [], "with shoot-downs no store is lost");
    let lost = lost(lab, ShootDowns::Skipped);
    assert!(!lost.is_empty(), "a TLB that forgets by itself proves no shoot-down");
    format!("none of 8 stores lost, and without shoot-downs {}", lost.len())
}

fn lost(lab: &Lab<El2>, policy: ShootDowns) -> Vec<u64> {
    let host = lab.host().with_leaves(Level::L2).with_shoot_downs(policy);
    let vm = Vm::new(host, lab.config(), LogMode::Off);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 8, 1));
    vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
    vm.mmu.split_huge(DATA, u64::MAX).expect("memory for tables");
    done(guest.store_pages(page(0), 8, 2));
    let logged = vm.harvest(Protect::Pages);
    let stored = (0..8).filter(|index| vm.read(page(*index)) == 2);
    stored.filter(|index| !logged.contains(index)).collect()
}
