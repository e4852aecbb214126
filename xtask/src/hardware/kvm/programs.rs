//! The tests' programs, each linked into one file: there are no libraries where they run.

use super::{arm, at, only_folder_in};
use crate::cargo::cargo;
use crate::failure::Failure;
use crate::hardware::arm_toolchain::{self, ArmToolchain};
use crate::presence::listing;
use crate::tool::Missing;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Symbols would be unpacked into the machine's memory, and nobody reads them there.
const FLAGS: [&str; 2] = ["-Ctarget-feature=+crt-static", "-Cstrip=symbols"];

const X86: &str = "x86_64-unknown-linux-gnu";

/// Builds the programs for [`svm`](super::svm), and puts them into `folder` without cargo's hashes in
/// their names.
pub(crate) fn build(folder: &Path) -> Result<(), Failure> {
    let tests = "-p vellum-vmm -p vellum-kvm --lib --test native --test ways";
    build_with(command(folder, X86, tests, &FLAGS), folder)
}

/// The same for [`arm`]: with another compiler, and what a C compiler would add to a program.
pub(crate) fn build_for_arm(folder: &Path) -> Result<(), Failure> {
    let packages = arm::libraries()?;
    let library = packages.join("usr/lib/aarch64-linux-gnu");
    let compiler = only_folder_in(&packages.join("usr/lib/gcc/aarch64-linux-gnu"))?;
    let folders = [&library, &compiler].map(|folder| format!("-L{}", folder.display()));
    let linking = ["-Clinker-flavor=ld", "-Crelocation-model=static", &folders[0], &folders[1]];
    let tests = "-p vellum-kvm --features breaks --test ways";
    let flags = [&FLAGS[..], &linking].concat();
    let mut command = command(folder, arm_toolchain::TARGET, tests, &flags);
    fs::create_dir_all(folder).map_err(at(folder))?;
    let toolchain = ArmToolchain::at_hand(Missing::Name)?;
    toolchain.build_programs_with(&mut command, &library, &folder.join("linker"))?;
    build_with(command, folder)
}

fn build_with(command: Command, folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(at(folder))?;
    for program in listing::built(command)? {
        let place = folder.join(&program.binary);
        fs::copy(&program.path, &place).map_err(at(&place))?;
    }
    Ok(())
}

fn command(folder: &Path, target: &str, tests: &str, flags: &[&str]) -> Command {
    let mut command = cargo("test --quiet --locked --no-run --message-format=json --target");
    command.arg(target).args(tests.split(' '));
    command.env("CARGO_TARGET_DIR", folder.join("builds"));
    // As cargo encodes them, flags may have spaces in them: a path is one.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.env_remove("RUSTFLAGS");
    command
}
