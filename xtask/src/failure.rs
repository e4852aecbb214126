//! Why a step failed.

use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A command ran and did not succeed.
    #[error("`{command}` failed ({status})")]
    Command {
        /// As a person would type it.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A command could not be started.
    #[error("`{command}` could not be started: {error}")]
    Start {
        /// As a person would type it.
        command: String,
        /// Why.
        error: std::io::Error,
    },
    /// System packages are missing.
    #[error(
        "missing: {names}\n  fetch them with `apt-get install --no-install-recommends {names}`, \
         or say `--install`"
    )]
    Packages {
        /// The packages, as apt names them.
        names: String,
    },
    /// Packages that are not installed, but unpacked into the target folder, are not there yet.
    #[error(
        "the packages of `{what}` are missing\n  let `cargo xtask arm-toolchain --install`, `cargo \
         xtask hardware --install` or `cargo xtask test --install` download them: nothing is installed"
    )]
    NotUnpacked {
        /// The folder they are unpacked in.
        what: &'static str,
    },
    /// Debian has no such package.
    #[error("the system's package sources have no {pattern}")]
    NoPackage {
        /// What its name looks like.
        pattern: String,
    },
    /// `cargo deny` is missing.
    #[error(
        "cargo-deny is missing\n  fetch it with `cargo install --locked cargo-deny`, \
         or let `cargo xtask test --install` do it"
    )]
    NoCargoDeny,
    /// A file that a step built cannot be read.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file that a step built is no ELF image.
    #[error("{path}: {error}", path = path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        error: object::Error,
    },
    /// A disk that boots an image cannot be made.
    #[error("{path}: {why}", path = path.display())]
    Unbootable {
        /// The image.
        path: PathBuf,
        /// Why.
        why: crate::hardware::Unbootable,
    },
    /// What the machines have shown cannot be written.
    #[error("{0}")]
    Json(serde_json::Error),
    /// Machines have not shown what they were to show.
    #[error("{objections} checks on hardware are not met")]
    NotProven {
        /// How many.
        objections: usize,
    },
    /// The freestanding program holds what it must not hold.
    #[error("the freestanding program is not freestanding: {0}")]
    NotFreestanding(String),
    /// A test said at its gate what cannot be read.
    #[error("a test reported `{0}`, which is no report")]
    NoReport(String),
    /// What was built cannot be listed.
    #[error("cargo said `{0}`, which is no message of its own")]
    NoMessage(String),
    /// Tests that should have run have not, and passed.
    #[error("tests passed that did not run:\n{}", crate::presence::listed(objections))]
    NotRun {
        /// Which, and why they should have.
        objections: Vec<crate::presence::Objection>,
    },
    /// Another run uses the same serial lines and disks.
    #[error(
        "another `cargo xtask hardware` works in {folder}\n  wait for it, or set CARGO_TARGET_DIR \
         to another folder",
        folder = folder.display()
    )]
    HardwareBusy {
        /// The folder.
        folder: PathBuf,
    },
}
