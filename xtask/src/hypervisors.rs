//! Format and lints of the hypervisors' workspace, which has targets of its own.

use crate::cargo::{cargo, root, run, target};
use crate::failure::Failure;
use crate::hardware::arm_toolchain::{self, ArmToolchain};
use crate::tool::Missing;
use std::process::Command;

/// The packages that are built for Arm alone; the others are for x86, or for both.
const ARM: [&str; 2] = ["el2-stage2", "el2-linux"];
const X86: &str = "x86_64-unknown-linux-gnu";

/// The source is formatted.
pub(crate) fn fmt() -> Result<(), Failure> {
    run(inside("fmt --all --check"))
}

/// No lint has anything to say, on either architecture.
pub(crate) fn clippy() -> Result<(), Failure> {
    let mut x86 = apart("clippy --release --locked --workspace --target");
    x86.arg(X86);
    x86.args(ARM.iter().flat_map(|name| ["--exclude", name]));
    x86.args(["--", "-D", "warnings"]);
    run(x86)?;
    let mut arm = apart("check --release --locked --target");
    arm.arg(arm_toolchain::TARGET);
    arm.args(ARM.iter().flat_map(|name| ["--package", name]));
    ArmToolchain::at_hand(Missing::Name)?.lint_with(&mut arm);
    run(arm)
}

/// In a target folder of its own.
fn apart(words: &str) -> Command {
    let mut command = inside(words);
    command.env("CARGO_TARGET_DIR", target().join("hypervisors"));
    command
}

/// `cargo` in the hypervisors' own workspace. Its `.cargo/config.toml` names linker and flags, which
/// flags of the environment would replace.
pub(crate) fn inside(words: &str) -> Command {
    let mut command = cargo(words);
    command.current_dir(root().join("hypervisors"));
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}
