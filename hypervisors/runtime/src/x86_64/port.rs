//! The serial line, and the doors out of the emulators.

use crate::Verdict;
use core::arch::asm;

const COM1: u16 = 0x3f8;
const INTERRUPTS: u16 = COM1 + 1;
const FIFO: u16 = COM1 + 2;
const LINE: u16 = COM1 + 3;
const MODEM: u16 = COM1 + 4;
const STATUS: u16 = COM1 + 5;
const CAN_SEND: u8 = 1 << 5;
const HAS_SENT: u8 = 1 << 6;

/// QEMU's `isa-debug-exit`: it ends with the status 2 * value + 1.
const QEMU_EXIT: u16 = 0xf4;
/// Bochs ends when `Shutdown` is written here.
const BOCHS_EXIT: u16 = 0x8900;

/// 115,200 baud, 8 bits, no parity, one stop bit; nothing interrupts.
pub(super) fn prepare_serial() {
    let steps = [
        (INTERRUPTS, 0),
        (LINE, 0x80),
        (COM1, 1),
        (INTERRUPTS, 0),
        (LINE, 3),
        (FIFO, 7),
        (MODEM, 3),
    ];
    for (port, value) in steps {
        write(port, value);
    }
}

pub(crate) fn put(byte: u8) {
    while read(STATUS) & CAN_SEND == 0 {
        core::hint::spin_loop();
    }
    write(COM1, byte);
}

pub(crate) fn exit(verdict: Verdict) -> ! {
    let value = match verdict {
        Verdict::Passed => 0,
        Verdict::Failed => 1,
    };
    // An emulator that ends takes bytes along that are still to be sent.
    while read(STATUS) & HAS_SENT == 0 {
        core::hint::spin_loop();
    }
    write(QEMU_EXIT, value);
    for byte in b"Shutdown" {
        write(BOCHS_EXIT, *byte);
    }
    loop {
        // SAFETY: with interrupts off the processor stops here for good.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

fn write(port: u16, value: u8) {
    // SAFETY: the ports above are devices that reach no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

fn read(port: u16) -> u8 {
    let value: u8;
    // SAFETY: as above.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}
