//! What a process is given that lacks privilege, or sits behind a filter of system calls. Each test runs
//! its own binary again as such a process.
#![cfg(target_os = "linux")]

mod filter;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use vellum_presence::{Need, REPORTS, given};
use vellum_process::{Capabilities, Facility, Missing};

/// Set in a process that is the test's second.
const SECOND: &str = "VELLUM_SECOND_PROCESS";
/// A user that owns nothing.
const NOBODY: u32 = 65534;

/// Runs `test` of this binary again, changed by `change`; or does `there`, being that process.
fn in_a_second_process(
    test: &str,
    change: impl FnOnce(&mut Command),
    there: impl FnOnce(),
) -> Option<Result<ExitStatus, String>> {
    if std::env::var_os(SECOND).is_some() {
        there();
        return None;
    }
    // This binary, also where another user could not go to its folder.
    let mut command = Command::new("/proc/self/exe");
    // What there is to report the first process does.
    command.args(["--exact", test]).env(SECOND, "1").env_remove(REPORTS);
    change(&mut command);
    Some(command.status().map_err(|error| error.to_string()))
}

/// Whether this process is given `facility`, to begin with.
fn has(facility: Facility) -> bool {
    let need = match facility {
        Facility::Log => Need::PagemapScan,
        Facility::WatchThreads => Need::Userfaultfd,
        Facility::WatchKernelToo => Need::KernelFaults,
    };
    given(need, Capabilities::of_this_process().supports(facility)).is_some()
}

/// Whether anybody may hold up the kernel's writes here.
fn anybody_may() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    setting.is_ok_and(|setting| setting.trim() == "1")
}

#[test]
fn without_privilege_everything_is_given_but_to_hold_up_the_kernel() {
    let become_nobody = |command: &mut Command| {
        command.uid(NOBODY);
    };
    let check = || {
        let given = Capabilities::of_this_process();
        // What no privilege would give says so in the same way to the first process.
        assert_ne!(given.supports(Facility::Log), Err(Missing::NotPermitted));
        assert_eq!(given.supports(Facility::WatchThreads), Ok(()));
        if !anybody_may() {
            let refused = given.supports(Facility::WatchKernelToo).expect_err("not permitted");
            assert_eq!(refused, Missing::KernelFaults);
            assert!(refused.to_string().contains("/dev/userfaultfd"), "{refused}");
            assert!(refused.to_string().contains("vm.unprivileged_userfaultfd"), "{refused}");
        }
    };
    if !has(Facility::WatchThreads) {
        return;
    }
    let test = "without_privilege_everything_is_given_but_to_hold_up_the_kernel";
    let second = in_a_second_process(test, become_nobody, check);
    if let Some(status) = second.and_then(|ended| given(Need::OtherUser, ended)) {
        assert!(status.success(), "{status}");
    }
}

/// What a second process finds that has made itself a filter.
fn behind(test: &str, filter: &[filter::Refused], facility: Facility, finds: Result<(), Missing>) {
    if !has(facility) {
        return;
    }
    let check = || {
        filter::install(filter).expect("anybody may filter themselves");
        assert_eq!(Capabilities::of_this_process().supports(facility), finds);
    };
    if let Some(ended) = in_a_second_process(test, |_| {}, check) {
        assert!(ended.expect("it runs").success());
    }
}

#[test]
fn a_kernel_without_userfaultfd_is_named() {
    use filter::{Refused, Said};
    let filter = [Refused::Userfaultfd(Said::NotImplemented), Refused::DeviceOfUserfaultfd];
    let test = "a_kernel_without_userfaultfd_is_named";
    behind(test, &filter, Facility::Log, Err(Missing::Userfaultfd));
}

#[test]
fn a_container_that_forbids_userfaultfd_is_named() {
    use filter::{Refused, Said};
    let filter = [Refused::Userfaultfd(Said::NotPermitted), Refused::DeviceOfUserfaultfd];
    let test = "a_container_that_forbids_userfaultfd_is_named";
    behind(test, &filter, Facility::WatchThreads, Err(Missing::NotPermitted));
}

#[test]
fn a_kernel_that_cannot_scan_is_named_and_can_watch() {
    use filter::{Refused, Said};
    let (test, filter) = (
        "a_kernel_that_cannot_scan_is_named_and_can_watch",
        [Refused::PagemapScan(Said::NotImplemented)],
    );
    behind(test, &filter, Facility::Log, Err(Missing::PagemapScan));
    behind(test, &filter, Facility::WatchThreads, Ok(()));
}

#[test]
fn a_container_that_forbids_the_scan_is_named() {
    use filter::{Refused, Said};
    let filter = [Refused::PagemapScan(Said::NotPermitted)];
    let test = "a_container_that_forbids_the_scan_is_named";
    behind(test, &filter, Facility::Log, Err(Missing::ScanNotPermitted));
}

#[test]
fn without_descriptors_it_says_so() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let check = || {
        let none = Rlimit { current: Some(3), maximum: Some(3) };
        setrlimit(Resource::Nofile, none).expect("fewer are always allowed");
        let refused = Capabilities::of_this_process().supports(Facility::Log);
        assert_eq!(refused, Err(Missing::Descriptors));
    };
    if !has(Facility::Log) {
        return;
    }
    let test = "without_descriptors_it_says_so";
    if let Some(ended) = in_a_second_process(test, |_| {}, check) {
        assert!(ended.expect("it runs").success());
    }
}
