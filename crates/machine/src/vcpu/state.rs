//! What of a hart moves to another machine.

use vellum_pte::Gpa;

/// A hart between two instructions. Plain, and the same on every host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HartState {
    pub(super) id: u64,
    pub(super) pc: u64,
    pub(super) instret: u64,
    /// `x1` to `x31`.
    pub(super) x: [u64; 31],
}

/// Why bytes are no [`HartState`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// They are too few or too many.
    #[error("a hart's state is {} bytes, not {found}", HartState::BYTES)]
    Length {
        /// How many there are.
        found: usize,
    },
    /// No instruction can be there.
    #[error("a hart's program counter is {pc}, which is no multiple of four")]
    MisalignedPc {
        /// The program counter.
        pc: Gpa,
    },
    /// No hart has run for that long: the counter could overflow.
    #[error("a hart has not retired {found} instructions")]
    Instret {
        /// The count.
        found: u64,
    },
}

/// The most instructions that a state may have retired. At one a nanosecond, 292 years.
const MOST_RETIRED: u64 = i64::MAX.cast_unsigned();

impl HartState {
    /// How many bytes a state takes.
    pub const BYTES: usize = 8 * (3 + 31);

    /// A hart that has done nothing yet, all registers zero.
    #[must_use]
    pub const fn at(id: u64, pc: Gpa) -> Self {
        Self { id, pc: pc.get(), instret: 0, x: [0; 31] }
    }

    /// Its number among the harts.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Where it goes on.
    #[must_use]
    pub const fn pc(&self) -> Gpa {
        Gpa::new(self.pc)
    }

    /// How many instructions had retired.
    #[must_use]
    pub const fn instret(&self) -> u64 {
        self.instret
    }

    /// Id, program counter, retired instructions, `x1` to `x31`: each eight bytes, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let words = [self.id, self.pc, self.instret].into_iter().chain(self.x);
        let mut bytes = [0; Self::BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The state that [`Self::to_bytes`] gave these bytes for.
    ///
    /// # Errors
    /// [`StateError`]. Any bytes may be passed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut state = Self::at(0, Gpa::new(0));
        for place in state.words_mut() {
            *place = words.next().ok_or(StateError::Length { found: bytes.len() })?;
        }
        if words.next().is_some() || !rest.is_empty() {
            return Err(StateError::Length { found: bytes.len() });
        }
        state.checked()
    }

    fn checked(self) -> Result<Self, StateError> {
        if !self.pc.is_multiple_of(4) {
            Err(StateError::MisalignedPc { pc: self.pc() })
        } else if self.instret > MOST_RETIRED {
            Err(StateError::Instret { found: self.instret })
        } else {
            Ok(self)
        }
    }

    fn words_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        [&mut self.id, &mut self.pc, &mut self.instret].into_iter().chain(&mut self.x)
    }
}
