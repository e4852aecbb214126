//! The page-modification log (Intel SDM vol. 3C, 29.3.6): one for this CPU. Each vCPU's VMCS names its
//! buffer; where the log goes on is taken along from entry to entry, so that it can be handed
//! over without looking into any VMCS.

use crate::fields::Field;
use crate::page::Page;
use crate::vmcs::Vmcs;
use core::sync::atomic::{AtomicU16, Ordering};

static BUFFER: Page = Page::new();
const ENTRIES: u16 = 512;
/// An empty log goes on at its last entry, and counts down.
const EMPTY: u16 = ENTRIES - 1;
/// Where the log goes on. After entry 0, all ones.
static INDEX: AtomicU16 = AtomicU16::new(EMPTY);

/// Where the buffer is.
pub(crate) fn address() -> u64 {
    BUFFER.address()
}

/// Before an entry of that guest.
pub(crate) fn resume(vmcs: &Vmcs) {
    vmcs.set(Field::PageLogIndex, u64::from(INDEX.load(Ordering::Relaxed)));
}

/// After an exit of that guest.
#[expect(clippy::cast_possible_truncation, reason = "the field has 16 bits")]
pub(crate) fn suspend(vmcs: &Vmcs) {
    INDEX.store(vmcs.get(Field::PageLogIndex) as u16, Ordering::Relaxed);
}

/// Hands over what was logged, oldest first, and leaves the log empty.
pub(crate) fn drain(log: &mut dyn FnMut(u64)) {
    let first = INDEX.swap(EMPTY, Ordering::Relaxed).wrapping_add(1);
    for index in (first..ENTRIES).rev() {
        log(BUFFER.get(usize::from(index)));
    }
}
