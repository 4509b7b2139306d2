//! The program's commands, one file each.

use std::fmt::Display;
use std::process::ExitCode;

pub(crate) mod bench;
pub(crate) mod growth;
pub(crate) mod judge;
mod start;
pub(crate) mod suite;

/// Prints why a command failed.
fn fail(why: impl Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
