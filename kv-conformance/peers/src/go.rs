//! The official Go clients, in a process of their own for each: `go/main.go`.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use kv_conformance_program::bench::{Failure, Plan, Sample};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::contest::Contender;

/// Builds the program; `None` where there is no Go.
pub(crate) async fn build() -> Result<Option<String>, Failure> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = here.join("target").join("kv-peers-go");
    std::fs::create_dir_all(here.join("target"))?;
    let building =
        Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(here.join("go")).status();
    match building.await {
        Ok(status) if status.success() => Ok(Some(program.display().to_string())),
        Ok(status) => Err(format!("the Go clients could not be built: {status}").into()),
        Err(error) => {
            eprintln!("no Go, so no Go clients: {error}");
            Ok(None)
        }
    }
}

/// One client, which makes the calls that it is told to.
#[derive(Clone)]
pub(crate) struct Client(Arc<Mutex<Process>>);

struct Process {
    /// Killed with the client.
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Client {
    pub(crate) fn start(program: &str, store: &str, endpoint: &str) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args([store, endpoint]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        Ok(Self(Arc::new(Mutex::new(Process { _child: child, input, output: BufReader::new(output).lines() }))))
    }

    pub(crate) fn contender(&self, name: &'static str, call: &'static str) -> Contender {
        let client = self.clone();
        Contender::elsewhere(name, move |plan| {
            let client = client.clone();
            Box::pin(async move { client.run(call, &plan).await })
        })
    }

    async fn run(&self, call: &str, plan: &Plan) -> Result<Sample, Failure> {
        let mut process = self.0.lock().await;
        let order = format!("{call} {} {}\n", plan.callers, plan.calls.unwrap_or(1));
        process.input.write_all(order.as_bytes()).await?;
        let answer = process.output.next_line().await?.ok_or("the Go client ended")?;
        let mut words = answer.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (took, failed) = number().zip(number()).ok_or_else(|| format!("the Go client said {answer}"))?;
        let failure = words.next().filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Sample::elsewhere(Duration::from_nanos(took), failed, failure))
    }
}
