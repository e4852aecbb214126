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

impl Message {
    /// What these bytes at a port mean, if anything.
    pub(crate) fn of(port: u16, bytes: &[u8]) -> Option<Self> {
        const PROGRESS: u16 = Port::Progress as u16;
        const CONSOLE: u16 = Port::Console as u16;
        const REST: u16 = Port::Rest as u16;
        const END: u16 = Port::End as u16;
        match (port, bytes) {
            (PROGRESS, &[a, b, c, d]) => Some(Self::Progress(u32::from_le_bytes([a, b, c, d]))),
            (CONSOLE, &[byte]) => Some(Self::Console(byte)),
            (REST, &[_]) => Some(Self::Rest),
            (END, &[code]) => Some(Self::End(code)),
            _ => None,
        }
    }
}
