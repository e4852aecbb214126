//! Names that nobody else has.

use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::io;

/// One attempt to migrate one guest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigrationId(pub u128);

/// One destination: one [`Receiver`](crate::Receiver) of one process. A process that listens later
/// at the same address is another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u128);

impl MigrationId {
    /// A new one, from the system's random numbers.
    pub(crate) fn random() -> io::Result<Self> {
        random().map(Self)
    }
}

impl InstanceId {
    /// A new one, from the system's random numbers.
    pub(crate) fn random() -> io::Result<Self> {
        random().map(Self)
    }
}

fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    // Up to 256 bytes come whole or not at all.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u128::from_le_bytes(bytes))
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MigrationId({self})")
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({self})")
    }
}
