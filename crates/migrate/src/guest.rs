//! What the caller brings: a guest to give away, and a place for one to arrive.

use crate::wire::Refusal;
use core::error::Error;
use vellum_memory::guest::GuestMemory;
use vellum_memory::{AddressSpace, DirtySource, Layout};

/// A guest that runs here and may move away.
pub trait SourceGuest {
    /// Its bytes. Two threads read them when the guest is verified.
    type Memory: GuestMemory + Sync;
    /// What knows which of its pages changed.
    type Dirty: DirtySource;
    /// Why its state cannot be saved.
    type Error: Error + Send + Sync + 'static;

    /// What the destination must know to build the same machine: its kind, vCPUs, devices. At most
    /// 64 KiB, in an encoding of the caller's own.
    fn identity(&self) -> Vec<u8>;

    /// The bytes of one address space. A region at `gfn` is at that guest address in it.
    fn memory(&self, space: AddressSpace) -> &Self::Memory;

    /// Its dirty log, and with it its layout.
    fn dirty(&mut self) -> &mut Self::Dirty;

    /// Stops it. On return no vCPU is in an access or in a fault and no device writes, so that the
    /// next [`collect`](DirtySource::collect) finds all that is left (D1).
    fn pause(&mut self);

    /// Lets it run on from where it was paused. What that needs was not given up by
    /// [`pause`](Self::pause): it cannot fail.
    fn resume(&mut self);

    /// The state of its vCPUs and devices, while it is paused: what a destination restores. At most
    /// 64 MiB.
    ///
    /// # Errors
    /// The guest is as it was, paused.
    fn save_state(&mut self) -> Result<Vec<u8>, Self::Error>;
}

impl<G: SourceGuest + ?Sized> SourceGuest for &mut G {
    type Memory = G::Memory;
    type Dirty = G::Dirty;
    type Error = G::Error;

    fn identity(&self) -> Vec<u8> {
        (**self).identity()
    }
    fn memory(&self, space: AddressSpace) -> &Self::Memory {
        (**self).memory(space)
    }
    fn dirty(&mut self) -> &mut Self::Dirty {
        (**self).dirty()
    }
    fn pause(&mut self) {
        (**self).pause();
    }
    fn resume(&mut self) {
        (**self).resume();
    }
    fn save_state(&mut self) -> Result<Vec<u8>, Self::Error> {
        (**self).save_state()
    }
}

/// A place where guests may arrive.
pub trait Destination {
    /// What it prepares.
    type Guest: IncomingGuest;

    /// Builds a paused machine for a guest with this identity and layout. Both come from a peer
    /// that nobody has vouched for, and its memory may hold anything.
    ///
    /// # Errors
    /// Why this guest cannot run here; the source is told.
    fn prepare(&mut self, identity: &[u8], layout: &Layout) -> Result<Self::Guest, Refusal>;
}

/// What the memory of an arriving guest holds before anything has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Fresh {
    /// Anything: each page of zeros is looked at, and overwritten if it is not one.
    #[default]
    Anything,
    /// Zeros, fresh from the system: a page of zeros that never held anything else is not even
    /// looked at, so that a sparse memory costs nothing to receive.
    Zeros,
}

/// A guest that arrives. Dropping it discards it.
pub trait IncomingGuest {
    /// Its bytes.
    type Memory: GuestMemory + Sync;
    /// Why its state cannot be restored.
    type Error: Error + Send + Sync + 'static;

    /// The bytes of one address space.
    fn memory(&self, space: AddressSpace) -> &Self::Memory;

    /// What its memory holds before anything has come, which it is asked once. Whoever says
    /// [`Fresh::Zeros`] answers for every byte.
    fn fresh(&self) -> Fresh {
        Fresh::Anything
    }

    /// Takes the state that the source saved, and acquires all that running needs. The guest stays
    /// paused. `state` is hostile until it has been checked.
    ///
    /// # Errors
    /// It cannot run here; the source keeps it.
    fn restore(&mut self, state: &[u8]) -> Result<(), Self::Error>;

    /// Lets it run. It cannot fail: [`restore`](Self::restore) has acquired what it needs, and
    /// from the moment of this call on nobody else may run this guest.
    fn resume(&mut self);
}
