//! The guest's first pages: its program, and its page tables.

use crate::program::{Hypercall, instructions};
use vellum_pte::{Gpa, PAGE_SIZE};
use vm::GuestMemory;

/// Where it begins.
pub const ENTRY: u64 = 0;
/// The root of its page tables.
pub const ROOT: Gpa = Gpa::new(PAGE_SIZE);
const GIBIBYTES: u64 = 4;
const ENTRIES: u64 = 512;

// Intel SDM vol. 3A, table 5-15 and those that follow. A and D are set from the beginning: a walk
// has nothing to write.
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const HUGE: u64 = 1 << 7;
const TABLE: u64 = PRESENT | WRITE | ACCESSED;
const LEAF: u64 = TABLE | DIRTY | HUGE;

/// Writes the program, ending with `hypercall`, and the page tables.
pub fn lay_out(memory: GuestMemory, hypercall: Hypercall) {
    let program = instructions();
    put(memory, Gpa::new(ENTRY), program);
    put(memory, Gpa::new(ENTRY + program.len() as u64), &hypercall.bytes());
    lay_out_tables(memory, ROOT);
}

/// Writes page tables that map the first 4 GiB one to one, in leaves of 2 MiB. Six pages from `root`
/// on: the root, the table below it, and a directory for each GiB.
pub fn lay_out_tables(memory: GuestMemory, root: Gpa) {
    let following = |pages: u64| Gpa::new(root.get() + pages * PAGE_SIZE);
    let pointers = following(1);
    put_entry(memory, root, 0, pointers.get() | TABLE);
    for gibibyte in 0..GIBIBYTES {
        let directory = following(2 + gibibyte);
        put_entry(memory, pointers, gibibyte, directory.get() | TABLE);
        for index in 0..ENTRIES {
            put_entry(memory, directory, index, (gibibyte << 30 | index << 21) | LEAF);
        }
    }
}

fn put_entry(memory: GuestMemory, table: Gpa, index: u64, entry: u64) {
    put(memory, Gpa::new(table.get() + index * 8), &entry.to_le_bytes());
}

fn put(memory: GuestMemory, gpa: Gpa, bytes: &[u8]) {
    memory.write(gpa, bytes).expect("the guest's first pages are there");
}
