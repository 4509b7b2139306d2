//! What the program can do, a file for each of its commands.

use std::fmt::Display;
use std::process::ExitCode;

pub(crate) mod bench;
pub(crate) mod growth;
pub(crate) mod judge;
mod start;
pub(crate) mod suite;

/// Says why the program cannot do what it was asked to do.
fn fail(why: impl Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
