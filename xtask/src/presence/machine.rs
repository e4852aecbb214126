//! What this machine has, asked without the tests.

use vellum_presence::Need;

/// Whether the machine has what a test said it lacks.
pub(crate) fn has(need: &Need) -> bool {
    match need {
        Need::Kvm => kvm::has_device(),
        Need::KvmWay(way) => kvm::has_way(way),
        Need::HugePages(bytes) => pool() >= *bytes,
        // Known by what other tests ran with.
        Need::Userfaultfd | Need::PagemapScan => false,
    }
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

#[cfg(not(target_os = "linux"))]
mod kvm {
    pub(super) fn has_device() -> bool {
        false
    }

    pub(super) fn has_way(_: &str) -> bool {
        false
    }
}
