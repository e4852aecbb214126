//! The serial line, and the door out of the emulator.

use crate::Verdict;
use core::arch::asm;
use core::hint::spin_loop;

/// A PL011: where bytes are written to, and whether there is room for one.
const DATA: usize = 0x0900_0000;
const FLAGS: usize = DATA + 0x18;
const FULL: u32 = 1 << 5;

/// Semihosting: leave, for this reason, with a status.
const EXIT: u64 = 0x18;
const APPLICATION_EXIT: u64 = 0x20026;

pub(crate) fn put(byte: u8) {
    let (data, flags) = (DATA as *mut u32, FLAGS as *const u32);
    // SAFETY: the device is there on this machine, and reaches no memory.
    while unsafe { flags.read_volatile() } & FULL != 0 {
        spin_loop();
    }
    // SAFETY: as above.
    unsafe { data.write_volatile(u32::from(byte)) };
}

pub(crate) fn exit(verdict: Verdict) -> ! {
    let status = match verdict {
        Verdict::Passed => 0,
        Verdict::Failed => 1,
    };
    let block = [APPLICATION_EXIT, status];
    // SAFETY: the emulator reads the block, and ends.
    unsafe { asm!("hlt #0xf000", in("x0") EXIT, in("x1") &raw const block, options(nostack)) };
    loop {
        spin_loop();
    }
}
