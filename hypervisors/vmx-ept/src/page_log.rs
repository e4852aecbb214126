//! The page-modification log (Intel SDM vol. 3C, 29.3.6): one for each CPU. Each vCPU's VMCS names its
//! buffer; where the log goes on is taken along from entry to entry, so that it can be handed
//! over without looking into any VMCS.

use crate::CPUS;
use crate::fields::Field;
use crate::page::Page;
use crate::presence::spin_while;
use crate::vmcs::Vmcs;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use runtime::x86_64::{cpu, kick_others};

const ENTRIES: u16 = 512;
/// An empty log goes on at its last entry, and counts down.
const EMPTY: u16 = ENTRIES - 1;

struct PageLog {
    /// Held while its CPU is in a guest, and while somebody hands over what is in it: whoever comes
    /// second finds an empty log only when all of it is handed over.
    is_taken: AtomicBool,
    buffer: Page,
    /// Where it goes on. After entry 0, all ones.
    index: AtomicU16,
}

impl PageLog {
    const fn new() -> Self {
        let (is_taken, index) = (AtomicBool::new(false), AtomicU16::new(EMPTY));
        Self { is_taken, buffer: Page::new(), index }
    }

    /// Waits until it is free. Meanwhile `ask` asks for it, again and again.
    fn take(&self, ask: impl Fn()) {
        while self.is_taken.swap(true, Ordering::Acquire) {
            ask();
            spin_while(|| self.is_taken.load(Ordering::Relaxed));
        }
    }

    fn release(&self) {
        self.is_taken.store(false, Ordering::Release);
    }

    /// Hands over what was logged, oldest first, and leaves the log empty. It is taken.
    fn empty(&self, hand_over: &mut dyn FnMut(u64)) {
        let first = self.index.swap(EMPTY, Ordering::Relaxed).wrapping_add(1);
        for index in (first..ENTRIES).rev() {
            hand_over(self.buffer.get(usize::from(index)));
        }
    }
}

static LOGS: [PageLog; CPUS] = [const { PageLog::new() }; CPUS];

/// Where this CPU's buffer is.
pub(crate) fn address() -> u64 {
    LOGS[cpu()].buffer.address()
}

/// Before an entry of that guest.
pub(crate) fn resume(vmcs: &Vmcs) {
    let log = &LOGS[cpu()];
    log.take(|| ());
    vmcs.set(Field::PageLogIndex, u64::from(log.index.load(Ordering::Relaxed)));
}

/// After an exit of that guest.
#[expect(clippy::cast_possible_truncation, reason = "the field has 16 bits")]
pub(crate) fn suspend(vmcs: &Vmcs) {
    let log = &LOGS[cpu()];
    log.index.store(vmcs.get(Field::PageLogIndex) as u16, Ordering::Relaxed);
    log.release();
}

/// Hands over what was logged on this CPU.
pub(crate) fn drain(hand_over: &mut dyn FnMut(u64)) {
    let log = &LOGS[cpu()];
    log.take(|| ());
    log.empty(hand_over);
    log.release();
}

/// Hands over what was logged on each CPU. The other one has to leave its guest for that.
pub(crate) fn drain_all(hand_over: &mut dyn FnMut(u64)) {
    for (number, log) in LOGS.iter().enumerate() {
        let is_here = number == cpu();
        log.take(|| {
            if !is_here {
                kick_others();
            }
        });
        log.empty(hand_over);
        log.release();
    }
}
