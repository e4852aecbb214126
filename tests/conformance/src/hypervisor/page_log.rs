//! Page-modification logging (Intel SDM vol. 3C, 29.3.6): a processor writes down for which pages it sets D.

use super::cpu::{Forged, Stopped, VirtualCpu};
use super::{Memory, locked};
use vellum_pte::{AddressSpace, Format, Gpa, PAGE_SIZE};

/// Whether processors have such logs, and what their hypervisor makes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageLogging {
    /// They have none.
    Absent,
    /// They have, and whoever asks is told what is in them.
    Kept,
    /// They have, and who asks is told nothing: a hypervisor that is wrong.
    Hidden,
}

/// Where the hypervisor sets the index to. The manual's 511 would make a log that is hardly ever full.
const LAST: u16 = 23;

/// One processor's log, filled from the last entry to the first.
#[derive(Debug)]
pub(super) struct PageLog {
    entries: [u64; LAST as usize + 1],
    /// The entry to be written next; past the page once all are.
    index: u16,
    space: AddressSpace,
}

impl Default for PageLog {
    fn default() -> Self {
        Self { entries: [0; LAST as usize + 1], index: LAST, space: AddressSpace::NORMAL }
    }
}

impl PageLog {
    fn is_full(&self) -> bool {
        self.index > LAST
    }

    fn write(&mut self, address: u64) {
        self.entries[usize::from(self.index)] = address;
        self.index = self.index.wrapping_sub(1);
    }

    /// What was written, the newest first; and it is empty.
    pub(super) fn drain(&mut self) -> (AddressSpace, Vec<u64>) {
        let first = usize::from(self.index.wrapping_add(1));
        self.index = LAST;
        (self.space, self.entries[first..].to_vec())
    }
}

impl<F: Format, M: Memory> VirtualCpu<'_, F, M> {
    /// It belongs to this CPU from now on.
    pub(super) fn claim_page_log(&self) {
        locked(&self.mmu.embedder().page_logs[self.number]).space = self.space;
    }

    fn logs_pages(&self) -> bool {
        self.mmu.embedder().page_logging != PageLogging::Absent
    }

    /// An access that would set D, and log that, exits first if there is no room.
    pub(super) fn log_has_room(&self) -> Result<(), Stopped> {
        let is_full = || locked(&self.mmu.embedder().page_logs[self.number]).is_full();
        if self.logs_pages() && is_full() { Err(Stopped::LogFull) } else { Ok(()) }
    }

    /// D was set for a page.
    pub(super) fn log_dirty(&self, at: Gpa) {
        if self.logs_pages() {
            locked(&self.mmu.embedder().page_logs[self.number]).write(at.get() & !(PAGE_SIZE - 1));
        }
    }

    /// Somebody writes an entry who is no processor, if there is room.
    pub(super) fn forge_entry(&self, address: u64) -> Forged {
        if !self.logs_pages() || self.log_has_room().is_err() {
            return Forged::NotWritten;
        }
        locked(&self.mmu.embedder().page_logs[self.number]).write(address);
        Forged::Written
    }

    /// What an exit does: what is logged is the library's.
    pub(super) fn hand_over_page_log(&mut self) {
        let Some(vcpu) = &mut self.vcpu else { return };
        let hypervisor = self.mmu.embedder();
        let page_log = &hypervisor.page_logs[self.number];
        let (space, entries) = hypervisor.memory.unlimited(|| locked(page_log).drain());
        vcpu.log_stores(space, &entries);
        hypervisor.memory.unlimited(|| drop(entries));
    }
}
