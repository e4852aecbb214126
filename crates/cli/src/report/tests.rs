use super::*;

fn report() -> Report {
    Report {
        verified: true,
        reason: "262,144 pages are the same on both sides and the guest runs on.".to_owned(),
        guest: "selfcheck".to_owned(),
        method: Some("protect-all".to_owned()),
        machine: Some(Runs::Software),
        format: Some("ept"),
        pages: 262_144,
        vcpus: 4,
        rounds: vec![
            Round { dirty: 262_144, sent: 200_000, zero: 62_144, bytes: 1 << 30, ns: 500_000_000 },
            Round { dirty: 1_000, sent: 1_000, zero: 0, bytes: 4 << 20, ns: 2_000_000 },
        ],
        total_ns: Some(502_000_000),
        downtime_ns: Some(3_000_000),
        downtime_asked_ns: 100_000_000,
        ..Report::default()
    }
}

#[test]
fn a_wide_table_aligns_its_columns() {
    let text = render(&report(), Width::Columns(80));
    let table: Vec<&str> = text.lines().take(3).collect();
    assert_eq!(table[0].len(), table[1].len());
    assert_eq!(table[1].len(), table[2].len());
    assert!(table[1].contains("262,144") && table[1].contains("2.00 GiB/s"), "{text}");
}

#[test]
fn no_line_is_longer_than_a_narrow_terminal() {
    let text = render(&report(), Width::Columns(24));
    assert!(text.lines().all(|line| line.chars().count() <= 24), "{text}");
    assert!(text.contains("dirty 262,144"));
}

#[test]
fn a_pipe_gets_the_verdict_on_one_line() {
    let text = render(&report(), Width::Unlimited);
    assert!(
        text.ends_with(
            "Verified: 262,144 pages are the same on both sides and the guest runs on.\n"
        )
    );
}

#[test]
fn a_missed_downtime_is_said() {
    let late = Report { downtime_ns: Some(200_000_000), ..report() };
    assert!(render(&late, Width::Unlimited).contains("missed: 200 ms instead of 100 ms"));
    assert!(!render(&report(), Width::Unlimited).contains("missed"));
}

#[test]
fn a_guest_that_outran_the_wire_is_said_to() {
    let stopped = Report { stop: Some(Stop::NoProgress), ..report() };
    assert!(render(&stopped, Width::Unlimited).contains("outran the wire"));
    let fitting = Report { stop: Some(Stop::Fits), ..report() };
    assert!(!render(&fitting, Width::Unlimited).contains("outran"));
}

#[test]
fn a_report_without_rounds_is_a_verdict_alone() {
    let failed = Report { reason: "the port is in use.".to_owned(), ..Report::default() };
    assert_eq!(render(&failed, Width::Unlimited), "Not verified: the port is in use.\n");
}

#[test]
fn json_has_every_field_even_when_nothing_was_reached() {
    let value: serde_json::Value =
        serde_json::from_str(&Report::default().json()).expect("it is JSON");
    let fields = [
        "verified",
        "reason",
        "ended",
        "method",
        "machine",
        "format",
        "pages",
        "rounds",
        "total_ns",
        "downtime_ns",
        "verify_ns",
        "first_harvest_ns",
    ];
    for field in fields {
        assert!(value.get(field).is_some(), "{field}");
    }
}

#[test]
fn json_rounds_carry_their_five_numbers() {
    let value: serde_json::Value = serde_json::from_str(&report().json()).expect("it is JSON");
    let round = &value["rounds"][1];
    for (field, number) in
        [("dirty", 1_000), ("sent", 1_000), ("zero", 0), ("bytes", 4 << 20), ("ns", 2_000_000)]
    {
        assert_eq!(round[field], number, "{field}");
    }
}
