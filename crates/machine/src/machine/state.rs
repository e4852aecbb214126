//! What of a machine moves, beside its memory.

use crate::sbi::ShutdownReason;
use crate::vcpu::{HartState, StateError};

/// At most this many harts in a machine.
pub const MAX_HARTS: usize = 1024;

const VERSION: u64 = 1;
const WORD: usize = 8;
/// Version, harts, time, end, number of the end.
const HEADER: usize = 5 * WORD;
/// Whether started, passes, and the hart's own state.
const HART: usize = 2 * WORD + HartState::BYTES;

/// All harts and the platform between two instructions of each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineState {
    pub(super) time_ns: u64,
    pub(super) shutdown: Option<ShutdownReason>,
    pub(super) harts: Vec<SavedHart>,
}

/// One hart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SavedHart {
    pub(super) state: HartState,
    pub(super) started: Started,
    /// Passes that the guest says it has finished.
    pub(super) progress: u64,
}

/// Whether a hart runs when the machine does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Started {
    No,
    Yes,
}

/// Why bytes are no [`MachineState`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MachineStateError {
    /// They end too early, or go on too long.
    #[error("the state of {harts} harts is not {found} bytes")]
    Length {
        /// How many harts they claim to hold.
        harts: u64,
        /// How many bytes there are.
        found: usize,
    },
    /// Another version of this program wrote them.
    #[error("a machine state of version {0}, not {VERSION}")]
    Version(u64),
    /// No machine has so many harts, or none.
    #[error("a machine of {0} harts")]
    Harts(u64),
    /// A field has a value without meaning.
    #[error("a machine state with a field that says {0}")]
    Field(u64),
    /// A hart's registers are none.
    #[error(transparent)]
    Hart(#[from] StateError),
    /// The harts are not numbered from 0 on.
    #[error("hart {found} where hart {expected} belongs")]
    HartId {
        /// Its place.
        expected: u64,
        /// Its number.
        found: u64,
    },
}

impl MachineState {
    /// As words of eight bytes, little-endian: the same on every host.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (end, number) = spell_end(self.shutdown);
        let header = [VERSION, self.harts.len() as u64, self.time_ns, end, number];
        let mut bytes = Vec::with_capacity(HEADER + self.harts.len() * HART);
        bytes.extend(header.into_iter().flat_map(u64::to_le_bytes));
        for hart in &self.harts {
            let started = u64::from(hart.started == Started::Yes);
            bytes.extend([started, hart.progress].into_iter().flat_map(u64::to_le_bytes));
            bytes.extend(hart.state.to_bytes());
        }
        bytes
    }

    /// The state that [`to_bytes`](Self::to_bytes) gave these bytes for.
    ///
    /// # Errors
    /// [`MachineStateError`]. Any bytes may be passed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MachineStateError> {
        let too_short = MachineStateError::Length { harts: 0, found: bytes.len() };
        let (header, rest) = bytes.split_at_checked(HEADER).ok_or(too_short)?;
        let [version, count, time_ns, end, number] = words(header);
        if version != VERSION {
            return Err(MachineStateError::Version(version));
        }
        check_count(count, bytes.len(), rest.len())?;
        let harts = (0..).zip(rest.chunks_exact(HART)).map(|(id, bytes)| read_hart(id, bytes));
        let shutdown = read_end(end, number)?;
        Ok(Self { time_ns, shutdown, harts: harts.collect::<Result<_, _>>()? })
    }

    /// How many harts it is of.
    #[must_use]
    pub fn harts(&self) -> usize {
        self.harts.len()
    }
}

fn check_count(harts: u64, found: usize, rest: usize) -> Result<(), MachineStateError> {
    let count = usize::try_from(harts).ok().filter(|count| (1..=MAX_HARTS).contains(count));
    let count = count.ok_or(MachineStateError::Harts(harts))?;
    if rest == count * HART { Ok(()) } else { Err(MachineStateError::Length { harts, found }) }
}

fn read_hart(expected: u64, bytes: &[u8]) -> Result<SavedHart, MachineStateError> {
    let (header, state) = bytes.split_at(2 * WORD);
    let [started, progress] = words(header);
    let started = match started {
        0 => Started::No,
        1 => Started::Yes,
        other => return Err(MachineStateError::Field(other)),
    };
    let state = HartState::from_bytes(state)?;
    if state.id() != expected {
        return Err(MachineStateError::HartId { expected, found: state.id() });
    }
    Ok(SavedHart { state, started, progress })
}

/// The first `N` words; zero where there are fewer.
fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let (chunks, _) = bytes.as_chunks::<WORD>();
    std::array::from_fn(|index| chunks.get(index).map_or(0, |word| u64::from_le_bytes(*word)))
}

fn spell_end(end: Option<ShutdownReason>) -> (u64, u64) {
    match end {
        None => (0, 0),
        Some(ShutdownReason::Finished) => (1, 0),
        Some(ShutdownReason::SystemFailure) => (2, 0),
        Some(ShutdownReason::Other(number)) => (3, number),
    }
}

fn read_end(end: u64, number: u64) -> Result<Option<ShutdownReason>, MachineStateError> {
    match (end, number) {
        (0, 0) => Ok(None),
        (1, 0) => Ok(Some(ShutdownReason::Finished)),
        (2, 0) => Ok(Some(ShutdownReason::SystemFailure)),
        (3, number) => Ok(Some(ShutdownReason::Other(number))),
        (0..=2, number) => Err(MachineStateError::Field(number)),
        (end, _) => Err(MachineStateError::Field(end)),
    }
}
