//! An operating system that somebody else has built, on a hypervisor of ours: Debian's kernel for Arm,
//! and busybox for its first files. No device of the machine writes memory by itself.

mod device_tree;
mod layout;

use super::archive::{Entry, archive};
use super::debian::{Apt, unpacked};
use crate::cargo::{root, run_aside};
use crate::failure::Failure;
use crate::tool::Missing;
use layout::{Handover, Mistake, Piece, Way};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is to be met, one boot each, in this order.
pub(crate) const CHECKS: [&str; 9] = [
    "linux-boots-per-page",
    "linux-boots-protect-all",
    "linux-boots-dirty-bits",
    "linux-smp-protect-all",
    "linux-smp-dirty-bits-protect-all",
    "linux-smp-huge-leaves",
    "linux-break-is-caught-per-page",
    "linux-break-is-caught-protect-all",
    "linux-break-is-caught-dirty-bits",
];

/// A boot for each of [`CHECKS`]: processor, how many, and the rest. The second stage of the first processor sets no A and no D bits.
const BOOTS: [(&str, u32, Way, Mistake); CHECKS.len()] = [
    (A57, 1, Way::Pages, Mistake::None),
    (A57, 1, Way::ProtectAll, Mistake::None),
    (A76, 1, Way::DirtyBits, Mistake::None),
    (A57, 2, Way::ProtectAll, Mistake::None),
    (A76, 2, Way::DirtyBitsAndProtectAll, Mistake::None),
    (A57, 2, Way::HugeLeaves, Mistake::None),
    (A57, 1, Way::Pages, Mistake::ShootDownsSkipped),
    (A57, 1, Way::ProtectAll, Mistake::ShootDownsSkipped),
    (A76, 1, Way::DirtyBits, Mistake::ShootDownsSkipped),
];
const A57: &str = "cortex-a57";
const A76: &str = "cortex-a76";

/// The kernel's command line: only what worries it is said, and a panic ends it.
const COMMAND_LINE: &str = "console=ttyAMA0 quiet panic=-1";

/// Boots once, on `$2` of the processors `$1` with the handover `$3`. Nothing on the machine writes memory by
/// itself: its interrupt controller has no tables there. It ends when the shell does.
const BOOT: &str = r#"
boot() {
    setpriv --pdeathsig KILL -- qemu-system-aarch64 -accel tcg \
        -machine virt,virtualization=on,gic-version=3,its=off -cpu "$1" -smp "$2" -m 512 \
        -nodefaults -no-reboot -display none -monitor none \
        -semihosting-config enable=on,target=native \
        -chardev "file,id=line,path=$serial,append=on" -serial chardev:line \
        -kernel "$image" -device "loader,force-raw=on,file=$kernel,addr=KERNEL" \
        -device "loader,force-raw=on,file=tree-$2,addr=TREE" \
        -device loader,force-raw=on,file=files,addr=FILES \
        -device "loader,force-raw=on,file=$3,addr=HANDOVER"
}
set -e
"#;

/// All boots, one after the other, up to the first that fails: one serial line for all of them. What is
/// not fetched but made is put into `folder`.
pub(crate) fn boots(image: &Path, folder: &Path, serial: &Path) -> Result<Command, Failure> {
    let system = System::at_hand(Missing::Name)?;
    let files = write(folder, "files", &system.first_files()?)?;
    for (before, (_, cpus, way, mistake)) in BOOTS.into_iter().enumerate() {
        write(folder, &format!("tree-{cpus}"), &tree(&files, cpus)?)?;
        let handover = Handover { way, mistake, cpus, before: before as u64 };
        write(folder, &handover_file(before), &handover.bytes())?;
    }
    let mut command = Command::new("sh");
    command.arg("-c").arg(script()).current_dir(folder);
    command.env("image", image).env("serial", serial).env("kernel", system.kernel(folder)?);
    Ok(command)
}

fn script() -> String {
    let boot = BOOTS.iter().enumerate().fold(BOOT.to_owned(), |script, (number, boot)| {
        script + &format!("boot {} {} {}\n", boot.0, boot.1, handover_file(number))
    });
    let places = [
        ("KERNEL", Piece::Kernel.host_address()),
        ("TREE", Piece::Tree.host_address()),
        ("FILES", Piece::FirstFiles.host_address()),
        ("HANDOVER", layout::HANDOVER),
    ];
    places.into_iter().fold(boot, |script, (name, address)| {
        script.replace(&format!("addr={name}"), &format!("addr={address:#x}"))
    })
}

fn handover_file(number: usize) -> String {
    format!("handover-{number}")
}

fn tree(files: &Path, cpus: u32) -> Result<Vec<u8>, Failure> {
    let first = Piece::FirstFiles.guest_address();
    let end = first + fs::metadata(files).map_err(at(files))?.len();
    Ok(device_tree::flatten(&device_tree::machine(COMMAND_LINE, first..end, cpus)))
}

/// Sees to it that there is a kernel, and busybox.
pub(crate) fn require(missing: Missing) -> Result<(), Failure> {
    System::at_hand(missing).map(|_| ())
}

/// Kernel and busybox, unpacked.
struct System {
    folder: PathBuf,
}

impl System {
    /// Those in the target folder, which are fetched if they are missing and may be.
    fn at_hand(missing: Missing) -> Result<Self, Failure> {
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
        let kernel = kernel_in(&self.folder)?;
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

/// The kernel as it is packaged, of the packages in `folder`.
pub(super) fn kernel_in(folder: &Path) -> Result<PathBuf, Failure> {
    let boot = folder.join("boot");
    let files = fs::read_dir(&boot).map_err(at(&boot))?;
    let is_kernel =
        |path: &PathBuf| path.file_name().is_some_and(|name| is_kernel(&name.to_string_lossy()));
    let mut paths = files.filter_map(|file| file.ok().map(|file| file.path()));
    paths.find(is_kernel).ok_or_else(|| at(&boot)(ErrorKind::NotFound.into()))
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
