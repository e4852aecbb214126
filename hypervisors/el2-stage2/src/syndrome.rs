//! Why a guest has left, as ESR_EL2 says it (Arm ARM D17.2.37).

use vellum_mmu::Access;

/// ESR_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Syndrome(pub(crate) u64);

/// What kind of exception it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// The guest called, with this number.
    Call(u64),
    /// Stage 2 refused an access, for that reason.
    Abort(Access, Refusal),
    /// Anything else.
    Other,
}

/// Why stage 2 refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// An entry on the way is not valid.
    Translation,
    /// The leaf's AF is clear, and hardware does not set it.
    AccessFlag,
    /// The leaf forbids the access.
    Permission,
}

const CALL: u64 = 0x16;
const DATA_ABORT: u64 = 0x24;

const VALID: u64 = 1 << 24;
const WALK: u64 = 1 << 7;
const WRITE: u64 = 1 << 6;

/// A register that reads as zero.
const ZERO: usize = 31;

impl Syndrome {
    const fn class_bits(self) -> u64 {
        self.0 >> 26 & 0x3f
    }

    /// What kind of exception it is.
    pub(crate) fn class(self) -> Class {
        match self.class_bits() {
            CALL => Class::Call(self.0 & 0xffff),
            _ => self.abort().unwrap_or(Class::Other),
        }
    }

    fn abort(self) -> Option<Class> {
        Some(Class::Abort(Access::of_stage2_abort(self.0)?, self.refusal()?))
    }

    /// The low two bits are the level. What is left out are faults that no tables cause, and a TLB
    /// conflict (0x30), which tables cause that skip a break before make.
    fn refusal(self) -> Option<Refusal> {
        match self.0 >> 2 & 0xf {
            1 => Some(Refusal::Translation),
            2 => Some(Refusal::AccessFlag),
            3 => Some(Refusal::Permission),
            _ => None,
        }
    }

    /// Whether it was met on a walk of the guest's own tables.
    pub(crate) const fn on_a_walk(self) -> bool {
        self.0 & WALK != 0
    }

    /// The store's register and width, where hardware has decoded it (ISV): one general register,
    /// without writeback.
    pub(crate) fn store(self) -> Option<(Source, usize)> {
        let decoded = VALID | WRITE;
        let is_store = self.class_bits() == DATA_ABORT && self.0 & decoded == decoded;
        (is_store && !self.on_a_walk()).then(|| {
            let width = 1 << (self.0 >> 22 & 3);
            let source = match usize::from(self.0.to_le_bytes()[2] & 0x1f) {
                ZERO => Source::Zero,
                register => Source::Register(register),
            };
            (source, width)
        })
    }
}

/// Where the stored value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// In that general register.
    Register(usize),
    /// It is zero.
    Zero,
}
