//! The program: the suite on running stores, and what else can be done with them.

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use kv_consul as _;
use kv_etcd as _;
use kv_memory as _;

/// Proves the contract of kv-core on running stores, clause by clause.
///
/// The suite keeps to a directory of its own in each store, and removes it afterwards.
#[derive(Parser)]
#[command(name = "kv-conformance", args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Program {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    suite: cli::suite::Arguments,
}

#[derive(Subcommand)]
enum Command {
    Bench(cli::bench::Arguments),
    Growth(cli::growth::Arguments),
    Judge(cli::judge::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let program = Program::parse();
    match program.command {
        None => cli::suite::run(program.suite).await,
        Some(Command::Bench(arguments)) => cli::bench::run(arguments).await,
        Some(Command::Growth(arguments)) => cli::growth::run(arguments).await,
        Some(Command::Judge(arguments)) => cli::judge::run(&arguments),
    }
}
