//! Which features a guest was given, by what CPUID says, and whether a host has them.
//!
//! The rest of CPUID, names, numbers and sizes, is not compared.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use std::fmt;

/// A register in which CPUID answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// A register of one of CPUID's leaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CpuidWord {
    /// What EAX holds when it is asked for.
    pub leaf: u32,
    /// What ECX holds then; 0 where that does not matter.
    pub subleaf: u32,
    /// Where the answer is.
    pub register: Register,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        })
    }
}

impl fmt::Display for CpuidWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaf, subleaf, register } = self;
        write!(f, "{register} in CPUID leaf {leaf:#x}, sub-leaf {subleaf}")
    }
}

/// All bits.
const ALL: u32 = u32::MAX;
/// OSXSAVE says what the guest has turned on, and is no feature of a processor.
const BUT_OSXSAVE: u32 = !(1 << 27);
/// Nor is OSPKE. Five bits are a number (MAWAU).
const BUT_OSPKE: u32 = !(1 << 4 | 0x1f << 17);
/// The lengths of vectors; below them is the number of a version.
const LENGTHS: u32 = 0x7 << 16;

/// The words whose bits are features, one each: leaf, sub-leaf, register, which bits. Intel's SDM, volume 2A,
/// CPUID; AMD's APM, volume 3, appendix E; and for 0x40000001, what KVM itself offers.
const FEATURES: [(u32, u32, Register, u32); 37] = {
    use Register::{Eax, Ebx, Ecx, Edx};
    [
        (0x1, 0, Ecx, BUT_OSXSAVE),
        (0x1, 0, Edx, ALL),
        (0x6, 0, Eax, ALL),
        (0x7, 0, Ebx, ALL),
        (0x7, 0, Ecx, BUT_OSPKE),
        (0x7, 0, Edx, ALL),
        (0x7, 1, Eax, ALL),
        (0x7, 1, Ebx, ALL),
        (0x7, 1, Ecx, ALL),
        (0x7, 1, Edx, ALL),
        (0x7, 2, Edx, ALL),
        // Units of XSAVE, for XCR0; instructions; units for IA32_XSS.
        (0xd, 0, Eax, ALL),
        (0xd, 0, Edx, ALL),
        (0xd, 1, Eax, ALL),
        (0xd, 1, Ecx, ALL),
        (0xd, 1, Edx, ALL),
        // SGX.
        (0x12, 0, Eax, ALL),
        (0x12, 0, Ebx, ALL),
        (0x12, 1, Eax, ALL),
        (0x12, 1, Ebx, ALL),
        (0x12, 1, Ecx, ALL),
        (0x12, 1, Edx, ALL),
        // Processor trace.
        (0x14, 0, Ebx, ALL),
        (0x14, 0, Ecx, ALL),
        // AVX10.
        (0x24, 0, Ebx, LENGTHS),
        (0x4000_0001, 0, Eax, ALL),
        (0x8000_0001, 0, Ecx, ALL),
        (0x8000_0001, 0, Edx, ALL),
        (0x8000_0007, 0, Ebx, ALL),
        (0x8000_0007, 0, Edx, ALL),
        (0x8000_0008, 0, Ebx, ALL),
        // SVM, memory encryption, and what came after.
        (0x8000_000a, 0, Edx, ALL),
        (0x8000_001f, 0, Eax, ALL),
        (0x8000_0021, 0, Eax, ALL),
        (0x8000_0021, 0, Ecx, ALL),
        (0x8000_0022, 0, Eax, ALL),
        // Centaur's and Zhaoxin's.
        (0xc000_0001, 0, Edx, ALL),
    ]
};

/// The first word of which the guest was given bits that the host has not, and these bits.
pub(super) fn lacking(
    guest: &[kvm_cpuid_entry2],
    host: &[kvm_cpuid_entry2],
) -> Option<(CpuidWord, u32)> {
    FEATURES.iter().find_map(|&(leaf, subleaf, register, mask)| {
        let word = CpuidWord { leaf, subleaf, register };
        let bits = word.of(guest) & !word.of(host) & mask;
        (bits != 0).then_some((word, bits))
    })
}

impl CpuidWord {
    /// It in a list: of several entries for it, all their bits.
    fn of(self, list: &[kvm_cpuid_entry2]) -> u32 {
        let here = list.iter().filter(|entry| self.is_in(entry));
        here.fold(0, |bits, entry| bits | self.register.of(entry))
    }

    /// An entry without the flag is KVM's answer whatever sub-leaf is asked for.
    fn is_in(self, entry: &kvm_cpuid_entry2) -> bool {
        let every = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0;
        entry.function == self.leaf && (every || entry.index == self.subleaf)
    }
}

impl Register {
    fn of(self, entry: &kvm_cpuid_entry2) -> u32 {
        match self {
            Self::Eax => entry.eax,
            Self::Ebx => entry.ebx,
            Self::Ecx => entry.ecx,
            Self::Edx => entry.edx,
        }
    }
}

#[cfg(test)]
mod tests;
