//! The command line.

use crate::quantity::{Size, parse_duration, parse_span};
use crate::watch::{AddressRange, Grain};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use vellum_migrate::Address;
use vellum_pte::{Ept, Format as _, Npt, Stage2};

/// Tracks every write that a guest makes to its memory.
#[derive(Debug, Parser)]
#[command(
    name = "vellum",
    version,
    after_help = "\
Examples:
  vellum migrate                     move a running guest to a second process and verify it
  vellum migrate --help              what can be chosen
  vellum watch                       see who writes where in a guest's memory
  vellum bench protect-all           what write-protecting a whole guest costs

Exit status: 0 done and verified, 1 failed, 2 could not start, 3 a store was denied (watch --deny)."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Live-migrate a running guest to another process and verify that nothing was lost
    ///
    /// Starts a guest, moves it while it runs, and compares both memories by digest. Without --to the
    /// destination is a second process that this one starts and ends.
    Migrate(Migrate),
    /// Wait for a guest, take it over and run it
    ///
    /// Waits for one guest and runs it until it shuts down or Ctrl-C ends it. What the guest writes to
    /// its console appears here.
    Receive(Receive),
    /// Run a guest and see who writes where in a range of its memory
    ///
    /// Shows the pages or 128-byte sub-pages that are written, with the last writer's virtual CPU,
    /// instruction and bytes, hottest first. Each write is heard of, from the guest's first
    /// instruction on. Runs until Ctrl-C, the guest's end, or what --for, --writes or --deny say.
    Watch(Watch),
    /// Measure one operation, our ways of doing it against each other
    Bench(Bench),
}

/// A guest, and the machine that it runs on.
#[derive(Clone, Debug, Args)]
pub(crate) struct MachineArgs {
    /// The guest's memory: a number and K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub(crate) memory: Size,
    /// How many virtual CPUs the guest has
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) vcpus: u32,
    /// selfcheck, sequential, random, zipf, idle, or the path of an RV64 ELF image
    #[arg(long, value_name = "NAME|FILE", default_value = "selfcheck")]
    pub(crate) guest: String,
    /// How second-stage entries are spelt: Intel's way, AMD's or Arm's
    /// [default: ept]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// The largest pages behind the guest's memory: where nothing is logged, they are mapped whole
    #[arg(long, value_enum, default_value_t = PageSize::Small)]
    pub(crate) page_size: PageSize,
    /// Seeds the guest's random choices
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) seed: u64,
}

impl MachineArgs {
    /// How second-stage entries are spelt, whether it was asked for or not.
    pub(crate) fn format(&self) -> Format {
        self.format.unwrap_or(Format::Ept)
    }
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vellum migrate
  vellum migrate --memory 256M --guest zipf --track per-page
  vellum migrate --machine kvm --memory 4G --track ring
  vellum migrate --json | jq .downtime_ns

With --machine kvm the guest is native: x86-64 code on this host's /dev/kvm, and what tracks its
writes is the kernel's own log. It needs Linux on x86-64 here and where it goes; any /dev/kvm will do.
  --guest      one of selfcheck, sequential, random, zipf, idle
  --track      per-page: KVM_GET_DIRTY_LOG reads, clears and protects in one call
               manual: the same only reads; KVM_CLEAR_DIRTY_LOG protects what is about to be copied
               ring: each virtual CPU has a ring of the pages it writes
               auto: manual where the kernel has it
  --page-size  4k, 2m (transparent huge pages) or hugetlb (from the host's pool)

Between two terminals, or two machines:
  vellum receive --listen tcp:0.0.0.0:7000
  vellum migrate --to tcp:192.0.2.1:7000

A guest of your own is an ELF image for RV64IMA, linked to 0x80000000, where RAM begins:
  riscv64-linux-gnu-gcc -march=rv64ima -mabi=lp64 -nostdlib -static \
      -Wl,--build-id=none,-Ttext-segment=0x80000000 -o guest.elf guest.S
  vellum migrate --guest guest.elf

A destination that does nothing for as long as --patience is given up, and the guest runs on here.
If the acknowledgement of the hand-over is lost, the source keeps its guest paused and asks again
every second. When you know that the destination does not run it:
  vellum migrate --resume PID

Exit status: 0 verified (with --to: handed over, and not ended), 1 failed, 2 could not start.")]
pub(crate) struct Migrate {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// What runs the guest
    #[arg(long = "machine", value_enum, default_value_t = Runs::Software)]
    pub(crate) runs: Runs,
    /// How writes are tracked; auto chooses and says why
    #[arg(long, value_enum, default_value_t = Track::Auto)]
    pub(crate) track: Track,
    /// The longest pause to aim for: a number and s, ms or us
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration, allow_negative_numbers = true)]
    pub(crate) downtime: Duration,
    /// How long the destination may do nothing before it is given up
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration, allow_negative_numbers = true)]
    pub(crate) patience: Duration,
    /// Where a destination listens: tcp:HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Option<Address>,
    /// How often to try: after a failure the guest runs on, and the next try sends what it owes
    #[arg(long, value_name = "N", default_value_t = 1, requires = "to", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) attempts: u32,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Print each step as a line of JSON on standard error
    #[arg(long)]
    pub(crate) events: bool,
    /// Let the guest of the waiting process PID run on, and do nothing else
    #[arg(long, value_name = "PID", exclusive = true)]
    pub(crate) resume: Option<i32>,
    /// The same with a deliberate bug in the shipped path
    #[cfg(feature = "breaks")]
    #[arg(long = "break", value_name = "BUG", hide = true)]
    pub(crate) broken: Option<crate::breaks::Name>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vellum watch
  vellum watch --guest zipf --grain 128 --for 2
  vellum watch --range 0x80100000..0x80102000 --range 0x80180000+64K
  vellum watch --grain 128 --range 0x80100080+128 --deny
  vellum watch --json --writes 1000 | jq -r 'select(.event==\"write\") | .pc' | sort | uniq -c

How stores are caught:
  --grain page   the pages are write-protected, each store to them is emulated and heard of
  --grain 128    a map denies the watched 128-byte parts; a store there exits, is reported and let
                 through. With ept and --sub-pages hardware, stores to the rest of the page do not
                 exit; otherwise they are emulated
  --deny         the same maps, at either grain, and the first store does not happen

Counts are exact. The table shows the hottest places, four times a second on a terminal.

With --json each write is a line; addresses and bytes are hexadecimal text:
  {\"event\":\"write\"}    n (from 1), vcpu, pc, gpa, bytes (as they lie in memory)
  {\"event\":\"denied\"}   vcpu, pc, gpa, bytes; word and length of the instruction, and its text;
                       denied (the first byte that is), sub_page, map; memory (what is there)
  {\"event\":\"summary\"}  ended (writes, time, interrupted, unread, denied, shut-down, failed),
                       reason; writes, beside (stores beside the range that were emulated);
                       written and watched (pages or sub-pages); grain, ranges, mechanism,
                       mechanism_reason; guest, format, memory, vcpus, seed, ns
  {\"event\":\"failed\"}   reason: it could not start

Exit status: 0 watched to its end, 1 the guest failed, 2 could not start, 3 a store was denied.")]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// What to watch: START..END or START+LENGTH, 0x for hexadecimal, K, M or G behind; repeatable.
    /// For built-in guests the first 64K that they write is the default
    #[arg(long = "range", value_name = "RANGE", allow_hyphen_values = true)]
    pub(crate) ranges: Vec<AddressRange>,
    /// What is watched as a whole; a range is rounded to it
    #[arg(long, value_enum, default_value_t = Grain::Page)]
    pub(crate) grain: Grain,
    /// Whether processors have tables of sub-page permissions, where the format has them
    #[arg(long, value_enum, default_value_t = SubPages::Hardware)]
    pub(crate) sub_pages: SubPages,
    /// Stop the guest at its first store to the range, before it happens, and explain it
    #[arg(long)]
    pub(crate) deny: bool,
    /// End after so long: seconds, or a number and s, ms or us
    #[arg(long = "for", value_name = "SECONDS", value_parser = parse_span, allow_negative_numbers = true)]
    pub(crate) span: Option<Duration>,
    /// End after so many writes to the range
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), allow_negative_numbers = true)]
    pub(crate) writes: Option<u64>,
    /// Print each write as a line of JSON, and a summary at the end
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vellum receive --listen tcp:0.0.0.0:7000
  vellum receive --listen unix:/tmp/vellum.sock --passes 3

Whoever can reach ADDRESS can start a guest here: choose one that only you can reach.

Exit status: 0 the guest ran to its end, or as long as asked; 1 it did not arrive; 2 could not start.")]
pub(crate) struct Receive {
    /// Where to listen: tcp:HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Address,
    /// End after the guest has finished so many passes over its memory here
    #[arg(long, value_name = "N")]
    pub(crate) passes: Option<u64>,
    /// How long a source may do nothing before its guest is given up: a number and s, ms or us
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration, allow_negative_numbers = true)]
    pub(crate) patience: Duration,
    /// Print each step as a line of JSON on standard output
    #[arg(long)]
    pub(crate) events: bool,
    /// End when standard input closes
    #[arg(long, hide = true)]
    pub(crate) attached: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What to measure
    #[command(subcommand)]
    pub(crate) bench: BenchName,
    /// How much guest memory protect-all, round and kvm work on, and how much log splits
    #[arg(long, global = true, value_name = "SIZE", default_value = "3G")]
    pub(crate) memory: Size,
    /// Print one JSON object instead of the table
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum BenchName {
    /// Time until every store traps again: page by page against by generation
    ProtectAll,
    /// One write fault: the fast path and the push-down after a write-protect-all
    Fault,
    /// Starting a log on huge leaves, splitting them, and getting them back
    Log,
    /// A whole round: harvest, protect, rewrite everything, by each way of tracking
    Round,
    /// Taking pages back out of a dirty ring: each by itself against write-protect-all
    RingReset,
    /// The kernel's log on /dev/kvm through our contract, against the bare ioctls
    Kvm,
    /// Memory for tracked pages and for maps of sub-pages
    Metadata {
        /// How large the memslot is: by default 39 bits
        #[arg(long, value_name = "SIZE", default_value = "512G")]
        slot: Size,
    },
}

/// How second-stage entries are spelt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// Intel's extended page tables
    Ept,
    /// AMD's nested page tables
    Npt,
    /// Arm's stage 2, 4 KiB granule
    Stage2,
}

impl Format {
    /// Its name on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ept => Ept::NAME,
            Self::Npt => Npt::NAME,
            Self::Stage2 => Stage2::NAME,
        }
    }
}

/// The largest pages behind a guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum PageSize {
    /// 4 KiB
    #[value(name = "4k")]
    Small,
    /// 2 MiB, as transparent huge pages are
    #[value(name = "2m")]
    Huge2M,
    /// 1 GiB
    #[value(name = "1g")]
    Huge1G,
    /// 2 MiB each, from the host's pool of huge pages (--machine kvm)
    #[value(name = "hugetlb")]
    Pooled,
}

/// What runs a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Runs {
    /// A machine in software: RV64 guests, our own tables, in every format
    Software,
    /// This host's /dev/kvm: native guests, the kernel's log
    Kvm,
}

impl Runs {
    /// Where it runs guests.
    pub(crate) fn place(self) -> &'static str {
        match self {
            Self::Software => "on the machine in software",
            Self::Kvm => "on /dev/kvm",
        }
    }
}

/// Whether processors have tables of sub-page permissions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum SubPages {
    /// They do, where the format has them (ept)
    Hardware,
    /// They do not
    Emulated,
}

/// How writes are tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Track {
    /// Write-protect each page that was found dirty
    PerPage,
    /// Write-protect everything at once, by generation
    ProtectAll,
    /// Read the log, and write-protect each stretch just before it is copied
    Manual,
    /// Let the processor set D bits, and scan the tables that were touched
    Dbit,
    /// The same on a processor that also writes down which pages it set them for (ept)
    Pml,
    /// Give each virtual CPU a ring of the pages it writes, which stops it when it is full
    Ring,
    /// Choose by the guest's size and say why
    Auto,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let cli = Cli::try_parse_from(["vellum", "migrate"]).expect("no argument is needed");
        let Command::Migrate(migrate) = cli.command else { panic!("another command") };
        let machine = &migrate.machine;
        assert_eq!(machine.memory.bytes(), 1 << 30);
        assert_eq!((machine.vcpus, machine.seed, machine.guest.as_str()), (4, 1, "selfcheck"));
        assert_eq!((machine.format(), migrate.track), (Format::Ept, Track::Auto));
        assert_eq!(migrate.runs, Runs::Software);
        assert_eq!(migrate.downtime, Duration::from_millis(100));
        assert_eq!(migrate.patience, Duration::from_secs(30));
    }

    #[test]
    fn a_resume_stands_alone() {
        assert!(Cli::try_parse_from(["vellum", "migrate", "--resume", "7"]).is_ok());
        assert!(Cli::try_parse_from(["vellum", "migrate", "--resume", "7", "--json"]).is_err());
    }

    #[test]
    fn a_receiver_needs_an_address() {
        assert!(Cli::try_parse_from(["vellum", "receive"]).is_err());
    }

    #[test]
    fn a_receiver_is_as_patient_as_a_source() {
        let cli = Cli::try_parse_from(["vellum", "receive", "--listen", "tcp:localhost:0"]);
        let Command::Receive(receive) = cli.expect("an address is enough").command else {
            panic!("another command")
        };
        assert_eq!(receive.patience, Duration::from_secs(30));
    }
}
