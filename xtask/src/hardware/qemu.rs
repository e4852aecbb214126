//! QEMU, without acceleration: its own processor is the one that is asked for.

use super::kvm::Boot;
use std::path::Path;
use std::process::Command;

/// An x86 machine of two CPUs that run at once. It loads the image as a multiboot loader does, and
/// whoever writes to port 0xf4 ends it.
pub(crate) fn x86(image: &Path, serial: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args("-accel tcg,thread=multi -smp 2 -cpu max -m 128 -no-reboot".split(' '));
    command.args("-nodefaults -display none -monitor none".split(' '));
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.arg("-serial").arg(format!("file:{}", serial.display()));
    command.arg("-kernel").arg(image);
    command
}

/// An x86 machine of one CPU that begins with a kernel, its first files and its command line.
pub(crate) fn pc(boot: &Boot<'_>, command_line: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args("-accel tcg,thread=single -smp 1 -cpu max -m 1024 -no-reboot".split(' '));
    command.args("-nodefaults -display none -monitor none".split(' '));
    begin(&mut command, boot, command_line);
    command
}

/// An Arm machine with EL2, two CPUs that run at once, and a way out by semihosting.
pub(crate) fn arm(cpu: &str, image: &Path, serial: &Path) -> Command {
    let mut command = Command::new("qemu-system-aarch64");
    command.args("-accel tcg,thread=multi -smp 2 -m 128 -no-reboot -nodefaults".split(' '));
    command.args("-machine virt,virtualization=on,gic-version=3 -cpu".split(' ')).arg(cpu);
    command.args("-display none -monitor none".split(' '));
    command.args("-semihosting-config enable=on,target=native".split(' '));
    command.arg("-serial").arg(format!("file:{}", serial.display()));
    command.arg("-kernel").arg(image);
    command
}

/// An Arm machine of two CPUs with EL2, whose interrupt controller a hypervisor can share, that begins
/// with a kernel, its first files and its command line. The processor lets a kernel run at EL2 as a
/// whole, which takes half the time of one that does not.
pub(crate) fn virt(boot: &Boot<'_>, command_line: &str) -> Command {
    let mut command = Command::new("qemu-system-aarch64");
    command.args("-accel tcg,thread=multi -smp 2 -m 1024 -no-reboot -nodefaults".split(' '));
    command.args("-machine virt,virtualization=on,gic-version=3 -cpu cortex-a76".split(' '));
    command.args("-display none -monitor none".split(' '));
    begin(&mut command, boot, command_line);
    command
}

fn begin(command: &mut Command, boot: &Boot<'_>, command_line: &str) {
    command.arg("-serial").arg(format!("file:{}", boot.serial.display()));
    command.arg("-kernel").arg(boot.kernel).arg("-initrd").arg(boot.files);
    command.args(["-append", command_line]);
}
