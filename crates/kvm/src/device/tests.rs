use super::*;

fn said(errno: i32) -> String {
    refused(io::Error::from_raw_os_error(errno)).to_string()
}

#[test]
fn a_missing_device_and_a_forbidden_one_are_told_apart() {
    assert!(said(libc::ENOENT).starts_with("there is no /dev/kvm"));
    assert!(said(libc::ENODEV).starts_with("there is no /dev/kvm"));
    assert!(said(libc::EACCES).contains("join the group"));
    assert!(matches!(
        refused(io::Error::from_raw_os_error(libc::EMFILE)),
        OpenError::Kernel(error) if error.raw_os_error() == Some(libc::EMFILE)
    ));
}
