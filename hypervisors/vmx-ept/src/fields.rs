//! The fields of a VMCS (Intel SDM vol. 3C, appendix B).

/// A field that is set or read here, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Field {
    /// Selector of the guest's ES; those of CS, SS, DS, FS, GS, LDTR and TR follow.
    GuestSelectors = 0x0800,
    /// Where the page log goes on, downwards.
    PageLogIndex = 0x0812,
    /// Selector of the host's ES; those of CS, SS, DS, FS, GS and TR follow.
    HostSelectors = 0x0c00,
    /// The page log's buffer.
    PageLogAddress = 0x200e,
    /// The root of the second stage: EPTP.
    EptPointer = 0x201a,
    /// The root of the sub-page tables: SPPTP.
    SubPagePointer = 0x2030,
    /// Where the second stage refused.
    GuestPhysicalAddress = 0x2400,
    /// A VMCS that shadows this one: none.
    LinkPointer = 0x2800,
    /// What exits at once, interrupts.
    PinControls = 0x4000,
    /// What exits, instructions.
    ProcessorControls = 0x4002,
    /// A bit for each exception that exits.
    ExceptionBitmap = 0x4004,
    /// Bits of page-fault codes that are looked at.
    PageFaultMask = 0x4006,
    /// What they are to be.
    PageFaultMatch = 0x4008,
    /// How many addresses in CR3 do not exit.
    Cr3TargetCount = 0x400a,
    /// What an exit does.
    ExitControls = 0x400c,
    /// How many registers an exit stores.
    ExitStoreCount = 0x400e,
    /// How many it loads.
    ExitLoadCount = 0x4010,
    /// What an entry does.
    EntryControls = 0x4012,
    /// How many registers an entry loads.
    EntryLoadCount = 0x4014,
    /// What an entry injects.
    EntryInterruption = 0x4016,
    /// What exits, and what is on: EPT, the page log, sub-pages.
    SecondaryControls = 0x401e,
    /// Why an instruction of VMX was refused.
    InstructionError = 0x4400,
    /// Why the guest has left.
    ExitReason = 0x4402,
    /// Which exception or interrupt it was.
    ExitInterruption = 0x4404,
    /// Limit of the guest's ES; those of CS, SS, DS, FS, GS, LDTR, TR, GDTR and IDTR follow.
    GuestLimits = 0x4800,
    /// Rights of the guest's ES; those of CS, SS, DS, FS, GS, LDTR and TR follow.
    GuestRights = 0x4814,
    /// What the guest blocks.
    GuestInterruptibility = 0x4824,
    /// Whether the guest waits for something.
    GuestActivity = 0x4826,
    /// The guest's SYSENTER_CS.
    GuestSysenterCs = 0x482a,
    /// The host's.
    HostSysenterCs = 0x4c00,
    /// Bits of CR0 that the host owns.
    Cr0Mask = 0x6000,
    /// Bits of CR4 that it owns.
    Cr4Mask = 0x6002,
    /// More about the exit.
    ExitQualification = 0x6400,
    /// The guest's CR0.
    GuestCr0 = 0x6800,
    /// The root of the guest's own page tables.
    GuestCr3 = 0x6802,
    /// The guest's CR4.
    GuestCr4 = 0x6804,
    /// Base of the guest's ES; those of CS, SS, DS, FS, GS, LDTR, TR, GDTR and IDTR follow.
    GuestBases = 0x6806,
    /// The guest's DR7.
    GuestDr7 = 0x681a,
    /// The guest's stack pointer.
    GuestRsp = 0x681c,
    /// Where the guest is.
    GuestRip = 0x681e,
    /// Its flags.
    GuestRflags = 0x6820,
    /// Its pending debug exceptions.
    GuestPendingDebug = 0x6822,
    /// Its SYSENTER_ESP; SYSENTER_EIP follows.
    GuestSysenter = 0x6824,
    /// The host's CR0.
    HostCr0 = 0x6c00,
    /// The host's CR3.
    HostCr3 = 0x6c02,
    /// The host's CR4.
    HostCr4 = 0x6c04,
    /// Base of the host's FS; those of GS, TR, GDTR and IDTR follow.
    HostBases = 0x6c06,
    /// The host's SYSENTER_ESP; SYSENTER_EIP follows.
    HostSysenter = 0x6c10,
    /// The host's stack pointer after an exit.
    HostRsp = 0x6c14,
    /// Where the host goes on.
    HostRip = 0x6c16,
}

impl Field {
    /// The number of this field, or of one that follows it.
    pub(crate) const fn plus(self, following: u64) -> u64 {
        // Numbers are even: bit 0 is for the upper half of a field of 64 bits.
        self as u64 + 2 * following
    }
}
