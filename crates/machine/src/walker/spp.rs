//! Sub-page write permissions, as Intel's walker looks them up: SDM vol. 3C, 29.3.4.
//!
//! Where the entries of the whole path forbid a write, and the 4 KiB leaf has bit 61 set, the walker
//! asks a second table, which says for each 128 bytes of the page whether a write passes:
//!
//! | entry | bit | meaning |
//! |---|---|---|
//! | of levels 4, 3 and 2 | 0 | valid; if clear, nothing else counts |
//! | | 51:12 | the next table |
//! | | others | reserved |
//! | of level 1, the vector | 2i | sub-page i may be written |
//! | | 2i + 1 | reserved; there is no valid bit |

use super::memory::EntryAt;
use super::{ADDRESS, ADDRESS_TOO_HIGH, PAGE_SHIFT, Request, WalkCache, index};
use vellum_pte::{Gpa, PAGE_SIZE, Pfn};

const VALID: u64 = 1 << 0;
/// Bits 11:1 and 63:52 above the last level, and the address bits that there is no memory at.
const RESERVED: u64 = !(VALID | ADDRESS) | ADDRESS_TOO_HIGH;
/// The odd bits of a vector.
const RESERVED_IN_VECTOR: u64 = 0xaaaa_aaaa_aaaa_aaaa;
/// The level of the root: gpa bits 47:39 choose its entry.
const ROOT_LEVEL: u8 = 4;
/// log2 of the bytes in a sub-page.
const SUB_PAGE_SHIFT: u32 = 7;

/// Which sub-pages of a page may be written: bit i stands for 128 bytes from 128 i on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SubPages(u32);

impl SubPages {
    /// None of them.
    pub(crate) const NONE: Self = Self(0);

    /// What a vector permits; `None` where a reserved bit is set.
    pub(super) fn of_vector(raw: u64) -> Option<Self> {
        (raw & RESERVED_IN_VECTOR == 0).then(|| Self(even_bits(raw)))
    }

    /// Whether a write of `bytes` bytes, at least one, passes: each sub-page it touches must permit
    /// it. What is past the end of the page is another page's matter.
    #[inline]
    pub(crate) fn permit(self, gpa: Gpa, bytes: u64) -> bool {
        let last = (gpa.offset() + bytes).min(PAGE_SIZE) - 1;
        (gpa.offset() >> SUB_PAGE_SHIFT..=last >> SUB_PAGE_SHIFT).all(|at| self.0 >> at & 1 != 0)
    }

    #[cfg(test)]
    pub(crate) const fn new(bits: u32) -> Self {
        Self(bits)
    }
}

/// Bit 2i of `raw` at place i; its odd bits are clear.
fn even_bits(raw: u64) -> u32 {
    let pairs = (raw | raw >> 1) & 0x3333_3333_3333_3333;
    let nibbles = (pairs | pairs >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
    let bytes = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let halves = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    (halves | halves >> 16) as u32
}

/// Why there is no vector for an address: the exit is an SPP-related event, no EPT violation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SppFailure {
    /// An entry above the vector is not valid.
    Miss,
    /// A reserved bit is set.
    Misconfigured,
}

/// A place to go on walking from.
#[derive(Clone, Copy, Debug)]
pub(super) struct SppPosition {
    table: Pfn,
    level: u8,
}

/// The sub-pages of the page of a request that may be written, by the table whose root is `root`.
/// Entries that lead to the vector are cached, and only valid ones; the vector itself is the TLB's.
pub(super) fn look_up(
    request: Request,
    root: Pfn,
    cache: &mut WalkCache,
) -> Result<SubPages, SppFailure> {
    let known = cache.spp.deepest(request.gpa, request.epoch);
    let mut at = known.unwrap_or(SppPosition { table: root, level: ROOT_LEVEL });
    loop {
        let raw = EntryAt { table: at.table, index: index(request.gpa, at.level) }.load();
        if at.level == 1 {
            return SubPages::of_vector(raw).ok_or(SppFailure::Misconfigured);
        }
        at = SppPosition { table: next_table(raw)?, level: at.level - 1 };
        cache.spp.insert(request.gpa, request.epoch, at.level, at);
    }
}

pub(super) fn next_table(raw: u64) -> Result<Pfn, SppFailure> {
    if raw & VALID == 0 {
        return Err(SppFailure::Miss);
    }
    if raw & RESERVED != 0 {
        return Err(SppFailure::Misconfigured);
    }
    Ok(Pfn::new((raw & ADDRESS) >> PAGE_SHIFT))
}
