//! Native machines on this host's `/dev/kvm`.

use super::{Life, Movable, StateError, Work, console};
use crate::args::{PageSize, Track};
use crate::event::Ended;
use crate::guest::Proof;
use crate::quantity::Size;
use crate::show::Show;
use crate::track::Choice;
use std::io;
use std::sync::Arc;
use vellum_kvm::{Capabilities, Missing, OpenError, Way, open};
use vellum_memory::guest::GuestMemoryMmap;
use vellum_memory::{GfnRange, Layout, PAGE_SIZE};
use vellum_migrate::{Causes, Refusal, RefusalKind};
use vellum_vmm::{
    Backing, Config, End, Guest, MINIMUM_MEMORY, MOST_MEMORY, Machine, MachineError, MachineState,
    MemoryError, RAM, RAM_BASE, Status, passes_to_recheck_all,
};

/// Why there is no native machine, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The guest is a file, or nothing at all.
    #[error(
        "{} cannot run on /dev/kvm, which has guests of its own: --guest {}. Without --machine kvm it \
         may be an RV64 image",
        .0,
        guest_names()
    )]
    Guest(String),
    /// A format was asked for.
    #[error("--format is for the machine in software: on /dev/kvm the kernel makes the tables")]
    Format,
    /// Pages of 1 GiB were asked for.
    #[error(
        "--page-size 1g is for the machine in software: on /dev/kvm there are 4k, 2m and hugetlb"
    )]
    PageSize,
    /// A way of tracking was asked for that the kernel has not.
    #[error(
        "--track {0} is for the machine in software: on /dev/kvm there are per-page, manual, ring and \
         auto"
    )]
    Track(&'static str),
    /// There is too little memory for any guest.
    #[error("a guest on /dev/kvm needs at least {least} of memory, not {given}: --memory {}", least.flag())]
    TooLittleMemory {
        /// What it needs.
        least: Size,
        /// What it would get.
        given: Size,
    },
    /// There is more memory than a machine has addresses for.
    #[error("a guest on /dev/kvm has at most {most} of memory, not {given}: --memory {}", most.flag())]
    TooMuchMemory {
        /// What it can have.
        most: Size,
        /// What it would get.
        given: Size,
    },
    /// The memory is no whole number of huge pages.
    #[error(
        "--page-size hugetlb takes whole pages of 2 MiB, which {given} of memory are not: --memory {}, \
         or another --page-size",
        whole.flag()
    )]
    TornHugePages {
        /// What was asked for.
        given: Size,
        /// The nearest that can be had.
        whole: Size,
    },
    /// The host's pool has too few huge pages.
    #[error(
        "the host's pool has not the {pages} huge pages of 2 MiB that {given} of memory take ({source}): as \
         root, `echo {pages} > /proc/sys/vm/nr_hugepages` (more, if others use it), or take less --memory, \
         or --page-size 4k or 2m"
    )]
    EmptyPool {
        /// What was asked for.
        given: Size,
        /// How many pages that takes.
        pages: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host has no huge pages of that size.
    #[error("the host gives no huge pages of 2 MiB ({0}): take --page-size 4k or 2m")]
    NoHugePages(#[source] io::Error),
    /// The host refuses memory.
    #[error("the host does not give the guest {given} of memory ({source}): take less --memory")]
    NoMemory {
        /// What was asked for.
        given: Size,
        /// What it said.
        source: io::Error,
    },
    /// The device cannot be opened; says what to do.
    #[error("{}", Causes(.0))]
    Open(#[from] OpenError),
    /// The kernel lacks what a way of tracking needs.
    #[error(
        "--track {} needs {}, which this kernel does not have: take --track {}, or a newer kernel",
        name(.0.way), .0.capability, name(.0.best)
    )]
    Missing(Missing),
    /// The kernel makes no VM.
    #[error("/dev/kvm makes no virtual machine: {0}")]
    Vm(#[source] io::Error),
    /// The machine cannot be built.
    #[error("the machine cannot be built: {}", Causes(.0))]
    Machine(#[source] MachineError),
}

impl Error {
    /// Why a machine with so much `memory` could not be built, in terms of what was asked for.
    pub(crate) fn not_built(error: MachineError, given: Size) -> Self {
        match error {
            MachineError::Memory(MemoryError::Pool { pages, source }) => {
                Self::EmptyPool { given, pages, source }
            }
            // Too few of them is another error: what is refused so is the size.
            MachineError::Memory(MemoryError::Refused {
                backing: Backing::Huge, source, ..
            }) => Self::NoHugePages(source),
            MachineError::Memory(MemoryError::Refused { source, .. }) => {
                Self::NoMemory { given, source }
            }
            other => Self::Machine(other),
        }
    }
}

fn guest_names() -> String {
    Guest::ALL.map(Guest::name).join(", ")
}

/// The guest that was asked for, if it has a program for `/dev/kvm` and the memory that it needs.
pub(crate) fn guest(name: &str, memory: Size) -> Result<Guest, Error> {
    let guest = name.parse().map_err(|_| Error::Guest(name.to_owned()))?;
    match (Size::of_bytes(MINIMUM_MEMORY), Size::of_bytes(MOST_MEMORY)) {
        (Ok(least), _) if memory.bytes() < least.bytes() => {
            Err(Error::TooLittleMemory { least, given: memory })
        }
        (_, Ok(most)) if memory.bytes() > most.bytes() => {
            Err(Error::TooMuchMemory { most, given: memory })
        }
        _ => Ok(guest),
    }
}

/// What is to be behind the guest's `memory`.
pub(crate) fn backing(size: PageSize, memory: Size) -> Result<Backing, Error> {
    match size {
        PageSize::Small => Ok(Backing::Small),
        PageSize::Huge2M => Ok(Backing::Transparent),
        PageSize::Huge1G => Err(Error::PageSize),
        PageSize::Pooled => {
            match Size::of_bytes(memory.bytes().div_ceil(HUGE).saturating_mul(HUGE)) {
                Ok(whole) if whole != memory => Err(Error::TornHugePages { given: memory, whole }),
                _ => Ok(Backing::Huge),
            }
        }
    }
}

/// Bytes of a huge page in the host's pool.
const HUGE: u64 = 2 << 20;

/// What must be seen of a guest at the destination before it is said to run there.
pub(crate) fn proof(guest: Guest, memory: Size, vcpus: u32) -> Proof {
    match guest {
        Guest::Selfcheck => Proof::Rechecked(passes_to_recheck_all(memory.bytes(), vcpus.into())),
        // Nobody counts instructions, and a vCPU may leave the guest without having executed any.
        Guest::Sequential | Guest::Random | Guest::Zipf | Guest::Idle => Proof::Passed,
    }
}

/// Follows the command line, or chooses, among what this host's kernel has.
pub(crate) fn choose(track: Track) -> Result<Choice<Way>, Error> {
    let asked = match track {
        Track::PerPage => Some(Choice { method: Way::ClearingGet, why: CLEARING_GET }),
        Track::Manual => Some(Choice { method: Way::Manual, why: MANUAL }),
        Track::Ring => Some(Choice { method: Way::Ring, why: RING }),
        Track::Auto => None,
        Track::ProtectAll => return Err(Error::Track("protect-all")),
        Track::Dbit => return Err(Error::Track("dbit")),
        Track::Pml => return Err(Error::Track("pml")),
    };
    let vm = open()?.create_vm().map_err(|errno| Error::Vm(errno.into()))?;
    let capabilities = Capabilities::of(&vm);
    let choice = asked.unwrap_or_else(|| best(&capabilities));
    capabilities.supports(choice.method).map_err(Error::Missing)?;
    Ok(choice)
}

const CLEARING_GET: &str = "it was asked for: one call reads a memslot's log in the kernel, empties it \
                            and protects what was in it";
const MANUAL: &str = "it was asked for: the kernel's log is only read, and each stretch of memory is \
                      cleared and protected just before it is copied";
const RING: &str = "it was asked for: each virtual CPU writes its pages into a ring of the kernel's, and \
                    stops when that is full";

fn best(capabilities: &Capabilities) -> Choice<Way> {
    match capabilities.best() {
        Way::ClearingGet => Choice {
            method: Way::ClearingGet,
            why: "the kernel has no KVM_CLEAR_DIRTY_LOG, which is in Linux since 5.2",
        },
        method => Choice {
            method,
            why: "the kernel has KVM_CLEAR_DIRTY_LOG, so a page that is written again before it is \
                  copied is copied once",
        },
    }
}

/// What a way is called on the command line and in reports.
pub(crate) fn name(way: Way) -> &'static str {
    match way {
        Way::ClearingGet => "per-page",
        Way::Manual | Way::ManualAllSet => "manual",
        Way::Ring | Way::RingWithBitmap => "ring",
    }
}

impl Movable for Machine {
    fn memory(&self) -> &GuestMemoryMmap {
        self.memory()
    }

    fn resume(&self) {
        self.resume();
    }

    fn pause(&self) {
        self.pause();
    }

    fn ended(&self) -> Option<(Ended, String)> {
        ended(self.status())
    }

    fn life(&self) -> Life {
        Life { work: Work::Exits(self.exits()), passes: self.passes() }
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        self.save().map(|state| state.to_bytes()).map_err(StateError::of)
    }

    fn restore(&self, state: &[u8]) -> Result<(), StateError> {
        let state = MachineState::from_bytes(state).map_err(StateError::of)?;
        self.restore(&state).map_err(StateError::of)
    }
}

/// How and why a machine runs no more.
fn ended(status: Status) -> Option<(Ended, String)> {
    Some(match status {
        Status::Running | Status::Paused => return None,
        Status::ShutDown(End::Finished) => (Ended::ShutDown, "the guest shut down".to_owned()),
        Status::ShutDown(End::Failed) => {
            (Ended::Failed, "the guest found something wrong and shut down".to_owned())
        }
        Status::Failed(why) => {
            (Ended::Failed, format!("the guest cannot go on: {}", Causes(&*why)))
        }
    })
}

/// One that waits for a guest to arrive. Nobody has vouched for what it is to have.
///
/// # Errors
/// Why there can be none here: the source is told.
pub(crate) fn vacant(
    vcpus: usize,
    memory: u64,
    layout: &Layout,
    show: &Arc<Show>,
) -> Result<Box<dyn Movable>, Refusal> {
    // Before there is a machine: memory that nobody has claimed to have is not asked for.
    let ram = GfnRange::new(RAM_BASE, memory.div_ceil(PAGE_SIZE));
    if layout.regions().get(RAM).map(|region| region.range) != ram {
        return Err(other_layout());
    }
    // Nobody tracks its writes here, so it needs nothing of the kernel's that an old one lacks.
    let config = Config { way: Way::ClearingGet, ..Config::new(memory, vcpus) };
    let (machine, _) = Machine::vacant(&config).map_err(|error| refusal(&error))?;
    if machine.layout() != layout {
        return Err(other_layout());
    }
    machine.set_console(Box::new(console(show)));
    Ok(Box::new(machine))
}

fn other_layout() -> Refusal {
    Refusal::new(RefusalKind::Layout, "its memory is not what it describes")
}

fn refusal(error: &MachineError) -> Refusal {
    let kind = match error {
        MachineError::Memory(MemoryError::Refused { .. } | MemoryError::Pool { .. })
        | MachineError::Thread(_) => RefusalKind::OutOfMemory,
        // Also memory that no machine here could have, however much there were.
        _ => RefusalKind::Machine,
    };
    Refusal::new(kind, &format!("it runs on /dev/kvm, and here {}", Causes(error)))
}

#[cfg(test)]
mod tests;
