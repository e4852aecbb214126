//! What each backend's log can do, and what it says where it cannot. `docs/backends.md` is made of this.

use std::fmt::Write;

/// Something that a log may be able to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ability {
    /// Protects the pages of a round one by one.
    ByPage,
    /// Protects all of memory in constant time.
    ProtectAll,
    /// Is read first, and cleared range by range as pages are copied.
    RangeByRange,
    /// Begins with every page set, so that starting costs nothing.
    AllSet,
    /// Has a ring for each vCPU.
    Rings,
    /// Has rings, and bitmaps beside them for what no vCPU writes.
    RingsAndBitmaps,
    /// Is kept by D bits that the caller chooses.
    DirtyBits,
    /// Is kept by a page-modification log that the caller chooses.
    PageLog,
    /// Has what a device of this process writes to the memory, without a second log.
    DeviceWrites,
    /// Joins a union with devices' logs.
    Union,
    /// Goes on while memslots come, go and move.
    SlotChanges,
    /// Has huge leaves split ahead of the writes.
    SplitAhead,
    /// Forgets pages that the guest says are free.
    Hints,
    /// Beside it: which pages were accessed.
    Ageing,
    /// Beside it: each write to a page is told of.
    Tracking,
    /// Beside it: writes to 128 bytes of a page can be forbidden.
    SubPages,
}

/// A backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Column {
    /// `vellum-mmu` on Intel's tables.
    Ept,
    /// On AMD's.
    Npt,
    /// On Arm's.
    Stage2,
    /// `vellum-kvm`: the kernel's hypervisor.
    Kvm,
    /// `vellum-process`: memory of this process.
    Process,
}

/// Whether a backend can, and how that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It can, as this test shows.
    Shown(&'static str),
    /// It cannot, as this test shows: asked, it does without.
    Absent(&'static str, &'static str),
    /// It cannot, and says so by name where it is asked, as this test shows.
    Refused(&'static str, &'static str),
    /// It cannot, and there is no call to ask it by.
    NoCall(&'static str),
}

/// Where the libraries have no call, the command line has.
const BY_THE_TOOL: &str = "what_is_for_the_machine_in_software_is_refused_by_name";

impl Ability {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::ByPage,
        Self::ProtectAll,
        Self::RangeByRange,
        Self::AllSet,
        Self::Rings,
        Self::RingsAndBitmaps,
        Self::DirtyBits,
        Self::PageLog,
        Self::DeviceWrites,
        Self::Union,
        Self::SlotChanges,
        Self::SplitAhead,
        Self::Hints,
        Self::Ageing,
        Self::Tracking,
        Self::SubPages,
    ];

    /// In a few words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ByPage => "protects page by page",
            Self::ProtectAll => "protects all in constant time",
            Self::RangeByRange => "is cleared range by range",
            Self::AllSet => "begins all set",
            Self::Rings => "has rings",
            Self::RingsAndBitmaps => "has rings and bitmaps",
            Self::DirtyBits => "is kept by D bits",
            Self::PageLog => "is kept by a page-modification log",
            Self::DeviceWrites => "has devices' writes",
            Self::Union => "joins a union",
            Self::SlotChanges => "bears changes of memslots",
            Self::SplitAhead => "splits huge leaves ahead",
            Self::Hints => "takes free-page hints",
            Self::Ageing => "ages pages",
            Self::Tracking => "tells of each write",
            Self::SubPages => "forbids 128 bytes",
        }
    }

    /// What `column` can of it.
    #[must_use]
    pub const fn of(self, column: Column) -> Answer {
        match column {
            Column::Ept | Column::Npt | Column::Stage2 => self.of_ours(column),
            Column::Kvm => self.of_kvm(),
            Column::Process => self.of_process(),
        }
    }

    const fn of_ours(self, column: Column) -> Answer {
        match self {
            Self::ByPage | Self::ProtectAll | Self::RangeByRange => {
                Answer::Shown("ports_pass_the_stopped_oracle")
            }
            Self::AllSet => {
                Answer::Shown("with_initially_all_set_huge_leaves_stay_until_their_first_clear")
            }
            Self::Rings | Self::DirtyBits => {
                Answer::Shown("ports_that_log_by_d_bits_or_rings_pass_both_oracles")
            }
            Self::RingsAndBitmaps => Answer::Shown(
                "what_finds_no_room_is_in_the_bitmap_and_what_is_taken_there_faults_again",
            ),
            Self::PageLog => match column {
                Column::Ept => Answer::Shown("ports_that_log_by_d_bits_or_rings_pass_both_oracles"),
                _ => Answer::NoCall("no processor with these tables has one"),
            },
            Self::DeviceWrites => Answer::Shown("a_rust_vmm_device_can_be_in_the_mmus_own_log"),
            Self::Union => Answer::Shown("ports_keep_the_contract_in_every_format"),
            Self::SlotChanges => {
                Answer::Shown("a_slot_that_moves_under_a_storing_vcpu_loses_nothing")
            }
            Self::SplitAhead => {
                Answer::Shown("a_gibibyte_that_was_split_to_pages_comes_back_as_one")
            }
            Self::Hints | Self::Ageing => match column {
                Column::Ept => Answer::Shown("ports_over_ept_do_as_the_model"),
                Column::Npt => Answer::Shown("ports_over_npt_do_as_the_model"),
                _ => Answer::Shown("ports_over_stage_2_do_as_the_model"),
            },
            Self::Tracking => Answer::Shown("nothing_but_untracking_makes_a_tracked_page_writable"),
            Self::SubPages => Answer::Shown("the_end_of_a_write_is_exclusive"),
        }
    }

    const fn of_kvm(self) -> Answer {
        match self {
            Self::ByPage | Self::RangeByRange | Self::AllSet | Self::Rings => {
                Answer::Shown("native_guests_pass_the_stopped_oracle_by_every_way")
            }
            Self::ProtectAll => Answer::Refused(
                BY_THE_TOOL,
                "Linux never took write-protect-all; the tool names what there is",
            ),
            Self::RingsAndBitmaps => Answer::Refused(
                "a_way_that_the_kernel_lacks_is_refused_by_name_and_another_is_offered",
                "on x86, where the kernel has no use for it; on Arm it has them (hardware.md)",
            ),
            Self::DirtyBits | Self::PageLog => Answer::Refused(
                BY_THE_TOOL,
                "the kernel uses what its processor has, under every way; the tool names what there is",
            ),
            Self::DeviceWrites => Answer::Absent(
                "what_a_device_writes_is_in_no_log_of_the_kernels",
                "the kernel logs what goes through its tables: make a union",
            ),
            Self::Union => Answer::Shown("the_kernels_log_keeps_the_contract_by_every_way"),
            Self::SlotChanges => Answer::Refused(
                "a_slot_whose_log_cannot_be_read_is_owed_whole_and_so_is_what_was_taken_before_it",
                "a collection names the slot that is gone, and owes the rest; then make a new log",
            ),
            Self::SplitAhead => {
                Answer::NoCall("a parameter of the kernel's module (`eager_page_split`)")
            }
            Self::Hints => {
                Answer::NoCall("leave the pages out of the copy; the kernel's log keeps them")
            }
            Self::Ageing => Answer::NoCall("the kernel ages for itself"),
            Self::Tracking => Answer::NoCall("the kernel tells only what runs in it"),
            Self::SubPages => Answer::NoCall("Linux never took sub-page permissions"),
        }
    }

    const fn of_process(self) -> Answer {
        match self {
            Self::ByPage => Answer::Shown("threads_pass_the_stopped_oracle"),
            Self::ProtectAll => {
                Answer::NoCall("a scan protects what it finds, and nothing else need be")
            }
            Self::RangeByRange => Answer::NoCall("a scan takes and protects in one"),
            Self::AllSet => Answer::NoCall("starting protects every page"),
            Self::Rings | Self::RingsAndBitmaps => Answer::NoCall("there are no vCPUs"),
            Self::DirtyBits | Self::PageLog => Answer::NoCall("there are no second-stage tables"),
            Self::DeviceWrites => Answer::Shown("what_anybody_writes_here_is_in_the_processes_log"),
            Self::Union => Answer::Shown("the_processes_log_keeps_the_contract"),
            Self::SlotChanges => {
                Answer::NoCall("the mappings stay as long as the log: who makes it promises that")
            }
            Self::SplitAhead => Answer::NoCall("the kernel splits its own huge pages"),
            Self::Hints => Answer::NoCall("a page that is given back is named: it has changed"),
            Self::Ageing => Answer::NoCall("the kernel ages for itself"),
            Self::Tracking => Answer::Shown(
                "a_writer_stands_before_its_first_write_to_a_page_until_it_is_allowed",
            ),
            Self::SubPages => Answer::NoCall("host pages have no parts"),
        }
    }
}

impl Column {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ept, Self::Npt, Self::Stage2, Self::Kvm, Self::Process];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ept => "EPT",
            Self::Npt => "NPT",
            Self::Stage2 => "Arm stage 2",
            Self::Kvm => "`/dev/kvm`",
            Self::Process => "this process",
        }
    }
}

impl Answer {
    /// The test that shows it, if one does.
    #[must_use]
    pub const fn test(self) -> Option<&'static str> {
        match self {
            Self::Shown(test) | Self::Absent(test, _) | Self::Refused(test, _) => Some(test),
            Self::NoCall(_) => None,
        }
    }

    /// In a word.
    const fn word(self) -> &'static str {
        match self {
            Self::Shown(_) => "yes",
            Self::Absent(..) => "absent",
            Self::Refused(..) => "refused",
            Self::NoCall(_) => "no call",
        }
    }

    /// Why not.
    const fn why(self) -> Option<&'static str> {
        match self {
            Self::Shown(_) => None,
            Self::Absent(_, why) | Self::Refused(_, why) | Self::NoCall(why) => Some(why),
        }
    }
}

/// The table of `docs/backends.md`.
#[must_use]
pub fn table() -> String {
    let row = |first: &str, cells: [&str; 5]| format!("| {first} | {} |\n", cells.join(" | "));
    let mut table = row("a log that", Column::ALL.map(Column::name));
    table += "|---|---|---|---|---|---|\n";
    for ability in Ability::ALL {
        table += &row(ability.name(), Column::ALL.map(|column| ability.of(column).word()));
    }
    table
}

/// The reasons of `docs/backends.md`, those of several backends once.
#[must_use]
pub fn reasons() -> String {
    let mut table = "| a log that | backend | says | since |\n|---|---|---|---|\n".to_owned();
    for ability in Ability::ALL {
        let mut answers: Vec<(Answer, Vec<&str>)> = Vec::new();
        for column in Column::ALL {
            let answer = ability.of(column);
            match answers.iter_mut().find(|(known, _)| *known == answer) {
                Some((_, columns)) => columns.push(column.name()),
                None => answers.push((answer, vec![column.name()])),
            }
        }
        for (answer, columns) in answers {
            if let Some(why) = answer.why() {
                let (name, columns, word) = (ability.name(), columns.join(", "), answer.word());
                // Writing to a string cannot fail.
                let _ = writeln!(table, "| {name} | {columns} | {word} | {why} |");
            }
        }
    }
    table
}

/// The tests that show what is said to be shown, each once.
#[must_use]
pub fn tests() -> Vec<&'static str> {
    let answers = Ability::ALL.into_iter().flat_map(|ability| Column::ALL.map(|c| ability.of(c)));
    let mut tests: Vec<_> = answers.filter_map(Answer::test).collect();
    tests.sort_unstable();
    tests.dedup();
    tests
}
