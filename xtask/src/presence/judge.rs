//! What is to be said of tests that did not run.

use std::collections::BTreeSet;
use std::fmt;
use vellum_presence::{Need, Outcome, Report};

/// A test.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Name {
    /// Its package.
    pub(crate) package: String,
    /// Its program.
    pub(crate) binary: String,
    /// Its name there.
    pub(crate) test: String,
}

impl Name {
    fn of(report: &Report) -> Self {
        let Report { package, binary, test, .. } = report.clone();
        Self { package, binary, test }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.package, self.binary, self.test)
    }
}

/// A search for tests with gates that finds none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Vain {
    /// The package.
    pub(crate) package: String,
    /// The program, which was built.
    pub(crate) binary: String,
    /// What the names of the tests should begin with.
    pub(crate) within: String,
}

impl fmt::Display for Vain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { package, binary, within } = self;
        write!(f, "{package} {binary} has no test whose name begins with `{within}`")
    }
}

/// A test, or a part of one, that this machine cannot run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Absence {
    /// What it needs.
    pub(crate) need: String,
    /// What the machine said.
    pub(crate) reason: String,
    /// Which test.
    pub(crate) test: Name,
}

/// A test that should have run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub(crate) enum Objection {
    /// It has a gate and never came to it: ignored, filtered out, or written without.
    #[error("{0} said nothing of what it needs")]
    Silent(Name),
    /// There is none where tests with gates should be.
    #[error("{0}: a module was renamed, or a list here is wrong")]
    Nothing(Vain),
    /// It says that the machine lacks what the machine has.
    #[error("{test} missed `{need}` ({reason}), and this machine has it")]
    Missed {
        /// Which test.
        test: Name,
        /// What it needs.
        need: Need,
        /// What it said.
        reason: String,
    },
}

/// What there is to say.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Findings {
    /// What was not run, and rightly so; by need, then by name.
    pub(crate) absences: Vec<Absence>,
    /// What should have run.
    pub(crate) objections: Vec<Objection>,
}

/// Holds what was reported to what the machine `has`, and to the tests that were `expected` to report.
/// What one test ran with, the machine has, whatever `has` says; but for huge pages, which tests take
/// from each other.
pub(crate) fn judge(
    expected: &[Name],
    reports: &[Report],
    has: impl Fn(&Need) -> bool,
) -> Findings {
    let seen: BTreeSet<Name> = reports.iter().map(Name::of).collect();
    let silent = expected.iter().filter(|name| !seen.contains(name)).cloned();
    let ran: BTreeSet<&Need> =
        reports.iter().filter(|report| report.outcome == Outcome::Ran).map(|r| &r.need).collect();
    let mut findings = Findings::default();
    findings.objections.extend(silent.map(Objection::Silent));
    for report in reports {
        let Outcome::NotRun(reason) = report.outcome.clone() else { continue };
        let (test, need) = (Name::of(report), report.need.clone());
        let is_shared_out = matches!(need, Need::HugePages(_));
        if (!is_shared_out && ran.contains(&need)) || has(&need) {
            findings.objections.push(Objection::Missed { test, need, reason });
        } else {
            findings.absences.push(Absence { need: need.to_string(), reason, test });
        }
    }
    findings.absences.sort();
    findings.absences.dedup();
    findings
}

#[cfg(test)]
mod tests {
    use super::{Findings, Name, Objection, judge};
    use vellum_presence::{Need, Outcome, Report};

    fn name(test: &str) -> Name {
        let [package, binary, test] = ["p", "b", test].map(str::to_owned);
        Name { package, binary, test }
    }

    fn report(test: &str, need: Need, outcome: Outcome) -> Report {
        let Name { package, binary, test } = name(test);
        Report { package, binary, test, need, outcome }
    }

    fn lack() -> Outcome {
        Outcome::NotRun("there is none".to_owned())
    }

    fn ring() -> Need {
        Need::KvmWay("ring-with-bitmap".to_owned())
    }

    #[test]
    fn what_ran_is_not_spoken_of() {
        let findings = judge(&[name("t")], &[report("t", Need::Kvm, Outcome::Ran)], |_| true);
        assert_eq!(findings, Findings::default());
    }

    #[test]
    fn what_the_machine_lacks_is_listed_with_the_reason_and_no_failure() {
        let reports = [report("t", Need::Kvm, Outcome::Ran), report("t", ring(), lack())];
        let findings = judge(&[name("t")], &reports, |need| *need == Need::Kvm);
        assert_eq!(findings.objections, []);
        let absence = &findings.absences[0];
        assert_eq!(
            (absence.need.as_str(), absence.reason.as_str()),
            ("kvm-way ring-with-bitmap", "there is none")
        );
        assert_eq!((&absence.test, findings.absences.len()), (&name("t"), 1));
    }

    #[test]
    fn a_test_that_missed_what_the_machine_has_is_a_failure() {
        let findings = judge(&[name("t")], &[report("t", Need::Kvm, lack())], |_| true);
        assert!(
            matches!(&findings.objections[..], [Objection::Missed { test, .. }] if *test == name("t"))
        );
    }

    #[test]
    fn what_one_test_had_another_cannot_miss() {
        let reports = [report("t", Need::Kvm, Outcome::Ran), report("u", Need::Kvm, lack())];
        let findings = judge(&[], &reports, |_| false);
        assert!(
            matches!(&findings.objections[..], [Objection::Missed { test, .. }] if *test == name("u"))
        );
    }

    #[test]
    fn of_huge_pages_one_test_may_have_had_what_another_missed() {
        let pages = Need::HugePages(64 << 20);
        let reports = [report("t", pages.clone(), Outcome::Ran), report("u", pages, lack())];
        let findings = judge(&[], &reports, |_| false);
        assert_eq!((findings.absences.len(), findings.objections.len()), (1, 0));
    }

    #[test]
    fn a_test_that_never_came_to_its_gate_is_a_failure() {
        let reports = [report("t", Need::Kvm, Outcome::Ran)];
        let findings = judge(&[name("t"), name("u")], &reports, |_| true);
        assert_eq!(findings.objections, [Objection::Silent(name("u"))]);
    }

    #[test]
    fn a_test_of_the_same_name_in_another_program_speaks_for_itself() {
        let mut other = report("t", Need::Kvm, Outcome::Ran);
        other.binary = "other".to_owned();
        let findings = judge(&[name("t")], &[other], |_| true);
        assert_eq!(findings.objections, [Objection::Silent(name("t"))]);
    }
}
