use super::Pass;
use std::io;

#[test]
fn a_scan_that_protects_is_not_made_again_and_one_that_does_not_is() {
    for (pass, expected) in [(Pass::Written, (1, false)), (Pass::Vacant, (2, true))] {
        let mut scans = 0;
        let made = pass.made(|| {
            scans += 1;
            if scans == 1 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        });
        assert_eq!((scans, made.is_ok()), expected, "{pass:?}");
    }
}
