//! System registers by name.

/// Reads a system register.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: a read of this register changes nothing.
        #[allow(unsafe_code)]
        unsafe {
            core::arch::asm!(
                concat!("mrs {}, ", $name),
                out(reg) value,
                options(nostack, preserves_flags)
            );
        };
        value
    }};
}

/// Writes a system register of the guest's, or one that says how the guest runs.
macro_rules! write {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the registers that are written here concern levels below this program's.
        #[allow(unsafe_code)]
        unsafe {
            core::arch::asm!(
                concat!("msr ", $name, ", {}"),
                "isb",
                in(reg) value,
                options(nostack, preserves_flags)
            );
        };
    }};
}

pub(crate) use {read, write};
