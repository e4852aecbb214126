//! Whether this machine has what these tests need: their one gate.
#![allow(dead_code, reason = "each test program uses its part")]

use std::error::Error;
use std::process::Command;
use vellum_kvm::{Capabilities, Way, open};
use vellum_presence::{Need, given};

/// Whether there is `/dev/kvm`, and a kernel that can track this way.
pub(crate) fn has(way: Way) -> bool {
    let Some(capabilities) = given(Need::Kvm, capabilities()) else { return false };
    given(Need::KvmWay(way.name().to_owned()), capabilities.supports(way)).is_some()
}

/// Whether there is `/dev/kvm`: the oldest way of tracking comes with it.
pub(crate) fn has_any() -> bool {
    has(Way::ClearingGet)
}

fn capabilities() -> Result<Capabilities, Box<dyn Error>> {
    Ok(Capabilities::of(&open()?.create_vm()?))
}

/// Whether the host's pool of huge pages has so many bytes: what the tool `said` if it has not.
pub(crate) fn has_pool(bytes: u64, said: Result<(), String>) -> bool {
    given(Need::HugePages(bytes), said).is_some()
}

/// A command that begins by making `/dev` with a shell's `script`, and goes on with arguments yet to be
/// given. None where this user has no mount namespace.
pub(crate) fn with_dev(script: &str) -> Option<Command> {
    let mut probe = in_namespace("true");
    let answer = match probe.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("unshare: {error}")),
    };
    given(Need::Namespaces, answer)?;
    Some(in_namespace(script))
}

fn in_namespace(script: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs none /dev && {script} && exec \"$@\"");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    command
}
