use crate::cpu::El2;
use alloc::vec::Vec;
use checks::Check;
pub(super) fn checks() -> Vec<Check<El2>> {
    Vec::new()
}
