//! Rings that somebody else writes: who has the vCPU's descriptor can map them too.

use crate::native::{DATA, Machine, Vcpu};
use crate::oracle::{Copy, named, take};
use crate::{PAGES, apart, each_ring, small};
use core::ptr;
use std::os::fd::AsRawFd;
use vellum_kvm::{KvmError, RingFault};
use vellum_memory::{DirtySource, PageSet};

/// Flag of an entry that has been copied.
const HARVESTED: u32 = 2;

/// A second mapping of a vCPU's ring: flags and slot, and offset, of each entry.
struct Meddler {
    base: *mut [u32; 4],
}

impl Meddler {
    #[allow(unsafe_code)]
    fn of(vcpu: &Vcpu) -> Self {
        let bytes = small().entries() as usize * size_of::<[u32; 4]>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: M: a new mapping, which stays until the process ends.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                access,
                libc::MAP_SHARED,
                vcpu.fd.as_raw_fd(),
                64 * 4096,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        Self { base: base.cast() }
    }

    /// Writes `flags`, `slot` and the offset's halves of the entry `at`.
    #[allow(unsafe_code)]
    fn write(&self, at: usize, entry: [u32; 4]) {
        // SAFETY: M: it is in the mapping; the guest stands, and nobody reads the ring now.
        unsafe { self.entry(at).write_volatile(entry) };
    }

    #[allow(unsafe_code)]
    fn read(&self, at: usize) -> [u32; 4] {
        // SAFETY: M, as above.
        unsafe { self.entry(at).read_volatile() }
    }

    fn entry(&self, at: usize) -> *mut [u32; 4] {
        assert!(at < small().entries() as usize);
        self.base.wrapping_add(at)
    }
}

/// Runs until the log is right again: everything is owed once, and from then on nothing is lost.
fn recovers(machine: &mut Machine) {
    let Machine { log, vcpus, memory, .. } = machine;
    let mut round = PageSet::new(log.layout());
    take(log, &mut round).expect("a round after the fault");
    assert_eq!(round.regions()[DATA].count(), PAGES, "all is owed");
    let mut copy = Copy::of(memory);
    // So many that the walk comes by every page, also by the one that was hidden.
    for _ in 0..150 {
        vcpus.iter_mut().for_each(Vcpu::round);
        let changed = copy.changed(DATA, memory);
        take(log, &mut round).expect("a round");
        assert_eq!(named(&round, &changed), Ok(()));
        copy.deliver(&round, memory);
    }
}

/// A guest that has run a round with its ring logged, and somebody at its ring.
fn meddled(test: impl Fn(&mut Machine, &Meddler)) {
    each_ring(&apart(50)[..1], |mut machine| {
        machine.log.start().expect("the log starts");
        machine.vcpus[0].round();
        let meddler = Meddler::of(&machine.vcpus[0]);
        assert_eq!(meddler.read(20)[0], 1, "the guest has written entries");
        test(&mut machine, &meddler);
    });
}

fn collected(machine: &mut Machine) -> Result<(), KvmError> {
    let mut round = PageSet::new(machine.log.layout());
    machine.log.collect(&mut round)
}

#[test]
fn an_entry_of_a_slot_that_is_not_there_is_told_and_everything_is_owed() {
    meddled(|machine, meddler| {
        meddler.write(7, [1, 0xffff_ffff, 3, 0]);
        let fault = collected(machine);
        let astray = RingFault::Astray { slot: u32::MAX, offset: 3 };
        assert!(matches!(fault, Err(KvmError::Ring(found)) if found == astray), "{fault:?}");
        recovers(machine);
    });
}

#[test]
fn a_fault_that_a_reaper_finds_is_told_to_who_collects_next() {
    meddled(|machine, meddler| {
        meddler.write(3, [1, 9, 0, 0]);
        let reaper = machine.vcpus[0].reaper.clone().expect("a reaper");
        let fault = reaper.reap();
        assert!(
            matches!(fault, Err(KvmError::Ring(RingFault::Astray { slot: 9, .. }))),
            "{fault:?}"
        );
        let fault = collected(machine);
        assert!(
            matches!(fault, Err(KvmError::Ring(RingFault::Astray { slot: 9, .. }))),
            "{fault:?}"
        );
        recovers(machine);
    });
}

#[test]
fn an_entry_past_the_end_of_its_slot_is_told_and_everything_is_owed() {
    for (low, high) in [(u32::try_from(PAGES).expect("small"), 0), (0, 1), (u32::MAX, u32::MAX)] {
        meddled(|machine, meddler| {
            meddler.write(0, [1, 1, low, high]);
            let fault = collected(machine);
            let astray = matches!(fault, Err(KvmError::Ring(RingFault::Astray { slot: 1, .. })));
            assert!(astray, "{fault:?}");
            recovers(machine);
        });
    }
}

#[test]
fn entries_that_are_reset_before_they_are_copied_are_counted_and_everything_is_owed() {
    meddled(|machine, meddler| {
        for at in 5..11 {
            let [_, slot, low, high] = meddler.read(at);
            meddler.write(at, [HARVESTED, slot, low, high]);
        }
        let mut round = PageSet::new(machine.log.layout());
        machine.log.collect(&mut round).expect("the first five are in order");
        let fault = crate::oracle::protect(&mut machine.log, &mut round);
        let counted = RingFault::Miscounted { harvested: 5, taken_back: 11 };
        assert!(matches!(fault, Err(KvmError::Ring(found)) if found == counted), "{fault:?}");
        recovers(machine);
    });
}

#[test]
fn a_mark_that_is_taken_away_is_counted_and_everything_is_owed() {
    meddled(|machine, meddler| {
        let mut round = PageSet::new(machine.log.layout());
        machine.log.collect(&mut round).expect("a collection");
        let [flags, slot, low, high] = meddler.read(8);
        assert_eq!(flags, HARVESTED);
        meddler.write(8, [0, slot, low, high]);
        let fault = crate::oracle::protect(&mut machine.log, &mut round);
        let taken = matches!(
            fault,
            Err(KvmError::Ring(RingFault::Miscounted { taken_back: 8, harvested })) if harvested > 8
        );
        assert!(taken, "{fault:?}");
        let mut round = PageSet::new(machine.log.layout());
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(round.regions()[DATA].count(), PAGES, "all is owed");
    });
}
