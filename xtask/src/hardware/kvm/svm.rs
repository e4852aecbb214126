//! AMD's SVM with nested page tables, on one emulated processor: Debian's kernel for virtual machines of
//! this architecture, and the tests of native guests.

use super::{Boot, Host, Module, Tried, tried};
use crate::failure::Failure;
use crate::hardware::debian::Apt;
use crate::hardware::qemu;
use std::process::Command;

/// The host.
pub(crate) const HOST: Host = Host {
    packages: PACKAGES,
    choose,
    modules: &MODULES,
    processor: "kvm-nested-tables",
    hypervisor: HYPERVISOR,
    programs: &[MONITOR, NATIVE, WAYS],
    tried: TRIED,
    lacks: LACKS,
    start,
};

/// The folder of its packages.
pub(super) const PACKAGES: &str = "kvm-linux";

/// The unit tests of `vellum-vmm`.
pub(super) const MONITOR: &str = "vellum_vmm";
/// Its integration tests.
pub(super) const NATIVE: &str = "native";
/// Those of `vellum-kvm`.
pub(super) const WAYS: &str = "ways";

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

/// What Linux lacks on x86.
pub(super) const LACKS: &str = "kvm-way ring-with-bitmap";

pub(super) const IRQ_BYPASS: Module = Module { name: "irqbypass", path: "virt/lib/irqbypass.ko" };
pub(super) const KVM: Module = Module { name: "kvm", path: "arch/x86/kvm/kvm.ko" };

const MODULES: [Module; 3] =
    [IRQ_BYPASS, KVM, Module { name: "kvm-amd", path: "arch/x86/kvm/kvm-amd.ko" }];

const HYPERVISOR: &str = r#"
    npt=$(cat /sys/module/kvm_amd/parameters/npt)
    echo "nested tables: $npt, $(grep -c -w svm /proc/cpuinfo) CPU"
    [ "$npt" = Y ] || [ "$npt" = 1 ]
"#;

/// The time-stamp counter that is emulated is believed: an emulator is not watched for how well it keeps
/// time.
const COMMAND_LINE: &str = "console=ttyS0 mitigations=off tsc=reliable";

/// The kernel for virtual machines, which has few drivers. Its package has another name in each release;
/// one without a release depends on it.
pub(super) fn choose(apt: &Apt) -> Result<Vec<String>, Failure> {
    let kernel = |name: &str| name.starts_with("linux-image-");
    let mut names = apt.with_dependencies(&["linux-image-cloud-amd64:amd64"], kernel)?;
    names.push("busybox-static:amd64".to_owned());
    Ok(names)
}

fn start(boot: &Boot<'_>) -> Result<Command, Failure> {
    Ok(qemu::pc(boot, &super::said(COMMAND_LINE)))
}
