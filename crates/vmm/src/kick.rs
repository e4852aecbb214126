//! Making vCPUs leave the guest: by a signal to their threads, which ends `KVM_RUN`.
//!
//! The signal is the second of the real-time ones. Its handler, which this crate installs once for the
//! whole process, does nothing: what is wanted is that the call returns.

use core::ffi::{c_int, c_void};
use std::io;
use std::sync::OnceLock;
use vmm_sys_util::signal::{Error, SIGRTMIN, register_signal_handler, unblock_signal};

/// The signal.
pub(crate) fn signal() -> c_int {
    SIGRTMIN() + 1
}

/// Installs the handler.
pub(crate) fn listen() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    let done = DONE
        .get_or_init(|| register_signal_handler(signal(), kicked).map_err(|error| error.errno()));
    done.map_err(io::Error::from_raw_os_error)
}

/// Lets the signal through to this thread, whatever it has inherited.
pub(crate) fn let_through() -> Result<(), Error> {
    unblock_signal(signal())
}

extern "C" fn kicked(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}
