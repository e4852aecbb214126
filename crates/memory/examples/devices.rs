//! A guest with two kinds of writers: a vCPU, whose stores the hypervisor logs, and a device, whose
//! writes no hypervisor sees. `main` copies it into a second memory while both write, by the union of
//! two logs; and then once more by the vCPU's log alone, to see what that loses.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use vellum_memory::guest::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, PAGE_BYTES, Page, logged_view, read_page,
    write_page,
};
use vellum_memory::{
    AddressSpace, AlwaysLogs, DeviceLog, DirtySource, ForeignLog, Gfn, GfnRange, Layout, PageSet,
    Region, SlotId, Sources,
};

type Failure = Box<dyn Error + Send + Sync>;

const SPACE: AddressSpace = AddressSpace::NORMAL;
const FIRST: u64 = 0x100;
const PAGES: u64 = 1000;

/// Which logs the consumer has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Logs {
    VcpuAndDevice,
    VcpuAlone,
}

/// Copies the guest while it runs. How many pages differ in the end?
fn migrate(logs: Logs) -> Result<usize, Failure> {
    let (here, there) = (memory()?, memory()?);
    let range = GfnRange::new(Gfn::new(FIRST), PAGES).ok_or("past the last page")?;
    let layout = Layout::new(vec![Region { slot: SlotId(0), space: SPACE, range }])?;

    // The hypervisor's log. Here it is a bitmap that it sets bits in; yours may be vellum-mmu's.
    let bitmap: Arc<[AtomicU64]> = (0..=(FIRST + PAGES) / 64).map(|_| AtomicU64::new(0)).collect();
    let mut log = Sources::new(ForeignLog::new(&layout, SPACE, bitmap.clone(), AlwaysLogs)?)?;
    // The devices' log, and what a device is given as memory: the same bytes, each write marked.
    let device_log = DeviceLog::new(&layout)?;
    let for_devices = logged_view(&here, SPACE, &device_log.marker())?;
    if logs == Logs::VcpuAndDevice {
        log.add(device_log)?;
    }

    let guest = Guest::default();
    thread::scope(|scope| {
        scope.spawn(|| guest.run(0, |step| vcpu_store(&here, &bitmap, step)));
        scope.spawn(|| guest.run(1, |step| device_write(&for_devices, step)));
        let copied = copy_running(&mut log, &here, &there, &guest);
        guest.paused.store(true, Ordering::Release);
        copied
    })?;
    // Paused means that both threads are over: nobody is between a write and its mark.
    round(&mut log, &here, &there)?;
    log.stop()?;
    let differs = |page: &u64| page_of(&here, *page).ok() != page_of(&there, *page).ok();
    Ok((0..PAGES).filter(differs).count())
}

/// Everything first, then rounds of what was written meanwhile.
fn copy_running(
    log: &mut Sources<'_>,
    here: &GuestMemoryMmap,
    there: &GuestMemoryMmap,
    guest: &Guest,
) -> Result<(), Failure> {
    log.start()?;
    deliver(&PageSet::full(log.layout()), here, there)?;
    for _ in 0..20 {
        guest.let_it_write();
        round(log, here, there)?;
    }
    guest.let_it_write();
    Ok(())
}

/// Collect, protect, and only then read. What cannot be delivered is owed.
fn round(
    log: &mut Sources<'_>,
    here: &GuestMemoryMmap,
    there: &GuestMemoryMmap,
) -> Result<(), Failure> {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round)?;
    let range = round.regions()[0].region().range;
    log.protect(0, range, &mut round)?;
    deliver(&round, here, there).inspect_err(|_| log.owe(&round))
}

fn deliver(
    pages: &PageSet,
    here: &GuestMemoryMmap,
    there: &GuestMemoryMmap,
) -> Result<(), Failure> {
    for page in pages.regions()[0].pages() {
        write_page(there, Gfn::new(FIRST + page), &page_of(here, page)?)?;
    }
    Ok(())
}

/// A vCPU stores to an even page, and the hypervisor notes it.
fn vcpu_store(memory: &GuestMemoryMmap, bitmap: &[AtomicU64], step: u64) {
    let gfn = Gfn::new(FIRST + step * 2 % PAGES);
    memory.write_obj(step, GuestAddress(gfn.gpa().get())).expect("in memory");
    bitmap[(gfn.get() / 64) as usize]
        .fetch_or((1u64 << (gfn.get() % 64)).to_le(), Ordering::Release);
}

/// A device writes to an odd page. It takes any `GuestMemory` and knows of no log.
fn device_write<M: GuestMemory>(memory: &M, step: u64) {
    let gfn = Gfn::new(FIRST + step * 2 % PAGES + 1);
    memory.write_obj(step, GuestAddress(gfn.gpa().get() + 8)).expect("in memory");
}

/// Two threads that write, by number, until they are paused.
#[derive(Default)]
struct Guest {
    paused: AtomicBool,
    steps: [AtomicU64; 2],
}

impl Guest {
    fn run(&self, writer: usize, mut write: impl FnMut(u64)) {
        while !self.paused.load(Ordering::Acquire) {
            write(self.steps[writer].fetch_add(1, Ordering::Release));
        }
    }

    /// Waits until both have written a few hundred times more.
    fn let_it_write(&self) {
        for steps in &self.steps {
            let enough = steps.load(Ordering::Acquire) + 300;
            while steps.load(Ordering::Acquire) < enough {
                thread::yield_now();
            }
        }
    }
}

fn memory() -> Result<GuestMemoryMmap, Failure> {
    let bytes = usize::try_from(PAGES)? * PAGE_BYTES;
    Ok(GuestMemoryMmap::from_ranges(&[(GuestAddress(Gfn::new(FIRST).gpa().get()), bytes)])?)
}

fn page_of(memory: &GuestMemoryMmap, page: u64) -> Result<Page, Failure> {
    let mut content = [0; PAGE_BYTES];
    read_page(memory, Gfn::new(FIRST + page), &mut content)?;
    Ok(content)
}

fn main() -> Result<(), Failure> {
    let lost = migrate(Logs::VcpuAndDevice)?;
    println!("{PAGES} pages by the logs of vCPU and device: {lost} lost");
    assert_eq!(lost, 0, "a write was in neither log");
    let lost = migrate(Logs::VcpuAlone)?;
    println!("{PAGES} pages by the log of the vCPU alone: {lost} lost");
    assert_ne!(lost, 0, "the device wrote after everything was sent");
    Ok(())
}

#[test]
fn two_logs_lose_nothing_and_one_does() -> Result<(), Failure> {
    main()
}
