//! From meaning to bytes. The limits hold for what is passed in: the callers keep them.

use super::{
    Answer, HEADER, Hashes, Header, Hello, Kind, Message, PAGE, Pages, Refusal, Run, Verify, Zero,
    number_of,
};

/// Appends `message`, header first, to `to`.
pub(crate) fn encode(message: &Message<'_>, to: &mut Vec<u8>) {
    let start = to.len();
    to.extend([0; HEADER]);
    payload(message, to);
    let length = to.len() - start - HEADER;
    seal(message.kind(), length, &mut to[start..]);
}

/// Fills in the header of a message that has `length` bytes of payload.
fn seal(kind: Kind, length: usize, message: &mut [u8]) {
    let (header, payload) = message.split_at_mut(HEADER);
    header.copy_from_slice(&Header::new(kind, length, payload).encode());
}

/// Appends the beginning of a [`Message::Pages`]: all but its data, which goes to the socket
/// without another copy.
pub(crate) fn pages_head(region: u32, runs: &[Run], data: usize, to: &mut Vec<u8>) {
    let length = 8 + runs.len() * super::RUN + data;
    debug_assert_eq!(data, runs.iter().map(|run| usize_of(run.pages) * PAGE).sum::<usize>());
    let start = to.len();
    to.extend([0; HEADER]);
    put_runs(region, runs, to);
    seal(Kind::Pages, length, &mut to[start..]);
}

fn payload(message: &Message<'_>, to: &mut Vec<u8>) {
    match message {
        Message::Hello(hello) => put_hello(hello, to),
        Message::Accept(instance) => to.extend(instance.0.to_le_bytes()),
        Message::Refuse(refusal) | Message::Abort(refusal) => put_refusal(refusal, to),
        Message::Pages(Pages { region, runs, data }) => {
            put_runs(*region, runs, to);
            to.extend_from_slice(data);
        }
        Message::Zero(Zero { region, runs }) => put_runs(*region, runs, to),
        Message::State(state) => to.extend_from_slice(state),
        Message::Finish(verify) => to.extend([verify_number(*verify), 0, 0, 0]),
        Message::Digest(hashes) => put_hashes(hashes, to),
        Message::Query(query) => {
            to.extend(query.instance.0.to_le_bytes());
            to.extend(query.migration.0.to_le_bytes());
        }
        Message::Answer(answer) => to.extend([answer_number(*answer), 0, 0, 0]),
        Message::RoundEnd | Message::Ready | Message::HandOver | Message::Running => {}
    }
}

fn put_hello(hello: &Hello<'_>, to: &mut Vec<u8>) {
    to.extend(hello.migration.0.to_le_bytes());
    to.extend(number_of(hello.layout.regions().len()).to_le_bytes());
    to.extend(number_of(hello.identity.len()).to_le_bytes());
    for region in hello.layout.regions() {
        to.extend(region.slot.0.to_le_bytes());
        to.extend(region.space.0.to_le_bytes());
        to.extend([0; 4]);
        to.extend(region.range.first().get().to_le_bytes());
        to.extend(region.range.pages().to_le_bytes());
    }
    to.extend_from_slice(hello.identity);
}

fn put_runs(region: u32, runs: &[Run], to: &mut Vec<u8>) {
    to.extend(region.to_le_bytes());
    to.extend(number_of(runs.len()).to_le_bytes());
    for run in runs {
        to.extend(run.first.to_le_bytes());
        to.extend(run.pages.to_le_bytes());
    }
}

fn put_hashes(hashes: &Hashes, to: &mut Vec<u8>) {
    to.extend(hashes.region.to_le_bytes());
    to.extend(number_of(hashes.hashes.len()).to_le_bytes());
    to.extend(hashes.first.to_le_bytes());
    for hash in &hashes.hashes {
        to.extend_from_slice(hash);
    }
}

fn put_refusal(refusal: &Refusal, to: &mut Vec<u8>) {
    to.extend([refusal.kind as u8, 0, 0, 0]);
    to.extend_from_slice(refusal.text.0.as_bytes());
}

fn verify_number(verify: Verify) -> u8 {
    match verify {
        Verify::Skip => 0,
        Verify::Compare => 1,
    }
}

fn answer_number(answer: Answer) -> u8 {
    match answer {
        Answer::Never => 0,
        Answer::Taken => 1,
        Answer::Stranger => 2,
    }
}

fn usize_of(pages: u64) -> usize {
    usize::try_from(pages).unwrap_or(usize::MAX)
}
