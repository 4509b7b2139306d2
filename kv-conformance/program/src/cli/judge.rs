//! Judges a history once more that a failed case has kept.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kv_conformance::judge::Recording;
use kv_core::contract;

use super::fail;

/// Judges the history that a failed case has kept, and says which clause it breaks.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The file that the case named.
    file: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let recording = match Recording::read(&arguments.file) {
        Ok(recording) => recording,
        Err(error) => return fail(format_args!("{} cannot be read: {error}", arguments.file.display())),
    };
    println!("{}", recording.about);
    match recording.judge() {
        Ok(()) => {
            println!("holds");
            ExitCode::SUCCESS
        }
        Err(broke) => {
            let clause = broke.clause.unwrap_or_default();
            let sentence = contract::sentence(clause).unwrap_or("a call failed that should succeed");
            println!("broke {clause} - {sentence}\n{}", broke.what);
            ExitCode::FAILURE
        }
    }
}
