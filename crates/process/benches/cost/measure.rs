//! The measurements. Each prints a line.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::error::Error;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vellum_memory::{AddressSpace, DirtySource, Gfn, GfnRange, PageSet, SlotId};
use vellum_process::{Mapping, ProcessLog, WriteWatch, Writers};

type Failure = Box<dyn Error>;

const PAGE: usize = 4096;
/// 1 GiB.
const PAGES: usize = 1 << 18;
const SAMPLES: usize = 11;
/// Faults of the watch in a sample.
const FAULTS: usize = 2000;

/// Memory that is there as long as the program.
#[derive(Clone, Copy)]
struct Memory(*mut u8);

// SAFETY: accessed as atomics only.
#[allow(unsafe_code)]
unsafe impl Send for Memory {}

impl Memory {
    #[allow(unsafe_code)]
    fn new(advice: Advice) -> Result<Self, Failure> {
        let (flags, read_write) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping, where the kernel likes.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), PAGES * PAGE, read_write, flags) }?;
        // SAFETY: it has no content yet.
        unsafe { madvise(base, PAGES * PAGE, advice) }?;
        Ok(Self(base.cast()))
    }

    fn mapping(self) -> Result<Vec<Mapping>, Failure> {
        let range = GfnRange::new(Gfn::new(0), PAGES as u64).ok_or("too many pages")?;
        Ok(vec![Mapping::new(SlotId(0), AddressSpace::NORMAL, range, self.0)?])
    }

    #[allow(unsafe_code)]
    fn log(self) -> Result<ProcessLog, Failure> {
        // SAFETY: M: it is never unmapped.
        Ok(unsafe { ProcessLog::new(self.mapping()?) }?)
    }

    /// Stores to every `step`-th page.
    #[allow(unsafe_code)]
    fn write(self, step: usize) {
        for page in (0..PAGES).step_by(step) {
            let word = self.0.wrapping_add(page * PAGE).cast::<AtomicU64>();
            // SAFETY: in the mapping, aligned, and accessed as atomics only.
            unsafe { &*word }.store(page as u64, Ordering::Relaxed);
        }
    }
}

pub(crate) fn all() -> Result<(), Failure> {
    println!("{PAGES} pages of 4 KiB, {SAMPLES} samples\n");
    println!("{:<48} {:>12} {:>12} {:>12}", "", "median", "each", "least each");
    let small = Memory::new(Advice::LinuxNoHugepage)?;
    starting("start, no page there", small)?;
    small.write(1);
    starting("start, every page there", small)?;
    writing("write to each page, not logged", small, Log::Off)?;
    writing("write to each page, logged", small, Log::On)?;
    for (name, step) in [("all", 1), ("every other", 2), ("1 %", 100), ("0.01 %", 10_000)] {
        collecting(&format!("collect, {name} dirty"), small, Some(step))?;
    }
    collecting("collect, none dirty", small, None)?;
    let huge = Memory::new(Advice::LinuxHugepage)?;
    huge.write(1);
    starting("start, huge pages", huge)?;
    writing("write to each page, logged, huge pages at first", huge, Log::On)?;
    let huge = Memory::new(Advice::LinuxHugepage)?;
    huge.write(1);
    collecting("collect, none dirty, huge pages", huge, None)?;
    watching(small)
}

/// Whether writes are logged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    On,
    Off,
}

fn starting(name: &str, memory: Memory) -> Result<(), Failure> {
    let mut log = memory.log()?;
    tell(name, PAGES, || {
        log.stop()?;
        let began = Instant::now();
        log.start()?;
        Ok(began.elapsed())
    })
}

fn writing(name: &str, memory: Memory, logged: Log) -> Result<(), Failure> {
    let mut log = memory.log()?;
    tell(name, PAGES, || {
        if logged == Log::On {
            log.start()?;
        }
        let began = Instant::now();
        memory.write(1);
        Ok(began.elapsed())
    })
}

fn collecting(name: &str, memory: Memory, step: Option<usize>) -> Result<(), Failure> {
    let mut log = memory.log()?;
    let mut round = PageSet::new(log.layout());
    log.start()?;
    tell(name, PAGES, || {
        if let Some(step) = step {
            memory.write(step);
        }
        round.clear();
        let began = Instant::now();
        log.collect(&mut round)?;
        let time = began.elapsed();
        let expected = step.map_or(0, |step| PAGES.div_ceil(step));
        if round.count() == expected as u64 { Ok(time) } else { Err("it is not exact".into()) }
    })
}

/// A writer's wait for its answer, by a thread that has nothing else to do.
#[allow(unsafe_code)]
fn watching(memory: Memory) -> Result<(), Failure> {
    // SAFETY: M: it is never unmapped.
    let watch = unsafe { WriteWatch::new(memory.mapping()?, Writers::Threads) }?;
    let all = GfnRange::new(Gfn::new(0), PAGES as u64).ok_or("too many pages")?;
    tell("write to a watched page, allowed at once", FAULTS, || {
        watch.protect(0, all)?;
        let writer = std::thread::spawn(move || {
            let began = Instant::now();
            memory.write(PAGES / FAULTS);
            began.elapsed() * u32::try_from(FAULTS).unwrap_or(1)
                / u32::try_from(PAGES.div_ceil(PAGES / FAULTS)).unwrap_or(1)
        });
        while !writer.is_finished() {
            if let Some(event) = watch.wait(Some(Duration::from_millis(1)))? {
                watch.allow(event.region, event.page)?;
            }
        }
        writer.join().map_err(|_| "the writer panicked".into())
    })
}

/// Prints the median of some samples, as a whole and by each of `many`, and the least.
fn tell(
    name: &str,
    many: usize,
    mut sample: impl FnMut() -> Result<Duration, Failure>,
) -> Result<(), Failure> {
    sample()?;
    let mut samples = (0..SAMPLES).map(|_| sample()).collect::<Result<Vec<_>, _>>()?;
    samples.sort();
    let (least, median) = (samples[0], samples[SAMPLES / 2]);
    let [least_each, each] = [least, median].map(|time| time.as_nanos() as f64 / many as f64);
    let whole = median.as_secs_f64() * 1e3;
    println!("{name:<48} {whole:>9.3} ms {each:>9.2} ns {least_each:>9.2} ns");
    Ok(())
}
