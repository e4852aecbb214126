use super::*;
use std::cell::Cell;

/// Walks as a test tells them.
struct Told {
    now: Cell<u64>,
    oldest: Cell<u64>,
}

fn told(now: u64, oldest: u64) -> Told {
    Told { now: Cell::new(now), oldest: Cell::new(oldest) }
}

impl Walks for Told {
    fn now(&self) -> u64 {
        self.now.get()
    }

    fn oldest(&self) -> u64 {
        self.oldest.get()
    }
}

fn entry(frame: Pfn, index: usize) -> &'static AtomicU64 {
    super::entry(frame, index).expect("a frame is not at address zero")
}

#[test]
fn a_frame_is_zeroed_aligned_and_its_own() {
    let frames = Frames::new(None);
    let walks = told(0, u64::MAX);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 * CHUNK_FRAMES {
        let frame = frames.allocate(&walks).expect("the host has memory");
        assert!(seen.insert(frame), "{frame} was handed out twice");
        assert!((0..ENTRIES).all(|index| entry(frame, index).load(Ordering::Relaxed) == 0));
        entry(frame, 7).store(1, Ordering::Relaxed);
    }
    assert_eq!(frames.live(), 3 * CHUNK_FRAMES);
}

#[test]
fn a_frame_is_not_reused_while_a_walk_may_be_in_it() {
    let frames = Frames::new(None);
    let walks = told(5, 4);
    let frame = frames.allocate(&walks).expect("the host has memory");
    entry(frame, 3).store(7, Ordering::Relaxed);
    frames.release(frame, &walks);
    assert_ne!(frames.allocate(&walks), Some(frame), "a walk of epoch 4 may hold it");
    assert_eq!(frames.quarantined(), 1);
    walks.oldest.set(5);
    assert_eq!(frames.allocate(&walks), Some(frame), "a walk of epoch 5 cannot find it");
    assert_eq!(entry(frame, 3).load(Ordering::Relaxed), 0, "reused, so zeroed");
}

#[test]
fn the_quarantine_ends_frame_by_frame() {
    let frames = Frames::new(None);
    let walks = told(1, 0);
    let early = frames.allocate(&walks).expect("the host has memory");
    let late = frames.allocate(&walks).expect("the host has memory");
    frames.release(early, &walks);
    walks.now.set(2);
    frames.release(late, &walks);
    walks.oldest.set(1);
    assert_eq!(frames.allocate(&walks), Some(early));
    assert_eq!(frames.quarantined(), 1);
}

#[test]
fn a_limit_counts_what_is_handed_out() {
    let frames = Frames::new(Some(1));
    let walks = told(0, u64::MAX);
    let frame = frames.allocate(&walks).expect("below the limit");
    assert_eq!(frames.allocate(&walks), None);
    frames.release(frame, &walks);
    assert!(frames.allocate(&walks).is_some());
}

#[test]
fn a_run_is_zeroed_side_by_side_aligned_and_its_own() {
    let frames = Frames::new(None);
    let walks = told(0, u64::MAX);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..2 * CHUNK_FRAMES / 16 {
        let count = 1u32 << (round % 5);
        let first = frames.allocate_run(count, &walks).expect("the host has memory");
        assert!(first.get().is_multiple_of(u64::from(count)), "{first} begins {count}");
        let single = frames.allocate(&walks).expect("the host has memory");
        let run = (0..u64::from(count)).map(|place| Pfn::new(first.get() + place));
        for frame in run.chain([single]) {
            assert!(seen.insert(frame), "{frame} was handed out twice");
            assert!((0..ENTRIES).all(|index| entry(frame, index).load(Ordering::Relaxed) == 0));
            entry(frame, 7).store(1, Ordering::Relaxed);
        }
    }
    assert_eq!(frames.live(), seen.len() as u64);
}

#[test]
fn frames_skipped_to_align_a_run_are_handed_out_one_by_one() {
    let frames = Frames::new(None);
    let walks = told(0, u64::MAX);
    for _ in 0..CHUNK_FRAMES / 16 + 10 {
        frames.allocate(&walks).expect("the host has memory");
        frames.allocate_run(8, &walks).expect("the host has memory");
    }
    assert_eq!(frames.arena().chunks.len(), 1, "the gaps are used");
}

#[test]
fn a_run_is_not_reused_while_a_walk_may_be_in_it() {
    let frames = Frames::new(None);
    let walks = told(5, 4);
    let run = frames.allocate_run(4, &walks).expect("the host has memory");
    let last = Pfn::new(run.get() + 3);
    entry(last, 511).store(7, Ordering::Relaxed);
    frames.release_run(run, 4, &walks);
    assert_ne!(frames.allocate_run(4, &walks), Some(run), "a walk of epoch 4 may hold it");
    walks.oldest.set(5);
    assert_ne!(frames.allocate_run(2, &walks), Some(run), "a run keeps its length");
    assert_eq!(frames.allocate_run(4, &walks), Some(run), "a walk of epoch 5 cannot find it");
    assert_eq!(entry(last, 511).load(Ordering::Relaxed), 0, "reused, so zeroed");
}

#[test]
fn a_limit_counts_the_frames_of_a_run() {
    let frames = Frames::new(Some(8));
    let walks = told(0, u64::MAX);
    assert_eq!(frames.allocate_run(16, &walks), None);
    let run = frames.allocate_run(8, &walks).expect("as many as there may be");
    assert_eq!(frames.allocate(&walks), None);
    frames.release_run(run, 8, &walks);
    assert_eq!(frames.live(), 0);
}

#[test]
fn no_run_has_a_length_that_no_processor_walks() {
    let frames = Frames::new(None);
    for length in [0, 3, 12, 32, u32::MAX] {
        assert_eq!(frames.allocate_run(length, &told(0, u64::MAX)), None, "{length}");
    }
}

#[test]
fn the_kth_allocation_fails_once() {
    let frames = Frames::new(None);
    let walks = told(0, u64::MAX);
    frames.fail_after(Some(2));
    let outcomes: Vec<bool> = (0..5).map(|_| frames.allocate(&walks).is_some()).collect();
    assert_eq!(outcomes, [true, true, false, true, true]);
    assert!(!frames.failure_pending());
}
