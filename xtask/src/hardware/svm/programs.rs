//! The tests' programs, each linked into one file: there are no libraries where they run.

use crate::cargo::cargo;
use crate::failure::Failure;
use crate::presence::listing;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Builds the programs, and puts them into `folder` without cargo's hashes in their names.
pub(crate) fn build(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(super::at(folder))?;
    for program in listing::built(command(folder))? {
        let place = folder.join(&program.binary);
        fs::copy(&program.path, &place).map_err(super::at(&place))?;
    }
    Ok(())
}

/// Symbols would be unpacked into the machine's memory, and nobody reads them there.
fn command(folder: &Path) -> Command {
    let mut command = cargo(
        "test --quiet --locked --no-run --message-format=json --target x86_64-unknown-linux-gnu \
         -p vellum-vmm -p vellum-kvm --lib --test native --test ways",
    );
    command.env("CARGO_TARGET_DIR", folder.join("builds"));
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}
