//! What only this processor shows.

mod emulation;
mod far;
mod parallel;
mod reads;
mod replace;
mod roots;
mod shoot_down;
mod walks;

use crate::cpu::El2;
use alloc::vec::Vec;
use checks::Check;

pub(crate) fn checks() -> Vec<Check<El2>> {
    let mut all = shoot_down::checks();
    all.extend(roots::checks());
    all.extend(reads::checks());
    all.extend(replace::checks());
    all.extend(walks::checks());
    all.extend(emulation::checks());
    all.extend(checks::parallel::checks());
    all
}
