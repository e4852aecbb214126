//! Ctrl-C and the signal that resumes a guest.

use crate::failure::Failure;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vellum_migrate::Cancel;

/// The status of a process that a second Ctrl-C ended: 128 and the signal's number, as shells say.
const INTERRUPTED: i32 = 130;

/// What the person at the terminal has asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt {
    stop: Arc<AtomicBool>,
    resume: Arc<AtomicBool>,
    /// Set by every signal that asks for something.
    any: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens. The first SIGINT or SIGTERM asks; the second ends the process at once.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let this = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the shutdown sees the flag that an earlier signal has set.
            flag::register_conditional_shutdown(signal, INTERRUPTED, this.stop.clone())
                .and_then(|_| flag::register(signal, this.stop.clone()))
                .map_err(Failure::Signals)?;
        }
        flag::register(SIGUSR1, this.resume.clone()).map_err(Failure::Signals)?;
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            flag::register(signal, this.any.clone()).map_err(Failure::Signals)?;
        }
        Ok(this)
    }

    /// Whether to stop.
    pub(crate) fn stop_asked(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The same question, for the migration library.
    pub(crate) fn cancel(&self) -> Cancel {
        Cancel::from(Arc::clone(&self.stop))
    }

    /// Cancelled by whatever is asked for after this call.
    pub(crate) fn signal_after_now(&self) -> Cancel {
        self.any.store(false, Ordering::Relaxed);
        Cancel::from(Arc::clone(&self.any))
    }

    /// Whether to let a paused guest run on; asked once, answered once.
    pub(crate) fn take_resume(&self) -> bool {
        self.resume.swap(false, Ordering::Relaxed)
    }
}
