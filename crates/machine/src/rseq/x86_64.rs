//! The three restartable accesses on x86-64.
//!
//! Each is the same sequence around a different commit instruction:
//!
//! ```text
//! 2: rseq_cs = descriptor       arm; the abort handler comes back here
//! 3: epoch == expected ?        the sequence begins: from here to 5 the kernel restarts us
//!    no -> 6
//!    COMMIT                     one instruction
//! 5:                            the sequence has ended
//! 6:
//! ```
//!
//! Registers that the sequence reads are never written inside it, so that beginning anew finds
//! them whole. The descriptor stays in `rseq_cs` afterwards; the kernel drops it when it next
//! looks and finds the thread outside.
#![allow(unsafe_code)]
#![allow(clippy::cast_possible_truncation, reason = "an access takes the low bytes")]

use super::{area, membarrier};
use crate::bus::Width;
use crate::port::HostAddress;
use std::arch::asm;
use std::sync::atomic::AtomicU64;

/// A way to access memory restartably: this process's threads have an rseq area at `offset` from
/// their thread pointers, and membarrier can restart their sequences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    offset: isize,
}

/// The frame of a sequence. `$commit` are the commit's lines, of which only the last
/// changes memory; flags survive a `mov`, but not a `cmpxchg`, so success is a register.
macro_rules! sequence {
    ($self:ident, $epoch:ident, $expected:ident, [$commit:literal], $($operands:tt)*) => {{
        let done: u32;
        // SAFETY: `rseq_cs` (offset 8 of the area) is this thread's own, and the descriptor that
        // it is pointed to is static and well-formed: version 0, no flags, start, length, abort
        // handler outside, which follows the signature that glibc registered (linux/rseq.h).
        // `epoch` is a live reference. The commit's address: see `HostAddress`; it is good while
        // the epoch is `expected`, which is what the sequence checks.
        unsafe {
            asm!(
                ".pushsection __rseq_cs, \"aw\"",
                ".balign 32",
                "8:",
                ".long 0, 0",
                ".quad 3f, 5f - 3f, 4f",
                ".popsection",
                ".pushsection __rseq_failure, \"ax\"",
                ".byte 0x0f, 0xb9, 0x3d",
                ".long 0x53053053",
                "4:",
                "jmp 2f",
                ".popsection",
                "2:",
                "xor {done:e}, {done:e}",
                "lea {scratch}, [rip + 8b]",
                "mov qword ptr fs:[{offset} + 8], {scratch}",
                "3:",
                "cmp qword ptr [{epoch}], {expected}",
                "jne 6f",
                $commit,
                "5:",
                "mov {done:e}, 1",
                "6:",
                done = out(reg) done,
                scratch = out(reg) _,
                offset = in(reg) $self.offset,
                epoch = in(reg) $epoch.as_ptr(),
                expected = in(reg) $expected,
                $($operands)*
                options(nostack),
            );
        }
        done != 0
    }};
}

impl Sequence {
    /// Registers this process; `None` where the kernel or the C library lack a part.
    pub(crate) fn find() -> Option<Self> {
        let offset = area::offset()?;
        membarrier::RESTARTS.then_some(Self { offset })
    }

    /// Loads while the epoch is `expected`; `None` if it is not.
    #[inline]
    pub(crate) fn load(
        self,
        epoch: &AtomicU64,
        expected: u64,
        at: HostAddress,
        width: Width,
    ) -> Option<u64> {
        let value: u64;
        let at = at.get();
        let done = match width {
            Width::Byte => sequence!(self, epoch, expected, ["movzx {value:e}, byte ptr [{at}]"],
                at = in(reg) at, value = out(reg) value,),
            Width::Half => sequence!(self, epoch, expected, ["movzx {value:e}, word ptr [{at}]"],
                at = in(reg) at, value = out(reg) value,),
            Width::Word => sequence!(self, epoch, expected, ["mov {value:e}, dword ptr [{at}]"],
                at = in(reg) at, value = out(reg) value,),
            Width::Double => sequence!(self, epoch, expected, ["mov {value}, qword ptr [{at}]"],
                at = in(reg) at, value = out(reg) value,),
        };
        done.then_some(value)
    }

    /// Stores while the epoch is `expected`; whether it was.
    #[inline]
    pub(crate) fn store(
        self,
        epoch: &AtomicU64,
        expected: u64,
        at: HostAddress,
        width: Width,
        value: u64,
    ) -> bool {
        let at = at.get();
        match width {
            Width::Byte => sequence!(self, epoch, expected, ["mov byte ptr [{at}], {value}"],
                at = in(reg) at, value = in(reg_byte) value as u8,),
            Width::Half => sequence!(self, epoch, expected, ["mov word ptr [{at}], {value:x}"],
                at = in(reg) at, value = in(reg) value,),
            Width::Word => sequence!(self, epoch, expected, ["mov dword ptr [{at}], {value:e}"],
                at = in(reg) at, value = in(reg) value,),
            Width::Double => sequence!(self, epoch, expected, ["mov qword ptr [{at}], {value}"],
                at = in(reg) at, value = in(reg) value,),
        }
    }

    /// [`store`](Self::store) of a double word, with some microseconds between the look at the
    /// epoch and the commit, so that a test meets a thread there.
    #[cfg(test)]
    pub(crate) fn store_late(
        self,
        epoch: &AtomicU64,
        expected: u64,
        at: HostAddress,
        value: u64,
    ) -> bool {
        let at = at.get();
        sequence!(self, epoch, expected,
            ["mov {spin:e}, 20000\n7:\ndec {spin:e}\njnz 7b\nmov qword ptr [{at}], {value}"],
            at = in(reg) at, value = in(reg) value, spin = out(reg) _,)
    }

    /// Compare-exchanges `(expected, new)` while the epoch is `epoch_now`; what memory held, or
    /// `None` if the epoch is another. A narrow width is a [`Width::Word`].
    #[inline]
    pub(crate) fn compare_exchange(
        self,
        epoch: &AtomicU64,
        epoch_now: u64,
        at: HostAddress,
        width: Width,
        (expected, new): (u64, u64),
    ) -> Option<u64> {
        let held: u64;
        let at = at.get();
        let done = match width {
            Width::Double => {
                sequence!(self, epoch, epoch_now, ["lock cmpxchg qword ptr [{at}], {new}"],
                    at = in(reg) at, new = in(reg) new, inlateout("rax") expected => held,)
            }
            _ => {
                let word: u32;
                let done = sequence!(self, epoch, epoch_now, ["lock cmpxchg dword ptr [{at}], {new:e}"],
                    at = in(reg) at, new = in(reg) new,
                    inlateout("rax") expected as u32 => word,);
                held = u64::from(word);
                done
            }
        };
        done.then_some(held)
    }
}
