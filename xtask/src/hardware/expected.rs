//! The checks that have to be met, by name: a hypervisor that leaves one out has not passed.

/// On each machine: `checks::for_every_processor()`.
const EVERYWHERE: [&str; 27] = [
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
    "dirty-bits-by-pages",
    "dirty-bits-by-protecting-all",
    "ring-in-order",
    "ring-full",
];

/// Where each walk of the guest's page tables counts as a write.
pub(crate) const NESTED_PAGING: [&str; 3] =
    ["guest-walk-is-a-write", "guest-walk-of-a-tracked-page", "guest-walk-of-a-restricted-page"];

/// Those of each machine, and then `own`.
pub(crate) fn with(own: &[&'static str]) -> Vec<&'static str> {
    [&EVERYWHERE, own].concat()
}
