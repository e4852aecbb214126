//! What the example says, said by a test. The second process is this program once more, as one test.

use crate::destination::receive;
use crate::source::{Ending, Failure, Logs, move_to};
use std::path::Path;
use std::process::Command;
use vellum_migrate::Verdict;
use vellum_presence::{Need, given};
use vellum_process::{Capabilities, Facility};

/// Where the second process listens.
const SOCKET: &str = "VELLUM_BACKEND_SOCKET";

/// Not a test but in the second process.
#[test]
fn the_second_process() {
    if let Some(socket) = std::env::var_os(SOCKET) {
        receive(socket.as_ref()).expect("a back end arrives");
    }
}

fn second(socket: &Path) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "tests::the_second_process", "--nocapture"]).env(SOCKET, socket);
    Ok(command)
}

#[test]
fn a_back_end_moves_to_another_process_and_loses_nothing() {
    let supported = Capabilities::of_this_process().supports(Facility::Log);
    let Some(()) = given(Need::PagemapScan, supported) else { return };
    match move_to(second, Logs::OfThisProcess).expect("two processes") {
        Ending::Moved { report, there } => {
            assert_eq!(report.verdict, Verdict::Same);
            assert!(report.rounds.len() > 1, "{report:?}");
            assert!(there.contains("found each of its"), "{there}");
        }
        Ending::Kept { reason, .. } => panic!("{reason}"),
    }
}

/// The control.
#[test]
fn without_a_log_the_digests_differ_and_it_stays() {
    match move_to(second, Logs::None).expect("two processes") {
        Ending::Moved { there, .. } => panic!("it moved, and said: {there}"),
        Ending::Kept { report, reason, .. } => {
            assert!(matches!(report.verdict, Verdict::Different(_)), "{report:?}");
            assert!(reason.contains("hold different memory"), "{reason}");
        }
    }
}
