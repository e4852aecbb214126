use super::Signalled;
use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};

/// One at a time in a process.
static TURN: Mutex<()> = Mutex::new(());

fn with(pages: usize, test: impl FnOnce(&Signalled)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    test(&Signalled::new(pages).expect("there is memory"));
}

fn written(memory: &Signalled) -> Vec<usize> {
    let words: Vec<u64> = memory.written().collect();
    (0..words.len() * 64).filter(|page| words[page / 64] >> (page % 64) & 1 != 0).collect()
}

#[test]
fn a_store_is_noted_once_it_was_protected() {
    with(200, |memory| {
        memory.store(3, 1);
        memory.protect().expect("it is protected");
        assert!(written(memory).is_empty());
        [3, 64, 199, 3].into_iter().for_each(|page| memory.store(page, 7));
        assert_eq!(written(memory), [3, 64, 199]);
        assert_eq!(memory.load(199), 7);
        memory.protect().expect("it is protected");
        memory.store(64, 8);
        assert_eq!(written(memory), [64]);
    });
}

#[test]
fn reading_is_not_writing() {
    with(10, |memory| {
        memory.store(5, 5);
        memory.protect().expect("it is protected");
        assert_eq!(memory.load(5), 5);
        assert!(written(memory).is_empty());
    });
}

#[test]
fn threads_store_side_by_side() {
    with(2000, |memory| {
        memory.protect().expect("it is protected");
        std::thread::scope(|scope| {
            for part in 0..2 {
                scope.spawn(move || (0..1000).for_each(|page| memory.store(page * 2 + part, 1)));
            }
        });
        assert_eq!(written(memory).len(), 2000);
    });
}

#[test]
fn there_is_one_at_a_time() {
    with(1, |_| {
        assert_eq!(
            Signalled::new(1).err().map(|error| error.kind()),
            Some(ErrorKind::ResourceBusy)
        );
    });
    with(1, |_| {});
}
