//! Which stores are emulated here: those that hardware has decoded (ESR_EL2.ISV), of one general
//! register without writeback. The library decodes none.

use crate::cpu::El2;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use checks::{Check, Lab, done, page};
use vellum_mmu::{Protect, TrackMode};
use vellum_pte::Gpa;
use vm::{Op, Ran, SPACE, Work};

pub(super) fn checks() -> Vec<Check<El2>> {
    vec![Check::new("emulated-stores-of-every-width", every_width)]
}

const PAGE: u64 = 3;
const BEFORE: u64 = u64::MAX;
const VALUE: u64 = 0x0123_4567_89ab_cdef;

/// What is in the page after one, two, four and eight bytes of the value were stored, and a zero; and
/// where a pair was to be stored.
const AFTER: [u64; 7] = [
    BEFORE - 0xff + 0xef,
    BEFORE - 0xffff + 0xcdef,
    0xffff_ffff_89ab_cdef,
    VALUE,
    0,
    BEFORE,
    BEFORE,
];

fn every_width(lab: &Lab<El2>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    let words = AFTER.len() as u64;
    let fill = Work { op: Op::Store, first: page(PAGE), stride: 8, count: words, value: BEFORE };
    done(guest.run(fill));
    vm.mmu.enable_tracking().expect("memory for counts");
    vm.mmu.track(SPACE, page(PAGE).gfn(), TrackMode::Write).expect("a page of a slot");
    vm.harvest(Protect::Pages);
    guest.processor().begin_widths(page(PAGE), VALUE);
    done(guest.go_on());
    assert_eq!(guest.exits().emulated, 5);
    assert_eq!(guest.go_on(), Ran::NotDecoded, "a pair of registers");
    for (index, after) in AFTER.into_iter().enumerate() {
        let word = vm.read(Gpa::new(page(PAGE).get() + 8 * index as u64));
        assert_eq!(word, after, "word {index}");
    }
    assert_eq!(vm.harvest(Protect::Pages), [PAGE]);
    format!("{} stores emulated, a pair refused", guest.exits().emulated)
}
