//! A vCPU: into the guest and out again.

use crate::calls;
use crate::console::ConsoleSink;
use crate::port::Message;
use crate::status::{End, Failure, Why};
use kvm_bindings::KVM_EXIT_DIRTY_RING_FULL;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vellum_kvm::Reaper;

/// A line of the console is handed over when it is so long.
const LINE: usize = 256;

/// Why a vCPU left the guest.
#[derive(Debug)]
pub(crate) enum Left {
    /// It said something.
    Message(Message),
    /// Its ring is full.
    RingFull,
    /// A signal came, or the kernel had no time.
    Kicked,
}

/// A vCPU. Its thread has it for a turn, and who saves or restores when the machine is paused.
pub(crate) struct Vcpu {
    number: usize,
    pub(crate) fd: VcpuFd,
    reaper: Option<Reaper>,
    line: Vec<u8>,
    io: Io,
}

/// Whether the instruction by which a vCPU left the guest has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Io {
    /// It has.
    Done,
    /// KVM ends it when the guest is entered the next time; until then the registers are those before it.
    Pending,
}

impl Vcpu {
    pub(crate) fn new(number: usize, fd: VcpuFd, reaper: Option<Reaper>) -> Self {
        Self { number, fd, reaper, line: Vec::new(), io: Io::Done }
    }

    /// Enters the guest once.
    pub(crate) fn enter(&mut self) -> Result<Left, Failure> {
        self.io = Io::Done;
        match exit(self.fd.run()) {
            Exit::Out(bytes) => self.hear(bytes),
            Exit::In => Err(self.stray(|port, size, count| Why::In { port, size, count })),
            Exit::RingFull => Ok(Left::RingFull),
            Exit::Kicked => Ok(Left::Kicked),
            Exit::Stray(Some(why)) => Err(self.failure(why)),
            Exit::Stray(None) => Err(self.unknown()),
        }
    }

    /// It wrote to a port, and these are the first bytes.
    fn hear(&mut self, bytes: [u8; 4]) -> Result<Left, Failure> {
        let message = calls::access(&mut self.fd).and_then(|out| Message::of(out, bytes));
        let Some(message) = message else {
            return Err(self.stray(|port, size, count| Why::Out { port, size, count }));
        };
        self.io = Io::Pending;
        Ok(Left::Message(message))
    }

    /// It was at a port, and not for a message.
    fn stray(&mut self, why: impl FnOnce(u16, u8, u32) -> Why) -> Failure {
        match calls::access(&mut self.fd) {
            Some(access) => self.failure(why(access.port, access.size, access.count)),
            None => self.unknown(),
        }
    }

    fn unknown(&mut self) -> Failure {
        let number = self.fd.get_kvm_run().exit_reason;
        self.failure(Why::Exit(number))
    }

    /// Has KVM end the instruction by which the vCPU left the guest, without entering the guest.
    pub(crate) fn settle(&mut self) -> Result<(), Failure> {
        if self.io == Io::Done {
            return Ok(());
        }
        self.fd.set_kvm_immediate_exit(1);
        let left = self.enter();
        self.fd.set_kvm_immediate_exit(0);
        match left? {
            Left::Kicked => Ok(()),
            Left::RingFull => Err(self.failure(Why::Exit(KVM_EXIT_DIRTY_RING_FULL))),
            Left::Message(_) => Err(self.failure(Why::Repeated)),
        }
    }

    /// Makes room in a full ring. Says whether there is room now: a ring that cannot be believed is the
    /// business of who collects next.
    pub(crate) fn reap(&self) -> Result<Room, Failure> {
        match self.reaper.as_ref().map(Reaper::reap) {
            None => Err(self.failure(Why::Exit(KVM_EXIT_DIRTY_RING_FULL))),
            Some(Ok(())) => Ok(Room::Made),
            Some(Err(vellum_kvm::KvmError::Ring(_))) => Ok(Room::None),
            Some(Err(error)) => Err(self.failure(Why::Ring(error))),
        }
    }

    /// Appends a byte to the line, and hands the line over when it is one.
    pub(crate) fn print(&mut self, byte: u8, console: impl FnOnce(&[u8])) {
        self.line.push(byte);
        if byte == b'\n' || self.line.len() >= LINE {
            console(&std::mem::take(&mut self.line));
        }
    }

    /// Hands over what is there of a line.
    pub(crate) fn flush(&mut self, console: &mut dyn ConsoleSink) {
        if !self.line.is_empty() {
            console.write(&std::mem::take(&mut self.line));
        }
    }

    /// Whether it has printed what was not handed over.
    pub(crate) fn is_in_a_line(&self) -> bool {
        !self.line.is_empty()
    }

    fn failure(&self, why: Why) -> Failure {
        let at = self.fd.get_regs().ok().map(|regs| regs.rip);
        Failure { vcpu: self.number, at, why }
    }
}

/// Whether a ring has room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    /// It has.
    Made,
    /// Not yet.
    None,
}

/// How the guest ended that said so.
pub(crate) fn end(code: u8) -> End {
    if code == 0 { End::Finished } else { End::Failed }
}

/// An exit, without what it has borrowed of the vCPU.
enum Exit {
    /// It wrote to a port: the first bytes, and zeros where there are fewer.
    Out([u8; 4]),
    /// It read from a port.
    In,
    RingFull,
    Kicked,
    /// It cannot go on. Why, if there is more to say than the number of the exit.
    Stray(Option<Why>),
}

fn exit(exit: Result<VcpuExit<'_>, kvm_ioctls::Error>) -> Exit {
    match exit {
        Ok(VcpuExit::IoOut(_, bytes)) => {
            Exit::Out(std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0)))
        }
        Ok(VcpuExit::IoIn(..)) => Exit::In,
        Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => Exit::RingFull,
        Ok(VcpuExit::Intr) => Exit::Kicked,
        Ok(exit) => Exit::Stray(why(&exit)),
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Exit::Kicked,
        Err(error) => Exit::Stray(Some(Why::Kernel(error.into()))),
    }
}

/// What there is to say of an exit that a guest of ours never makes.
fn why(exit: &VcpuExit<'_>) -> Option<Why> {
    Some(match exit {
        VcpuExit::Shutdown => Why::ShutDown,
        VcpuExit::FailEntry(reason, _) => Why::FailEntry { reason: *reason },
        VcpuExit::InternalError => Why::InternalError,
        VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _) => {
            Why::NoMemory { address: *address }
        }
        VcpuExit::MemoryFault { gpa, .. } => Why::HostMemory { address: *gpa },
        _ => return None,
    })
}
