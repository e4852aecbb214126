//! Guests run, stand, and end.

use crate::{each_guest, until_passes};
use vellum_vmm::Status;

#[test]
fn every_guest_reports_passes_and_stands_while_it_is_paused() {
    each_guest(|guest, machine| {
        assert!(matches!(machine.status(), Status::Paused));
        machine.resume();
        until_passes(&machine, 3);
        machine.pause();
        let (passes, exits) = (machine.passes(), machine.exits());
        assert!(matches!(machine.status(), Status::Paused));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!((machine.passes(), machine.exits()), (passes.clone(), exits), "{guest}");
        machine.resume();
        until_passes(&machine, passes.iter().max().expect("two") + 3);
    });
}
