//! The page-modification log (Intel SDM vol. 3C, 29.3.6): one for each CPU. Each vCPU's VMCS names its
//! buffer; where the log goes on is taken along from entry to entry, so that it can be handed
//! over without looking into any VMCS.

use crate::CPUS;
use crate::fields::Field;
use crate::page::Page;
use crate::vmcs::Vmcs;
use core::sync::atomic::{AtomicU16, Ordering};
use runtime::x86_64::cpu;

const ENTRIES: u16 = 512;
/// An empty log goes on at its last entry, and counts down.
const EMPTY: u16 = ENTRIES - 1;

struct PageLog {
    buffer: Page,
    /// Where it goes on. After entry 0, all ones.
    index: AtomicU16,
}

static LOGS: [PageLog; CPUS] =
    [const { PageLog { buffer: Page::new(), index: AtomicU16::new(EMPTY) } }; CPUS];

fn log() -> &'static PageLog {
    &LOGS[cpu()]
}

/// Where this CPU's buffer is.
pub(crate) fn address() -> u64 {
    log().buffer.address()
}

/// Before an entry of that guest.
pub(crate) fn resume(vmcs: &Vmcs) {
    vmcs.set(Field::PageLogIndex, u64::from(log().index.load(Ordering::Relaxed)));
}

/// After an exit of that guest.
#[expect(clippy::cast_possible_truncation, reason = "the field has 16 bits")]
pub(crate) fn suspend(vmcs: &Vmcs) {
    log().index.store(vmcs.get(Field::PageLogIndex) as u16, Ordering::Relaxed);
}

/// Hands over what was logged, oldest first, and leaves the log empty.
pub(crate) fn drain(hand_over: &mut dyn FnMut(u64)) {
    let PageLog { buffer, index } = log();
    let first = index.swap(EMPTY, Ordering::Relaxed).wrapping_add(1);
    for index in (first..ENTRIES).rev() {
        hand_over(buffer.get(usize::from(index)));
    }
}
