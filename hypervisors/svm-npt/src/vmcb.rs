//! The virtual machine control block (AMD APM vol. 2, appendix B).

use alloc::boxed::Box;

/// A field of 64 bits, by its offset. Narrower ones that lie together are one field here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Field {
    /// Exceptions that exit, in the low half; in the high half events and instructions that do.
    InterceptsLow = 0x008,
    /// More instructions that exit.
    InterceptsHigh = 0x010,
    /// Where the map of ports that exit is (AMD APM vol. 2, 15.10).
    PortMap = 0x040,
    /// Where the map of model-specific registers that exit is (AMD APM vol. 2, 15.11).
    MsrMap = 0x048,
    /// The tag of the guest's translations; from bit 32 on, which are dropped at the next entry.
    AsidAndFlush = 0x058,
    /// Why the guest has left.
    ExitCode = 0x070,
    /// More about the exit.
    ExitInfo1 = 0x078,
    /// For a fault of the second stage: where.
    ExitInfo2 = 0x080,
    /// Whether there is a second stage.
    NestedPaging = 0x090,
    /// Its root.
    NestedRoot = 0x0b0,
    /// The privilege level is the byte from bit 24 on.
    Privilege = 0x4c8,
    /// The guest's EFER.
    Efer = 0x4d0,
    /// The guest's CR4.
    Cr4 = 0x548,
    /// The root of the guest's own page tables.
    Cr3 = 0x550,
    /// The guest's CR0.
    Cr0 = 0x558,
    /// The guest's DR7.
    Dr7 = 0x560,
    /// The guest's DR6.
    Dr6 = 0x568,
    /// The guest's flags.
    Rflags = 0x570,
    /// Where it goes on.
    Rip = 0x578,
    /// Its stack.
    Rsp = 0x5d8,
    /// Its RAX.
    Rax = 0x5f8,
    /// The guest's memory types.
    Pat = 0x668,
}

/// A segment register: 16 bytes of selector, rights, limit and base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Segment {
    /// Extra data.
    Es = 0x400,
    /// Code.
    Cs = 0x410,
    /// Stack.
    Ss = 0x420,
    /// Data.
    Ds = 0x430,
    /// The descriptor table.
    Gdtr = 0x460,
    /// The table of exception handlers.
    Idtr = 0x480,
}

const WORDS: usize = 512;

/// A control block in a page of its own, where the processor finds it at its physical address.
#[repr(C, align(4096))]
pub(crate) struct Vmcb([u64; WORDS]);

impl Vmcb {
    /// With zeros everywhere.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([0; WORDS]))
    }

    pub(crate) fn get(&self, field: Field) -> u64 {
        self.0[field as usize / 8]
    }

    pub(crate) fn set(&mut self, field: Field, value: u64) {
        self.0[field as usize / 8] = value;
    }

    /// Sets a segment register with base 0. `rights` are those of a descriptor, pushed together
    /// (AMD APM vol. 2, 15.5.1).
    pub(crate) fn set_segment(&mut self, segment: Segment, selector: u16, rights: u16, limit: u32) {
        let word = u64::from(limit) << 32 | u64::from(rights) << 16 | u64::from(selector);
        self.0[segment as usize / 8] = word;
        self.0[segment as usize / 8 + 1] = 0;
    }
}
