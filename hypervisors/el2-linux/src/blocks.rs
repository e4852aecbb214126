//! How the guest's memory is mapped right now, read from the tables as the processor reads them.
#![allow(unsafe_code)]

use vellum_pte::Pfn;

/// The bits that tell what an entry is, and those of a block above the last level (Arm ARM D8.3.1).
const KIND: u64 = 3;
const BLOCK: u64 = 1;
const TABLE: u64 = 3;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// How many blocks of 2 MiB map the GiB around the guest address `first`, from a root at level 1 on.
pub(crate) fn blocks_of_2_mib(root: Pfn, first: u64) -> usize {
    let entry = table(root.address())[(first >> 30) as usize & 511];
    if entry & KIND != TABLE {
        return 0;
    }
    let below = table(entry & ADDRESS);
    below.iter().filter(|entry| **entry & KIND == BLOCK).count()
}

/// The entries at a physical address.
fn table(address: u64) -> [u64; 512] {
    let table: *const [u64; 512] = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: a table that the root leads to, in memory that this program reaches at its physical
    // address; no other CPU changes it, and this one does not meanwhile.
    unsafe { table.read_volatile() }
}
