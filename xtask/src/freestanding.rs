//! The library without std and libc: `tests/freestanding` is a whole program on the bare library.
//! It is linked with nothing else, searched for what must not be there, and run.

use crate::cargo::{cargo, root, run as run_command, target};
use crate::failure::Failure;
use object::{Object, ObjectSymbol};
use std::path::Path;
use std::process::Command;

/// Parts of names that only std and libc bring. Rust's mangling spells a crate's name out.
const FORBIDDEN: [&str; 5] = ["3std", "std::", "__libc", "pthread", "malloc"];

/// Names that must be there, or the search found nothing because there was nothing.
const EXPECTED: [&str; 2] = ["_start", "vellum_mmu"];

/// Builds, searches and runs the program.
pub(crate) fn run() -> Result<(), Failure> {
    build()?;
    let program = target().join("freestanding/x86_64-unknown-linux-gnu/release/freestanding");
    search(&program)?;
    run_command(Command::new(program))
}

/// From its own folder: its `.cargo/config.toml` names linker and flags.
fn build() -> Result<(), Failure> {
    let mut command = cargo("build --release --locked");
    command.current_dir(root().join("tests/freestanding"));
    command.env("CARGO_TARGET_DIR", target().join("freestanding"));
    run_command(command)
}

fn search(program: &Path) -> Result<(), Failure> {
    let bytes = std::fs::read(program)
        .map_err(|error| Failure::File { path: program.to_owned(), error })?;
    let image = object::File::parse(&*bytes)
        .map_err(|error| Failure::Image { path: program.to_owned(), error })?;
    let names: Vec<&str> = image.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    forbid(&names)?;
    expect(&names)?;
    println!("{} symbols, none of std or libc", names.len());
    Ok(())
}

fn forbid(names: &[&str]) -> Result<(), Failure> {
    let found = names.iter().find(|name| FORBIDDEN.iter().any(|part| name.contains(part)));
    found.map_or(Ok(()), |name| Err(Failure::NotFreestanding(format!("it holds `{name}`"))))
}

fn expect(names: &[&str]) -> Result<(), Failure> {
    let lost = EXPECTED.iter().find(|part| !names.iter().any(|name| name.contains(*part)));
    lost.map_or(Ok(()), |part| Err(Failure::NotFreestanding(format!("it has no `{part}`"))))
}

#[cfg(test)]
mod tests {
    use super::{expect, forbid};

    #[test]
    fn a_name_of_std_is_found_in_either_mangling() {
        assert!(forbid(&["_start", "_ZN3std2io5stdio6_print17h0123456789abcdefE"]).is_err());
        assert!(forbid(&["_RNvNtCs1234_3std2io6_print"]).is_err());
        assert!(forbid(&["_ZN4core3fmt9Formatter3pad17h0123456789abcdefE"]).is_ok());
    }

    #[test]
    fn a_program_without_the_library_proves_nothing() {
        assert!(expect(&["_start"]).is_err());
        assert!(expect(&["_start", "_RNvCs1234_10vellum_mmu3new"]).is_ok());
    }
}
