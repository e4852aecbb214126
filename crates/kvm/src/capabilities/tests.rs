use super::*;

const EVERYTHING: Capabilities =
    Capabilities { manual: 3, ring_bytes: 1 << 20, ring: 223, bitmaps: 1 };
const NOTHING: Capabilities = Capabilities { manual: 0, ring_bytes: 0, ring: 192, bitmaps: 0 };

fn missing(capabilities: Capabilities, way: Way) -> Option<Capability> {
    capabilities.supports(way).err().map(|missing| missing.capability)
}

#[test]
fn a_kernel_with_everything_has_every_way_but_rings_that_would_lose_pages() {
    for way in Way::ALL.into_iter().filter(|&way| way != Way::Ring) {
        assert_eq!(missing(EVERYTHING, way), None);
    }
    assert_eq!(missing(EVERYTHING, Way::Ring), Some(Capability::CompleteRing));
    assert_eq!(EVERYTHING.best(), Way::Manual);
    assert_eq!(EVERYTHING.ring_entries(), 65_536);
}

#[test]
fn an_old_kernel_has_the_clearing_get_and_names_what_the_others_need() {
    assert_eq!(NOTHING.best(), Way::ClearingGet);
    assert_eq!(missing(NOTHING, Way::ClearingGet), None);
    assert_eq!(missing(NOTHING, Way::Manual), Some(Capability::ManualDirtyLogProtect2));
    assert_eq!(missing(NOTHING, Way::Ring), Some(Capability::DirtyLogRing));
    let said = NOTHING.supports(Way::ManualAllSet).map_err(|missing| missing.to_string());
    assert_eq!(
        said,
        Err("manual-all-set needs KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (Linux 5.2), which this kernel \
             does not have: it has clearing-get"
            .into())
    );
}

#[test]
fn each_capability_is_missed_by_itself() {
    let plain = Capabilities { manual: 1, ..EVERYTHING };
    assert_eq!(missing(plain, Way::Manual), None);
    assert_eq!(missing(plain, Way::ManualAllSet), Some(Capability::DirtyLogInitiallySet));
    let x86 = Capabilities { bitmaps: 0, ..EVERYTHING };
    assert_eq!(missing(x86, Way::Ring), None);
    assert_eq!(missing(x86, Way::RingWithBitmap), Some(Capability::DirtyLogRingWithBitmap));
}
