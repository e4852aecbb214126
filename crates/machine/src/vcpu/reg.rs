//! The integer registers.

/// An integer register, by its name in the calling convention. Reading [`Reg::ZERO`] gives 0, and
/// writing it does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reg(u8);

impl Reg {
    /// `x0`. Reads as 0.
    pub const ZERO: Self = Self(0);
    /// `x1`. The return address.
    pub const RA: Self = Self(1);
    /// `x2`. The stack pointer.
    pub const SP: Self = Self(2);
    /// `x3`. The global pointer.
    pub const GP: Self = Self(3);
    /// `x4`. The thread pointer.
    pub const TP: Self = Self(4);
    /// `x5`. A temporary.
    pub const T0: Self = Self(5);
    /// `x6`. A temporary.
    pub const T1: Self = Self(6);
    /// `x7`. A temporary.
    pub const T2: Self = Self(7);
    /// `x8`. A saved register.
    pub const S0: Self = Self(8);
    /// `x9`. A saved register.
    pub const S1: Self = Self(9);
    /// `x10`. The first argument and result.
    pub const A0: Self = Self(10);
    /// `x11`. The second argument and result.
    pub const A1: Self = Self(11);
    /// `x12`. An argument.
    pub const A2: Self = Self(12);
    /// `x13`. An argument.
    pub const A3: Self = Self(13);
    /// `x14`. An argument.
    pub const A4: Self = Self(14);
    /// `x15`. An argument.
    pub const A5: Self = Self(15);
    /// `x16`. An argument; the function of an SBI call.
    pub const A6: Self = Self(16);
    /// `x17`. An argument; the extension of an SBI call.
    pub const A7: Self = Self(17);
    /// `x18`. A saved register.
    pub const S2: Self = Self(18);
    /// `x19`. A saved register.
    pub const S3: Self = Self(19);
    /// `x20`. A saved register.
    pub const S4: Self = Self(20);
    /// `x21`. A saved register.
    pub const S5: Self = Self(21);
    /// `x22`. A saved register.
    pub const S6: Self = Self(22);
    /// `x23`. A saved register.
    pub const S7: Self = Self(23);
    /// `x24`. A saved register.
    pub const S8: Self = Self(24);
    /// `x25`. A saved register.
    pub const S9: Self = Self(25);
    /// `x26`. A saved register.
    pub const S10: Self = Self(26);
    /// `x27`. A saved register.
    pub const S11: Self = Self(27);
    /// `x28`. A temporary.
    pub const T3: Self = Self(28);
    /// `x29`. A temporary.
    pub const T4: Self = Self(29);
    /// `x30`. A temporary.
    pub const T5: Self = Self(30);
    /// `x31`. A temporary.
    pub const T6: Self = Self(31);

    /// Register `number`, or `None` above 31.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < 32 { Some(Self(number)) } else { None }
    }

    /// Its number, 0 to 31.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}
