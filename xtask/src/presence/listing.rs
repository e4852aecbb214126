//! The tests that there are, as cargo built them and as they list themselves.

use super::gated::{GATED, Gated};
use super::judge::{Name, Vain};
use crate::cargo::{cargo, output_of};
use crate::failure::Failure;
use std::process::Command;

/// What cargo says of what it has built; of other messages nothing.
#[derive(serde::Deserialize)]
struct Message {
    package_id: Option<String>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<String>,
}

/// How it was built: an example that has tests is built as a program too.
#[derive(serde::Deserialize)]
struct Profile {
    test: bool,
}

#[derive(serde::Deserialize)]
struct Target {
    name: String,
}

/// A test program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Program {
    package: String,
    /// Its name, without the hash that cargo appends.
    pub(crate) binary: String,
    /// Where it was built.
    pub(crate) path: String,
}

/// Tests that a step runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Selection {
    /// Packages, features and programs, as cargo's options.
    pub(crate) build: &'static str,
    /// What the names of those begin with that are run: a module, or nothing if all are.
    pub(crate) within: &'static str,
}

/// The tests that should report.
#[derive(PartialEq, Eq, Default, Debug)]
pub(crate) struct Expected {
    pub(crate) names: Vec<Name>,
    /// What no test was found for.
    pub(crate) vain: Vec<Vain>,
}

/// Elsewhere some programs of tests with gates are built empty.
const HAS_ALL_GATES: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));

impl Selection {
    /// All tests of what is built.
    pub(crate) const fn all(build: &'static str) -> Self {
        Self { build, within: "" }
    }

    /// Those of its tests that are expected to report.
    pub(crate) fn expected(self) -> Result<Expected, Failure> {
        let build = format!("test --locked --no-run --quiet --message-format=json {}", self.build);
        let mut expected = Expected::default();
        for program in built(cargo(&build))? {
            let gates: Vec<_> = GATED.iter().filter(|gated| is_of(gated, &program)).collect();
            if !gates.is_empty() {
                let mut list = Command::new(&program.path);
                list.args(["--list", "--format", "terse"]);
                expected.add(&program, &gates, self.within, &tests(&output_of(list)?));
            }
        }
        if !HAS_ALL_GATES {
            expected.vain.clear();
        }
        Ok(expected)
    }
}

impl Expected {
    /// What should report of a program that has these `tests`, and of which only those `within` are run.
    fn add(&mut self, program: &Program, gates: &[&Gated], within: &str, tests: &[String]) {
        let narrowed = gates.iter().filter_map(|gated| narrower(gated.within, within));
        let prefixes: Vec<&str> = narrowed.collect();
        let has_gate = |test: &&String| prefixes.iter().any(|prefix| test.starts_with(prefix));
        let found = tests.iter().filter(has_gate);
        self.names.extend(found.map(|test| program.name_of(test.clone())));
        let is_vain = |prefix: &&str| !tests.iter().any(|test| test.starts_with(*prefix));
        let vain = prefixes.iter().copied().filter(is_vain);
        self.vain.extend(vain.map(|prefix| program.without(prefix)));
    }
}

/// The prefix of the names that begin with both, if there can be such.
fn narrower<'p>(one: &'p str, other: &'p str) -> Option<&'p str> {
    if one.starts_with(other) { Some(one) } else { other.starts_with(one).then_some(other) }
}

/// What `cargo` builds that is told to tell of it in JSON.
pub(crate) fn built(cargo: Command) -> Result<Vec<Program>, Failure> {
    programs(&output_of(cargo)?)
}

impl Program {
    fn name_of(&self, test: String) -> Name {
        Name { package: self.package.clone(), binary: self.binary.clone(), test }
    }

    fn without(&self, within: &str) -> Vain {
        let within = within.to_owned();
        Vain { package: self.package.clone(), binary: self.binary.clone(), within }
    }
}

fn is_of(gated: &Gated, program: &Program) -> bool {
    gated.package == program.package && gated.binary == program.binary
}

fn programs(messages: &str) -> Result<Vec<Program>, Failure> {
    let read = messages
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|_| Failure::NoMessage(line.to_owned())));
    let messages: Vec<Message> = read.collect::<Result<_, _>>()?;
    Ok(messages.into_iter().filter_map(program).collect())
}

fn program(message: Message) -> Option<Program> {
    message.profile.filter(|profile| profile.test)?;
    let id = message.package_id?;
    let (_, named) = id.rsplit_once('#')?;
    let package = named.split('@').next()?.to_owned();
    Some(Program { package, binary: message.target?.name, path: message.executable? })
}

/// The names in a terse list: benchmarks are none.
fn tests(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{Expected, Gated, Program, programs, tests};

    fn expected(gated: &[&'static str], within: &str, tests: &[&str]) -> [Vec<String>; 2] {
        let [package, binary, path] = ["p", "b", "/t/b"].map(str::to_owned);
        let program = Program { package, binary, path };
        let of = |within: &&'static str| Gated { package: "p", binary: "b", within };
        let gates: Vec<Gated> = gated.iter().map(of).collect();
        let tests: Vec<String> = tests.iter().map(|test| (*test).to_owned()).collect();
        let mut expected = Expected::default();
        expected.add(&program, &gates.iter().collect::<Vec<_>>(), within, &tests);
        let names = expected.names.into_iter().map(|name| name.test).collect();
        [names, expected.vain.into_iter().map(|vain| vain.within).collect()]
    }

    #[test]
    fn a_gate_that_no_test_is_behind_is_objected_to() {
        let tests = ["kvm::a", "kvm::b", "plain"];
        assert_eq!(expected(&["kvm::"], "", &tests), [vec!["kvm::a", "kvm::b"], vec![]]);
        assert_eq!(expected(&["kvm::", "moved::"], "", &tests)[1], ["moved::"]);
        assert_eq!(expected(&[""], "", &[])[1], [""]);
    }

    #[test]
    fn of_what_is_run_only_in_part_that_part_has_to_be_there() {
        let tests = ["breaks::a", "other::b"];
        assert_eq!(expected(&[""], "breaks::", &tests), [vec!["breaks::a"], vec![]]);
        assert_eq!(expected(&[""], "renamed::", &tests), [vec![], vec!["renamed::"]]);
        assert_eq!(expected(&["other::"], "breaks::", &tests), [Vec::<String>::new(), vec![]]);
    }

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","package_id":"path+file:///p/crates/kvm#vellum-kvm@0.1.0","target":{"name":"ways","kind":["test"]},"profile":{"test":true},"executable":"/t/ways-0123456789abcdef"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"registry+https://r#libc@0.2.0","target":{"name":"libc"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///p/crates/process#vellum-process@0.1.0","target":{"name":"backend"},"profile":{"test":false},"executable":"/t/examples/backend"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = programs(messages).expect("messages");
        let [package, binary, path] =
            ["vellum-kvm", "ways", "/t/ways-0123456789abcdef"].map(str::to_owned);
        assert_eq!(found, [Program { package, binary, path }]);
        assert!(programs("error: no such command").is_err());
    }

    #[test]
    fn tests_are_found_in_a_list() {
        assert_eq!(tests("a::b: test\nc: benchmark\nd: test\n"), ["a::b", "d"]);
    }
}
