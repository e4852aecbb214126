//! The oracles' guest as an RV64 program: the machine's harts make the stores, and everything that
//! host and guest tell each other lies in guest memory.

use crate::backend::{Backend, Guest, PAGES, Plan, RESERVED};
use crate::port_guest::address_of;
use crate::restricted::{Restricted, Restrictions};
use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use vellum_machine::board::SubPageHardware;
use vellum_machine::elf::Image;
use vellum_machine::guests::assembler::Assembler;
use vellum_machine::guests::image::elf;
use vellum_machine::guests::start::start;
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::machine::{Machine, MachineConfig, Status};
use vellum_machine::vcpu::Reg;
use vellum_machine::walker::WalkedFormat;
use vellum_machine::{Logging, PageSize, RAM_BASE};
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap};
use vellum_mmu::Break;
use vellum_pte::{Gfn, Gpa, PAGE_SIZE};

/// The page whose first word is the number to store.
const NUMBER_PAGE: u64 = 48;
/// The first page of the plan's table, as addresses.
const TABLE_PAGE: u64 = 16;
/// The first of a page a hart: its random number, the number it stores, its stores.
const HART_PAGE: u64 = 64;
const HART_RANDOM: i64 = 0;
const HART_NUMBER: i64 = 8;
const HART_STORES: i64 = 16;

/// RV64 harts over tables of format `F`.
#[derive(Clone, Copy, Debug)]
pub struct Harts<F> {
    /// How the log is kept.
    pub track: Track,
    /// The largest pages of its RAM.
    pub pages: PageSize,
    /// Which pages are tracked and restricted.
    pub restrictions: Restrictions,
    /// Whether its processors have sub-page permissions, where the format has.
    pub sub_pages: SubPageHardware,
    /// A deliberate bug.
    pub broken: Option<Break>,
    format: PhantomData<F>,
}

impl<F> Harts<F> {
    /// Sound, over small pages.
    #[must_use]
    pub const fn new(track: Track) -> Self {
        Self {
            track,
            pages: PageSize::Small,
            restrictions: Restrictions::None,
            sub_pages: SubPageHardware::Present,
            broken: None,
            format: PhantomData,
        }
    }

    /// Over pages of this size.
    #[must_use]
    pub const fn over(self, pages: PageSize) -> Self {
        Self { pages, ..self }
    }

    /// With some pages tracked and restricted, on processors of this kind.
    #[must_use]
    pub const fn restricted(self, sub_pages: SubPageHardware) -> Self {
        Self { restrictions: Restrictions::Some, sub_pages, ..self }
    }

    /// With a deliberate bug.
    #[must_use]
    pub const fn broken(self, broken: Break) -> Self {
        Self { broken: Some(broken), ..self }
    }
}

impl<F: WalkedFormat> Backend for Harts<F> {
    type Guest = HartGuest<F>;

    fn name(&self) -> String {
        let Self { track, pages, restrictions, sub_pages, broken, .. } = self;
        let restricted = format!("{restrictions:?} {sub_pages:?}");
        format!("harts {} {track:?} {pages:?} {restricted} {broken:?}", F::NAME)
    }

    fn guest(&self, plan: Plan) -> HartGuest<F> {
        let mut config = MachineConfig::new(PAGES * PAGE_SIZE, plan.vcpus);
        config.broken = self.broken;
        config.pages = self.pages;
        config.sub_pages = self.sub_pages;
        config.logging = Logging::of(self.track);
        let mute = Box::new(|_: &[u8]| {});
        let machine = Machine::new(&config, &program(), mute).expect("sparse memory is to be had");
        let vcpus = plan.vcpus as u64;
        let mut guest = HartGuest { machine, vcpus, track: self.track, restricted: None };
        guest.place(&plan);
        if self.restrictions == Restrictions::Some {
            let board = guest.machine.board();
            guest.restricted = Some(Restricted::new(board, RAM_BASE, &plan));
        }
        guest
    }
}

/// A machine that runs the program.
pub struct HartGuest<F: WalkedFormat> {
    machine: Machine<F>,
    vcpus: u64,
    track: Track,
    restricted: Option<Restricted<F>>,
}

impl<F: WalkedFormat> HartGuest<F> {
    fn place(&self, plan: &Plan) {
        self.set_number(1);
        for (entry, page) in (0..).zip(&plan.table) {
            let at = address_of(TABLE_PAGE).get() + 8 * entry;
            self.put(Gpa::new(at), address_of(*page).get());
        }
        for hart in 0..plan.vcpus {
            self.put(address_of(HART_PAGE + hart as u64), plan.seed_of(hart).0);
        }
    }

    fn put(&self, at: Gpa, word: u64) {
        let memory = self.machine.board().memory();
        memory.store(word, GuestAddress(at.get()), Ordering::Release).expect("RAM");
    }

    fn word(&self, page: u64, offset: i64) -> u64 {
        let at = GuestAddress(address_of(page).get().wrapping_add_signed(offset));
        self.machine.board().memory().load(at, Ordering::Acquire).expect("RAM")
    }

    fn of_harts(&self, offset: i64) -> impl Iterator<Item = u64> + '_ {
        let status = self.machine.status();
        assert!(matches!(status, Status::Running | Status::Paused), "the guest: {status:?}");
        (0..self.vcpus).map(move |hart| self.word(HART_PAGE + hart, offset))
    }
}

impl<F: WalkedFormat> Guest for HartGuest<F> {
    type Source<'g> = BoardLog<'g, F>;

    fn source(&self) -> BoardLog<'_, F> {
        BoardLog::new(self.machine.board(), self.track)
    }

    fn kept(&self) -> u64 {
        RESERVED
    }

    fn set_number(&self, number: u64) {
        self.restricted.iter().for_each(Restricted::turn);
        self.put(address_of(NUMBER_PAGE), number);
    }

    fn resume(&self) {
        self.machine.resume();
    }

    fn pause(&self) {
        self.machine.pause();
    }

    fn oldest_number(&self) -> u64 {
        self.of_harts(HART_NUMBER).min().unwrap_or(0)
    }

    fn stores(&self) -> Vec<u64> {
        self.of_harts(HART_STORES).collect()
    }

    fn memory(&self) -> &GuestMemoryMmap {
        self.machine.board().memory()
    }

    fn base(&self) -> Gfn {
        RAM_BASE
    }
}

/// `s1` the hart's page, `s2` the table, `s3` the page of the number, `s4` stores so far, `s5` the
/// table's mask, `s6` the random number.
fn program() -> Image {
    let mut asm = Assembler::new();
    start(&mut asm);
    asm.slli(Reg::T0, Reg::S0, 12);
    asm.li(Reg::S1, signed(address_of(HART_PAGE)));
    asm.add(Reg::S1, Reg::S1, Reg::T0);
    asm.li(Reg::S2, signed(address_of(TABLE_PAGE)));
    asm.li(Reg::S3, signed(address_of(NUMBER_PAGE)));
    asm.li(Reg::S4, 0);
    asm.li(Reg::S5, Plan::TABLE as i64 - 1);
    asm.ld(Reg::S6, HART_RANDOM, Reg::S1);
    let next = asm.here();
    asm.ld(Reg::T2, 0, Reg::S3);
    asm.sd(Reg::T2, HART_NUMBER, Reg::S1);
    draw(&mut asm);
    asm.sd(Reg::T2, 0, Reg::T1);
    asm.addi(Reg::S4, Reg::S4, 1);
    asm.sd(Reg::S4, HART_STORES, Reg::S1);
    asm.j(next);
    let words = asm.finish().expect("it assembles");
    Image::parse(&elf(RAM_BASE.gpa(), &words)).expect("a good image")
}

/// `t1` = the address of a page, as [`crate::backend::Random`] draws it.
fn draw(asm: &mut Assembler) {
    asm.slli(Reg::T0, Reg::S6, 13);
    asm.xor(Reg::S6, Reg::S6, Reg::T0);
    asm.srli(Reg::T0, Reg::S6, 7);
    asm.xor(Reg::S6, Reg::S6, Reg::T0);
    asm.slli(Reg::T0, Reg::S6, 17);
    asm.xor(Reg::S6, Reg::S6, Reg::T0);
    asm.srli(Reg::T0, Reg::S6, 20);
    asm.and(Reg::T0, Reg::T0, Reg::S5);
    asm.slli(Reg::T0, Reg::T0, 3);
    asm.add(Reg::T0, Reg::T0, Reg::S2);
    asm.ld(Reg::T1, 0, Reg::T0);
}

const fn signed(at: Gpa) -> i64 {
    at.get().cast_signed()
}
