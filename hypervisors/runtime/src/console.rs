//! The serial line, a line at a time.

use core::fmt::{Arguments, Write};
use core::sync::atomic::{AtomicBool, Ordering};

/// Held while a line is written, so that lines of two CPUs do not mix.
static BUSY: AtomicBool = AtomicBool::new(false);

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        text.bytes().for_each(crate::arch::put);
        Ok(())
    }
}

/// Writes a line. Use [`println!`](crate::println).
pub fn print_line(line: Arguments<'_>) {
    while BUSY.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    write_line(line);
    BUSY.store(false, Ordering::Release);
}

/// The last line of a run that failed: whoever holds the line may be who failed.
pub(crate) fn print_last(line: Arguments<'_>) {
    write_line(line);
}

fn write_line(line: Arguments<'_>) {
    // Serial never fails; a `Display` that does has printed what it could.
    let _ = Serial.write_fmt(line);
    let _ = Serial.write_str("\n");
}

/// Writes a formatted line to the serial line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::print_line(::core::format_args!($($argument)*))
    };
}
