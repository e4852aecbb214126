//! An operating system that somebody else has built, on a hypervisor of ours: Debian's kernel for Arm,
//! and busybox for its first files. No device of the machine writes memory by itself.

mod archive;
mod device_tree;
mod layout;

pub(crate) use layout::{Mistake, Way};

use super::arm_packages::{Apt, unpacked};
use crate::cargo::{root, run_aside};
use crate::failure::Failure;
use crate::tool::Missing;
use archive::{Entry, archive};
use layout::Piece;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One boot of it, and how it is tracked meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Boot {
    /// In which way.
    pub(crate) way: Way,
    /// Whether that is done right.
    pub(crate) mistake: Mistake,
}

/// The kernel's command line: its messages are for the file with the serial line, and a panic ends it.
const COMMAND_LINE: &str = "console=ttyAMA0 quiet panic=-1";

impl Boot {
    /// What is to be met.
    pub(crate) const fn check(self) -> &'static [&'static str] {
        match self.mistake {
            Mistake::None => match self.way {
                Way::Pages => &["linux-boots-per-page"],
                Way::ProtectAll => &["linux-boots-protect-all"],
                Way::DirtyBits => &["linux-boots-dirty-bits"],
                Way::DirtyBitsAndProtectAll => &["linux-boots-dirty-bits-and-protect-all"],
                Way::HugeLeaves => &["linux-boots-huge-leaves"],
            },
            Mistake::ShootDownsSkipped => match self.way {
                Way::Pages => &["linux-break-is-caught-per-page"],
                Way::ProtectAll => &["linux-break-is-caught-protect-all"],
                Way::DirtyBits => &["linux-break-is-caught-dirty-bits"],
                Way::DirtyBitsAndProtectAll => {
                    &["linux-break-is-caught-dirty-bits-and-protect-all"]
                }
                Way::HugeLeaves => &["linux-break-is-caught-huge-leaves"],
            },
        }
    }

    /// The processor: one whose second stage has A and D bits only where they are used.
    const fn processor(self) -> &'static str {
        match self.way {
            Way::Pages | Way::ProtectAll | Way::HugeLeaves => "cortex-a57",
            Way::DirtyBits | Way::DirtyBitsAndProtectAll => "cortex-a76",
        }
    }

    /// The machine with everything in its memory. What is not fetched but made is put into `folder`.
    pub(crate) fn start(
        self,
        image: &Path,
        folder: &Path,
        serial: &Path,
    ) -> Result<Command, Failure> {
        let system = System::at_hand(Missing::Name)?;
        let mut command = machine(self.processor(), serial);
        command.arg("-kernel").arg(image);
        let files = write(folder, "files", &system.first_files()?)?;
        let tree = write(folder, "tree", &tree(&files)?)?;
        let handover = write(folder, "handover", &layout::handover(self.way, self.mistake))?;
        load(&mut command, &system.kernel(folder)?, Piece::Kernel.host_address());
        load(&mut command, &tree, Piece::Tree.host_address());
        load(&mut command, &files, Piece::FirstFiles.host_address());
        load(&mut command, &handover, layout::HANDOVER);
        Ok(command)
    }
}

/// Its interrupt controller has no tables in memory, and there is nothing else that has.
fn machine(processor: &str, serial: &Path) -> Command {
    let mut command = Command::new("qemu-system-aarch64");
    command.args("-machine virt,virtualization=on,gic-version=3,its=off -accel tcg".split(' '));
    command.args(["-cpu", processor]);
    command.args("-m 512 -no-reboot -nodefaults -display none -monitor none".split(' '));
    command.args(["-semihosting-config", "enable=on,target=native"]);
    command.arg("-serial").arg(format!("file:{}", serial.display()));
    command
}

fn load(command: &mut Command, file: &Path, address: u64) {
    let file = file.display();
    command.arg("-device").arg(format!("loader,file={file},addr={address:#x},force-raw=on"));
}

fn tree(files: &Path) -> Result<Vec<u8>, Failure> {
    let first = Piece::FirstFiles.guest_address();
    let end = first + fs::metadata(files).map_err(at(files))?.len();
    Ok(device_tree::flatten(&device_tree::machine(COMMAND_LINE, first..end)))
}

/// Kernel and busybox, unpacked.
pub(crate) struct System {
    folder: PathBuf,
}

impl System {
    /// Those in the target folder, which are fetched if they are missing and may be.
    pub(crate) fn at_hand(missing: Missing) -> Result<Self, Failure> {
        let folder = unpacked("arm-linux", missing, choose)?;
        // Hundreds of megabytes that nobody loads.
        let modules = folder.join("lib/modules");
        if modules.exists() {
            fs::remove_dir_all(&modules).map_err(at(&modules))?;
        }
        Ok(Self { folder })
    }

    /// The kernel as it is to be in memory: Debian compresses it in some releases.
    fn kernel(&self, folder: &Path) -> Result<PathBuf, Failure> {
        let kernel = self.kernel_as_packaged()?;
        let bytes = fs::read(&kernel).map_err(at(&kernel))?;
        if is_image(&bytes) {
            return Ok(kernel);
        }
        let (packed, image) = (folder.join("kernel.gz"), folder.join("kernel"));
        fs::write(&packed, bytes).map_err(at(&packed))?;
        let mut gunzip = Command::new("gzip");
        gunzip.args(["--decompress", "--force"]).arg(packed);
        run_aside(gunzip)?;
        let unpacked = fs::read(&image).map_err(at(&image))?;
        let refused = || at(&image)(ErrorKind::InvalidData.into());
        if is_image(&unpacked) { Ok(image) } else { Err(refused()) }
    }

    fn kernel_as_packaged(&self) -> Result<PathBuf, Failure> {
        let boot = self.folder.join("boot");
        let files = fs::read_dir(&boot).map_err(at(&boot))?;
        let is_kernel =
            |path: &PathBuf| path.file_name().is_some_and(|name| is_kernel(&name.to_string_lossy()));
        let mut paths = files.filter_map(|file| file.ok().map(|file| file.path()));
        paths.find(is_kernel).ok_or_else(|| at(&boot)(ErrorKind::NotFound.into()))
    }

    /// Busybox, and what it is to do.
    fn first_files(&self) -> Result<Vec<u8>, Failure> {
        let busybox = self.folder.join("bin/busybox");
        let busybox = fs::read(&busybox).map_err(at(&busybox))?;
        let init = root().join("hypervisors/el2-linux/init.sh");
        let init = fs::read(&init).map_err(at(&init))?;
        Ok(archive(&[
            ("bin", Entry::Folder),
            ("bin/busybox", Entry::Program(&busybox)),
            ("dev", Entry::Folder),
            ("dev/console", Entry::Device { major: 5, minor: 1 }),
            ("init", Entry::Program(&init)),
        ]))
    }
}

/// The kernel's package has another name in each release; one without a release depends on it.
fn choose(apt: &Apt) -> Result<Vec<String>, Failure> {
    let kernel = |name: &str| name.starts_with("linux-image-");
    let mut names = apt.with_dependencies(&["linux-image-arm64:arm64"], kernel)?;
    names.push("busybox-static:arm64".to_owned());
    Ok(names)
}

fn is_kernel(name: &str) -> bool {
    name.starts_with("vmlinuz-")
}

/// Linux, Documentation/arm64/booting.rst: the magic number of the header.
fn is_image(bytes: &[u8]) -> bool {
    bytes.get(56..60) == Some(b"ARM\x64")
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
    let path = folder.join(name);
    fs::write(&path, bytes).map_err(at(&path))?;
    Ok(path)
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File { path, error }
}
