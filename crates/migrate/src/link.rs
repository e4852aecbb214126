//! A connection that speaks the protocol, and can be interrupted at any moment.

use crate::address::Stream;
use crate::cancel::Cancel;
use crate::failure::Cause;
use crate::wire::{
    HEADER, Header, Kind, MAGIC, Message, OPENING, Refusal, RefusalKind, Run, VERSION, decode,
    encode, opening, pages_head,
};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::time::{Duration, Instant};

/// How much of a long message is read at a time: its length is a promise, its bytes are a fact, and
/// memory is given for facts.
const PIECE: usize = 1 << 20;

/// How much is read at a time of what nobody wants: who gives up may have no memory left.
const SINK: usize = 16 << 10;

/// How long a side that gives up waits for the other to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Stream,
    cancel: Cancel,
    patience: Duration,
    input: Vec<u8>,
    output: Vec<u8>,
    written: u64,
    read: u64,
    boundary: Boundary,
}

/// Whether what was written ends with a whole message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Boundary {
    Whole,
    Inside,
}

impl Link {
    /// A connection that gives up when it is cancelled, or when nothing moves for `patience`.
    pub(crate) fn new(stream: Stream, cancel: Cancel, patience: Duration) -> Self {
        Self {
            stream,
            cancel,
            patience,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            read: 0,
            boundary: Boundary::Whole,
        }
    }

    /// Gives up later or sooner from now on.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes read so far.
    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// Says who we are.
    pub(crate) fn send_opening(&mut self) -> Result<(), Cause> {
        self.write(&[&opening(VERSION)])
    }

    /// Hears who the other is.
    pub(crate) fn receive_opening(&mut self) -> Result<(), Cause> {
        let mut bytes = [0; OPENING];
        let mut filled = 0;
        while filled < OPENING {
            filled += self.read_some(&mut bytes[filled..])?;
            // A stranger may send less than an opening and wait: what differs already is enough.
            let seen = filled.min(MAGIC.len());
            if bytes[..seen] != MAGIC[..seen] {
                return Err(Cause::NotVellum);
            }
        }
        let [.., v0, v1, v2, v3, r0, r1, r2, r3] = bytes;
        match u32::from_le_bytes([v0, v1, v2, v3]) {
            VERSION if [r0, r1, r2, r3] == [0; 4] => Ok(()),
            VERSION => Err(Cause::NotVellum),
            other => Err(Cause::Version(other)),
        }
    }

    /// Says who we are and hears who the other is, before anything else is said: whoever cannot
    /// understand us is not sent more than that.
    pub(crate) fn exchange_openings(&mut self) -> Result<(), Cause> {
        self.send_opening()?;
        self.receive_opening()
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, message: &Message<'_>) -> Result<(), Cause> {
        let mut output = core::mem::take(&mut self.output);
        output.clear();
        encode(message, &mut output);
        let sent = self.write(&[&output]);
        self.output = output;
        sent
    }

    /// Sends pages without copying their content once more.
    pub(crate) fn send_pages(
        &mut self,
        region: u32,
        runs: &[Run],
        data: &[u8],
    ) -> Result<(), Cause> {
        let mut output = core::mem::take(&mut self.output);
        output.clear();
        pages_head(region, runs, data.len(), &mut output);
        let sent = self.write(&[&output, data]);
        self.output = output;
        sent
    }

    /// The next message.
    pub(crate) fn receive(&mut self) -> Result<Message<'_>, Cause> {
        let header = self.receive_header()?;
        self.receive_payload(header.length)?;
        header.check(&self.input)?;
        Ok(decode(header.kind, &self.input)?)
    }

    /// The next message; who cancels while it is awaited waits a moment longer, since it is
    /// probably on its way and the answer is worth more than the moment.
    pub(crate) fn insist_on_answer(&mut self) -> Result<Message<'_>, Cause> {
        match self.await_byte() {
            Err(Cause::Cancelled) => self.patience = FAREWELL,
            other => other?,
        }
        self.insist();
        self.receive()
    }

    /// From here on nobody cancels: what is said and heard now decides where the guest runs.
    pub(crate) fn insist(&mut self) {
        self.cancel = Cancel::new();
    }

    /// Waits until something can be read.
    fn await_byte(&mut self) -> Result<(), Cause> {
        let began = Instant::now();
        loop {
            self.look_up()?;
            match self.stream.wait_readable() {
                Ok(()) => return Ok(()),
                Err(error) => self.pardon(error, began)?,
            }
        }
    }

    /// The next message, if it is the one expected; an [`Message::Abort`] is a failure of its own.
    pub(crate) fn expect<T>(
        &mut self,
        wanted: impl FnOnce(Message<'_>) -> Result<T, Kind>,
    ) -> Result<T, Cause> {
        match self.receive()? {
            Message::Abort(refusal) => Err(Cause::Aborted(refusal)),
            message => wanted(message).map_err(Cause::Unexpected),
        }
    }

    /// Says why, if the other side can still understand it, and waits a moment until it has read it.
    pub(crate) fn give_up(mut self, refusal: Refusal) {
        self.farewell(&Message::Abort(refusal));
    }

    /// Refuses the guest, and waits a moment until the other side has read it.
    pub(crate) fn refuse(mut self, refusal: Refusal) {
        self.farewell(&Message::Refuse(refusal));
    }

    fn farewell(&mut self, message: &Message<'_>) {
        if self.boundary == Boundary::Inside {
            return;
        }
        // Cancelled or not, these are the last words; whether they arrive changes nothing here.
        self.insist();
        self.patience = FAREWELL;
        if self.send(message).and_then(|()| self.finish_writing()).is_ok() {
            self.drain();
        }
    }

    /// Reads until the other side is done, so that closing does not throw our last words away.
    fn drain(&mut self) {
        let until = Instant::now() + FAREWELL;
        let mut sink = [0; SINK];
        while Instant::now() < until && self.read_some(&mut sink).is_ok() {}
    }

    fn finish_writing(&mut self) -> Result<(), Cause> {
        self.stream.finish_writing().map_err(Cause::Io)
    }

    /// After a failed write: the reason the other side may have left. Else `cause`.
    pub(crate) fn last_words(&mut self, cause: Cause) -> Cause {
        if !matches!(cause, Cause::Closed | Cause::Io(_)) {
            return cause;
        }
        self.patience = FAREWELL;
        match self.receive() {
            Ok(Message::Abort(refusal)) => Cause::Aborted(refusal),
            Ok(Message::Refuse(refusal)) => Cause::Refused(refusal),
            _ => cause,
        }
    }

    fn receive_header(&mut self) -> Result<Header, Cause> {
        let mut bytes = [0; HEADER];
        let mut filled = 0;
        while filled < HEADER {
            filled += self.read_some(&mut bytes[filled..])?;
        }
        Ok(Header::decode(bytes)?)
    }

    fn receive_payload(&mut self, length: usize) -> Result<(), Cause> {
        let mut input = core::mem::take(&mut self.input);
        let received = self.fill(&mut input, length);
        self.input = input;
        received
    }

    /// Reads exactly `length` bytes into `input`, which grows as they come.
    fn fill(&mut self, input: &mut Vec<u8>, length: usize) -> Result<(), Cause> {
        let mut filled = 0;
        while filled < length {
            let end = length.min(filled + PIECE);
            // Growing keeps what is there and zeroes only what is new.
            if input.len() < end {
                input.try_reserve_exact(end - input.len())?;
                input.resize(end, 0);
            }
            filled += self.read_some(&mut input[filled..end])?;
        }
        input.truncate(length);
        Ok(())
    }

    /// At least one byte.
    fn read_some(&mut self, into: &mut [u8]) -> Result<usize, Cause> {
        let began = Instant::now();
        loop {
            self.look_up()?;
            match self.stream.read(into) {
                Ok(0) => return Err(Cause::Closed),
                Ok(read) => {
                    self.read += read as u64;
                    return Ok(read);
                }
                Err(error) => self.pardon(error, began)?,
            }
        }
    }

    /// All of `parts`, one after the other.
    fn write(&mut self, parts: &[&[u8]]) -> Result<(), Cause> {
        self.look_up()?;
        self.boundary = Boundary::Inside;
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            let written = self.write_some(left)?;
            self.written += written as u64;
            IoSlice::advance_slices(&mut left, written);
        }
        self.boundary = Boundary::Whole;
        Ok(())
    }

    /// At least one byte.
    fn write_some(&mut self, parts: &[IoSlice<'_>]) -> Result<usize, Cause> {
        let began = Instant::now();
        loop {
            match self.stream.write_vectored(parts) {
                Ok(0) => return Err(Cause::Closed),
                Ok(written) => return Ok(written),
                Err(error) => self.pardon(error, began)?,
            }
            self.look_up()?;
        }
    }

    /// Whether it was cancelled meanwhile.
    pub(crate) fn look_up(&self) -> Result<(), Cause> {
        if self.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }

    /// Whether an error only says that nothing moved for a tick, and patience lasts.
    fn pardon(&self, error: std::io::Error, began: Instant) -> Result<(), Cause> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut if began.elapsed() < self.patience => {
                Ok(())
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(Cause::Stalled(self.patience)),
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(Cause::Closed),
            _ => Err(Cause::Io(error)),
        }
    }
}

/// What a side that gives up for `cause` tells the other.
pub(crate) fn reason(cause: &Cause) -> Refusal {
    let kind = match cause {
        Cause::Cancelled => RefusalKind::Cancelled,
        Cause::Different(_) => RefusalKind::Different,
        Cause::Promised => RefusalKind::Known,
        Cause::OutOfMemory(_) | Cause::Thread(_) => RefusalKind::OutOfMemory,
        Cause::Wire(_) | Cause::Unexpected(_) | Cause::NotVellum => RefusalKind::Protocol,
        _ => RefusalKind::Other,
    };
    Refusal::new(kind, &cause.to_string())
}

#[cfg(test)]
impl Link {
    /// Whatever bytes, to see what the other side makes of them.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        // It may have had enough already.
        let _ = self.write(&[bytes]);
    }
}
