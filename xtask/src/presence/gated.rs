//! Which tests have a gate.

/// Tests that need something of the machine: each of them reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gated {
    /// Their package.
    pub(crate) package: &'static str,
    /// Their program: the name of the integration test, of the example, or of the library or the tool for
    /// unit tests.
    pub(crate) binary: &'static str,
    /// What their names begin with: a module, or nothing if all tests of the program have gates.
    pub(crate) within: &'static str,
}

/// All of them.
pub(crate) const GATED: &[Gated] = &[
    Gated { package: "vellum-kvm", binary: "ways", within: "" },
    Gated { package: "vellum-vmm", binary: "native", within: "" },
    Gated { package: "vellum-vmm", binary: "allocations", within: "" },
    Gated { package: "vellum-vmm", binary: "vellum_vmm", within: "tests::" },
    Gated { package: "vellum-process", binary: "process", within: "" },
    Gated { package: "vellum-process", binary: "allocations", within: "" },
    Gated { package: "vellum-process", binary: "kvm_guest", within: "" },
    Gated { package: "vellum-process", binary: "vellum_process", within: "log::" },
    Gated { package: "vellum-process", binary: "vellum_process", within: "guest::tests::the_" },
    Gated { package: "vellum-process", binary: "privilege", within: "" },
    Gated { package: "vellum-process", binary: "backend", within: "tests::a_" },
    Gated { package: "vellum-cli", binary: "kvm", within: "on_kvm::" },
    Gated { package: "vellum-cli", binary: "kvm", within: "without::hidden::" },
    Gated { package: "vellum-cli", binary: "breaks", within: "on_kvm::" },
    Gated { package: "vellum-cli", binary: "kvm", within: "bench::" },
    Gated { package: "vellum-cli", binary: "vellum", within: "migrate::attempt::tests::on_kvm::" },
    Gated { package: "vellum-conformance", binary: "kvm", within: "" },
    Gated { package: "vellum-conformance", binary: "moving", within: "" },
    Gated { package: "vellum-conformance", binary: "process", within: "" },
];

#[cfg(test)]
mod tests {
    use super::GATED;
    use crate::cargo::root;
    use std::path::{Path, PathBuf};

    /// What a test says that has a gate.
    const GATE: &str = "vellum_presence::";
    /// What an integration test says that has one, or should have.
    const SIGNS: [&str; 3] = ["vellum_kvm::", "vellum_vmm::", GATE];

    fn sources(folder: &Path) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    /// The tests of the workspace that bear a sign: package's folder and program's name.
    fn signed() -> Vec<(String, String)> {
        let folders = ["crates", "tests"].map(|folder| root().join(folder));
        let packages =
            folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("it is there"));
        let packages = packages.map(|entry| entry.expect("an entry").path());
        let kinds =
            |package: PathBuf| signed_in(&package).into_iter().chain(with_unit_tests(&package));
        let mut found: Vec<_> = packages.flat_map(kinds).collect();
        found.sort();
        found.dedup();
        found
    }

    fn signed_in(package: &Path) -> Vec<(String, String)> {
        let name = package.file_name().expect("a name").to_string_lossy().into_owned();
        let tests = package.join("tests");
        let signed = sources(&tests).into_iter().filter(|path| bears_a_sign(path));
        let of = |path: PathBuf| {
            let inside = path.strip_prefix(&tests).expect("it is inside").to_owned();
            let first = inside.components().next().expect("a first part").as_os_str();
            first.to_string_lossy().trim_end_matches(".rs").to_owned()
        };
        signed.map(|path| (name.clone(), of(path))).collect()
    }

    /// The package's own program of unit tests, if one of them has a gate.
    fn with_unit_tests(package: &Path) -> Option<(String, String)> {
        let name = package.file_name().expect("a name").to_string_lossy().into_owned();
        let program = unit_tests_of(package);
        let has_gate = |path: PathBuf| text_of(&path).contains(GATE);
        // Where gates are made, they are spoken of.
        let is_ours = name == "presence";
        let found = !is_ours && sources(&package.join("src")).into_iter().any(has_gate);
        found.then_some((name, program))
    }

    /// What the unit tests of a package are called: as its library, or as its tool if it has none.
    fn unit_tests_of(package: &Path) -> String {
        let name = package.file_name().expect("a name").to_string_lossy().into_owned();
        let has_library = package.join("src/lib.rs").is_file();
        if has_library { format!("vellum_{name}") } else { "vellum".to_owned() }
    }

    fn bears_a_sign(path: &Path) -> bool {
        let text = text_of(path);
        SIGNS.iter().any(|sign| text.contains(sign))
    }

    fn text_of(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_test_on_the_kernels_hypervisor_is_known_to_have_a_gate() {
        let signed = signed();
        assert!(!signed.is_empty(), "the search finds nothing");
        for (folder, binary) in signed {
            let is_known = |gated: &super::Gated| {
                gated.package == format!("vellum-{folder}") && gated.binary == binary
            };
            assert!(GATED.iter().any(is_known), "{folder}'s test {binary} is not in GATED");
        }
    }

    #[test]
    fn what_has_a_gate_is_there() {
        for gated in GATED {
            let folder = gated.package.strip_prefix("vellum-").expect("a package of ours");
            let place = ["crates", "tests"].map(|group| root().join(group).join(folder));
            let source = place.iter().find(|path| path.exists()).expect("its package is there");
            let unit = gated.binary == unit_tests_of(source);
            let is_there = unit
                || ["tests", "examples"].iter().any(|kind| {
                    let program = source.join(kind).join(gated.binary);
                    program.is_dir() || program.with_extension("rs").is_file()
                });
            assert!(is_there, "{gated:?}");
        }
    }
}
