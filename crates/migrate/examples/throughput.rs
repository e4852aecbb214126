//! How fast the channel is: a paused guest's pages over a Unix socket, random and zero, against a
//! bare copy through a socket of the same kind. Run it with `--release`.
#![allow(clippy::cast_possible_truncation)] // bytes made of counters

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap};
use vellum_memory::{
    AddressSpace, DirtySource, Gfn, GfnRange, Layout, LayoutError, PAGE_SIZE, PageSet, Region,
    SlotId,
};
use vellum_migrate::{
    Address, Destination, Fresh, IncomingGuest, Limits, Options, Outcome, Receiver, Refusal,
    SourceGuest, Verify, migrate,
};

const PAGES: u64 = 1 << 17;
const BYTES: usize = (PAGES * PAGE_SIZE) as usize;
const TURNS: usize = 5;

/// A guest that never stores.
struct Still {
    memory: GuestMemoryMmap,
    log: NothingDirty,
    fresh: Fresh,
}

/// Its log.
struct NothingDirty(Layout);

/// It cannot fail.
#[derive(Debug, thiserror::Error)]
enum Never {}

impl DirtySource for NothingDirty {
    type Error = Never;
    fn method(&self) -> &'static str {
        "none"
    }
    fn layout(&self) -> &Layout {
        &self.0
    }
    fn start(&mut self) -> Result<(), Never> {
        Ok(())
    }
    fn stop(&mut self) -> Result<(), Never> {
        Ok(())
    }
    fn collect(&mut self, _: &mut PageSet) -> Result<(), Never> {
        Ok(())
    }
    fn owe(&mut self, _: &PageSet) {}
}

impl SourceGuest for Still {
    type Memory = GuestMemoryMmap;
    type Dirty = NothingDirty;
    type Error = Never;
    fn identity(&self) -> Vec<u8> {
        Vec::new()
    }
    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        &self.memory
    }
    fn dirty(&mut self) -> &mut NothingDirty {
        &mut self.log
    }
    fn pause(&mut self) {}
    fn resume(&mut self) {}
    fn save_state(&mut self) -> Result<Vec<u8>, Never> {
        Ok(Vec::new())
    }
}

impl IncomingGuest for Still {
    type Memory = GuestMemoryMmap;
    type Error = Never;
    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        &self.memory
    }
    fn fresh(&self) -> Fresh {
        self.fresh
    }
    fn restore(&mut self, _: &[u8]) -> Result<(), Never> {
        Ok(())
    }
    fn resume(&mut self) {}
}

/// A place for it, kept between turns so that every page is there already.
struct Home(Option<Still>);

impl Destination for Home {
    type Guest = Still;
    fn prepare(&mut self, _: &[u8], _: &Layout) -> Result<Still, Refusal> {
        self.0.take().ok_or(Refusal::new(vellum_migrate::RefusalKind::Busy, "one at a time"))
    }
}

fn layout() -> Result<Layout, LayoutError> {
    let range = GfnRange::new(Gfn::new(0), PAGES).ok_or(LayoutError::Empty(0))?;
    Layout::new(vec![Region { slot: SlotId(0), space: AddressSpace::NORMAL, range }])
}

fn still(fill: impl Fn(usize) -> u8) -> Result<Still, Box<dyn Error>> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), BYTES)])?;
    let bytes: Vec<u8> = (0..BYTES).map(fill).collect();
    memory.write_slice(&bytes, GuestAddress(0))?;
    Ok(Still { memory, log: NothingDirty(layout()?), fresh: Fresh::Anything })
}

/// One migration: the time of its first round.
fn move_once(
    guest: &mut Still,
    home: &mut Home,
    receiver: &Receiver,
) -> Result<Duration, Box<dyn Error>> {
    let options = Options { verify: Verify::Skip, ..Options::default() };
    let limits = Limits::default();
    let (arrived, time) = thread::scope(|scope| {
        let there = scope.spawn(|| receiver.receive(home, &limits, &mut |_| {}, &mut |_| {}));
        let Outcome::Moved(moved) = migrate(guest, receiver.address(), &options, &mut |_| {})
        else {
            return Err("it was not moved".into());
        };
        let arrived = there.join().map_err(|_| "the destination panicked")??.guest;
        let time = moved.report.rounds.iter().map(|round| round.time).sum();
        Ok::<_, Box<dyn Error>>((arrived, time))
    })?;
    home.0 = Some(arrived);
    Ok(time)
}

/// The same bytes from one buffer to another, in the same pieces.
fn bare_copy() -> Result<Duration, Box<dyn Error>> {
    let (mut near, mut far) = UnixStream::pair()?;
    let from: Vec<u8> = (0..BYTES).map(|i| (i * 7 + 1) as u8).collect();
    let mut to = vec![1; BYTES];
    let began = Instant::now();
    thread::scope(|scope| -> std::io::Result<()> {
        let sender =
            scope.spawn(move || from.chunks(1 << 20).try_for_each(|piece| near.write_all(piece)));
        far.read_exact(&mut to)?;
        sender.join().expect("it does not panic")
    })?;
    Ok(began.elapsed())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    BYTES as f64 / times[times.len() / 2].as_secs_f64() / 1e9
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("vellum-throughput-{}", std::process::id()));
    let receiver = Receiver::bind(&Address::Unix(path))?;
    let mut random = still(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1)?;
    let mut zero = still(|_| 0)?;
    let mut full_home = Home(Some(still(|_| 1)?));
    let mut zero_home = Home(Some(still(|_| 0)?));
    let mut fresh_home = Home(Some(Still { fresh: Fresh::Zeros, ..still(|_| 0)? }));
    let [mut bare, mut full, mut empty, mut fresh] = [const { Vec::new() }; 4];
    for _ in 0..TURNS {
        bare.push(bare_copy()?);
        full.push(move_once(&mut random, &mut full_home, &receiver)?);
        empty.push(move_once(&mut zero, &mut zero_home, &receiver)?);
        fresh.push(move_once(&mut zero, &mut fresh_home, &receiver)?);
    }
    let [bare, full, empty, fresh] = [bare, full, empty, fresh].map(median);
    println!("bare socket copy              {bare:6.2} GB/s");
    println!("random pages                  {full:6.2} GB/s  {:.2} of it", full / bare);
    println!("zero pages over anything      {empty:6.2} GB/s  {:.2} of it", empty / bare);
    println!("zero pages over fresh memory  {fresh:6.2} GB/s  {:.2} of it", fresh / bare);
    Ok(())
}
