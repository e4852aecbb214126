//! `vellum migrate --resume PID`: a person decides where a guest runs.

use crate::failure::Failure;
use rustix::process::{Pid, Signal, kill_process};

/// Tells the process `pid`, which keeps a guest paused, to let it run on.
pub(crate) fn run(pid: i32) -> Result<(), Failure> {
    let process = Pid::from_raw(pid).filter(|_| is_vellum(pid)).ok_or(Failure::NotVellum(pid))?;
    kill_process(process, Signal::USR1)
        .map_err(|error| Failure::NotSignalled { pid, error: error.into() })
}

/// The signal would end a process that does not expect it.
fn is_vellum(pid: i32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim_end() == "vellum")
}
