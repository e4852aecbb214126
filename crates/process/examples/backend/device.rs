//! A device: a thread that writes to memory shared with a guest, and remembers what it wrote.

use crate::source::Failure;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap, PAGE_BYTES, Page};
use vellum_memory::{AddressSpace, Gfn, GfnRange, Layout, PAGE_SIZE, Region, SlotId};
use vm_memory::FileOffset;

/// 64 MiB.
const COUNT: usize = 16_384;
pub(crate) const PAGES: u64 = COUNT as u64;
/// Where most of its writes go.
const HOT: u64 = 512;
/// What is in flight when it is asked to stop, and is finished first.
const IN_FLIGHT: u64 = 64;
/// The size of its saved state.
const STATE_BYTES: usize = 16 + 4 * COUNT;

/// The memory that the guest, its hypervisor and the back ends share.
pub(crate) fn shared_memory() -> Result<GuestMemoryMmap, Failure> {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC)?);
    file.set_len(PAGES * PAGE_SIZE)?;
    let region =
        (GuestAddress(0), usize::try_from(PAGES * PAGE_SIZE)?, Some(FileOffset::new(file, 0)));
    Ok(GuestMemoryMmap::from_ranges_with_files([region])?)
}

/// The same as a layout.
pub(crate) fn layout() -> Result<Layout, Failure> {
    let range = GfnRange::new(Gfn::new(0), PAGES).ok_or("too many pages")?;
    Ok(Layout::new(vec![Region { slot: SlotId(0), space: AddressSpace::NORMAL, range }])?)
}

/// A device and its thread. Dropping it ends the thread.
pub(crate) struct Device {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    memory: GuestMemoryMmap,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    run: Run,
    /// Requests done.
    writes: u64,
    draw: u64,
    /// How often each page was written.
    versions: Vec<u32>,
    /// What arrives from outside, to be read into memory.
    wire: (UnixStream, UnixStream),
}

/// What the thread does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Running,
    Paused,
    Over,
}

impl Device {
    /// A device that has written nothing, and is paused.
    pub(crate) fn new(memory: &GuestMemoryMmap) -> Result<Self, Failure> {
        Self::of(memory, 0, 0x5eed, vec![0; COUNT])
    }

    /// One that goes on from `state`, paused.
    pub(crate) fn restored(memory: &GuestMemoryMmap, state: &[u8]) -> Result<Self, Failure> {
        if state.len() != STATE_BYTES {
            return Err("it is no state of this device".into());
        }
        let (numbers, versions) = state.split_at(16);
        let (writes, draw) = numbers.split_at(8);
        let versions = versions.as_chunks().0.iter().map(|version| u32::from_le_bytes(*version));
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes);
        Self::of(memory, number(writes)?, number(draw)? | 1, versions.collect())
    }

    fn of(
        memory: &GuestMemoryMmap,
        writes: u64,
        draw: u64,
        versions: Vec<u32>,
    ) -> Result<Self, Failure> {
        let state = State { run: Run::Paused, writes, draw, versions, wire: UnixStream::pair()? };
        let (memory, state) = (memory.clone(), Mutex::new(state));
        let shared = Arc::new(Shared { memory, state, changed: Condvar::new() });
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("device".into());
        let thread = Some(thread.spawn(move || its.work())?);
        Ok(Self { shared, thread })
    }

    pub(crate) fn resume(&self) {
        self.shared.set(Run::Running);
    }

    /// Finishes what is in flight, and stops. On return it writes nothing.
    pub(crate) fn pause(&self) {
        let mut state = self.shared.state();
        if state.run == Run::Running {
            (0..IN_FLIGHT).for_each(|_| self.shared.serve(&mut state));
        }
        state.run = Run::Paused;
    }

    /// Waits until it has done so many requests.
    pub(crate) fn wait_for(&self, writes: u64) {
        let short = |state: &mut State| state.writes < writes;
        drop(self.shared.changed.wait_while(self.shared.state(), short));
    }

    pub(crate) fn writes(&self) -> u64 {
        self.shared.state().writes
    }

    /// All that it remembers.
    pub(crate) fn save(&self) -> Vec<u8> {
        let state = self.shared.state();
        let versions = state.versions.iter().flat_map(|version| version.to_le_bytes());
        let numbers = [state.writes, state.draw].into_iter().flat_map(u64::to_le_bytes);
        numbers.chain(versions).collect()
    }

    /// Looks whether each page is as it was last written. How many were written at all?
    pub(crate) fn check(&self) -> Result<usize, Failure> {
        let state = self.shared.state();
        for (page, &version) in (0..).zip(&state.versions) {
            let mut found: Page = [0; PAGE_BYTES];
            self.shared.memory.read_slice(&mut found, GuestAddress(page * PAGE_SIZE))?;
            if found != content(page, version) {
                return Err(format!("page {page} is not as its write {version} left it").into());
            }
        }
        Ok(state.versions.iter().filter(|&&version| version != 0).count())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.set(Run::Over);
        // It has nothing to say, and nothing that could panic on our side.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, run: Run) {
        self.state().run = run;
        self.changed.notify_all();
    }

    /// The thread: a request under each hold of the lock, so that a pause finds none half done.
    fn work(&self) {
        loop {
            let paused = |state: &mut State| state.run == Run::Paused;
            let waited = self.changed.wait_while(self.state(), paused);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.run == Run::Over {
                return;
            }
            self.serve(&mut state);
            self.changed.notify_all();
        }
    }

    /// One request: fills a page, in every other case by a system call that reads into it.
    fn serve(&self, state: &mut State) {
        let page = state.draw_page();
        let version = &mut state.versions[usize::try_from(page).expect("a page")];
        *version += 1;
        let content = content(page, *version);
        let at = GuestAddress(page * PAGE_SIZE);
        if state.writes.is_multiple_of(2) {
            self.memory.write_slice(&content, at).expect("in memory");
        } else {
            let (outside, here) = &mut state.wire;
            outside.write_all(&content).expect("room for a page");
            self.memory.read_exact_volatile_from(at, here, PAGE_BYTES).expect("a page to read");
        }
        state.writes += 1;
    }
}

impl State {
    /// Seven times of eight one that is written often (xorshift64*).
    fn draw_page(&mut self) -> u64 {
        self.draw ^= self.draw >> 12;
        self.draw ^= self.draw << 25;
        self.draw ^= self.draw >> 27;
        let drawn = self.draw.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16;
        if drawn.is_multiple_of(8) { (drawn >> 3) % PAGES } else { (drawn >> 3) % HOT }
    }
}

/// What a page holds after so many writes: zeros after none.
fn content(page: u64, version: u32) -> Page {
    let mut content = [0; PAGE_BYTES];
    if version != 0 {
        let seed = page << 32 | u64::from(version);
        let words = content.as_chunks_mut::<8>().0;
        (1..).zip(words).for_each(|(word, bytes)| *bytes = (seed * word).to_le_bytes());
    }
    content
}
