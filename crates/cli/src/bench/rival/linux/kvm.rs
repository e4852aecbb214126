//! The kernel's log through the contract, against the bare ioctls.
//!
//! Both go as far as a consumer needs: until each page that was written is in a set. The ways that
//! have bitmaps take turns on one guest; a ring has one reader, so there each side has a guest.

use super::Error;
use super::native::Native;
use crate::bench::announce;
use crate::bench::result::{BenchResult, Target};
use crate::bench::sample::{Sample, in_turns, time};
use crate::failure::Failure;
use crate::quantity::Size;
use std::cell::RefCell;
use std::io;
use std::time::Duration;
use vellum_kvm::{RingSize, Way};
use vellum_pte::PAGE_SIZE;
use vellum_rivals::kvm::{Bitmap, Ring};

/// What our layer may add.
const LAYER: f64 = 1.01;

/// How many entries of a ring are filled at most, so that it is never full.
const FITS: u64 = 64_000;

pub(in crate::bench) fn run(memory: Size) -> Result<BenchResult, Failure> {
    let mut result = BenchResult::new("kvm");
    result.parameter("memory", memory.bytes());
    let pages = memory.bytes() / PAGE_SIZE;
    for way in [Way::ClearingGet, Way::Manual] {
        let guest = RefCell::new(Native::new(way, pages, 1)?);
        for dirty in [0, pages / 100, pages] {
            bitmap(&mut result, &guest, dirty)?;
        }
    }
    let guests = [Native::new(Way::Ring, pages, 1)?, Native::new(Way::Ring, pages, 1)?];
    let mut bare = Ring::new(&guests[1].machine, 0, RingSize::default()).map_err(Error::from)?;
    let guests = guests.map(RefCell::new);
    // The bare reader finds its place with the first page.
    for dirty in [(pages / 100).min(FITS), pages.min(FITS), 0] {
        rings(&mut result, &guests, &mut bare, dirty)?;
    }
    Ok(result)
}

/// Times of ours and of the bare calls' become samples, a ratio and a mark.
fn compare(result: &mut BenchResult, label: &str, [ours, bare]: [Vec<Duration>; 2]) {
    let (ours, bare) = (Sample::of(&ours, 1), Sample::of(&bare, 1));
    let ratio = ours.median / bare.median;
    result.sample(format!("{label}: through the contract"), ours);
    result.sample(format!("{label}: bare ioctls"), bare);
    result.mark(format!("{label}: the layer"), Target::AtMost(LAYER), ratio);
}

/// The less is to be done, the more often it is timed.
fn times(dirty: u64) -> usize {
    match dirty {
        0..1_000 => 201,
        1_000..10_000 => 31,
        _ => 5,
    }
}

fn bitmap(result: &mut BenchResult, guest: &RefCell<Native>, dirty: u64) -> Result<(), Failure> {
    let way = guest.borrow().log.way();
    let label = format!("{way}, {dirty} dirty");
    announce(&label);
    let mut maps = bare(&guest.borrow())?;
    let measured = in_turns(
        times(dirty),
        [
            &mut || {
                let guest = &mut *guest.borrow_mut();
                guest.store_to(dirty)?;
                ours(guest, dirty)
            },
            &mut || {
                guest.borrow_mut().store_to(dirty)?;
                bare_bitmaps(&mut maps, way, dirty)
            },
        ],
    )?;
    compare(result, &label, measured);
    Ok(())
}

/// The memslots' bitmaps, to be read by hand.
fn bare(guest: &Native) -> Result<Vec<Bitmap>, Error> {
    let regions = 0..guest.round.regions().len();
    let maps = regions.map(|region| Bitmap::new(&guest.machine, region));
    Ok(maps.collect::<Result<_, _>>()?)
}

/// A round, and how many pages it has.
fn ours(guest: &mut Native, dirty: u64) -> Result<Duration, Error> {
    let (taken, elapsed) = time(|| guest.take().map(|()| guest.round.count()));
    found_all(taken?, dirty)?;
    Ok(elapsed)
}

/// The same by hand, memslot by memslot.
fn bare_bitmaps(maps: &mut [Bitmap], way: Way, dirty: u64) -> Result<Duration, Error> {
    let (taken, elapsed) =
        time(|| maps.iter_mut().map(|map| bare_bitmap(map, way)).sum::<io::Result<u64>>());
    found_all(taken?, dirty)?;
    Ok(elapsed)
}

fn bare_bitmap(map: &mut Bitmap, way: Way) -> io::Result<u64> {
    map.get()?;
    if way == Way::Manual {
        map.clear()?;
    }
    Ok(map.words().iter().map(|word| u64::from(word.count_ones())).sum())
}

fn rings(
    result: &mut BenchResult,
    [through, bare]: &[RefCell<Native>; 2],
    ring: &mut Ring,
    dirty: u64,
) -> Result<(), Failure> {
    let label = format!("ring, {dirty} dirty");
    announce(&label);
    let measured = in_turns(
        times(dirty),
        [
            &mut || {
                let guest = &mut *through.borrow_mut();
                guest.store_to(dirty)?;
                ours(guest, dirty)
            },
            &mut || {
                bare.borrow_mut().store_to(dirty)?;
                bare_ring(ring, dirty)
            },
        ],
    )?;
    compare(result, &label, measured);
    Ok(())
}

fn bare_ring(ring: &mut Ring, dirty: u64) -> Result<Duration, Error> {
    let (taken, elapsed) = time(|| {
        let found = ring.harvest().len() as u64;
        let taken_back = if found == 0 { 0 } else { ring.reset()? };
        Ok::<_, io::Error>(found.min(taken_back.into()))
    });
    found_all(taken?, dirty)?;
    Ok(elapsed)
}

/// Who finds less has measured something else.
fn found_all(found: u64, dirty: u64) -> Result<(), Error> {
    if found == dirty { Ok(()) } else { Err(Error::Missed { dirty, found }) }
}
