//! What whoever started this machine has put into its memory, and where.
#![allow(unsafe_code)]

use crate::way::Way;

/// Where the words are: `xtask/src/hardware/linux/layout.rs` has the same number.
const PLACE: usize = 0x4700_0000;
const MAGIC: u64 = 0x4c49_4e55_584f_4e56;

/// The guest's memory, what is in it, and what is to be shown.
pub(crate) struct Handover {
    /// Where the guest sees its memory.
    pub(crate) guest_first: u64,
    /// How much it is, in bytes.
    pub(crate) guest_bytes: u64,
    /// Where that is on this machine.
    pub(crate) host_first: u64,
    /// Where the kernel begins, as the guest sees it.
    pub(crate) entry: u64,
    /// Where its device tree is.
    pub(crate) tree: u64,
    /// How the guest's writes are tracked.
    pub(crate) way: Way,
    /// Whether that is done right.
    pub(crate) mistake: Mistake,
    /// How many CPUs the guest has.
    pub(crate) cpus: u64,
    /// How many checks were run before this one, each on a machine of its own.
    pub(crate) before: u64,
}

/// A deliberate bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mistake {
    /// None.
    None,
    /// No translation is shot down.
    ShootDownsSkipped,
}

impl Handover {
    /// Reads it.
    ///
    /// # Panics
    /// If it is not there.
    pub(crate) fn read() -> Self {
        let words: *const [u64; 10] = core::ptr::with_exposed_provenance(PLACE);
        // SAFETY: RAM that is no part of this program's image, heap or stack.
        let words = unsafe { words.read_volatile() };
        let [magic, guest_first, guest_bytes, host_first, entry, tree, rest @ ..] = words;
        let [way, mistake, cpus, before] = rest;
        assert_eq!(magic, MAGIC, "no words at {PLACE:#x} that say what is where");
        let way = Way::from_number(way).expect("a way of tracking");
        let mistake = if mistake == 0 { Mistake::None } else { Mistake::ShootDownsSkipped };
        Self { guest_first, guest_bytes, host_first, entry, tree, way, mistake, cpus, before }
    }
}
