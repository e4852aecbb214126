//! try
use std::sync::atomic::{AtomicBool, Ordering};
use vellum_machine::board::{Board, BoardConfig, PageSize};
use vellum_machine::bus::{Bus, Width};
use vellum_mmu::Initial;
use vellum_pte::*;
#[test]
fn try_it() {
    let config = BoardConfig::with_memory(1 << 30).expect("in range");
    let board = Board::<Stage2>::new(&BoardConfig { pages: PageSize::Huge2M, ..config }).unwrap();
    let over = AtomicBool::new(false);
    let base = 0x8000_0000u64;
    std::thread::scope(|s| {
        for seed in 1..3u64 {
            let (board, over) = (&board, &over);
            s.spawn(move || {
                let mut port = board.port().unwrap();
                let mut r = seed;
                while !over.load(Ordering::Relaxed) {
                    r ^= r << 13; r ^= r >> 7; r ^= r << 17;
                    let page = r % 500;
                    if let Err(e) = port.load(Gpa::new(base + page * 4096), Width::Byte) {
                        over.store(true, Ordering::Relaxed);
                        panic!("{e}");
                    }
                }
            });
        }
        let mut port = board.port().unwrap();
        let n = 400u64;
        for i in 0..3000 {
            if over.load(Ordering::Relaxed) { println!("found at {i}"); break; }
            for b in 0..n { port.load(Gpa::new(base + (b << 21) + 511*4096), Width::Byte).unwrap(); }
            board.mmu().start_log(SlotId(0), Initial::Clean).unwrap();
            for _ in 0..3 { std::thread::yield_now(); }
            let range = GfnRange::new(Gfn::new((base >> 12) + 511), n * 512 - 511).unwrap();
            drop(board.mmu().invalidate(AddressSpace::NORMAL, range));
            board.mmu().stop_log(SlotId(0)).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
}
