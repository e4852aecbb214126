//! The guest's own page tables: its first GiB one to one, in leaves of 2 MiB.

use vellum_pte::{Gpa, PAGE_SIZE};
use vm::GuestMemory;

/// What CR3 says.
pub const PAGE_TABLES: Gpa = Gpa::new(0x1000);

/// How many pages the tables take.
pub const TABLE_PAGES: u64 = 3;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const HUGE: u64 = 1 << 7;
const LEAF_SHIFT: u32 = 21;

/// Writes the tables to the three pages from `first` on, one level after the other. Their A and D
/// bits are clear: the processor has something to set.
pub fn lay_out_tables(memory: GuestMemory, first: Gpa) {
    let table = |level: u64| first.get() + level * PAGE_SIZE;
    let entry = |at: u64, value: u64| {
        memory.write(Gpa::new(at), &value.to_le_bytes()).expect("room for the tables");
    };
    entry(table(0), table(1) | PRESENT | WRITE);
    entry(table(1), table(2) | PRESENT | WRITE);
    for leaf in 0..512 {
        entry(table(2) + leaf * 8, leaf << LEAF_SHIFT | PRESENT | WRITE | HUGE);
    }
}
