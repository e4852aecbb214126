//! Where there is no `/dev/kvm`, or none for this user; and what there is none of anywhere.

use crate::gate;
use crate::session::{Folder, Session, code, complaint, json, run};
use std::process::{Output, Stdio};

const VELLUM: &str = env!("CARGO_BIN_EXE_vellum");

/// The tool with another `/dev`, or nothing where there can be none.
fn run_with(dev: &str, arguments: &[&str]) -> Option<Output> {
    let mut command = gate::with_dev(dev)?;
    Some(command.arg(VELLUM).args(arguments).output().expect("unshare was there just now"))
}

const MIGRATE: [&str; 5] = ["migrate", "--machine", "kvm", "--memory", "32M"];

/// It could not be begun, for one line's reason that contains `words`, with and without JSON.
fn assert_refused(dev: &str, words: &str) {
    let Some(output) = run_with(dev, &MIGRATE) else { return };
    assert_eq!(code(&output), 2, "{}", complaint(&output));
    let text = complaint(&output);
    assert!(text.contains(words) && text.trim_end().lines().count() == 1, "{text}");
    let output = run_with(dev, &[&MIGRATE[..], &["--json"]].concat()).expect("a second time");
    assert_eq!(code(&output), 2);
    let report = json(&output);
    assert_eq!((&report["verified"], &report["machine"]), (&false.into(), &"kvm".into()));
    assert!(report["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{report}");
}

/// Makes the file unreadable, and then has no privilege to read it all the same.
const FORBIDDEN: &str = "touch /dev/kvm && chmod 0 /dev/kvm && set -- setpriv --inh-caps=-all --bounding-set=-all \"$@\"";

mod hidden {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_said_with_what_to_do() {
        assert_refused("true", "there is no /dev/kvm: load kvm_intel or kvm_amd");
    }

    #[test]
    fn a_device_that_is_for_others_is_said_with_what_to_do() {
        assert_refused(FORBIDDEN, "/dev/kvm may not be opened: join the group that owns it");
    }

    #[test]
    fn a_device_that_is_something_else_is_said_to_be() {
        assert_refused("touch /dev/kvm", "/dev/kvm is something else");
    }

    #[test]
    fn a_destination_without_the_device_refuses_and_the_guest_runs_on_at_the_source() {
        if !gate::has(vellum_kvm::Way::Manual) {
            return;
        }
        let Some(mut command) = gate::with_dev("true") else { return };
        let folder = Folder::new("without");
        let listen = folder.unix("socket");
        command.args([VELLUM, "receive", "--events", "--listen", &listen]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut destination = Session::of(command);
        destination.address();
        let mut source = Session::migrate(&[&MIGRATE[1..], &["--to", &listen]].concat());
        let reason = source.until("runs-on")["reason"].to_string();
        assert!(reason.contains("the destination refuses the guest"), "{reason}");
        assert!(reason.contains("there is no /dev/kvm: load"), "{reason}");
        assert_eq!(source.end().code(), Some(1));
        let refused = destination.until("refused").to_string();
        assert!(refused.contains("there is no /dev/kvm"), "{refused}");
        destination.interrupt();
        destination.drain();
        assert!(folder.is_empty(), "it left its socket");
    }
}

#[test]
fn help_says_what_a_native_guest_needs_and_what_can_be_chosen_for_it() {
    let output = run(&["migrate", "--help"]);
    let text = String::from_utf8_lossy(&output.stdout);
    for words in ["--machine kvm", "/dev/kvm", "KVM_CLEAR_DIRTY_LOG", "hugetlb"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn what_is_for_the_machine_in_software_is_refused_by_name() {
    let wrong = [
        (["--guest", "/dev/zero"], "cannot run on /dev/kvm"),
        (["--format", "npt"], "--format is for"),
        (["--format", "ept"], "--format is for"),
        (["--page-size", "1g"], "--page-size 1g is for"),
        (["--track", "protect-all"], "--track protect-all is for"),
        (["--track", "dbit"], "--track dbit is for"),
        (["--track", "pml"], "--track pml is for"),
    ];
    for (flag, words) in wrong {
        assert_wrong(&flag, words);
    }
}

#[test]
fn memory_that_no_native_guest_can_have_is_refused_with_what_it_can_have() {
    assert_wrong(&["--memory", "64K"], "at least 8 MiB of memory, not 64 KiB: --memory 8M");
    assert_wrong(&["--memory", "600G"], "at most 508 GiB of memory, not 600 GiB: --memory 508G");
    let torn = ["--memory", "9M", "--page-size", "hugetlb"];
    assert_wrong(&torn, "which 9 MiB of memory are not: --memory 10M, or another --page-size");
}

/// It could not be begun, whatever this host has, for one line's reason that contains `words`.
fn assert_wrong(flags: &[&str], words: &str) {
    let output = run(&[&["migrate", "--machine", "kvm"], flags].concat());
    assert_eq!(code(&output), 2, "{flags:?}");
    let text = complaint(&output);
    assert!(text.contains(words) && text.trim_end().lines().count() == 1, "{flags:?}: {text}");
}

#[test]
fn pages_of_the_pool_are_refused_on_the_machine_in_software() {
    for command in ["migrate", "watch"] {
        let output = run(&[command, "--page-size", "hugetlb"]);
        assert_eq!(code(&output), 2);
        assert!(complaint(&output).contains("--machine kvm"), "{}", complaint(&output));
    }
}
