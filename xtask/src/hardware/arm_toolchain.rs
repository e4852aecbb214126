//! A Rust compiler with a `core` and an `alloc` for Arm: Debian's, since rustup's has none here.
//!
//! Cargo and the linker remain rustup's. The target is `aarch64-unknown-linux-gnu`, used freestanding.

use super::debian::{Apt, unpacked};
use crate::cargo::root;
use crate::failure::Failure;
use crate::tool::Missing;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Arm images are built for.
pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";

const LINKER_VARIABLE: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER";

/// The compiler and its lints, and whatever of their libraries a system may be without.
const FAMILIES: [&str; 9] = [
    "rustc-web",
    "rust-web-clippy",
    "libstd-rust-web",
    "libllvm",
    "libz3",
    "libedit",
    "libffi",
    "libbsd",
    "libmd",
];

/// Starts the compiler with the libraries that came with it.
const WRAPPER: &str = "#!/bin/sh\n\
    folder=$(dirname \"$0\")\n\
    LD_LIBRARY_PATH=$folder/usr/lib/x86_64-linux-gnu exec \"$folder/usr/bin/NAME\" \"$@\"\n";

/// The toolchain.
pub(crate) struct ArmToolchain {
    compiler: PathBuf,
    lints: PathBuf,
    linker: PathBuf,
}

impl ArmToolchain {
    /// The one in the target folder, which is fetched if it is missing and may be.
    pub(crate) fn at_hand(missing: Missing) -> Result<Self, Failure> {
        let folder = unpacked("arm-toolchain", missing, choose)?;
        Ok(Self {
            compiler: wrapped(&folder, "rustc")?,
            lints: wrapped(&folder, "clippy-driver")?,
            linker: linker()?,
        })
    }

    /// Has `cargo` build with it.
    pub(crate) fn build_with(&self, cargo: &mut Command) {
        cargo.env("RUSTC", &self.compiler).env(LINKER_VARIABLE, &self.linker);
    }

    /// Has `cargo` build programs of an operating system with it. `library` has the C library's ends of a
    /// program, which a C compiler would add; what holds them together is written to the file `script`.
    pub(crate) fn build_programs_with(
        &self,
        cargo: &mut Command,
        library: &Path,
        script: &Path,
    ) -> Result<(), Failure> {
        let [start, first, last] =
            ["crt1.o", "crti.o", "crtn.o"].map(|name| library.join(name).display().to_string());
        let linker = self.linker.display();
        let text = format!(
            "#!/bin/sh\nexec \"{linker}\" -flavor gnu \"{start}\" \"{first}\" \"$@\" \"{last}\"\n"
        );
        write_program(script, &text)?;
        self.build_with(cargo);
        cargo.env(LINKER_VARIABLE, script);
        Ok(())
    }

    /// Has `cargo check` lint with it. Warnings are errors.
    pub(crate) fn lint_with(&self, cargo: &mut Command) {
        self.build_with(cargo);
        cargo.env("RUSTC_WORKSPACE_WRAPPER", &self.lints).env("RUSTFLAGS", "-D warnings");
    }

    /// What a person's shell needs, and how it is used then.
    pub(crate) fn exports(&self) -> String {
        let mut cargo = Command::new("cargo");
        self.build_with(&mut cargo);
        let set = |(name, value): (&OsStr, Option<&OsStr>)| {
            format!("export {}={}\n", name.display(), value.unwrap_or_default().display())
        };
        let variables: String = cargo.get_envs().map(set).collect();
        let lints = self.lints.display();
        format!(
            "{variables}# cargo build --release --target {TARGET}\n\
             # lints: RUSTC_WORKSPACE_WRAPPER={lints} cargo check --target {TARGET}"
        )
    }
}

/// The compiler is the host's, and so is one set of libraries, for build scripts and macros.
fn choose(apt: &Apt) -> Result<Vec<String>, Failure> {
    let of_a_family = |name: &str| FAMILIES.iter().any(|family| name.starts_with(family));
    let mut names = apt.with_dependencies(&["rustc-web", "rust-web-clippy"], of_a_family)?;
    names.push("libstd-rust-web-dev:arm64".to_owned());
    Ok(names)
}

fn wrapped(folder: &Path, program: &str) -> Result<PathBuf, Failure> {
    let path = folder.join(program);
    if !path.exists() {
        write_program(&path, &WRAPPER.replace("NAME", program))?;
    }
    fs::canonicalize(&path).map_err(|error| Failure::File { path, error })
}

/// Writes a program that a shell runs.
fn write_program(path: &Path, text: &str) -> Result<(), Failure> {
    let write = fs::write(path, text);
    write
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|error| Failure::File { path: path.to_owned(), error })
}

/// The linker of the toolchain that builds everything else.
fn linker() -> Result<PathBuf, Failure> {
    let start = |error| Failure::Start { command: "rustc --print sysroot".to_owned(), error };
    let mut command = Command::new("rustc");
    let output =
        command.args(["--print", "sysroot"]).current_dir(root()).output().map_err(start)?;
    let sysroot = String::from_utf8_lossy(&output.stdout);
    let path = Path::new(sysroot.trim()).join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    fs::canonicalize(&path).map_err(|error| Failure::File { path, error })
}
