//! A foreign bitmap in a mapping.

use crate::foreign::SharedBits;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vm_memory::{MmapRegion, VolatileMemory};

/// The words of a bitmap that is shared with another process, for a
/// [`ForeignLog`](crate::ForeignLog): with vhost-user, the mapping of the file that
/// `VHOST_USER_SET_LOG_BASE` sends. Seal the file against shrinking (`F_SEAL_SHRINK`), or the other
/// side can make an access here a bus error.
#[derive(Clone, Debug)]
pub struct MappedBits {
    mapping: Arc<MmapRegion>,
}

impl MappedBits {
    /// The bitmap that fills `mapping`. Bytes after the last whole word are not looked at.
    #[must_use]
    pub fn new(mapping: Arc<MmapRegion>) -> Self {
        Self { mapping }
    }
}

impl SharedBits for MappedBits {
    fn word(&self, index: usize) -> Option<&AtomicU64> {
        let offset = index.checked_mul(size_of::<AtomicU64>())?;
        self.mapping.get_atomic_ref(offset).ok()
    }
}
