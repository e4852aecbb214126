//! Where the guest's console output goes.

/// Takes what the guest prints. vCPUs wait while it takes.
pub trait ConsoleSink: Send {
    /// Some bytes more of one vCPU: a line, unless it is long or the machine was paused in it.
    fn write(&mut self, bytes: &[u8]);
}

impl<W: FnMut(&[u8]) + Send> ConsoleSink for W {
    fn write(&mut self, bytes: &[u8]) {
        self(bytes);
    }
}
