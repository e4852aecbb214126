//! The guest's general registers.

use vm::{Op, Work};

/// In the order in which instructions number them: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to
/// r15. Assembly reaches them by that number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers(pub [u64; 16]);

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;

impl Registers {
    /// What the program wants in order to do `work`.
    #[must_use]
    pub fn for_work(work: Work) -> Self {
        let mut registers = Self::default();
        let op = match work.op {
            Op::Store => 0,
            Op::Load => 1,
        };
        let values = [
            (RDI, work.first.get()),
            (RSI, work.stride),
            (RCX, work.count),
            (RAX, work.value),
            (RDX, op),
        ];
        for (number, value) in values {
            registers.0[number] = value;
        }
        registers
    }

    /// What was loaded last, when it is done.
    #[must_use]
    pub const fn loaded(&self) -> u64 {
        self.0[RAX]
    }
}
