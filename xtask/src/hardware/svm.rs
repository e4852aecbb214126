//! The kernel's own hypervisor on a processor with SVM: Debian's kernel and its modules, and the tests of
//! native guests as its first files.

pub(crate) mod programs;

use super::archive::{Entry, archive};
use super::debian::{Apt, unpacked};
use super::linux::kernel_in;
use super::qemu;
use crate::failure::Failure;
use crate::tool::Missing;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// That the processor is what it should be.
const PROCESSOR: &str = "kvm-nested-tables";

/// A check that one test meets.
struct Tried {
    check: &'static str,
    program: &'static str,
    test: &'static str,
}

/// The unit tests of `vellum-vmm`.
const MONITOR: &str = "vellum_vmm";
/// Its integration tests.
const NATIVE: &str = "native";
/// Those of `vellum-kvm`.
const WAYS: &str = "ways";

const fn tried(check: &'static str, program: &'static str, test: &'static str) -> Tried {
    Tried { check, program, test }
}

const TRIED: &[Tried] = &[
    tried(
        "kvm-natively",
        MONITOR,
        "tests::natively::the_kernel_emulates_no_more_of_a_guest_than_its_messages",
    ),
    tried(
        "kvm-level-0",
        MONITOR,
        "tests::natively::at_level_0_a_host_without_vmx_and_svm_emulates_it_and_the_count_says_so",
    ),
    tried(
        "kvm-every-guest",
        NATIVE,
        "running::every_guest_reports_passes_and_stands_while_it_is_paused",
    ),
    tried(
        "kvm-paused",
        NATIVE,
        "running::a_guest_that_never_leaves_by_itself_is_paused_as_often_as_one_likes",
    ),
    tried("kvm-fault", NATIVE, "running::a_fault_is_told_as_a_shutdown"),
    tried("kvm-console", NATIVE, "running::the_console_has_whole_lines_of_each_vcpu"),
    tried(
        "kvm-writes-in-turn",
        NATIVE,
        "writers::sequential_writes_every_page_of_its_working_set_and_no_other",
    ),
    tried("kvm-writes-at-random", NATIVE, "writers::random_writes_the_pages_that_the_host_draws"),
    tried("kvm-selfcheck", NATIVE, "selfcheck::it_holds_with_any_number_of_vcpus"),
    tried("kvm-selfcheck-hot", NATIVE, "selfcheck::it_finds_a_hot_page_of_the_pass_before"),
    tried("kvm-selfcheck-cold", NATIVE, "selfcheck::it_finds_a_cold_page_of_a_pass_before"),
    tried("kvm-selfcheck-hash", NATIVE, "selfcheck::it_finds_a_changed_hash"),
    tried("kvm-huge-pages", NATIVE, "backing::huge_pages_are_of_the_pool"),
    tried(
        "kvm-moved-selfcheck",
        MONITOR,
        "tests::moved::selfcheck_goes_on_elsewhere_and_finds_all_of_its_memory_right",
    ),
    tried(
        "kvm-moved-messages",
        MONITOR,
        "tests::moved::no_message_is_said_twice_or_lost_however_often_a_guest_moves",
    ),
    tried("kvm-moved-clock", MONITOR, "tests::moved::the_time_stamp_counter_does_not_go_back"),
    tried("kvm-moved-every-part", MONITOR, "tests::moved::every_part_is_elsewhere_what_it_was"),
    tried(
        "kvm-moved-without-sse",
        MONITOR,
        "tests::moved::a_state_without_sse_registers_is_found_out_by_the_guest",
    ),
    tried(
        "kvm-moved-without-general",
        MONITOR,
        "tests::moved::a_state_without_general_registers_ends_in_a_fault",
    ),
    tried(
        "kvm-moved-without-system",
        MONITOR,
        "tests::moved::a_state_without_system_registers_ends_at_once",
    ),
    tried(
        "kvm-log-of-guests",
        NATIVE,
        "logged::what_a_running_guest_writes_is_in_the_log_of_every_way",
    ),
    tried(
        "kvm-log-full-ring",
        NATIVE,
        "logged::a_vcpu_with_a_full_ring_waits_for_nobody_but_its_reaper",
    ),
    tried("kvm-ways-exact", WAYS, "contract::a_round_has_each_page_that_changed_and_no_other"),
    tried(
        "kvm-ways-store-between",
        WAYS,
        "contract::a_store_between_the_collection_and_the_protection_is_in_this_round_or_the_next",
    ),
    tried("kvm-ways-owed", WAYS, "contract::what_is_owed_is_in_the_next_round_and_in_one"),
    tried("kvm-ways-all-set", WAYS, "contract::a_log_begun_all_set_names_everything_once"),
    tried(
        "kvm-ways-full-ring",
        WAYS,
        "rings::a_vcpu_whose_ring_is_full_stays_out_until_it_is_reaped_and_nothing_is_lost",
    ),
    tried("kvm-ways-while-it-runs", WAYS, "running::nothing_is_lost_with_one_vcpu"),
];

/// What Linux 6.1 lacks on x86, as a gate names it: a test has to find everything else.
const LACKS: &str = "kvm-way ring-with-bitmap";

/// What the first program is, up to the tests.
const INIT: &str = include_str!("svm/init.sh");

/// The kernel's command line: only what ends it is said, so that no line of ours is broken in two. The
/// time-stamp counter that is emulated is believed: an emulator is not watched for how well it keeps time.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off tsc=reliable";

/// The kernel's hypervisor, in the order in which its parts are loaded.
const MODULES: [(&str, &str); 3] = [
    ("modules/irqbypass.ko", "virt/lib/irqbypass.ko"),
    ("modules/kvm.ko", "arch/x86/kvm/kvm.ko"),
    ("modules/kvm-amd.ko", "arch/x86/kvm/kvm-amd.ko"),
];

/// Where the first program finds the tests' programs, and their names.
const PROGRAMS: [(&str, &str); 3] =
    [("tests/vellum_vmm", MONITOR), ("tests/native", NATIVE), ("tests/ways", WAYS)];

/// What has to be there before what is in it.
const FOLDERS: [&str; 4] = ["bin", "dev", "modules", "tests"];

/// What is to be met, in this order.
pub(crate) fn checks() -> Vec<&'static str> {
    std::iter::once(PROCESSOR).chain(TRIED.iter().map(|tried| tried.check)).collect()
}

/// Sees to it that there is a kernel, and busybox.
pub(crate) fn require(missing: Missing) -> Result<(), Failure> {
    at_hand(missing).map(|_| ())
}

/// The machine, with the test programs of the folder `programs`. What is made is put into `folder`.
pub(crate) fn boot(programs: &Path, folder: &Path, serial: &Path) -> Result<Command, Failure> {
    let system = at_hand(Missing::Name)?;
    let files = folder.join("files");
    fs::write(&files, first_files(&system, programs)?).map_err(at(&files))?;
    Ok(qemu::pc(&kernel_in(&system)?, &files, COMMAND_LINE, serial))
}

fn at_hand(missing: Missing) -> Result<PathBuf, Failure> {
    unpacked("kvm-linux", missing, choose)
}

/// The kernel for virtual machines, which has few drivers. Its package has another name in each release;
/// one without a release depends on it.
fn choose(apt: &Apt) -> Result<Vec<String>, Failure> {
    let kernel = |name: &str| name.starts_with("linux-image-");
    let mut names = apt.with_dependencies(&["linux-image-cloud-amd64:amd64"], kernel)?;
    names.push("busybox-static:amd64".to_owned());
    Ok(names)
}

fn first_files(system: &Path, programs: &Path) -> Result<Vec<u8>, Failure> {
    let modules = modules(system)?;
    let files = [("bin/busybox", system.join("bin/busybox"))]
        .into_iter()
        .chain(MODULES.map(|(name, path)| (name, modules.join(path))))
        .chain(PROGRAMS.map(|(name, program)| (name, programs.join(program))));
    let read = files.map(|(name, path)| Ok((name, fs::read(&path).map_err(at(&path))?)));
    let read = read.collect::<Result<Vec<_>, Failure>>()?;
    let init = init();
    let mut entries = Vec::from(FOLDERS.map(|name| (name, Entry::Folder)));
    entries.push(("dev/console", Entry::Device { major: 5, minor: 1 }));
    entries.push(("init", Entry::Program(init.as_bytes())));
    entries.extend(read.iter().map(|(name, bytes)| (*name, Entry::Program(bytes))));
    Ok(archive(&entries))
}

/// Where the kernel's package has modules: a folder that bears the release's name.
fn modules(system: &Path) -> Result<PathBuf, Failure> {
    let releases = system.join("lib/modules");
    let mut found = fs::read_dir(&releases).map_err(at(&releases))?;
    let release = found.next().ok_or_else(|| at(&releases)(ErrorKind::NotFound.into()))?;
    Ok(release.map_err(at(&releases))?.path().join("kernel"))
}

/// The first program's text. It counts what was met, and ends the machine.
fn init() -> String {
    let begun = format!("{INIT}processor {PROCESSOR}\n");
    let text = TRIED.iter().fold(begun, |text, Tried { check, program, test }| {
        text + &format!("tried {check} {program} {test} '{LACKS}'\n")
    });
    text + "echo \"end $met\"\npoweroff -f\n"
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File { path, error }
}
