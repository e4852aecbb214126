use super::*;
use proptest::prelude::*;
use vellum_memory::{AddressSpace, Gfn, GfnRange, Region, SlotId};

fn framed(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes);
    bytes
}

fn header_of(bytes: &[u8]) -> [u8; HEADER] {
    bytes[..HEADER].try_into().expect("a header is there")
}

/// Makes a changed header one that was meant.
fn seal_anew(bytes: &mut [u8; HEADER]) {
    let own = blake3::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&own.as_bytes()[..4]);
}

/// What comes out is what went in.
fn comes_back(message: &Message<'_>) {
    let bytes = framed(message);
    let header = Header::decode(header_of(&bytes)).expect("our own header");
    assert_eq!(header.kind, message.kind());
    assert_eq!(header.length, bytes.len() - HEADER);
    assert_eq!(header.check(&bytes[HEADER..]), Ok(()));
    assert_eq!(decode(header.kind, &bytes[HEADER..]).as_ref(), Ok(message));
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop::collection::vec((any::<u16>(), 0u16..2, 1u64..1 << 20, 0u64..1 << 10), 1..20).prop_map(
        |parts| {
            let mut next = 0;
            let place = |(slot, space, pages, gap): (u16, u16, u64, u64)| {
                let first = Gfn::new(next + gap);
                next = first.get() + pages;
                let range = GfnRange::new(first, pages).expect("far from the end");
                Region { slot: SlotId(slot), space: AddressSpace(space), range }
            };
            Layout::new(parts.into_iter().map(place).collect()).expect("one after the other")
        },
    )
}

fn runs(most_pages: u64) -> impl Strategy<Value = Vec<Run>> {
    let run = (any::<u64>(), 1..=most_pages).prop_map(|(first, pages)| Run { first, pages });
    prop::collection::vec(run, 1..32)
}

fn refusals() -> impl Strategy<Value = Refusal> {
    (0..RefusalKind::ALL.len(), ".{0,700}")
        .prop_map(|(kind, text)| Refusal::new(RefusalKind::ALL[kind], &text))
}

proptest! {
    #[test]
    fn hellos_come_back(id: u128, layout in layouts(), identity: Vec<u8>) {
        let migration = MigrationId(id);
        comes_back(&Message::Hello(Hello { migration, layout, identity: &identity }));
    }

    #[test]
    fn pages_come_back(region: u32, runs in runs(8), seed: u8) {
        let pages: u64 = runs.iter().map(|run| run.pages).sum();
        let data = vec![seed; pages as usize * PAGE];
        let message = Message::Pages(Pages { region, runs: Cow::Borrowed(&runs), data: &data });
        comes_back(&message);
        // The way that spares a copy says the same.
        let mut head = Vec::new();
        pages_head(region, &runs, data.len(), &mut head);
        head.extend_from_slice(&data);
        prop_assert_eq!(head, framed(&message));
    }

    #[test]
    fn zeros_come_back(region: u32, runs in runs(1 << 15)) {
        comes_back(&Message::Zero(Zero { region, runs: Cow::Owned(runs) }));
    }

    #[test]
    fn reasons_come_back(refusal in refusals()) {
        comes_back(&Message::Refuse(refusal.clone()));
        comes_back(&Message::Abort(refusal));
    }

    #[test]
    fn the_rest_comes_back(a: u128, b: u128, state: Vec<u8>, first: u64, hash: [u8; 32]) {
        let (instance, migration) = (InstanceId(a), MigrationId(b));
        comes_back(&Message::Accept(instance));
        comes_back(&Message::Query(Query { instance, migration }));
        comes_back(&Message::State(&state));
        comes_back(&Message::Digest(Hashes { region: a as u32, first, hashes: vec![hash; 3] }));
        for verify in [Verify::Compare, Verify::Skip] {
            comes_back(&Message::Finish(verify));
        }
        for answer in [Answer::Taken, Answer::Never, Answer::Stranger] {
            comes_back(&Message::Answer(answer));
        }
        for message in
            [Message::RoundEnd, Message::Ready, Message::HandOver, Message::Running]
        {
            comes_back(&message);
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_a_named_error(kind in 0..15usize, bytes: Vec<u8>) {
        let kind = Kind::ALL[kind];
        if let Ok(message) = decode(kind, &bytes) {
            prop_assert_eq!(message.kind(), kind);
        }
    }

    #[test]
    fn any_header_is_within_its_limit_or_refused(kind in 0..15usize, length: u32) {
        let header = Header::new(Kind::ALL[kind], length as usize, &[]);
        let within = length as usize <= header.kind.most();
        prop_assert_eq!(Header::decode(header.encode()).is_ok(), within);
        prop_assert!(!within || Header::decode(header.encode()) == Ok(header));
    }

    #[test]
    fn any_bytes_are_no_header(bytes: [u8; HEADER]) {
        prop_assert_eq!(Header::decode(bytes), Err(WireError::Seal));
    }

    #[test]
    fn a_message_cut_short_is_no_message(runs in runs(2), cut in 0.0..1.0f64, layout in layouts()) {
        let pages: u64 = runs.iter().map(|run| run.pages).sum();
        let data = vec![1; pages as usize * PAGE];
        let messages = [
            Message::Pages(Pages { region: 0, runs: Cow::Borrowed(&runs), data: &data }),
            Message::Zero(Zero { region: 0, runs: Cow::Borrowed(&runs) }),
            Message::Hello(Hello { migration: MigrationId(1), layout, identity: b"machine" }),
        ];
        for message in messages {
            let bytes = framed(&message);
            let body = &bytes[HEADER..];
            let kept = (body.len() as f64 * cut) as usize;
            prop_assert_eq!(decode(message.kind(), &body[..kept]), Err(WireError::Short));
            let longer = [body, &[0]].concat();
            prop_assert_eq!(decode(message.kind(), &longer), Err(WireError::Long(1)));
        }
    }

    #[test]
    fn a_changed_byte_is_found_out(state: Vec<u8>, runs in runs(2), at: prop::sample::Index, by in 1u8..) {
        let pages: u64 = runs.iter().map(|run| run.pages).sum();
        let data = vec![1; pages as usize * PAGE];
        let (region, instance) = (1, InstanceId(3));
        let layout = Layout::new(vec![]).expect("nothing overlaps");
        let messages = [
            Message::Pages(Pages { region, runs: Cow::Borrowed(&runs), data: &data }),
            Message::Zero(Zero { region, runs: Cow::Borrowed(&runs) }),
            Message::Hello(Hello { migration: MigrationId(1), layout, identity: b"m" }),
            Message::State(&state),
            Message::Finish(Verify::Compare),
            Message::Query(Query { instance, migration: MigrationId(4) }),
            Message::Answer(Answer::Never),
            Message::Running,
        ];
        for message in messages {
            let mut bytes = framed(&message);
            // The content of pages is compared in memory.
            let sealed = bytes.len() - if message.kind() == Kind::Pages { data.len() } else { 0 };
            let at = at.index(sealed);
            bytes[at] = bytes[at].wrapping_add(by);
            let checked = Header::decode(header_of(&bytes))
                .and_then(|header| header.check(&bytes[HEADER..]));
            prop_assert_eq!(checked, Err(WireError::Seal), "{} at {}", message.kind(), at);
        }
    }
}

#[test]
fn counts_above_their_limits_are_refused_before_anything_is_read() {
    let counted = |count: u32| [0u32.to_le_bytes(), count.to_le_bytes()].concat();
    for (kind, most) in
        [(Kind::Pages, MOST_PAGES), (Kind::Zero, MOST_RUNS), (Kind::Digest, MOST_HASHES)]
    {
        for count in [0, most as u32 + 1, u32::MAX] {
            assert_eq!(decode(kind, &counted(count)), Err(WireError::Count(count.into())));
        }
        assert_eq!(decode(kind, &counted(most as u32)), Err(WireError::Short));
    }
}

#[test]
fn runs_that_add_up_to_too_much_are_refused() {
    let with = |kind, runs: &[Run]| {
        let mut bytes = Vec::new();
        encode(&Message::Zero(Zero { region: 0, runs: Cow::Borrowed(runs) }), &mut bytes);
        decode(kind, &bytes[HEADER..]).map(|_| ())
    };
    let run = |pages| Run { first: 0, pages };
    let most = MOST_PAGES as u64;
    assert_eq!(with(Kind::Pages, &[run(most), run(1)]), Err(WireError::Count(most + 1)));
    assert_eq!(with(Kind::Pages, &[run(u64::MAX), run(2)]), Err(WireError::Count(u64::MAX)));
    assert_eq!(with(Kind::Zero, &[run(MOST_ZERO), run(1)]), Err(WireError::Count(MOST_ZERO + 1)));
    assert_eq!(with(Kind::Zero, &[run(MOST_ZERO)]), Ok(()));
    assert_eq!(with(Kind::Zero, &[run(0)]), Err(WireError::Count(0)));
}

#[test]
fn a_text_from_the_other_side_is_safe_to_print() {
    let text = Text::new("no\x1b[2Jroom\n\u{9b}31m");
    assert_eq!(text.to_string(), "no [2Jroom  31m");
    assert_eq!(Text::new(&"é".repeat(2000)).to_string().len(), MOST_TEXT);
    let payload = [&[0, 0, 0, 0][..], b"a\x07b"].concat();
    let Ok(Message::Abort(refusal)) = decode(Kind::Abort, &payload) else { panic!("a text") };
    assert_eq!(refusal.text.to_string(), "a b");
    assert_eq!(decode(Kind::Abort, &[0, 0, 0, 0, 0xff]), Err(WireError::Text));
}

#[test]
fn kinds_are_numbered_without_a_gap() {
    let numbers = Kind::ALL.map(|kind| kind as u8);
    assert!(numbers.into_iter().eq(1..=15));
    for (byte, value, wanted) in
        [(0, 0, WireError::Kind(0)), (0, 16, WireError::Kind(16)), (1, 1, WireError::Reserved)]
    {
        let mut bytes = Header::new(Kind::Ready, 0, &[]).encode();
        bytes[byte] = value;
        seal_anew(&mut bytes);
        assert_eq!(Header::decode(bytes), Err(wanted));
    }
}
