//! What runs: a built-in guest or a file.

use crate::args::{self, MachineArgs};
use crate::failure::Failure;
use crate::machine::Life;
use crate::quantity::Size;
use std::path::{Path, PathBuf};
use vellum_machine::PageSize;
use vellum_machine::elf::{Image, PlaceError};
use vellum_machine::error::{BoardError, RamError};
use vellum_machine::guests::{Builtin, MINIMUM_MEMORY, selfcheck};
use vellum_machine::machine::{MachineConfig, MachineError};

/// A guest program, ready to be placed.
pub(crate) struct Guest {
    /// The program.
    pub(crate) image: Image,
    builtin: Option<Builtin>,
}

impl Guest {
    /// The guest that the command line names.
    pub(crate) fn load(args: &MachineArgs) -> Result<Self, Failure> {
        match args.guest.parse::<Builtin>() {
            Ok(builtin) => Self::built_in(builtin, args.memory),
            Err(_) => Self::read(&args.guest),
        }
    }

    fn built_in(builtin: Builtin, memory: Size) -> Result<Self, Failure> {
        if memory.bytes() < MINIMUM_MEMORY {
            let least = Size::of_bytes(MINIMUM_MEMORY).unwrap_or(memory);
            return Err(Failure::TooLittleMemory {
                guest: builtin.to_string(),
                least,
                given: memory,
            });
        }
        let elf = builtin.elf().map_err(|_| Failure::Builtin(builtin))?;
        let image = Image::parse(&elf).map_err(|_| Failure::Builtin(builtin))?;
        Ok(Self { image, builtin: Some(builtin) })
    }

    fn read(name: &str) -> Result<Self, Failure> {
        let path = PathBuf::from(name);
        let file =
            contents(&path).map_err(|error| Failure::GuestFile { path: path.clone(), error })?;
        let image = Image::parse(&file).map_err(|error| Failure::GuestImage { path, error })?;
        Ok(Self { image, builtin: None })
    }

    /// Whether it came with the tool.
    pub(crate) fn is_built_in(&self) -> bool {
        self.builtin.is_some()
    }

    /// What must be seen of it at the destination before it is said to run there.
    pub(crate) fn proof(&self, memory: Size, vcpus: u32) -> Proof {
        match self.builtin {
            Some(Builtin::Selfcheck) => {
                Proof::Rechecked(selfcheck::passes_to_recheck_all(memory.bytes(), u64::from(vcpus)))
            }
            Some(_) => Proof::EveryCpu,
            None => Proof::AnyCpu,
        }
    }
}

impl MachineArgs {
    /// The software machine that was asked for.
    pub(crate) fn config(&self) -> Result<MachineConfig, Failure> {
        let pages = match self.page_size {
            args::PageSize::Small => PageSize::Small,
            args::PageSize::Huge2M => PageSize::Huge2M,
            args::PageSize::Huge1G => PageSize::Huge1G,
            args::PageSize::Pooled => return Err(Failure::PooledInSoftware),
        };
        let config = MachineConfig::new(self.memory.bytes(), self.vcpus as usize);
        Ok(MachineConfig { seed: self.seed, pages, ..config })
    }

    /// Why it could not be built, in terms of what was asked for.
    pub(crate) fn not_built(&self, error: MachineError) -> Failure {
        let (guest, ram) = (self.guest.clone(), self.memory);
        match error {
            MachineError::Image(PlaceError::OutsideRam { .. }) => {
                Failure::OutsideRam { guest, error, ram }
            }
            MachineError::Memory(_)
            | MachineError::Board(BoardError::Ram(
                RamError::TooLarge(_) | RamError::Refused { .. } | RamError::PastTheEnd(_),
            )) => Failure::NoMemory { given: ram, error },
            other => other.into(),
        }
    }
}

/// A device may have no end, so only a file is read.
fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.is_file() {
        std::fs::read(path)
    } else {
        Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// What shows that a guest runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proof {
    /// Every virtual CPU has finished so many passes: the guest has found all of its memory right
    /// once more.
    Rechecked(u64),
    /// Every virtual CPU has finished a pass.
    Passed,
    /// Every virtual CPU has executed.
    EveryCpu,
    /// Some virtual CPU has: who wrote the guest knows how many it uses.
    AnyCpu,
}

impl Proof {
    /// Whether what was seen is enough.
    pub(crate) fn is_given(self, life: &Life) -> bool {
        let (work, passes) = (life.work.amounts(), &life.passes);
        match self {
            Self::Rechecked(least) => {
                let enough = passes.iter().all(|passes| *passes >= least);
                enough && !passes.is_empty() && Self::EveryCpu.is_given(life)
            }
            Self::Passed => Self::Rechecked(1).is_given(life),
            Self::EveryCpu => !work.is_empty() && work.iter().all(|done| *done > 0),
            Self::AnyCpu => work.iter().any(|done| *done > 0),
        }
    }

    /// What shows that the guest is in the middle of its work, before it is moved.
    pub(crate) fn of_warmth(self) -> Self {
        match self {
            Self::Rechecked(_) => Self::Passed,
            other => other,
        }
    }

    /// What was seen, once it was.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Rechecked(_) => "the guest runs on there and has found all of its memory right",
            Self::Passed | Self::EveryCpu => "the guest runs on there on every virtual CPU",
            Self::AnyCpu => "the guest runs on there",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Work;

    fn life(retired: &[u64], passes: &[u64]) -> Life {
        Life { work: Work::Retired(retired.to_vec()), passes: passes.to_vec() }
    }

    #[test]
    fn one_idle_cpu_is_not_running_on() {
        assert!(!Proof::EveryCpu.is_given(&life(&[5, 0], &[0, 0])));
        assert!(Proof::EveryCpu.is_given(&life(&[5, 1], &[0, 0])));
        assert!(Proof::AnyCpu.is_given(&life(&[5, 0], &[0, 0])));
    }

    #[test]
    fn a_cpu_that_only_leaves_the_guest_has_finished_no_pass() {
        let exits =
            |passes: &[u64]| Life { work: Work::Exits(vec![9, 9]), passes: passes.to_vec() };
        assert!(!Proof::Passed.is_given(&exits(&[1, 0])));
        assert!(Proof::Passed.is_given(&exits(&[1, 1])));
    }

    #[test]
    fn a_self_checking_guest_has_to_check_everything_on_every_cpu() {
        assert!(!Proof::Rechecked(3).is_given(&life(&[9, 9], &[3, 2])));
        assert!(Proof::Rechecked(3).is_given(&life(&[9, 9], &[3, 4])));
        assert!(!Proof::Rechecked(3).is_given(&life(&[], &[])));
    }
}
