//! A machine that can be moved: what `migrate` and `receive` need of one, whatever runs its guest.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod kvm;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "machine/no_kvm.rs"]
pub(crate) mod kvm;
pub(crate) mod software;

use crate::event::{Ended, Event};
use crate::show::Show;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::sync::Arc;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_migrate::{BoxError, Causes};

/// A machine that can be moved.
pub(crate) trait Movable {
    /// The bytes of its one address space.
    fn memory(&self) -> &GuestMemoryMmap;
    /// Lets its guest run.
    fn resume(&self);
    /// Stops it: on return no virtual CPU is in an access or a fault.
    fn pause(&self);
    /// How and why its guest runs no more, if it has ended.
    fn ended(&self) -> Option<(Ended, String)>;
    /// What its virtual CPUs have done so far.
    fn life(&self) -> Life;
    /// What has to move beside the memory, while it is paused.
    fn save(&self) -> Result<Vec<u8>, StateError>;
    /// Takes what another has saved. Nobody has vouched for the bytes.
    fn restore(&self, state: &[u8]) -> Result<(), StateError>;
}

/// Why a machine's state cannot be saved or taken, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{}", Causes(&**.0))]
pub(crate) struct StateError(BoxError);

impl StateError {
    /// In the words of `error`.
    pub(crate) fn of(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

/// What virtual CPUs have done, each at its number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Life {
    /// What shows that they execute.
    #[serde(flatten)]
    pub(crate) work: Work,
    /// Passes over the guest's memory, by the guest's own count.
    pub(crate) passes: Vec<u64>,
}

/// What shows that virtual CPUs execute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Instructions retired.
    Retired(Vec<u64>),
    /// How often each left the guest, where nobody counts instructions.
    Exits(Vec<u64>),
}

impl Life {
    /// What was done since `before`, on as many virtual CPUs as both know of.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self { work: self.work.since(&before.work), passes: since(&self.passes, &before.passes) }
    }
}

impl Work {
    /// How much it is, each virtual CPU at its number.
    pub(crate) fn amounts(&self) -> &[u64] {
        let (Self::Retired(amounts) | Self::Exits(amounts)) = self;
        amounts
    }

    fn since(&self, before: &Self) -> Self {
        match self {
            Self::Retired(now) => Self::Retired(since(now, before.amounts())),
            Self::Exits(now) => Self::Exits(since(now, before.amounts())),
        }
    }
}

fn since(now: &[u64], before: &[u64]) -> Vec<u64> {
    now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect()
}

/// Shows what a guest prints, a line at a time.
pub(crate) fn console(show: &Arc<Show>) -> impl FnMut(&[u8]) + Send + 'static {
    let (show, mut line) = (Arc::clone(show), Vec::new());
    move |bytes: &[u8]| {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    show.say(&Event::Console { text });
                    line.clear();
                }
                _ if line.len() < LONGEST_LINE => line.push(*byte),
                _ => {}
            }
        }
    }
}

/// A guest that never ends its line must not eat the host's memory.
const LONGEST_LINE: usize = 4096;
