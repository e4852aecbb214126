//! A back end that moves to another process while its device writes: a device's thread fills pages of
//! memory that is shared with a guest, [`ProcessLog`](vellum_process::ProcessLog) says which, and
//! `vellum-migrate` sends them to a second process until so little is left that the device can be
//! stopped for it. Both sides compare their memory by digest, and then the device, which runs on there,
//! looks whether each page is as it had written it.
//!
//! ```text
//! cargo run --release -p vellum-process --example backend
//! cargo run --release -p vellum-process --example backend -- --without-log
//! ```
//!
//! Without the log, pages that are written after they were sent are lost, and the digests say so.
//!
//! The front end, a vhost-user master or a hypervisor, is not here: it logs what the guest itself
//! writes, and `vellum_memory::Sources` makes one log of both.

#[cfg(target_os = "linux")]
mod destination;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod source;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use source::Logs;
    use std::process::{Command, ExitCode};

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let second = |path: &std::path::Path| {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--receive").arg(path);
        Ok(command)
    };
    let ended = match arguments.as_slice() {
        [] => source::move_to(second, Logs::OfThisProcess).map(|ending| ending.tell()),
        ["--without-log"] => source::move_to(second, Logs::None).map(|ending| ending.tell()),
        ["--receive", path] => destination::receive(path.as_ref()).map(|()| ExitCode::SUCCESS),
        _ => Err("backend [--without-log]".into()),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("not run: userfaultfd and PAGEMAP_SCAN are Linux's");
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
