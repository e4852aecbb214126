//! The messages, byte by byte in `docs/wire.md`. Pure functions between bytes and meaning:
//! whatever comes in is hostile, so lengths are checked first and bytes used after.

mod cursor;
mod decode;
mod encode;
mod header;

pub(crate) use decode::decode;
pub(crate) use encode::{encode, pages_head};
pub(crate) use header::{HEADER, Header};

use crate::identity::{InstanceId, MigrationId};
use std::borrow::Cow;
use std::fmt;
use vellum_memory::{Layout, LayoutError};

/// The protocol's version. Both sides must have the same.
pub const VERSION: u32 = 2;

/// What a connection begins with, each way, before the version.
pub(crate) const MAGIC: [u8; 8] = *b"VELLUM\x1a\n";
/// Bytes of the opening: magic, version, four zeros.
pub(crate) const OPENING: usize = 16;
/// Bytes of a page.
pub(crate) const PAGE: usize = vellum_memory::guest::PAGE_BYTES;

/// Most regions of a layout.
pub(crate) const MOST_REGIONS: usize = 1024;
/// Most bytes of a machine's identity.
pub(crate) const MOST_IDENTITY: usize = 64 << 10;
/// Most pages of one [`Message::Pages`]: 1 MiB.
pub(crate) const MOST_PAGES: usize = 256;
/// Most runs of one [`Message::Zero`].
pub(crate) const MOST_RUNS: usize = 4096;
/// Most pages of one [`Message::Zero`]: 4 GiB. It bounds the work that a message can ask for.
pub(crate) const MOST_ZERO: u64 = 1 << 20;
/// Most bytes of a guest's state.
pub(crate) const MOST_STATE: usize = 64 << 20;
/// Most hashes of one [`Message::Digest`].
pub(crate) const MOST_HASHES: usize = 4096;
/// Most bytes of a text.
pub(crate) const MOST_TEXT: usize = 1024;

/// Bytes of a region in a layout.
const REGION: usize = 24;
/// Bytes of a run.
const RUN: usize = 16;
/// Bytes of a hash.
const HASH: usize = 32;

/// The kinds of message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Source: who I am and what I want to send.
    Hello = 1,
    /// Destination: I am ready for it.
    Accept = 2,
    /// Destination: I am not, and why.
    Refuse = 3,
    /// Source: pages and their content.
    Pages = 4,
    /// Source: pages that hold zeros.
    Zero = 5,
    /// Source: a round is over.
    RoundEnd = 6,
    /// Source: what the vCPUs and devices need to go on.
    State = 7,
    /// Source: that was all.
    Finish = 8,
    /// Destination: I have everything and could run it.
    Ready = 9,
    /// Destination: hashes of my memory.
    Digest = 10,
    /// Source: it is yours.
    HandOver = 11,
    /// Destination: it runs here.
    Running = 12,
    /// Either: I gave up, and why.
    Abort = 13,
    /// Source: did you take it?
    Query = 14,
    /// Destination: the answer.
    Answer = 15,
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Message<'a> {
    Hello(Hello<'a>),
    Accept(InstanceId),
    Refuse(Refusal),
    Pages(Pages<'a>),
    Zero(Zero<'a>),
    RoundEnd,
    State(&'a [u8]),
    Finish(Verify),
    Ready,
    Digest(Hashes),
    HandOver,
    Running,
    Abort(Refusal),
    Query(Query),
    Answer(Answer),
}

/// Who asks to send which guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello<'a> {
    pub(crate) migration: MigrationId,
    pub(crate) layout: Layout,
    pub(crate) identity: &'a [u8],
}

/// Pages with their content, in the runs' order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pages<'a> {
    pub(crate) region: u32,
    pub(crate) runs: Cow<'a, [Run]>,
    pub(crate) data: &'a [u8],
}

/// Pages that hold zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Zero<'a> {
    pub(crate) region: u32,
    pub(crate) runs: Cow<'a, [Run]>,
}

/// Pages that follow each other, by their offset in a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) pages: u64,
}

/// Hashes of chunks that follow each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hashes {
    pub(crate) region: u32,
    pub(crate) first: u64,
    pub(crate) hashes: Vec<[u8; HASH]>,
}

/// Whether a destination took a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Query {
    pub(crate) instance: InstanceId,
    pub(crate) migration: MigrationId,
}

/// Whether both sides compare their memory before the hand-over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verify {
    /// They do, and a difference is a failure before the hand-over.
    #[default]
    Compare,
    /// They do not.
    Skip,
}

/// A destination's answer to the question whether it took a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It took it: the guest runs, or ran, there.
    Taken,
    /// It did not, and promises that it never will.
    Never,
    /// It is not the destination that the guest was handed to, and knows nothing of it.
    Stranger,
}

/// Why a peer said no, in a word and a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The word.
    pub kind: RefusalKind,
    /// The sentence, for a person.
    pub text: Text,
}

/// Why a peer said no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum RefusalKind {
    /// Anything else.
    Other = 0,
    /// It cannot build this machine.
    Machine = 1,
    /// It cannot build this layout.
    Layout = 2,
    /// It has not enough memory.
    OutOfMemory = 3,
    /// It is receiving another guest.
    Busy = 4,
    /// Somebody cancelled it.
    Cancelled = 5,
    /// The two sides hold different memory.
    Different = 6,
    /// It knows this migration already, or promised never to take it.
    Known = 7,
    /// The message before was malformed or out of place.
    Protocol = 8,
}

impl RefusalKind {
    const ALL: [Self; 9] = [
        Self::Other,
        Self::Machine,
        Self::Layout,
        Self::OutOfMemory,
        Self::Busy,
        Self::Cancelled,
        Self::Different,
        Self::Known,
        Self::Protocol,
    ];
}

impl Refusal {
    /// A word with its sentence.
    #[must_use]
    pub fn new(kind: RefusalKind, text: &str) -> Self {
        Self { kind, text: Text::new(text) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// A sentence from the other side: at most 1024 bytes, and safe to print, since control characters
/// are replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Text(String);

impl Text {
    /// As much of `text` as fits.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(MOST_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A seal does not fit what it is about.
    #[error("it is not as it was sent")]
    Seal,
    /// No such kind.
    #[error("there is no message of kind {0}")]
    Kind(u8),
    /// Its length is more than a message of its kind can have.
    #[error("{kind} with {length} bytes, more than {most}")]
    Length {
        /// Its kind.
        kind: Kind,
        /// The length it gives.
        length: u32,
        /// The most that is allowed.
        most: u32,
    },
    /// It ends before its content does.
    #[error("it ends too early")]
    Short,
    /// It goes on after its content.
    #[error("{0} bytes too many")]
    Long(usize),
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A count is above its limit, or zero where something must be.
    #[error("a count of {0}")]
    Count(u64),
    /// A number that stands for no choice.
    #[error("no choice has number {0}")]
    Choice(u8),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A region's pages are past the end of all addresses.
    #[error("region {0} ends past the last address")]
    Range(usize),
    /// The regions do not make a layout.
    #[error("the layout is wrong: {0}")]
    Layout(LayoutError),
    /// There is no such region.
    #[error("there is no region {0}")]
    Region(u32),
    /// A run of pages ends past its region.
    #[error("pages {first}+{pages} are past the end of region {region}")]
    Run {
        /// The region.
        region: u32,
        /// The run's first page.
        first: u64,
        /// How many.
        pages: u64,
    },
    /// Hashes that are not the next ones.
    #[error("hashes of region {region} from chunk {first} are not the next ones")]
    Hashes {
        /// The region.
        region: u32,
        /// The first chunk.
        first: u64,
    },
}

impl Kind {
    pub(crate) const ALL: [Self; 15] = [
        Self::Hello,
        Self::Accept,
        Self::Refuse,
        Self::Pages,
        Self::Zero,
        Self::RoundEnd,
        Self::State,
        Self::Finish,
        Self::Ready,
        Self::Digest,
        Self::HandOver,
        Self::Running,
        Self::Abort,
        Self::Query,
        Self::Answer,
    ];

    /// The most bytes that a message of this kind has after its header.
    const fn most(self) -> usize {
        match self {
            Self::Hello => 24 + MOST_REGIONS * REGION + MOST_IDENTITY,
            Self::Accept => 16,
            Self::Refuse | Self::Abort => 4 + MOST_TEXT,
            Self::Pages => 8 + MOST_PAGES * (RUN + PAGE),
            Self::Zero => 8 + MOST_RUNS * RUN,
            Self::State => MOST_STATE,
            Self::Finish | Self::Answer => 4,
            Self::Digest => 16 + MOST_HASHES * HASH,
            Self::Query => 32,
            Self::RoundEnd | Self::Ready | Self::HandOver | Self::Running => 0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Message<'_> {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Accept(_) => Kind::Accept,
            Self::Refuse(_) => Kind::Refuse,
            Self::Pages(_) => Kind::Pages,
            Self::Zero(_) => Kind::Zero,
            Self::RoundEnd => Kind::RoundEnd,
            Self::State(_) => Kind::State,
            Self::Finish(_) => Kind::Finish,
            Self::Ready => Kind::Ready,
            Self::Digest(_) => Kind::Digest,
            Self::HandOver => Kind::HandOver,
            Self::Running => Kind::Running,
            Self::Abort(_) => Kind::Abort,
            Self::Query(_) => Kind::Query,
            Self::Answer(_) => Kind::Answer,
        }
    }
}

/// What each side says first.
pub(crate) fn opening(version: u32) -> [u8; OPENING] {
    let mut bytes = [0; OPENING];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes
}

/// A length as the wire spells it. All lengths here are below 2^32: the limits above say so.
fn number_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

const _: () = assert!(MOST_STATE < u32::MAX as usize);

#[cfg(test)]
mod tests;
