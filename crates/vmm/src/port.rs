//! How a guest talks to its monitor: by `out` to a port, which level 3 may do here.

/// A port, and what an `out` to it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Port {
    /// `out 0x10, eax`: the number of the pass that is finished.
    Progress = 0x10,
    /// `out 0x11, al`: a byte for the console.
    Console = 0x11,
    /// `out 0x12, al`: there is nothing to do; the vCPU sleeps a while. (Level 3 has no `hlt`.)
    Rest = 0x12,
    /// `out 0x13, al`: the end. 0 is finished, anything else failed.
    End = 0x13,
}

/// What a guest said by a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    Progress(u32),
    Console(u8),
    Rest,
    End(u8),
}

/// What one instruction does at a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Access {
    pub(crate) port: u16,
    /// Bytes of each time.
    pub(crate) size: u8,
    /// How many times: more than once where the processor repeats the instruction by itself.
    pub(crate) count: u32,
}

impl Message {
    /// What an `out` means whose first bytes are these, if anything: a message is written once, in as many
    /// bytes as its port has.
    pub(crate) fn of(out: Access, [a, b, c, d]: [u8; 4]) -> Option<Self> {
        const PROGRESS: u16 = Port::Progress as u16;
        const CONSOLE: u16 = Port::Console as u16;
        const REST: u16 = Port::Rest as u16;
        const END: u16 = Port::End as u16;
        match (out.port, out.size, out.count) {
            (PROGRESS, 4, 1) => Some(Self::Progress(u32::from_le_bytes([a, b, c, d]))),
            (CONSOLE, 1, 1) => Some(Self::Console(a)),
            (REST, 1, 1) => Some(Self::Rest),
            (END, 1, 1) => Some(Self::End(a)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
