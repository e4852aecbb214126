//! A whole machine: a VM, its memory, and a thread for each vCPU.
//!
//! It begins paused. Everything that running needs is there before it is handed out, so that
//! [`Machine::resume`] cannot fail.

use crate::boot::{self, Level, Parameters};
use crate::config::{Config, MOST_VCPUS};
use crate::console::ConsoleSink;
use crate::descriptors::Descriptor;
use crate::error::{MachineError, MemoryError, failed};
use crate::gate::{Gate, Turn};
use crate::kick;
use crate::log::GuestLog;
use crate::port::Message;
use crate::program::Program;
use crate::ram::Ram;
use crate::state::{MachineState, Msrs, Refusal, RestoreError, SaveError, SavedVcpu};
use crate::statistics::{self, Files, Statistics, StatisticsError};
use crate::status::{Ended, Failure, Status, Why};
use crate::vcpu::{self, Left, Room, Vcpu};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{VcpuFd, VmFd};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vellum_kvm::{KvmLog, Memslot, Prepared, open, prepare};
use vellum_memory::Layout;
use vellum_memory::guest::GuestMemoryMmap;

/// Where an Intel host without unrestricted guests keeps three pages of its own: below 4 GiB, where
/// neither of our slots is.
const TSS: usize = 0xfffb_d000;

/// A vCPU and what others may see of it.
struct Cell {
    /// Locked by its thread for a turn.
    vcpu: Mutex<Vcpu>,
    passes: AtomicU64,
    exits: AtomicU64,
}

impl Cell {
    fn new(vcpu: Vcpu) -> Self {
        Self { vcpu: Mutex::new(vcpu), passes: AtomicU64::new(0), exits: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Vcpu> {
        // A panic in a turn ends the machine; its registers are still worth looking at.
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the threads share. Fields are dropped in their order: what has a descriptor of the VM, and then
/// its memory.
struct Shared {
    cells: Vec<Cell>,
    /// What this host can give a guest, and all that it does give.
    supported: Vec<kvm_cpuid_entry2>,
    msrs: Msrs,
    statistics: Files,
    vm: VmFd,
    gate: Gate,
    /// Pausing, resuming, saving and restoring take turns.
    turning: Mutex<()>,
    console: Mutex<Box<dyn ConsoleSink>>,
    ram: Arc<Ram>,
}

/// A machine. Dropping it ends its threads.
pub struct Machine {
    shared: Arc<Shared>,
}

impl Machine {
    /// A paused machine whose vCPUs are at the beginning of `program`, and its log, which has not
    /// started.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn new(config: &Config, program: &Program) -> Result<(Self, GuestLog), MachineError> {
        Self::at_level(config, program, Level::Three)
    }

    pub(crate) fn at_level(
        config: &Config,
        program: &Program,
        level: Level,
    ) -> Result<(Self, GuestLog), MachineError> {
        let (machine, log) = Self::vacant(config)?;
        let shared = &machine.shared;
        boot::write(&shared.ram, program)?;
        let parameters = Parameters {
            pages: shared.ram.pages(),
            vcpus: config.vcpus as u64,
            seed: config.seed,
            word: config.word,
        };
        for (number, cell) in (0..).zip(&shared.cells) {
            begin(&cell.lock().fd, &parameters, number, level)?;
        }
        Ok((machine, log))
    }

    /// A paused machine with zeros in its memory and nothing to run, for [`restore`](Self::restore).
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn vacant(config: &Config) -> Result<(Self, GuestLog), MachineError> {
        if !(1..=MOST_VCPUS).contains(&config.vcpus) {
            return Err(MachineError::Vcpus(config.vcpus));
        }
        kick::listen().map_err(MachineError::Signal)?;
        let kvm = open()?;
        // Before the VM: where the rest fails, it goes after it.
        let ram = Arc::new(Ram::new(config.memory, config.backing)?);
        let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        let prepared = prepare(&vm, config.way, config.ring)?;
        let mut log = logged(&vm, prepared, &ram)?;
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let supported = supported.map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        let cells = (0..config.vcpus).map(|number| cell(&vm, number, &supported, &mut log));
        let cells: Vec<_> = cells.collect::<Result<_, _>>()?;
        let statistics = Files::of(&vm, cells.iter().map(|cell| statistics::of(&cell.lock().fd)));
        let shared = Arc::new(Shared {
            gate: Gate::new(cells.len()),
            supported: given(&supported, &cells)?,
            cells,
            msrs: Msrs::of(&kvm).map_err(failed("KVM_GET_MSR_INDEX_LIST"))?,
            statistics,
            vm,
            turning: Mutex::new(()),
            console: Mutex::new(Box::new(|_: &[u8]| ())),
            ram: Arc::clone(&ram),
        });
        let machine = Self { shared };
        machine.start_threads()?;
        Ok((machine, GuestLog::new(log, ram)))
    }

    /// Its memory as a log sees it: [`crate::SYSTEM`] and [`crate::RAM`].
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.shared.ram.layout()
    }

    /// The bytes of both regions.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        self.shared.ram.memory()
    }

    /// Where the console's bytes go from now on. At first they go nowhere.
    pub fn set_console(&self, console: Box<dyn ConsoleSink>) {
        *self.shared.console() = console;
    }

    /// Stops every vCPU: on return none is in the guest, and each has ended the instruction that it was
    /// at.
    pub fn pause(&self) {
        let _turning = self.turning();
        self.shared.gate.pause();
    }

    /// Starts the vCPUs, or lets them run on.
    pub fn resume(&self) {
        let _turning = self.turning();
        self.shared.gate.resume();
    }

    /// What it does now.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.shared.gate.ended() {
            Some(ended) => ended.into(),
            None if self.shared.gate.is_paused() => Status::Paused,
            None => Status::Running,
        }
    }

    /// The number of the pass that each vCPU has last reported as finished.
    #[must_use]
    pub fn passes(&self) -> Vec<u64> {
        self.shared.cells.iter().map(|cell| cell.passes.load(Ordering::Relaxed)).collect()
    }

    /// How often each vCPU has left the guest on this machine.
    #[must_use]
    pub fn exits(&self) -> Vec<u64> {
        self.shared.cells.iter().map(|cell| cell.exits.load(Ordering::Relaxed)).collect()
    }

    /// What the kernel has counted till now; vCPUs may run.
    ///
    /// # Errors
    /// [`StatisticsError`]: the kernel has none.
    pub fn statistics(&self) -> Result<Statistics, StatisticsError> {
        self.shared.statistics.read()
    }

    /// What has to move to another machine beside the memory.
    ///
    /// # Errors
    /// [`SaveError`]: it is not paused, cannot go on, or KVM refuses.
    pub fn save(&self) -> Result<MachineState, SaveError> {
        let _turning = self.turning();
        if !self.shared.gate.is_paused() {
            return Err(SaveError::NotPaused);
        }
        let end = match self.shared.gate.ended() {
            None => None,
            Some(Ended::ShutDown(end)) => Some(end),
            Some(Ended::Failed(failure)) => return Err(SaveError::Failed(failure)),
        };
        let cells = self.shared.cells.iter().enumerate();
        let saved = cells.map(|(number, cell)| self.shared.save(number, cell));
        Ok(MachineState { end, vcpus: saved.collect::<Result<_, _>>()? })
    }

    /// Makes this machine go on where another was saved, once its memory is here too and it is resumed.
    ///
    /// # Errors
    /// [`RestoreError`]: it is not paused, of another shape, or on a host that lacks features of the
    /// guest's; then it is as it was. Or KVM refuses a part: then it has [failed](Status::Failed), and
    /// another state may be restored.
    pub fn restore(&self, state: &MachineState) -> Result<(), RestoreError> {
        let _turning = self.turning();
        if !self.shared.gate.is_paused() {
            return Err(RestoreError::NotPaused);
        }
        if !self.shared.gate.is_whole() {
            return Err(RestoreError::Panicked);
        }
        let (machine, found) = (self.shared.cells.len(), state.vcpus.len());
        if machine != found {
            return Err(RestoreError::Vcpus { state: found, machine });
        }
        for (vcpu, saved) in state.vcpus.iter().enumerate() {
            saved.check(&self.shared.supported).map_err(|refusal| refusal.of(vcpu))?;
        }
        if let Err((vcpu, refusal)) = self.shared.restore(state) {
            let failure = Failure { vcpu, at: None, why: Why::HalfRestored };
            self.shared.gate.restore(Some(failure.into()));
            return Err(refusal.of(vcpu));
        }
        self.shared.gate.restore(state.end.map(Ended::ShutDown));
        Ok(())
    }

    /// The VM's descriptor, for calls of one's own. One that changes memslots, or how they are logged,
    /// is not among them: the log relies on both.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn vm(&self) -> io::Result<Descriptor> {
        Descriptor::of(&self.shared.vm, &self.shared.ram)
    }

    /// The descriptor of the vCPU with this number, which the machine has. Waits until it is out of the
    /// guest: pause before.
    ///
    /// # Errors
    /// The process has no descriptor left.
    ///
    /// # Panics
    /// There is no such vCPU.
    pub fn vcpu(&self, number: usize) -> io::Result<Descriptor> {
        Descriptor::of(&self.shared.cells[number].lock().fd, &self.shared.ram)
    }

    /// Held while the machine is turned on or off, or must stay off.
    fn turning(&self) -> MutexGuard<'_, ()> {
        self.shared.turning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_threads(&self) -> Result<(), MachineError> {
        for number in 0..self.shared.cells.len() {
            let shared = Arc::clone(&self.shared);
            let builder = std::thread::Builder::new().name(format!("vCPU {number}"));
            let thread = builder.spawn(move || shared.drive(number));
            self.shared.gate.add(thread.map_err(MachineError::Thread)?);
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shared.gate.close();
    }
}

impl Shared {
    fn console(&self) -> MutexGuard<'_, Box<dyn ConsoleSink>> {
        self.console.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a vCPU's thread.
    fn drive(&self, number: usize) {
        // A thread that cannot be kicked is kicked all the same, and leaves with the guest's next `out`.
        let _ = kick::let_through();
        while let Some(turn) = self.gate.enter(number) {
            if let Err(ended) = self.take_turn(number, &turn) {
                turn.end(ended);
            }
        }
    }

    /// Runs until the turn is over. Then nothing is half done.
    fn take_turn(&self, number: usize, turn: &Turn<'_>) -> Result<(), Ended> {
        let cell = &self.cells[number];
        let mut vcpu = cell.lock();
        let ran = self.run(cell, &mut vcpu, turn);
        let settled = vcpu.settle();
        if vcpu.is_in_a_line() {
            vcpu.flush(&mut **self.console());
        }
        ran.and(settled.map_err(Ended::from))
    }

    fn run(&self, cell: &Cell, vcpu: &mut Vcpu, turn: &Turn<'_>) -> Result<(), Ended> {
        while !turn.is_over() {
            let left = vcpu.enter()?;
            cell.exits.fetch_add(1, Ordering::Relaxed);
            match left {
                Left::Kicked => {}
                Left::RingFull => {
                    if vcpu.reap()? == Room::None {
                        self.gate.rest();
                    }
                }
                Left::Message(message) => self.hear(cell, vcpu, message)?,
            }
        }
        Ok(())
    }

    fn hear(&self, cell: &Cell, vcpu: &mut Vcpu, message: Message) -> Result<(), Ended> {
        match message {
            Message::Progress(pass) => cell.passes.store(pass.into(), Ordering::Relaxed),
            Message::Console(byte) => vcpu.print(byte, |line| self.console().write(line)),
            Message::Rest => self.gate.rest(),
            Message::End(code) => return Err(Ended::ShutDown(vcpu::end(code))),
        }
        Ok(())
    }

    fn save(&self, number: usize, cell: &Cell) -> Result<SavedVcpu, SaveError> {
        let passes = cell.passes.load(Ordering::Relaxed);
        let refused = |(part, source)| SaveError::Refused { vcpu: number, part, source };
        SavedVcpu::of(&self.vm, &cell.lock().fd, &self.msrs, passes).map_err(refused)
    }

    /// The number of the vCPU that did not take what.
    fn restore(&self, state: &MachineState) -> Result<(), (usize, Refusal)> {
        if let Some(first) = self.cells.first() {
            SavedVcpu::lose_time(&first.lock().fd).map_err(|refusal| (0, refusal))?;
        }
        for (number, (cell, saved)) in self.cells.iter().zip(&state.vcpus).enumerate() {
            let put = saved.put(&self.vm, &cell.lock().fd);
            put.map_err(|refusal| (number, refusal))?;
            cell.passes.store(saved.passes, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Makes the memslots, and their log.
fn logged(vm: &VmFd, prepared: Prepared, ram: &Arc<Ram>) -> Result<KvmLog, MachineError> {
    vm.set_tss_address(TSS).map_err(failed("KVM_SET_TSS_ADDR"))?;
    for slot in ram.slots() {
        set(vm, slot).map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
    }
    #[allow(unsafe_code)]
    // SAFETY: S: these slots have just been made, and nothing else changes the slots of this VM. Their
    // memory stays: whoever has a descriptor of the VM (`Shared`, `GuestLog`) has the memory too, and
    // drops it later.
    let log = unsafe { prepared.log(ram.slots().to_vec()) };
    Ok(log.map_err(MemoryError::Layout)?)
}

fn set(vm: &VmFd, slot: &Memslot) -> Result<(), kvm_ioctls::Error> {
    #[allow(unsafe_code)]
    // SAFETY: S: the memory behind it is there as long as the VM.
    unsafe {
        vm.set_user_memory_region(slot.as_kvm())
    }
}

fn cell(vm: &VmFd, number: usize, cpuid: &CpuId, log: &mut KvmLog) -> Result<Cell, MachineError> {
    let fd = vm.create_vcpu(number as u64).map_err(failed("KVM_CREATE_VCPU"))?;
    fd.set_cpuid2(cpuid).map_err(failed("KVM_SET_CPUID2"))?;
    log.add_vcpu(&fd)?;
    Ok(Cell::new(Vcpu::new(number, fd, log.reaper())))
}

/// What KVM supports (`KVM_GET_SUPPORTED_CPUID`), and what a new vCPU was given all the same: where the
/// instruction is not trapped, a guest sees the processor's own answer, and KVM says so.
fn given(supported: &CpuId, cells: &[Cell]) -> Result<Vec<kvm_cpuid_entry2>, MachineError> {
    let mut given = supported.as_slice().to_vec();
    if let Some(first) = cells.first() {
        let shown = first.lock().fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES);
        given.extend_from_slice(shown.map_err(failed("KVM_GET_CPUID2"))?.as_slice());
    }
    Ok(given)
}

/// Puts a vCPU at the beginning of the program.
fn begin(
    fd: &VcpuFd,
    parameters: &Parameters,
    number: u64,
    level: Level,
) -> Result<(), MachineError> {
    let mut sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    boot::long_mode(&mut sregs, level);
    fd.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    fd.set_fpu(&boot::floating_point()).map_err(failed("KVM_SET_FPU"))?;
    fd.set_regs(&parameters.registers(number)).map_err(failed("KVM_SET_REGS"))
}
