use super::{Capabilities, Facility, LOG_FEATURES, Missing, WATCH_FEATURES};
use crate::calls::Faults;
use linux_raw_sys::general::UFFD_FEATURE_WP_ASYNC;
use rustix::io::Errno;

const ALL: Capabilities = Capabilities {
    features: Ok(LOG_FEATURES | WATCH_FEATURES),
    kernel_faults: Ok(()),
    scan: Ok(()),
};

const FACILITIES: [Facility; 3] = [Facility::Log, Facility::WatchThreads, Facility::WatchKernelToo];

fn answers(capabilities: Capabilities) -> [Result<(), Missing>; 3] {
    FACILITIES.map(|facility| capabilities.supports(facility))
}

#[test]
fn with_everything_each_facility_is_there() {
    assert_eq!(answers(ALL), [Ok(()); 3]);
}

#[test]
fn without_userfaultfd_nothing_is_there() {
    let none = Capabilities { features: Err(Missing::Userfaultfd), ..ALL };
    assert_eq!(answers(none), [Err(Missing::Userfaultfd); 3]);
}

#[test]
fn a_kernel_from_before_6_7_can_watch_and_not_log() {
    let features = Ok((LOG_FEATURES | WATCH_FEATURES) & !u64::from(UFFD_FEATURE_WP_ASYNC));
    let old = Capabilities { features, scan: Err(Missing::PagemapScan), ..ALL };
    assert_eq!(answers(old), [Err(Missing::AsyncWriteProtection), Ok(()), Ok(())]);
    let no_scan = Capabilities { scan: Err(Missing::PagemapScan), ..ALL };
    assert_eq!(answers(no_scan), [Err(Missing::PagemapScan), Ok(()), Ok(())]);
}

#[test]
fn without_privilege_only_the_kernel_cannot_be_watched() {
    let plain = Capabilities { kernel_faults: Err(Missing::KernelFaults), ..ALL };
    assert_eq!(answers(plain), [Ok(()), Ok(()), Err(Missing::KernelFaults)]);
}

#[test]
fn what_userfaultfd_is_refused_with_says_what_is_missing() {
    let said = |errno: Errno, faults| Missing::by_opening(&errno.into(), faults);
    assert_eq!(said(Errno::NOSYS, Faults::OfKernelToo), Missing::Userfaultfd);
    assert_eq!(said(Errno::PERM, Faults::OfKernelToo), Missing::KernelFaults);
    assert_eq!(said(Errno::PERM, Faults::OfThreads), Missing::NotPermitted);
    assert_eq!(said(Errno::MFILE, Faults::OfThreads), Missing::Descriptors);
    assert_eq!(said(Errno::NOMEM, Faults::OfThreads), Missing::Memory);
    assert_eq!(said(Errno::INVAL, Faults::OfThreads), Missing::TooOld, "before 5.11");
}

#[test]
fn a_feature_that_is_lacking_is_told_from_a_filter() {
    let said = |errno: Errno| Missing::by_agreeing(&errno.into(), Missing::AsyncWriteProtection);
    assert_eq!(said(Errno::INVAL), Missing::AsyncWriteProtection);
    assert_eq!(said(Errno::PERM), Missing::NotPermitted);
}

#[test]
fn what_the_pagemap_is_refused_with_says_what_is_missing() {
    let opened = |errno: Errno| Missing::by_opening_pagemap(&errno.into());
    assert_eq!(opened(Errno::NOENT), Missing::Pagemap);
    assert_eq!(opened(Errno::ACCESS), Missing::PagemapNotPermitted);
    assert_eq!(opened(Errno::MFILE), Missing::Descriptors);
    let scanned = |errno: Errno| Missing::by_scanning(&errno.into());
    assert_eq!(scanned(Errno::NOTTY), Missing::PagemapScan);
    assert_eq!(scanned(Errno::PERM), Missing::ScanNotPermitted);
    assert_eq!(scanned(Errno::NOMEM), Missing::Memory);
}

#[test]
fn either_way_out_names_the_kernel_that_aarch64_needs() {
    for missing in [Missing::TooOld, Missing::WriteProtection, Missing::AsyncWriteProtection] {
        let text = missing.to_string();
        assert!(text.contains("aarch64") && text.contains("6.10"), "{text}");
    }
}
