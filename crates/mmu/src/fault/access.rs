//! What an access was that the second stage refused, and how processors say so.

/// What the guest was doing when it faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
    /// A walk of the guest's own page tables that sets A and D bits there, or counts as if it did:
    /// on EPT with A and D bits, and on NPT, every such walk (Intel SDM vol. 3C, 29.3.3.2; AMD APM
    /// vol. 2, 15.25.6). A write, and never eligible for sub-page permissions.
    Walk,
}

impl Access {
    /// Of an EPT violation, by its exit qualification (Intel SDM vol. 3C, table 28-7).
    ///
    /// A walk of the guest's own tables (bit 7 without bit 8) that also counts as a write is
    /// [`Walk`](Self::Walk): with A and D bits in EPT that is each, without them none but those that set
    /// flags.
    #[must_use]
    pub const fn of_ept_violation(qualification: u64) -> Self {
        const WRITE: u64 = 1 << 1;
        const FETCH: u64 = 1 << 2;
        const HAS_LINEAR_ADDRESS: u64 = 1 << 7;
        const IS_FINAL: u64 = 1 << 8;
        let is_walk = qualification & (HAS_LINEAR_ADDRESS | IS_FINAL) == HAS_LINEAR_ADDRESS;
        match (qualification & WRITE != 0, qualification & FETCH != 0) {
            (true, _) if is_walk => Self::Walk,
            (true, _) => Self::Write,
            (false, true) => Self::Execute,
            (false, false) => Self::Read,
        }
    }

    /// Of a nested page fault, by EXITINFO1 (AMD APM vol. 2, 15.25.6). Each walk of the guest's own tables
    /// (bit 33, where bit 32 is the final access) counts as a write.
    #[must_use]
    pub const fn of_nested_page_fault(info: u64) -> Self {
        const WRITE: u64 = 1 << 1;
        const FETCH: u64 = 1 << 4;
        const WALK: u64 = 1 << 33;
        match (info & WALK != 0, info & WRITE != 0, info & FETCH != 0) {
            (true, _, _) => Self::Walk,
            (false, true, _) => Self::Write,
            (false, false, true) => Self::Execute,
            (false, false, false) => Self::Read,
        }
    }

    /// Of an abort at stage 2, by ESR_EL2 (Arm ARM D17.2.37). `None` if tables are not why: the class is
    /// no abort from a lower level, or the fault none of translation, access flag or permission.
    ///
    /// Every leaf of the library's may be read, so what a *leaf* refuses to a walk of the guest's own
    /// tables is to set flags: [`Walk`](Self::Walk). A walk that found no leaf reads, whatever WnR says:
    /// it comes again if it has flags to set.
    #[must_use]
    pub const fn of_stage2_abort(esr: u64) -> Option<Self> {
        const INSTRUCTION_ABORT: u64 = 0x20;
        const DATA_ABORT: u64 = 0x24;
        const WRITE: u64 = 1 << 6;
        const WALK: u64 = 1 << 7;
        const TRANSLATION: u64 = 1;
        const PERMISSION: u64 = 3;
        let (class, fault) = (esr >> 26 & 0x3f, esr >> 2 & 0xf);
        if fault < TRANSLATION || fault > PERMISSION {
            return None;
        }
        match class {
            INSTRUCTION_ABORT | DATA_ABORT if esr & WALK != 0 => {
                Some(if fault == PERMISSION { Self::Walk } else { Self::Read })
            }
            INSTRUCTION_ABORT => Some(Self::Execute),
            DATA_ABORT => Some(if esr & WRITE != 0 { Self::Write } else { Self::Read }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Access::{self, Execute, Read, Walk, Write};

    #[test]
    fn an_ept_violation_of_a_walk_is_a_walk_only_if_it_writes() {
        let linear = 1 << 7;
        let r#final = 1 << 8;
        let cases = [
            (0b001 | linear | r#final, Read),
            (0b010 | linear | r#final, Write),
            (0b100 | linear | r#final, Execute),
            (0b011 | linear, Walk),
            (0b001 | linear, Read),
            // Not by an instruction's address: a trace, say.
            (0b010, Write),
        ];
        for (qualification, access) in cases {
            assert_eq!(Access::of_ept_violation(qualification), access, "{qualification:#x}");
        }
    }

    #[test]
    fn a_nested_page_fault_of_a_walk_is_a_walk_whatever_it_did() {
        let (last, walk) = (1 << 32, 1 << 33);
        let cases = [
            (0x4 | last, Read),
            (0x6 | last, Write),
            (0x14 | last, Execute),
            (0x4 | walk, Walk),
            (0x6 | walk, Walk),
        ];
        for (info, access) in cases {
            assert_eq!(Access::of_nested_page_fault(info), access, "{info:#x}");
        }
    }

    #[test]
    fn an_abort_of_a_walk_is_a_walk_only_where_a_leaf_refused_it() {
        let (instruction, data) = (0x20 << 26, 0x24 << 26);
        let (write, walk) = (1 << 6, 1 << 7);
        let cases = [
            (data | 0x07, Some(Read)),
            (data | 0x0f | write, Some(Write)),
            (data | 0x0b, Some(Read)),
            (instruction | 0x07, Some(Execute)),
            (data | 0x07 | walk | write, Some(Read)),
            (data | 0x0f | walk | write, Some(Walk)),
            (instruction | 0x0f | walk, Some(Walk)),
            // An address past what the tables translate, an external abort, a TLB conflict.
            (data | 0x03, None),
            (data | 0x10, None),
            (data | 0x30, None),
            // A call.
            (0x16 << 26 | 0x07, None),
            // What is above the class says nothing about it.
            (1 << 36 | data | 0x07, Some(Read)),
        ];
        for (esr, access) in cases {
            assert_eq!(Access::of_stage2_abort(esr), access, "{esr:#x}");
        }
    }
}
