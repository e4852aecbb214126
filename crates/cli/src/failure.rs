//! Why a command did not do what was asked.

use crate::quantity::Size;
use crate::watch::{AddressRange, WatchError};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use vellum_machine::RAM_BASE;
use vellum_machine::bus::BusError;
use vellum_machine::elf::ElfError;
use vellum_machine::error::BoardError;
use vellum_machine::guests::Builtin;
use vellum_machine::machine::MachineError;
use vellum_machine::port::PortError;
use vellum_migrate::{Causes, ListenError};
use vellum_mmu::{
    ActivateError, ClearError, EnableTrackingError, LogError, OutOfMemory, Outcome, SplitError,
    SubPageError, TrackError,
};

/// Why a command could not be begun, and the way out where there is one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Signals cannot be caught.
    #[error("the system refuses to deliver signals: {0}")]
    Signals(#[source] io::Error),
    /// `--resume` of a process that is not ours.
    #[error("process {0} is no vellum that keeps a guest paused")]
    NotVellum(i32),
    /// `--resume` of a process that cannot be reached.
    #[error("process {pid} cannot be told: {error}")]
    NotSignalled {
        /// Which.
        pid: i32,
        /// Why.
        error: io::Error,
    },
    /// No such guest, by name or by file.
    #[error(
        "{path}: {error}. A guest is the path of an RV64 ELF image, or one of {}",
        guest_names(),
        path = path.display()
    )]
    GuestFile {
        /// What was asked for.
        path: PathBuf,
        /// Why it cannot be read.
        error: io::Error,
    },
    /// The file is no guest.
    #[error("{path} is no guest: {error}", path = path.display())]
    GuestImage {
        /// The file.
        path: PathBuf,
        /// Why.
        error: ElfError,
    },
    /// A built-in guest needs more.
    #[error("the guest {guest} needs at least {least} of memory, not {given}: --memory {least_flag}", least_flag = least.flag())]
    TooLittleMemory {
        /// Which.
        guest: String,
        /// What it needs.
        least: Size,
        /// What it would get.
        given: Size,
    },
    /// The software machine has no pool of pages.
    #[error(
        "--page-size hugetlb is for --machine kvm: the machine in software has pages of 4k, 2m and 1g"
    )]
    PooledInSoftware,
    /// There is no native machine.
    #[error(transparent)]
    Kvm(#[from] crate::machine::kvm::Error),
    /// The image is for other addresses.
    #[error(
        "{guest}: {error}; RAM is {ram} from {RAM_BASE:#x}. Link it with \
         -Wl,-Ttext-segment={RAM_BASE:#x}, or give it more --memory",
        RAM_BASE = RAM_BASE.gpa().get()
    )]
    OutsideRam {
        /// The file.
        guest: String,
        /// What it wants.
        error: MachineError,
        /// What there is.
        ram: Size,
    },
    /// The host has not the memory, or no machine has.
    #[error("{given} of guest memory cannot be had ({}): take less --memory", Causes(.error))]
    NoMemory {
        /// What was asked for.
        given: Size,
        /// Why.
        error: MachineError,
    },
    /// The machine cannot be built.
    #[error("the machine cannot be built: {0}")]
    Machine(#[from] MachineError),
    /// A built-in guest is malformed: a mistake in this program.
    #[error("the guest {0} is malformed: please report this")]
    Builtin(Builtin),
    /// More memory than addresses.
    #[error("{0} bytes of guest memory are more than an address can name")]
    TooMuchMemory(u64),
    /// A range that is not all memory.
    #[error(
        "{range} is not within the guest's memory, which is {ram} ({size}): choose a --range in \
         there, or give the guest more --memory"
    )]
    RangeOutsideRam {
        /// What was asked for.
        range: AddressRange,
        /// What there is.
        ram: AddressRange,
        /// How much that is.
        size: Size,
    },
    /// Nobody knows where a guest from a file writes.
    #[error(
        "what is to be watched of {guest}? Its memory begins at {RAM_BASE:#x}: \
         --range {RAM_BASE:#x}+64K",
        RAM_BASE = RAM_BASE.gpa().get()
    )]
    NoRange {
        /// The file.
        guest: String,
    },
    /// The stores to a range cannot be caught.
    #[error("the range cannot be watched: {0}")]
    Watch(#[from] WatchError),
    /// The destination cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No place for the socket.
    #[error("no temporary folder for the socket: {0}; set TMPDIR to one that can be written")]
    Folder(#[source] io::Error),
    /// The destination's process cannot be started.
    #[error("the destination's process cannot be started: {0}")]
    Spawn(#[source] io::Error),
    /// The destination's process ended before it listened.
    #[error("the destination's process ended before it listened")]
    Silent,
    /// The machine cannot be built.
    #[error("the machine cannot be built: {0}")]
    Board(#[from] BoardError),
    /// No memory port.
    #[error("the machine cannot be built: {0}")]
    Port(#[from] PortError),
    /// The dirty log cannot be used.
    #[error("the dirty log failed: {0}")]
    Log(#[from] LogError),
    /// A board's log cannot be used.
    #[error("the dirty log failed: {0}")]
    BoardLog(#[from] ClearError),
    /// Huge leaves cannot be split.
    #[error("the huge leaves cannot be split: {0}")]
    Split(#[from] SplitError),
    /// Pages cannot be tracked.
    #[error("the pages cannot be tracked: {0}")]
    Track(#[from] TrackError),
    /// Page tracking cannot be turned on.
    #[error("the pages cannot be tracked: {0}")]
    EnableTracking(#[from] EnableTrackingError),
    /// Sub-pages cannot be activated.
    #[error("parts of pages cannot be restricted: {0}")]
    ActivateSubPages(#[from] ActivateError),
    /// Maps of sub-pages cannot be set.
    #[error("parts of pages cannot be restricted: {0}")]
    SubPages(#[from] SubPageError),
    /// How much memory this process has is not known.
    #[error("/proc/self/smaps_rollup does not say what this process has in memory: {0}")]
    Resident(#[source] io::Error),
    /// The library ran out of memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// A store of a benchmark was refused.
    #[error("a store was refused: {0}")]
    Bus(#[from] BusError),
    /// A fault of a benchmark had another outcome than it must have.
    #[error("a write fault ended as {0:?}")]
    NoFault(Outcome),
    /// What a benchmark compares with.
    #[error(transparent)]
    Rival(#[from] crate::bench::rival::Error),
    /// A thread of a benchmark ended early.
    #[error("a vCPU's thread panicked")]
    Panicked,
}

fn guest_names() -> String {
    Builtin::ALL.map(Builtin::name).join(", ")
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It did what was asked, and it was right.
    Done,
    /// It was done, and something was not right.
    Failed,
    /// It could not be begun.
    NotStarted,
    /// A store was denied, as asked for.
    Denied,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Done => 0,
            End::Failed => 1,
            End::NotStarted => 2,
            End::Denied => 3,
        })
    }
}
