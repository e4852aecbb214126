//! In place of native machines, where there can be none.

use super::Movable;
use crate::show::Show;
use std::env::consts::{ARCH, OS};
use std::sync::Arc;
use vellum_memory::Layout;
use vellum_migrate::{Refusal, RefusalKind};

/// Why there is no native machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// This program was built for something else than they need.
    #[error("native guests need Linux on x86-64, and this program was built for {OS} on {ARCH}")]
    NotHere,
}

/// None.
///
/// # Errors
/// Always.
pub(crate) fn vacant(
    _: usize,
    _: u64,
    _: &Layout,
    _: &Arc<Show>,
) -> Result<Box<dyn Movable>, Refusal> {
    Err(Refusal::new(RefusalKind::Machine, &Error::NotHere.to_string()))
}
