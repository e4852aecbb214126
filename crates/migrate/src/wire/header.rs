//! What stands before a message, and the seals that tell it from noise.
//!
//! A checksum of TCP is two bytes, and a Unix socket has none. The digests compare memory; what else
//! decides where a guest runs and in which state (its registers, its name, an answer) has nothing
//! but its seal.

use super::cursor::Cursor;
use super::{Kind, RUN, WireError, number_of};

/// Bytes of a header: kind, three zeros, length, the payload's seal, the header's own.
pub(crate) const HEADER: usize = 16;
/// The header's bytes before its own seal.
const SEALED: usize = HEADER - SEAL;
/// Bytes of a seal.
const SEAL: usize = 4;

/// The first bytes of a BLAKE3 hash. It finds accidents; whoever writes on the wire can make one.
type Seal = [u8; SEAL];

/// A message's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) length: usize,
    seal: Seal,
}

impl Header {
    /// Of a message whose payload has `length` bytes. `payload` may end after what is
    /// [sealed](sealed) of it.
    pub(crate) fn new(kind: Kind, length: usize, payload: &[u8]) -> Self {
        Self { kind, length, seal: seal(sealed(kind, payload)) }
    }

    /// Checks a header; after it, `length` is small enough for its kind.
    pub(crate) fn decode(bytes: [u8; HEADER]) -> Result<Self, WireError> {
        let mut from = Cursor::new(&bytes);
        if seal(&bytes[..SEALED]) != bytes[SEALED..] {
            return Err(WireError::Seal);
        }
        let number = from.u8()?;
        let found = Kind::ALL.into_iter().find(|&kind| kind as u8 == number);
        let kind = found.ok_or(WireError::Kind(number))?;
        from.reserved::<3>()?;
        let length = from.u32()?;
        match usize::try_from(length) {
            Ok(fits) if fits <= kind.most() => Ok(Self { kind, length: fits, seal: from.array()? }),
            _ => Err(WireError::Length { kind, length, most: number_of(kind.most()) }),
        }
    }

    pub(crate) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.kind as u8;
        bytes[4..8].copy_from_slice(&number_of(self.length).to_le_bytes());
        bytes[8..SEALED].copy_from_slice(&self.seal);
        let own = seal(&bytes[..SEALED]);
        bytes[SEALED..].copy_from_slice(&own);
        bytes
    }

    /// Whether `payload` is the one that this header was made for.
    pub(crate) fn check(self, payload: &[u8]) -> Result<(), WireError> {
        if seal(sealed(self.kind, payload)) == self.seal { Ok(()) } else { Err(WireError::Seal) }
    }
}

/// What the seal of a payload is about: all of it, but not the content of pages, which is compared
/// where it ends up.
fn sealed(kind: Kind, payload: &[u8]) -> &[u8] {
    match kind {
        Kind::Pages => payload.get(..runs_end(payload)).unwrap_or(payload),
        _ => payload,
    }
}

/// Where the runs of a message of pages end, by its own word.
fn runs_end(payload: &[u8]) -> usize {
    let mut from = Cursor::new(payload);
    let count = from.u32().and_then(|_region| from.u32());
    count.map_or(0, |count| (count as usize).saturating_mul(RUN).saturating_add(8))
}

fn seal(bytes: &[u8]) -> Seal {
    let [b0, b1, b2, b3, ..] = *blake3::hash(bytes).as_bytes();
    [b0, b1, b2, b3]
}
