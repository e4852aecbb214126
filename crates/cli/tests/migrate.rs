//! `vellum migrate` with a destination of its own.

mod session;

use std::process::Stdio;

use session::{Folder, SMALL, Session, code, complaint, json, run, vellum};

fn small(more: &[&str]) -> std::process::Output {
    run(&[&["migrate"], &SMALL[..], more].concat())
}

#[test]
fn a_migration_verifies_and_says_so() {
    let output = small(&[]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for word in ["round", "dirty", "total", "downtime", "first harvest", "Verified:"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn json_is_one_object_with_every_field() {
    let output = small(&["--json"]);
    let report = json(&output);
    assert_eq!(report["verified"], true, "{report}");
    assert_eq!(report["pages"], 4096);
    for field in ["total_ns", "downtime_ns", "verify_ns", "first_harvest_ns"] {
        assert!(report[field].as_u64().is_some_and(|ns| ns > 0), "{field}: {report}");
    }
    assert_eq!(report["rounds"][0]["dirty"], 4096);
}

#[test]
fn every_guest_moves_in_either_format_and_by_either_way_of_tracking() {
    for guest in ["selfcheck", "sequential", "random", "zipf", "idle"] {
        for (format, track) in [("ept", "per-page"), ("npt", "protect-all")] {
            let output = small(&["--json", "--guest", guest, "--format", format, "--track", track]);
            let report = json(&output);
            assert_eq!(report["verified"], true, "{guest}: {report}");
            assert_eq!((&report["format"], &report["method"]), (&format.into(), &track.into()));
        }
    }
}

#[test]
fn every_way_of_tracking_moves_every_format_that_has_it() {
    for track in ["manual", "dbit", "pml", "ring"] {
        for format in ["ept", "npt", "stage2"].into_iter().take(if track == "pml" { 1 } else { 3 })
        {
            let report = json(&small(&["--json", "--format", format, "--track", track]));
            assert_eq!(report["verified"], true, "{format} {track}: {report}");
            assert_eq!(report["method"], track, "{report}");
        }
    }
}

#[test]
fn a_way_that_the_processor_has_not_is_refused_with_its_reason() {
    let output = small(&["--format", "npt", "--track", "pml"]);
    assert_ne!(code(&output), 0);
    assert!(complaint(&output).contains("page-modification log"), "{}", complaint(&output));
}

#[test]
fn auto_says_what_it_chose_and_why() {
    let report = json(&small(&["--json"]));
    let method = report["method"].as_str().unwrap_or_default();
    assert_eq!(method, "dbit", "{report}");
    assert!(report["method_reason"].as_str().is_some_and(|why| !why.is_empty()), "{report}");
}

#[test]
fn a_guest_from_a_file_moves() {
    let folder = Folder::new("file");
    let path = folder.path("guest.elf");
    let elf = vellum_machine::guests::Builtin::Zipf.elf().expect("it assembles");
    std::fs::write(&path, elf).expect("the folder is writable");
    let report = json(&small(&["--json", "--guest", &path.to_string_lossy()]));
    assert_eq!(report["verified"], true, "{report}");
}

/// An ELF image whose guest counts down for a moment and shuts down.
fn short_lived() -> Vec<u8> {
    const RAM: u64 = 0x8000_0000;
    const CODE: [u32; 10] = [
        0x0400_02b7, // lui  t0, 0x4000
        0xfff2_8293, // addi t0, t0, -1
        0xfe02_9ee3, // bnez t0, the line before
        0x5352_58b7, // lui  a7, 0x53525: the extension SRST
        0x3548_8893, // addi a7, a7, 0x354
        0x0000_0813, // li   a6, 0: system_reset
        0x0000_0513, // li   a0, 0: shut down
        0x0000_0593, // li   a1, 0: no reason
        0x0000_0073, // ecall
        0x0000_006f, // j    here
    ];
    let mut file = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 243, 0, 1, 0, 0, 0]);
    put(24, &RAM.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0]);
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    put(72, &0x200_u64.to_le_bytes());
    put(80, &RAM.to_le_bytes());
    put(88, &RAM.to_le_bytes());
    put(96, &0x100_u64.to_le_bytes());
    put(104, &0x100_u64.to_le_bytes());
    put(0x200, &CODE.map(u32::to_le_bytes).concat());
    file
}

#[test]
fn a_guest_that_ends_before_it_can_be_moved_is_not_said_to_run_on() {
    let folder = Folder::new("ended");
    let path = folder.path("guest.elf");
    std::fs::write(&path, short_lived()).expect("the folder is writable");
    let nobody = folder.unix("nobody");
    let report = json(&small(&[
        "--json",
        "--guest",
        &path.to_string_lossy(),
        "--to",
        &nobody,
        "--attempts",
        "100",
    ]));
    let reason = report["reason"].as_str().expect("a reason");
    assert!(reason.contains("the guest shut down. That was before it could be moved"), "{reason}");
    assert!(!reason.contains("ran on"), "{reason}");
}

#[test]
fn a_downtime_that_cannot_be_met_is_said_to_be_missed() {
    let output = small(&["--downtime", "1ns", "--guest", "sequential"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("downtime asked for was missed"), "{text}");
}

#[test]
fn a_reader_that_goes_away_does_not_change_the_outcome() {
    let mut child = vellum(&["migrate", "--json"]);
    let child = child.args(SMALL).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("the binary was built");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it is our child").code(), Some(0));
}

#[test]
fn ctrl_c_leaves_no_process_and_no_socket_behind() {
    let folder = Folder::new("interrupted");
    let mut session = Session::migrate_in(&folder, &["--memory", "256M"]);
    session.until("round");
    session.interrupt();
    session.until("runs-on");
    assert_eq!(session.end().code(), Some(1));
    assert!(folder.is_empty(), "the socket's folder is left");
}

#[test]
fn a_killed_source_takes_its_own_destination_along() {
    let folder = Folder::new("orphan");
    let mut session = Session::migrate_in(&folder, &["--memory", "256M"]);
    session.until("round");
    session.kill();
    session.end();
    // The destination removes the folder when it notices, and nothing else would.
    while !folder.is_empty() {
        std::thread::yield_now();
    }
}
