//! What a processor is told about the tables before it walks them.

/// EPTP, nCR3 with CR4, or VTCR_EL2: all of it that changes a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regime {
    /// The level of the root tables: 1 is the last level, 4 the first that any processor has.
    pub level: u8,
    /// How many bits of guest address are translated. Bits above those of one root table choose
    /// among several that follow each other.
    pub address_bits: u32,
    /// Who sets A and D.
    pub flags: AccessFlags,
}

/// Who sets A and D in the entries that are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AccessFlags {
    /// The walker: EPTP bit 6 set, VTCR_EL2.{HA,HD} = {1,1}; on AMD always.
    #[default]
    ByHardware,
    /// Nobody but software: EPTP bit 6 clear; VTCR_EL2.{HA,HD} = {0,0}, the only way on Arm
    /// processors without FEAT_HAFDBS. There an access through a page without A faults, and a store
    /// needs `S2AP[1]` whatever DBM says.
    BySoftware,
}
