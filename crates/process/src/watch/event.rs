//! A userfaultfd's message, read.

use super::whole::Whole;
use linux_raw_sys::general::{UFFD_EVENT_PAGEFAULT, uffd_msg};
use vellum_memory::{GfnRange, Gpa};

/// The size of a message.
pub(super) const BYTES: usize = 32;
const _: () = assert!(BYTES == size_of::<uffd_msg>());

/// A writer stands before its first write to a protected page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteEvent {
    /// Which region it writes to.
    pub region: usize,
    /// The page, as a range to [`allow`](super::WriteWatch::allow): all of it, if it is larger than 4 KiB.
    pub page: GfnRange,
    /// Where: the first byte of the write in this page.
    pub gpa: Gpa,
    /// Which thread, as gettid(2) names it.
    pub thread: u32,
}

impl WriteEvent {
    /// None for a message about something else, or about an address in none of `mappings`.
    ///
    /// `uffd_msg`: the event in byte 0; of a page fault its flags from byte 8, its address from 16 and
    /// its thread from 24.
    pub(super) fn read(message: &[u8; BYTES], mappings: &[Whole]) -> Option<Self> {
        if u32::from(message[0]) != UFFD_EVENT_PAGEFAULT {
            return None;
        }
        let address = u64::from_ne_bytes(part(message, 16)?);
        let thread = u32::from_ne_bytes(part(message, 24)?);
        let at = |whole: &Whole| whole.mapping.bytes().contains(&address);
        let region = mappings.iter().position(at)?;
        let (page, mapping) = (mappings[region].page_at(address)?, &mappings[region].mapping);
        let offset = address - mapping.bytes().start;
        let gpa = Gpa::new(mapping.region().range.first().gpa().get() + offset);
        Some(Self { region, page, gpa, thread })
    }
}

fn part<const N: usize>(message: &[u8; BYTES], from: usize) -> Option<[u8; N]> {
    message.get(from..from + N)?.try_into().ok()
}

#[cfg(test)]
mod tests;
