//! Bochs, which plays Intel's and AMD's processors from their manuals.

use super::disk::{self, Disk, HEADS, SECTORS};
use super::kvm::Boot;
use super::loader::Given;
use crate::failure::Failure;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A processor, by the name that Bochs has for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Model {
    /// Intel Ice Lake: EPT with A and D bits, page-modification logging, sub-page permissions.
    IceLake,
    /// Intel Cannon Lake: EPT with A and D bits.
    CannonLake,
    /// Intel Sandy Bridge: EPT without them.
    SandyBridge,
    /// AMD Ryzen: SVM with nested paging.
    Ryzen,
}

impl Model {
    const fn name(self) -> &'static str {
        match self {
            Self::IceLake => "corei7_icelake_u",
            Self::CannonLake => "corei3_cnl",
            Self::SandyBridge => "corei7_sandy_bridge_2600k",
            Self::Ryzen => "ryzen",
        }
    }

    /// A machine for a hypervisor of ours. The two that have everything that the others have have two
    /// CPUs.
    const fn board(self) -> Board {
        let cores = match self {
            Self::IceLake | Self::Ryzen => 2,
            Self::CannonLake | Self::SandyBridge => 1,
        };
        Board { model: self, cores, megabytes: 128, per_second: 4_000_000 }
    }
}

/// What a machine is made of.
#[derive(Clone, Copy)]
struct Board {
    model: Model,
    cores: u32,
    megabytes: u32,
    /// How many instructions take a second of the machine's own.
    per_second: u32,
}

/// A machine for Linux. This processor says in CPUID how fast its time-stamp counter is, which counts
/// instructions: its other clocks are to agree.
const FOR_LINUX: Board =
    Board { model: Model::IceLake, cores: 1, megabytes: 512, per_second: 1_497_600_000 };

/// What the firmware takes at the end of memory for its tables.
const TABLES: u32 = 64 << 10;

/// The packages that bring it, and firmware for it.
pub(crate) const PACKAGES: &[&str] = &["bochs", "bochs-term", "bochsbios", "vgabios"];

/// The firmware, where Debian's packages put it.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VIDEO_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// What Bochs's debugger is told: without it, it would wait for somebody to say so.
const DEBUGGER: &str = "c\nquit\n";

/// A machine that boots `image` from a disk.
pub(crate) fn machine(
    model: Model,
    image: &Path,
    folder: &Path,
    serial: &Path,
) -> Result<Command, Failure> {
    start(model.board(), &disk::make(image, folder)?, folder, serial)
}

/// A machine of one CPU with VMX that boots a kernel with its first files from a disk.
pub(crate) fn linux(boot: &Boot<'_>, command_line: &str) -> Result<Command, Failure> {
    let path = boot.files;
    let files = fs::read(path);
    let files = files.map_err(|error| Failure::File { path: path.to_owned(), error })?;
    let end = (FOR_LINUX.megabytes << 20) - TABLES;
    let given = Given { files: &files, command_line, end };
    let disk = disk::of_linux(boot.kernel, &given, boot.folder)?;
    start(FOR_LINUX, &disk, boot.folder, boot.serial)
}

/// Everything but the serial line is in `folder`.
///
/// Bochs draws on a terminal, and takes one that can do nothing; it is given a session of its own, in
/// which it finds no other. Its own log is in `folder`, too: its exit status says nothing, since the
/// guest's way out is an error to it.
fn start(board: Board, disk: &Disk, folder: &Path, serial: &Path) -> Result<Command, Failure> {
    forget_lock(&disk.path)?;
    let disk = Disk { path: inside(folder, &disk.path).to_owned(), cylinders: disk.cylinders };
    write(&folder.join("bochsrc"), &settings(board, &disk, inside(folder, serial)))?;
    write(&folder.join("debugger"), DEBUGGER)?;
    let mut command = Command::new("sh");
    command.args(["-c", "exec setsid bochs -q -f bochsrc -rc debugger >bochs.out 2>&1"]);
    command.env("TERM", "dumb").current_dir(folder);
    Ok(command)
}

/// Whoever ended a run before its time has left its disk locked.
fn forget_lock(disk: &Path) -> Result<(), Failure> {
    let lock = disk.with_extension("img.lock");
    match fs::remove_file(&lock) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::File { path: lock, error })
        }
        _ => Ok(()),
    }
}

/// As Bochs is told, which runs in `folder`: a comma or a blank on the way there would end the setting.
fn inside<'a>(folder: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(folder).unwrap_or(path)
}

fn settings(board: Board, disk: &Disk, serial: &Path) -> String {
    let Board { model, cores, megabytes, per_second } = board;
    let (model, serial) = (model.name(), serial.display());
    let (disk, cylinders) = (disk.path.display(), disk.cylinders);
    format!(
        "config_interface: textconfig\n\
         display_library: term\n\
         cpu: model={model}, count=1:{cores}:1, ips={per_second}, reset_on_triple_fault=0\n\
         memory: guest={megabytes}, host={megabytes}\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VIDEO_BIOS}\n\
         ata0: enabled=1\n\
         ata0-master: type=disk, path={disk}, mode=flat, \
         cylinders={cylinders}, heads={HEADS}, spt={SECTORS}\n\
         boot: disk\n\
         com1: enabled=1, mode=file, dev={serial}\n\
         port_e9_hack: enabled=1\n\
         sound: waveoutdrv=dummy\n\
         log: bochs.log\n"
    )
}

fn write(path: &PathBuf, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| Failure::File { path: path.clone(), error })
}
