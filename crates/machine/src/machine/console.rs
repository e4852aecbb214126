//! Where the guest's console output goes.

/// Takes what the guest prints. Harts wait while it takes.
pub trait ConsoleSink: Send {
    /// Some bytes more, in the order in which they were printed.
    fn write(&mut self, bytes: &[u8]);
}

impl<W: FnMut(&[u8]) + Send> ConsoleSink for W {
    fn write(&mut self, bytes: &[u8]) {
        self(bytes);
    }
}
