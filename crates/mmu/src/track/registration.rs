//! Coming and going as a listener.

use super::listeners::ListenerId;
use super::{EnableTrackingError, WriteListener};
use crate::allocate::OutOfMemory;
use crate::embedder::Embedder;
use crate::mmu::Mmu;
use alloc::sync::Arc;
use core::ops::Deref;
use vellum_pte::Format;

/// Why nobody was registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListenError {
    /// The VM belongs to somebody else ([`Embedder::may_listen`]).
    #[error("the VM belongs to another owner")]
    NotTheOwner,
    /// Tracking could not be turned on.
    #[error(transparent)]
    Tracking(#[from] EnableTrackingError),
    /// No memory for another listener.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// A listener's registration. It holds the VM: by a borrow if `M` is `&Mmu`, alive if `M` is
/// `Arc<Mmu>`.
///
/// Dropping it ends the registration without waiting: calls under way go on, and after the last one
/// the library lets go of the listener. That is right from inside of a call, too.
#[must_use = "dropping it ends the registration"]
pub struct Registration<M: Deref<Target: Unregister>> {
    vm: M,
    id: ListenerId,
}

impl<M: Deref<Target: Unregister>> core::fmt::Debug for Registration<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Registration({:?})", self.id)
    }
}

impl<M: Deref<Target: Unregister>> Registration<M> {
    /// Ends the registration and returns when no call to the listener is under way, and the library
    /// has let go of it.
    ///
    /// From inside of a call to the same listener, or of its own drop, this would wait for itself for
    /// ever: drop the registration there, or use [`Call::unregister`](super::Call::unregister).
    pub fn unregister(self) {
        self.vm.leave(Id(self.id));
        self.vm.wait(Id(self.id));
    }
}

impl<M: Deref<Target: Unregister>> Drop for Registration<M> {
    fn drop(&mut self) {
        self.vm.leave(Id(self.id));
    }
}

/// What a registration does with its VM. Only [`Mmu`] can.
pub trait Unregister: sealed::Sealed {
    #[doc(hidden)]
    fn leave(&self, id: Id);
    #[doc(hidden)]
    fn wait(&self, id: Id);
}

/// Names a registration.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Id(ListenerId);

mod sealed {
    pub trait Sealed {}
}

impl<F: Format, E: Embedder> sealed::Sealed for Mmu<F, E> {}

impl<F: Format, E: Embedder> Unregister for Mmu<F, E> {
    fn leave(&self, Id(id): Id) {
        self.listeners.leave(id, &self.embedder);
    }

    fn wait(&self, Id(id): Id) {
        self.listeners.wait(id, self);
    }
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Registers a listener, and turns tracking on if nobody has yet. `vm` is `&Mmu` or an
    /// `Arc<Mmu>`, which the registration keeps.
    ///
    /// # Errors
    /// [`ListenError`]; nobody is registered. May be repeated.
    pub fn listen<M: Deref<Target = Self>>(
        vm: M,
        listener: Arc<dyn WriteListener<F, E>>,
    ) -> Result<Registration<M>, ListenError> {
        if !vm.embedder.may_listen() {
            return Err(ListenError::NotTheOwner);
        }
        vm.enable_tracking()?;
        let id = vm.listeners.enter(listener, &vm.embedder)?;
        Ok(Registration { vm, id })
    }
}
