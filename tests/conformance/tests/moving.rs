//! A guest of the kernel's hypervisor moves with its devices, while all of them write: vCPUs, whom the
//! kernel logs; a device that writes through vm-memory, whose writes a [`DeviceLog`] has; and one that
//! writes behind everybody's back and sets bits in a bitmap, as vhost does.
//!
//! Whether anything was lost is asked of three who do not know the logs: the digests of both memories,
//! the devices' own counters, and the guest, which checks its memory itself.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use vellum_conformance::backend::Plan;
use vellum_conformance::crew::{Crew, Ground};
use vellum_kvm::{Capabilities, Way};
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap, MappedBits, logged_view};
use vellum_memory::{
    AddressSpace, DeviceLog, ForeignLog, ForeignWriter, Layout, PAGE_SIZE, SharedBits, Sources,
};
use vellum_migrate::{
    Address, Cancel, Destination, IncomingGuest, Limits, Options, Outcome, Phase, Progress,
    Receiver, Refusal, RefusalKind, Report, SourceGuest, Verdict, Verify, migrate,
};
use vellum_presence::{Need, given};
use vellum_vmm::{Config, Guest, Machine, MachineState, RAM_BASE, Status, passes_to_recheck_all};
use vm_memory::MmapRegion;

const MEMORY: u64 = 32 << 20;
const VCPUS: usize = 2;
const SPACE: AddressSpace = AddressSpace::NORMAL;

/// The pages of each device, first and number: below those that guests use. From page 191 on, a guest
/// that checks itself keeps diaries.
const PAGES: [(u64, u64); 2] = [(16, 48), (80, 65)];
/// Stores that each device makes in each round, at least.
const STORES: u64 = 500;

/// What a device does to write a number somewhere.
type Write = Box<dyn Fn(GuestAddress, u64) + Send + Sync>;

/// A device: it counts its writes, and knows what it wrote last to each of its pages.
struct Device {
    write: Write,
    first: u64,
    count: AtomicU64,
    last: Vec<AtomicU64>,
}

impl Device {
    fn new(index: usize, write: Write) -> Self {
        let (first, pages) = PAGES[index];
        let last = (0..pages).map(|_| AtomicU64::new(0)).collect();
        Self { write, first, count: AtomicU64::new(0), last }
    }

    fn address(&self, page: u64) -> GuestAddress {
        GuestAddress(RAM_BASE.gpa().get() + (self.first + page) * PAGE_SIZE)
    }

    /// Its counter, and what it wrote last.
    fn save(&self) -> Vec<u64> {
        let all = std::iter::once(&self.count).chain(&self.last);
        all.map(|word| word.load(Ordering::Acquire)).collect()
    }

    fn restore(&self, saved: &[u64]) {
        let all = std::iter::once(&self.count).chain(&self.last);
        all.zip(saved).for_each(|(word, saved)| word.store(*saved, Ordering::Release));
    }

    /// How many of its pages hold something else than it wrote there last.
    fn lost(&self, memory: &GuestMemoryMmap) -> usize {
        let is_lost = |(page, last): &(u64, &AtomicU64)| {
            let held: u64 = memory.load(self.address(*page), Ordering::Acquire).expect("RAM");
            held != last.load(Ordering::Acquire)
        };
        (0..).zip(&self.last).filter(is_lost).count()
    }
}

/// The plan's number is of no use here: each write has one of its own.
impl Ground for Device {
    type Hand<'s> = ();

    fn hand(&self, _: usize) {}

    fn store(&self, (): &mut (), page: u64, _: u64) {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        (self.write)(self.address(page), number);
        let at = usize::try_from(page).expect("few");
        self.last[at].store(number, Ordering::Release);
    }
}

type Devices = [Crew<Device>; 2];

fn devices(writes: [Write; 2]) -> Devices {
    let mut indexed = (0..).zip(writes).map(|(index, write)| {
        let pages = PAGES[index].1;
        let table = (0..Plan::TABLE as u64).map(|entry| entry % pages).collect();
        Crew::new(Device::new(index, write), Plan { vcpus: 1, seed: index as u64, table })
    });
    [(); 2].map(|()| indexed.next().expect("two"))
}

/// A write to memory that nobody logs.
fn unlogged(memory: &GuestMemoryMmap) -> Write {
    let memory = memory.clone();
    Box::new(move |at, number| memory.store(number, at, Ordering::Release).expect("RAM"))
}

/// A write through a view that tells a log.
fn through_a_view(memory: &GuestMemoryMmap, log: &DeviceLog) -> Write {
    let view = logged_view(memory, SPACE, &log.marker()).expect("a view");
    Box::new(move |at, number: u64| view.write_slice(&number.to_le_bytes(), at).expect("RAM"))
}

/// A back-end with a bitmap, which sets a bit after each write once it was told to.
#[derive(Clone)]
struct Vhost {
    bits: MappedBits,
    logs: Arc<AtomicBool>,
}

impl Vhost {
    fn new(layout: &Layout) -> Self {
        let end = layout.regions().iter().map(|region| region.range.end().get()).max();
        let bytes = end.expect("it has regions").div_ceil(64) * 8;
        let mapping = MmapRegion::new(usize::try_from(bytes).expect("a size")).expect("memory");
        Self { bits: MappedBits::new(Arc::new(mapping)), logs: Arc::new(AtomicBool::new(false)) }
    }

    fn writer(&self, memory: &GuestMemoryMmap) -> Write {
        let (vhost, write) = (self.clone(), unlogged(memory));
        Box::new(move |at, number| {
            write(at, number);
            fence(Ordering::SeqCst);
            if vhost.logs.load(Ordering::Relaxed) {
                vhost.set(at.0 / PAGE_SIZE);
            }
        })
    }

    fn set(&self, page: u64) {
        let word = self.bits.word(usize::try_from(page / 64).expect("an index"));
        word.expect("a bit for each page")
            .fetch_or((1_u64 << (page % 64)).to_le(), Ordering::Release);
    }
}

impl ForeignWriter for Vhost {
    type Error = std::convert::Infallible;

    fn start_logging(&mut self) -> Result<(), Self::Error> {
        self.logs.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn stop_logging(&mut self) -> Result<(), Self::Error> {
        self.logs.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("first", &self.first).finish_non_exhaustive()
    }
}

/// Which log is not in the union.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LeftOut {
    Nothing,
    Kernel,
    Device,
    Vhost,
}

/// A machine, its devices, and the union of their logs.
struct Here {
    machine: Arc<Machine>,
    devices: Arc<Devices>,
    log: Sources<'static>,
}

impl Here {
    fn new(way: Way, left_out: LeftOut) -> Self {
        let config = Config { way, ..Config::new(MEMORY, VCPUS) };
        let made = Machine::new(&config, &Guest::Selfcheck.program());
        let (machine, kernel) = made.expect("the gate has seen to it that there is one");
        let layout = machine.layout().clone();
        let device = DeviceLog::new(&layout).expect("memory");
        let vhost = Vhost::new(&layout);
        let writes = [through_a_view(machine.memory(), &device), vhost.writer(machine.memory())];
        let foreign = ForeignLog::new(&layout, SPACE, vhost.bits.clone(), vhost);
        // A union has at least one member: this one never says anything.
        let silent = DeviceLog::new(&layout).expect("memory");
        let mut log = Sources::new(silent).expect("memory");
        if left_out != LeftOut::Kernel {
            log.add(kernel).expect("the same layout");
        }
        if left_out != LeftOut::Device {
            log.add(device).expect("the same layout");
        }
        if left_out != LeftOut::Vhost {
            log.add(foreign.expect("bits enough")).expect("the same layout");
        }
        Self { machine: Arc::new(machine), devices: Arc::new(devices(writes)), log }
    }
}

impl SourceGuest for Here {
    type Memory = GuestMemoryMmap;
    type Dirty = Sources<'static>;
    type Error = io::Error;

    fn identity(&self) -> Vec<u8> {
        b"a machine with two devices".to_vec()
    }

    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        self.machine.memory()
    }

    fn dirty(&mut self) -> &mut Sources<'static> {
        &mut self.log
    }

    fn pause(&mut self) {
        self.machine.pause();
        self.devices.iter().for_each(Crew::pause);
    }

    fn resume(&mut self) {
        self.machine.resume();
        self.devices.iter().for_each(Crew::resume);
    }

    fn save_state(&mut self) -> Result<Vec<u8>, io::Error> {
        let words = self.devices.iter().flat_map(|device| device.ground().save());
        let mut state: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        state.extend(self.machine.save().map_err(io::Error::other)?.to_bytes());
        Ok(state)
    }
}

/// Where it arrives.
struct There {
    machine: Machine,
    devices: Devices,
    /// What each device missed of its pages when the state had come.
    lost: OnceLock<[usize; 2]>,
}

impl There {
    fn new() -> Self {
        let config = Config::new(MEMORY, VCPUS);
        let (machine, _) = Machine::vacant(&config).expect("there is one already");
        let devices = devices([unlogged(machine.memory()), unlogged(machine.memory())]);
        Self { machine, devices, lost: OnceLock::new() }
    }

    fn lost_now(&self) -> [usize; 2] {
        let memory = self.machine.memory();
        [0, 1].map(|index| self.devices[index].ground().lost(memory))
    }
}

impl IncomingGuest for There {
    type Memory = GuestMemoryMmap;
    type Error = io::Error;

    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        self.machine.memory()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), io::Error> {
        let mut left = state;
        for device in &self.devices {
            let bytes = device.ground().save().len() * 8;
            let (mine, rest) = left.split_at_checked(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
            let words = mine.chunks_exact(8).map(|word| word.try_into().expect("eight"));
            device.ground().restore(&words.map(u64::from_le_bytes).collect::<Vec<_>>());
            left = rest;
        }
        self.lost.set(self.lost_now()).expect("it is restored once");
        let state = MachineState::from_bytes(left).map_err(io::Error::other)?;
        self.machine.restore(&state).map_err(io::Error::other)
    }

    fn resume(&mut self) {
        self.machine.resume();
        self.devices.iter().for_each(Crew::resume);
    }
}

struct Room;

impl Destination for Room {
    type Guest = There;

    fn prepare(&mut self, _: &[u8], layout: &Layout) -> Result<There, Refusal> {
        let there = There::new();
        if there.machine.layout() == layout {
            Ok(there)
        } else {
            Err(Refusal::new(RefusalKind::Layout, "another layout"))
        }
    }
}

/// Lets all of them write for a while whenever a round begins: what was copied before is old then.
struct Pace {
    machine: Arc<Machine>,
    devices: Arc<Devices>,
    round: Option<u32>,
}

impl Pace {
    fn hear(&mut self, progress: Progress) {
        if progress.phase == Phase::Copy && self.round != Some(progress.round) {
            self.round = Some(progress.round);
            self.let_them_write();
        }
    }

    fn let_them_write(&self) {
        let passes = || self.machine.passes().iter().sum::<u64>();
        let before = (passes(), self.devices.iter().map(stores).collect::<Vec<_>>());
        until_running(&self.machine, || passes() > before.0);
        for (device, before) in self.devices.iter().zip(before.1) {
            until_running(&self.machine, || stores(device) >= before + STORES);
        }
    }
}

fn stores(device: &Crew<Device>) -> u64 {
    device.stores().iter().sum()
}

/// Waits for something that must come as long as the guest runs.
fn until_running(machine: &Machine, mut holds: impl FnMut() -> bool) {
    while !holds() {
        let status = machine.status();
        assert!(matches!(status, Status::Running), "{status:?}");
        std::thread::yield_now();
    }
}

/// How it ended, with what is left of it.
enum Ending {
    Arrived { report: Report, there: There },
    Kept { report: Report, why: String, here: Here },
}

/// Has the receiver give up when it is dropped, also by a panic: the scope that the receiver is in would
/// wait for it.
struct HangUp(Cancel);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Moves a guest that runs, with its devices, over a Unix socket.
fn moved(way: Way, left_out: LeftOut, verify: Verify) -> Ending {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::bind(&Address::Unix(folder.path().join("socket"))).expect("free");
    let mut here = Here::new(way, left_out);
    let (machine, devices) = (Arc::clone(&here.machine), Arc::clone(&here.devices));
    here.resume();
    let mut pace = Pace { machine, devices, round: None };
    pace.let_them_write();
    let limits = Limits::default();
    let options = Options { verify, ..Options::default() };
    std::thread::scope(|scope| {
        let arrival =
            scope.spawn(|| receiver.receive(&mut Room, &limits, &mut |_| {}, &mut |_| {}));
        // Whatever fails from here on, nobody waits for what does not come.
        let hang_up = HangUp(limits.cancel.clone());
        let outcome =
            migrate(here, receiver.address(), &options, &mut |progress| pace.hear(progress));
        match outcome {
            Outcome::Moved(moved) => {
                let received = arrival.join().expect("no panic").expect("it arrives");
                Ending::Arrived { report: moved.report, there: received.guest }
            }
            Outcome::Kept(kept) => {
                drop(hang_up);
                assert!(arrival.join().expect("no panic").is_err(), "it is not in two places");
                let why = kept.failure.to_string();
                Ending::Kept { report: kept.report, why, here: kept.guest }
            }
            Outcome::Unknown(_) => panic!("between two threads no acknowledgement is lost"),
        }
    })
}

/// Whether this machine can run them.
fn has(way: Way) -> bool {
    let Some(kvm) = given(Need::Kvm, vellum_kvm::open()) else { return false };
    let vm = kvm.create_vm().expect("KVM makes a VM");
    let there = Capabilities::of(&vm).supports(way);
    given(Need::KvmWay(way.name().to_owned()), there).is_some()
}

/// It goes on there: the guest finds all of its memory right, and the devices theirs.
fn goes_on(there: &There) {
    let passes = |number: usize| there.machine.passes()[number];
    let recheck = passes_to_recheck_all(MEMORY, VCPUS as u64);
    let before: Vec<u64> = (0..VCPUS).map(passes).collect();
    for (number, before) in before.into_iter().enumerate() {
        until_running(&there.machine, || passes(number) >= before + recheck);
    }
    there.devices.iter().for_each(|device| assert!(stores(device) > 0, "it writes there"));
    there.devices.iter().for_each(Crew::pause);
    assert_eq!(there.lost_now(), [0, 0], "after having written there");
    there.machine.pause();
}

#[test]
fn a_guest_moves_with_its_devices_and_nothing_is_lost_by_any_way() {
    for way in Way::ALL.into_iter().filter(|way| has(*way)) {
        match moved(way, LeftOut::Nothing, Verify::Compare) {
            Ending::Arrived { report, there } => {
                assert_eq!(report.verdict, Verdict::Same, "{way}");
                assert!(report.rounds.len() > 1, "{way}: {report:?}");
                assert_eq!(there.lost.get(), Some(&[0, 0]), "{way}");
                goes_on(&there);
            }
            Ending::Kept { why, .. } => panic!("{way}: {why}"),
        }
    }
}

/// The controls: whatever log is left out, the digests differ, and the guest stays.
#[test]
fn with_a_log_left_out_the_digests_differ_and_the_guest_stays() {
    if !has(Way::Manual) {
        return;
    }
    for left_out in [LeftOut::Kernel, LeftOut::Device, LeftOut::Vhost] {
        match moved(Way::Manual, left_out, Verify::Compare) {
            Ending::Arrived { .. } => panic!("it moved without the log of {left_out:?}"),
            Ending::Kept { report, why, here } => {
                assert!(matches!(report.verdict, Verdict::Different(_)), "{left_out:?}: {why}");
                let status = here.machine.status();
                assert!(matches!(status, Status::Running), "{left_out:?}: {status:?}");
            }
        }
    }
}

/// Where nobody compares, the device whose log is left out finds its loss by itself, and the other none.
#[test]
fn a_device_whose_log_is_left_out_finds_by_its_own_counters_what_was_lost() {
    if !has(Way::Manual) {
        return;
    }
    for (left_out, device) in [(LeftOut::Device, 0), (LeftOut::Vhost, 1)] {
        match moved(Way::Manual, left_out, Verify::Skip) {
            Ending::Arrived { report, there } => {
                assert_eq!(report.verdict, Verdict::NotCompared);
                let lost = there.lost.get().copied().expect("it was restored");
                assert!(lost[device] > 0, "{left_out:?}: {lost:?}");
                assert_eq!(lost[1 - device], 0, "{left_out:?}: {lost:?}");
            }
            Ending::Kept { why, .. } => panic!("{left_out:?}: {why}"),
        }
    }
}

/// And where it is the kernel's, the guest does: it finds a page older than it left it, or memory that its
/// registers do not fit.
#[test]
fn a_guest_whose_log_is_left_out_finds_by_itself_what_was_lost() {
    if !has(Way::Manual) {
        return;
    }
    match moved(Way::Manual, LeftOut::Kernel, Verify::Skip) {
        Ending::Arrived { there, .. } => {
            assert_eq!(there.lost.get(), Some(&[0, 0]), "the devices have lost nothing");
            let recheck = passes_to_recheck_all(MEMORY, VCPUS as u64);
            let before = there.machine.passes();
            while matches!(there.machine.status(), Status::Running) {
                let passes = there.machine.passes();
                let has_time = passes.iter().zip(&before).any(|(now, then)| *now <= then + recheck);
                assert!(has_time, "it has checked all of its memory and found nothing");
                std::thread::yield_now();
            }
            let status = there.machine.status();
            assert!(matches!(status, Status::ShutDown(vellum_vmm::End::Failed)), "{status:?}");
        }
        Ending::Kept { why, .. } => panic!("{why}"),
    }
}
