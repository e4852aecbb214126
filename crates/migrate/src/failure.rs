//! Why a migration did not happen.

use crate::address::ConnectError;
use crate::digest::Difference;
use crate::progress::Phase;
use crate::wire::{Kind, Refusal, VERSION, WireError};
use std::collections::TryReserveError;
use std::fmt;
use std::io;
use std::time::Duration;
use vm_memory::GuestMemoryError;

/// An error of the caller's own making, passed through.
pub type BoxError = Box<dyn core::error::Error + Send + Sync + 'static>;

/// Where and why an attempt ended. At the source, before the hand-over, the guest runs on.
#[derive(Debug, thiserror::Error)]
#[error("while {phase}: {cause}")]
pub struct Failure {
    /// The step that failed.
    pub phase: Phase,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The destination could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Somebody cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The peer closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// Nothing moved for too long.
    #[error("the other side did nothing for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    /// The peer does not speak this protocol at all.
    #[error("the other side does not speak Vellum's protocol")]
    NotVellum,
    /// The peer speaks another version of it.
    #[error(
        "the other side speaks version {0} of the protocol, this one version {VERSION}: use the same release on both"
    )]
    Version(u32),
    /// The peer sent something malformed.
    #[error("the other side sent a bad message: {0}")]
    Wire(#[from] WireError),
    /// The peer sent a message that does not belong here.
    #[error("the other side sent {0} where it does not belong")]
    Unexpected(Kind),
    /// The destination does not take this guest.
    #[error("the destination refuses the guest: {0}")]
    Refused(Refusal),
    /// This destination did not take the guest.
    #[error("this side refused the guest: {0}")]
    Declined(Refusal),
    /// The peer gave up.
    #[error("the other side gave up: {0}")]
    Aborted(Refusal),
    /// This side has no memory for what comes or goes.
    #[error("out of memory: {0}")]
    OutOfMemory(#[from] TryReserveError),
    /// This side has no thread for what is to be done.
    #[error("the system gives no thread: {0}")]
    Thread(#[source] io::Error),
    /// The dirty log failed. Said with its causes: what the kernel answered is often the last of them.
    #[error("the dirty log failed: {}", Causes(&**.0))]
    Log(#[source] BoxError),
    /// A page could not be read or written.
    #[error("the guest's memory failed: {0}")]
    Memory(#[source] GuestMemoryError),
    /// The state of the vCPUs could not be saved or restored.
    #[error("the guest's state cannot be moved: {0}")]
    State(#[source] BoxError),
    /// The machine's identity, its layout or its state is longer than the protocol allows.
    #[error("{what} has {length} bytes, more than the {most} that the protocol allows")]
    TooLong {
        /// What.
        what: Kind,
        /// Its bytes.
        length: usize,
        /// The protocol's limit.
        most: usize,
    },
    /// The two sides hold different memory.
    #[error("{0}")]
    Different(Difference),
    /// The destination had promised never to take this guest when the hand-over came.
    #[error("it was promised that this guest would not run here")]
    Promised,
    /// So many sources asked after guests that were not taken that no more can be remembered.
    #[error("too many promises have been given to remember another")]
    TooManyPromises,
    /// Somebody else listens now where the guest was handed over.
    #[error("another destination listens there now, which knows nothing of this guest")]
    Stranger,
    /// The system has no random numbers.
    #[error("the system gave no random numbers: {0}")]
    Random(#[source] io::Error),
}

impl Cause {
    pub(crate) fn during(self, phase: Phase) -> Failure {
        Failure { phase, cause: self }
    }
}

/// An error and what caused it, in one sentence.
pub struct Causes<'e>(pub &'e (dyn core::error::Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let (mut said, mut cause) = (self.0.to_string(), self.0.source());
        while let Some(error) = cause {
            let text = error.to_string();
            // Some say their cause themselves.
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            (said, cause) = (text, error.source());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that failed, as a log of the kernel's says it.
    #[derive(Debug, thiserror::Error)]
    #[error("KVM_GET_DIRTY_LOG failed")]
    struct Call(#[source] io::Error);

    /// One that says its cause itself.
    #[derive(Debug, thiserror::Error)]
    #[error("its ring is full: {0}")]
    struct Ring(#[source] Call);

    #[test]
    fn a_log_that_failed_is_told_with_what_the_system_said() {
        let refused = || Call(io::Error::from_raw_os_error(12));
        let system = refused().0.to_string();
        let text = Cause::Log(Box::new(refused())).to_string();
        assert_eq!(text, format!("the dirty log failed: KVM_GET_DIRTY_LOG failed: {system}"));
        let text = Cause::Log(Box::new(Ring(refused()))).to_string();
        assert!(text.ends_with(&format!("full: KVM_GET_DIRTY_LOG failed: {system}")), "{text}");
    }
}
