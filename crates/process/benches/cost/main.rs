//! What the log and the watch cost: `cargo bench -p vellum-process --bench cost`.
#![allow(clippy::cast_precision_loss)] // of numbers that people read

#[cfg(target_os = "linux")]
mod measure;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    measure::all()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("not run: userfaultfd and PAGEMAP_SCAN are Linux's");
}
