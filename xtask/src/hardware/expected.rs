//! The checks that have to be met, by name: a hypervisor that leaves one out has not passed.

/// On each machine: `checks::for_every_processor()`.
const EVERYWHERE: [&str; 28] = [
    "map-on-fault",
    "log-by-pages",
    "log-by-protecting-all",
    "log-all-set",
    "log-manual",
    "log-off-and-on",
    "push-down",
    "reads-under-protect-all",
    "protect-all-off",
    "huge-map",
    "huge-split-by-a-write",
    "huge-split-ahead",
    "huge-brought-back",
    "huge-not-over-forbidden",
    "slot-deleted",
    "slot-moved",
    "memory-invalidated",
    "pages-aged",
    "tracked-write",
    "tracked-and-logged",
    "sub-pages-permit-and-deny",
    "sub-pages-opened-after-denial",
    "sub-pages-and-the-log",
    "sub-pages-and-protect-all",
    "ring-in-order",
    "ring-full",
    "random-operations",
    "random-operations-huge",
];

/// Where hardware sets A and D bits.
pub(crate) const DIRTY_BITS: &[&str] = &[
    "dirty-bits-by-pages",
    "dirty-bits-by-protecting-all",
    "dirty-bits-of-what-goes",
    "random-operations-dirty-bits",
];

/// Where it does not.
pub(crate) const NO_DIRTY_BITS: &[&str] = &["dirty-bits-refused"];

/// Where each walk of the guest's page tables counts as a write.
pub(crate) const WALKS_WRITE: &[&str] = &[
    "guest-walk-is-a-write",
    "guest-walk-sets-dirty-bits",
    "guest-walk-of-a-tracked-page",
    "guest-walk-of-a-restricted-page",
];

/// Where it does not.
pub(crate) const WALKS_READ: &[&str] = &["guest-walk-is-a-load"];

/// Where the other walks do, those that set flags.
pub(crate) const WALKS_SET_FLAGS: &[&str] = &[
    "guest-walk-sets-flags",
    "guest-walk-sets-flags-by-dirty-bits",
    "guest-walk-of-a-tracked-page",
];

/// Arm's stage 2.
pub(crate) const STAGE_2: &[&str] = &[
    "shoot-down-skipped-by-pages",
    "shoot-down-skipped-protecting-all",
    "roots-of-every-shape",
    "reads-link-a-parked-path",
    "huge-broken-before-made",
    "huge-split-shoot-down-skipped",
    "emulated-stores-of-every-width",
];

/// Where there are two CPUs: `checks::parallel::checks()`.
pub(crate) const PARALLEL: &[&str] = &[
    "parallel-faults",
    "parallel-stores-and-harvests",
    "parallel-splits",
    "parallel-shoot-down",
    "parallel-shoot-down-skipped",
];

/// The same where hardware sets A and D bits.
pub(crate) const PARALLEL_DIRTY_BITS: &[&str] = &["parallel-dirty-bits"];

/// The same with page-modification logging and sub-page permissions by tables.
pub(crate) const PARALLEL_ICE_LAKE: &[&str] = &["parallel-page-log", "parallel-sub-page-tables"];

/// EPT of each kind.
pub(crate) const EPT: &[&str] = &["misconfigured-entry"];

/// Page-modification logging.
pub(crate) const PAGE_LOG: &[&str] = &[
    "random-operations-page-log",
    "page-log-full",
    "page-log-by-pages",
    "page-log-by-protecting-all",
    "page-log-one-fault-a-table",
    "page-log-off-and-on",
    "page-log-of-a-slot-that-moves",
    "page-log-of-a-vcpu-that-goes",
    "page-log-into-a-ring",
];

/// Sub-page permissions by tables.
pub(crate) const SUB_PAGE_TABLES: &[&str] = &[
    "spp-each-sub-page",
    "spp-across-two",
    "spp-miss-a-table",
    "spp-misconfigured",
    "spp-opened-and-closed",
    "spp-vcpu-not-told",
    "spp-slot-moved",
    "spp-rounds",
    "spp-rounds-by-dirty-bits",
    "spp-rounds-by-page-log",
];

/// Those of each machine, and then `own`.
pub(crate) fn with(own: &[&[&'static str]]) -> Vec<&'static str> {
    [&EVERYWHERE[..], &own.concat()].concat()
}
