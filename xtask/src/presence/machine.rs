//! What this machine has, asked without the tests.

use vellum_presence::Need;

/// Tests that run at the same time share the pool of huge pages: who finds it empty is wrong only if it
/// has enough for so many.
const TESTS_AT_ONCE: u64 = 4;

/// Whether the machine has what a test said it lacks.
pub(crate) fn has(need: &Need) -> bool {
    match need {
        Need::Kvm => kvm::has_device(),
        Need::KvmWay(way) => kvm::has_way(way),
        Need::Namespaces => has_namespaces(),
        Need::HugePages(bytes) => pool() / TESTS_AT_ONCE >= *bytes,
        Need::Userfaultfd => process::has(process::Facility::WatchThreads),
        Need::KernelFaults => process::has(process::Facility::WatchKernelToo),
        Need::PagemapScan => process::has(process::Facility::Log),
        Need::IoUring => has_io_uring(),
        Need::OtherUser => has_other_user(),
        Need::TransparentHugePages => has_huge_pages("enabled"),
        Need::SharedHugePages => has_huge_pages("shmem_enabled"),
    }
}

fn has_namespaces() -> bool {
    let mut command = std::process::Command::new("unshare");
    command.args(["--map-root-user", "--mount", "true"]);
    command.output().is_ok_and(|output| output.status.success())
}

/// Nobody forbids it: neither the setting nor a filter.
fn has_io_uring() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_free = status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "0"]));
    is_free && setting.is_ok_and(|setting| setting.trim() == "0")
}

#[cfg(unix)]
fn has_other_user() -> bool {
    use std::os::unix::process::CommandExt;
    std::process::Command::new("true").uid(65534).status().is_ok_and(|status| status.success())
}

#[cfg(not(unix))]
fn has_other_user() -> bool {
    false
}

/// Whether a setting of the kernel's is other than to give none: what is chosen is in brackets.
fn has_huge_pages(setting: &str) -> bool {
    let path = format!("/sys/kernel/mm/transparent_hugepage/{setting}");
    let chosen = std::fs::read_to_string(path);
    chosen.is_ok_and(|all| !["[never]", "[deny]"].iter().any(|none| all.contains(none)))
}

/// Bytes in the pool of 2 MiB pages.
fn pool() -> u64 {
    let pages = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    pages.ok().and_then(|pages| pages.trim().parse::<u64>().ok()).unwrap_or(0) << 21
}

#[cfg(target_os = "linux")]
mod kvm {
    use vellum_kvm::{Capabilities, Way};

    pub(super) fn has_device() -> bool {
        vellum_kvm::open().is_ok_and(|kvm| kvm.create_vm().is_ok())
    }

    pub(super) fn has_way(name: &str) -> bool {
        let vm = vellum_kvm::open().ok().and_then(|kvm| kvm.create_vm().ok());
        let way = Way::ALL.into_iter().find(|way| way.name() == name);
        vm.zip(way).is_some_and(|(vm, way)| Capabilities::of(&vm).supports(way).is_ok())
    }
}

#[cfg(target_os = "linux")]
mod process {
    pub(super) use vellum_process::Facility;

    pub(super) fn has(facility: Facility) -> bool {
        vellum_process::Capabilities::of_this_process().supports(facility).is_ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod process {
    pub(super) enum Facility {
        WatchThreads,
        WatchKernelToo,
        Log,
    }

    pub(super) fn has(_: Facility) -> bool {
        false
    }
}

#[cfg(not(target_os = "linux"))]
mod kvm {
    pub(super) fn has_device() -> bool {
        false
    }

    pub(super) fn has_way(_: &str) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::has;
    use vellum_presence::Need;

    #[test]
    fn a_way_that_no_kernel_has_is_not_there() {
        assert!(!has(&Need::KvmWay("moon".to_owned())));
    }

    #[test]
    fn every_machine_has_a_pool_of_no_bytes_and_none_has_all() {
        assert!(has(&Need::HugePages(0)));
        assert!(!has(&Need::HugePages(u64::MAX)));
    }

    #[test]
    fn a_kernel_with_kvm_has_its_oldest_way() {
        assert_eq!(has(&Need::Kvm), has(&Need::KvmWay("clearing-get".to_owned())));
    }
}
