//! Commands run inside a member's container: the servers' own command-line tools.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use testcontainers::bollard::Docker;
use testcontainers::bollard::container::LogOutput;
use testcontainers::bollard::errors::Error as EngineError;
use testcontainers::bollard::exec::{CreateExecOptions, StartExecResults};

use tokio::time::{sleep, timeout};

use crate::error::{Doing, Error};

const POLL: Duration = Duration::from_millis(50);

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// The exit code; 128 and the signal's number after a signal.
    pub code: i64,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

/// A command that runs inside a member's container.
///
/// It ends by itself, by [`signal`](Self::signal), or with its container; dropping this does not end it. Mind that
/// `etcdctl lock NAME COMMAND` ignores a `TERM` until its command has ended, which `etcdctl lock NAME` does not.
pub struct Tool {
    engine: Docker,
    container: String,
    exec: String,
    pid: String,
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, EngineError>> + Send>>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// How much of `stdout` has been given out by [`line`](Self::line).
    read: usize,
}

impl Tool {
    pub(crate) async fn start(engine: &Docker, container: &str, command: &[&str]) -> Result<Self, Error> {
        let mut tool = Self::start_plain(engine, container, command).await?;
        if let Some(pid) = tool.line().await? {
            tool.pid = pid;
            return Ok(tool);
        }
        let output = tool.wait().await?;
        Err(Error::new(format!("cannot run {command:?}: {}", output.stderr.trim())))
    }

    async fn start_plain(engine: &Docker, container: &str, command: &[&str]) -> Result<Self, Error> {
        // The engine cannot signal a command that it was asked to run, so the command says who it is.
        let mut cmd = vec!["sh", "-c", "echo $$; exec \"$@\"", "sh"];
        cmd.extend(command);
        let options = CreateExecOptions {
            cmd: Some(cmd),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let doing = format!("cannot run {command:?}");
        let exec = engine.create_exec(container, options).await.doing(&doing)?.id;
        let started = engine.start_exec(&exec, None).await.doing(&doing)?;
        let StartExecResults::Attached { output, .. } = started else {
            return Err(Error::new(format!("{doing}: its output is not attached")));
        };
        Ok(Self {
            engine: engine.clone(),
            container: container.to_owned(),
            exec,
            pid: String::new(),
            output,
            stdout: Vec::new(),
            stderr: Vec::new(),
            read: 0,
        })
    }

    /// The next line of its standard output, without the line's end; `None` when there will be none.
    ///
    /// # Errors
    ///
    /// When the engine stops passing the output on.
    pub async fn line(&mut self) -> Result<Option<String>, Error> {
        loop {
            let rest = &self.stdout[self.read..];
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..length]).into_owned();
                self.read += length + 1;
                return Ok(Some(line));
            }
            if !self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// Sends it a signal by name, such as `TERM` or `KILL`.
    ///
    /// # Errors
    ///
    /// When it has ended already, or the container is not running.
    pub async fn signal(&mut self, name: &str) -> Result<(), Error> {
        let kill = format!("kill -{name} {}", self.pid);
        let output = Box::pin(Self::start_plain(&self.engine, &self.container, &["sh", "-c", &kill]).await?.wait());
        match output.await? {
            Output { code: 0, .. } => Ok(()),
            Output { stderr, .. } => Err(Error::new(format!("{kill}: {}", stderr.trim()))),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When the engine stops passing the output on, as it does if the container is removed.
    pub async fn wait(mut self) -> Result<Output, Error> {
        // Its output need not end with it: a process that it started may have inherited that.
        let code = loop {
            let open = timeout(POLL, self.receive()).await.unwrap_or(Ok(true))?;
            let state = self.engine.inspect_exec(&self.exec).await.doing("cannot ask how a command ended")?;
            if state.running != Some(true) {
                break state.exit_code.unwrap_or(-1);
            }
            if !open {
                sleep(POLL).await;
            }
        };
        while timeout(POLL, self.receive()).await.unwrap_or(Ok(false))? {}
        // The first line is the process id.
        let own = self.stdout.iter().position(|byte| *byte == b'\n').map_or(self.stdout.len(), |end| end + 1);
        Ok(Output {
            code,
            stdout: String::from_utf8_lossy(&self.stdout[own..]).into_owned(),
            stderr: String::from_utf8_lossy(&self.stderr).into_owned(),
        })
    }

    /// Takes in some more output; `false` at its end.
    async fn receive(&mut self) -> Result<bool, Error> {
        match self.output.next().await.transpose().doing("cannot read a command's output")? {
            Some(LogOutput::StdErr { message }) => self.stderr.extend_from_slice(&message),
            Some(output) => self.stdout.extend_from_slice(&output.into_bytes()),
            None => return Ok(false),
        }
        Ok(true)
    }
}

impl std::fmt::Debug for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tool").field("container", &self.container).field("pid", &self.pid).finish_non_exhaustive()
    }
}
