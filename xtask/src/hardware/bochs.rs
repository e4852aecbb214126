//! Bochs, which plays Intel's and AMD's processors from their manuals.

use super::disk::{self, CYLINDERS, HEADS, SECTORS};
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

    /// Processors, cores of each, threads of each core. The two that have everything that the others
    /// have are two.
    const fn cpus(self) -> &'static str {
        match self {
            Self::IceLake | Self::Ryzen => "1:2:1",
            Self::CannonLake | Self::SandyBridge => "1:1:1",
        }
    }
}

/// The packages that bring it, and firmware for it.
pub(crate) const PACKAGES: &[&str] = &["bochs", "bochs-term", "bochsbios", "vgabios"];

/// The firmware, where Debian's packages put it.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VIDEO_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// What Bochs's debugger is told: without it, it would wait for somebody to say so.
const DEBUGGER: &str = "c\nquit\n";

/// A machine that boots `image` from a disk. Everything but the serial line is in `folder`.
///
/// Bochs draws on a terminal, and takes one that can do nothing; it is given a session of its own, in
/// which it finds no other. Its own log is in `folder`, too: its exit status says nothing, since the
/// guest's way out is an error to it.
pub(crate) fn machine(
    model: Model,
    image: &Path,
    folder: &Path,
    serial: &Path,
) -> Result<Command, Failure> {
    let disk = disk::make(image, folder)?;
    forget_lock(&disk)?;
    write(
        &folder.join("bochsrc"),
        &settings(model, inside(folder, &disk), inside(folder, serial)),
    )?;
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

fn settings(model: Model, disk: &Path, serial: &Path) -> String {
    let (cpus, disk, serial) = (model.cpus(), disk.display(), serial.display());
    let model = model.name();
    format!(
        "config_interface: textconfig\n\
         display_library: term\n\
         cpu: model={model}, count={cpus}, ips=4000000, reset_on_triple_fault=0\n\
         memory: guest=128, host=128\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VIDEO_BIOS}\n\
         ata0: enabled=1\n\
         ata0-master: type=disk, path={disk}, mode=flat, \
         cylinders={CYLINDERS}, heads={HEADS}, spt={SECTORS}\n\
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
