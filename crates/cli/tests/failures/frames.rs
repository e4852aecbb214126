//! Messages as `docs/wire.md` describes them, cut out of the stream by that description alone.

use std::io::{Read, Result};
use std::os::unix::net::UnixStream;

/// Bytes of an opening and of a header.
const HEAD: usize = 16;

/// The way a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// To the destination.
    Forward,
    /// To the source.
    Back,
}

/// What a message is, as far as the phase depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// What each side says first.
    Opening,
    Hello,
    Accept,
    Pages,
    Zero,
    RoundEnd,
    State,
    Finish,
    Ready,
    Digest,
    HandOver,
    Running,
    /// Refuse, Abort, Query, Answer.
    Other,
}

/// One message, or what there was of it when the stream ended.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    /// Whether it is one of those that make up a round.
    pub(crate) fn is_of_round(&self) -> bool {
        matches!(self.kind, Kind::Pages | Kind::Zero | Kind::RoundEnd)
    }
}

/// One direction of a connection, message by message.
pub(crate) struct Frames<'s> {
    stream: &'s UnixStream,
    opened: Opened,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    NotYet,
    Yes,
}

impl<'s> Frames<'s> {
    pub(crate) fn new(stream: &'s UnixStream) -> Self {
        Self { stream, opened: Opened::NotYet }
    }

    /// The next message; `None` at the end. One that is cut short is of [`Kind::Other`].
    pub(crate) fn next(&mut self) -> Result<Option<Frame>> {
        let mut bytes = Vec::new();
        self.read(HEAD, &mut bytes)?;
        let Ok(head) = <[u8; HEAD]>::try_from(bytes.as_slice()) else {
            return Ok((!bytes.is_empty()).then_some(Frame { kind: Kind::Other, bytes }));
        };
        if std::mem::replace(&mut self.opened, Opened::Yes) == Opened::NotYet {
            return Ok(Some(Frame { kind: Kind::Opening, bytes }));
        }
        let [number, _, _, _, l0, l1, l2, l3, ..] = head;
        let whole = HEAD + u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        self.read(whole, &mut bytes)?;
        let kind = if bytes.len() == whole { kind(number) } else { Kind::Other };
        Ok(Some(Frame { kind, bytes }))
    }

    /// Reads until `bytes` holds `whole`, or the stream ends.
    fn read(&mut self, whole: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let more = (whole - bytes.len()) as u64;
        self.stream.take(more).read_to_end(bytes).map(drop)
    }
}

fn kind(number: u8) -> Kind {
    match number {
        1 => Kind::Hello,
        2 => Kind::Accept,
        4 => Kind::Pages,
        5 => Kind::Zero,
        6 => Kind::RoundEnd,
        7 => Kind::State,
        8 => Kind::Finish,
        9 => Kind::Ready,
        10 => Kind::Digest,
        11 => Kind::HandOver,
        12 => Kind::Running,
        _ => Kind::Other,
    }
}
