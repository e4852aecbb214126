//! A vCPU, entered once or for a round.

use super::program::is_round;
use kvm_bindings::KVM_EXIT_DIRTY_RING_FULL;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vellum_kvm::Reaper;

/// Why a vCPU left the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    /// It has ended a round.
    Round,
    /// Its ring is full.
    RingFull,
    /// A signal came.
    Kicked,
}

/// A vCPU, and who empties its ring.
pub(crate) struct Vcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) reaper: Option<Reaper>,
    /// How often its ring was full.
    pub(crate) full: u64,
}

impl Vcpu {
    pub(super) fn new(fd: VcpuFd, reaper: Option<Reaper>) -> Self {
        Self { fd, reaper, full: 0 }
    }

    /// Enters the guest once.
    pub(crate) fn enter(&mut self) -> Left {
        match self.fd.run() {
            Ok(exit) if is_round(&exit) => Left::Round,
            Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => Left::RingFull,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Left::Kicked,
            other => panic!("the guest left with {other:?}"),
        }
    }

    /// Enters it, and makes room where its ring is full.
    pub(crate) fn go(&mut self) -> Left {
        let left = self.enter();
        if left == Left::RingFull {
            self.full += 1;
            let reaper = self.reaper.as_ref().expect("a ring has a reaper");
            reaper.reap().expect("rings are emptied");
        }
        left
    }

    /// Runs to the end of a round.
    pub(crate) fn round(&mut self) {
        while self.go() != Left::Round {}
    }
}
