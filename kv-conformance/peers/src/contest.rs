//! A contest: this project and its peers run the same load in turn, for several rounds.

use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kv_conformance_program::bench::{Caller, Failure, Plan, Sample, Spread, Summary, measure};

type Run = Box<dyn Fn(Plan) -> BoxFuture<'static, Result<Sample, Failure>>>;

/// A client that makes the calls of a contest.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// The target for the ratio of this project to it.
    pub(crate) target: Option<f64>,
    /// How many calls of the contest one of its own calls carries, and how many callers it has.
    carries: Option<(usize, usize)>,
    run: Run,
}

impl Contender {
    /// A contender whose callers need no preparation. `caller` creates each from its number.
    pub(crate) fn new<C: Caller>(
        name: &'static str,
        caller: impl Fn(usize) -> C + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::prepared(name, move |_callers| {
            let caller = caller.clone();
            async move { Ok(caller) }
        })
    }

    /// A contender that prepares before its callers are created. It gets the number of callers.
    pub(crate) fn prepared<C, M, F>(name: &'static str, prepare: impl Fn(usize) -> F + 'static) -> Self
    where
        C: Caller,
        M: FnMut(usize) -> C + Send + 'static,
        F: Future<Output = Result<M, Failure>> + Send + 'static,
    {
        let run = move |plan: Plan| -> BoxFuture<'static, Result<Sample, Failure>> {
            let preparing = prepare(plan.callers);
            Box::pin(async move { Ok(measure(&plan, preparing.await?).await) })
        };
        Self { name, target: None, carries: None, run: Box::new(run) }
    }

    /// Sets that each call of this contender carries so many calls of the contest, and how many callers make them.
    pub(crate) fn carrying(mut self, calls: usize, callers: usize) -> Self {
        self.carries = Some((calls, callers));
        self
    }

    /// One that runs elsewhere.
    pub(crate) fn elsewhere(
        name: &'static str,
        run: impl Fn(Plan) -> BoxFuture<'static, Result<Sample, Failure>> + 'static,
    ) -> Self {
        Self { name, target: None, carries: None, run: Box::new(run) }
    }

    pub(crate) async fn sample(&self, mut plan: Plan) -> Result<Sample, Failure> {
        let Some((calls, callers)) = self.carries else { return (self.run)(plan).await };
        plan.callers = callers;
        let mut sample = (self.run)(plan).await?;
        sample.rate *= calls as f64;
        Ok(sample)
    }

    /// Sets the target for the ratio.
    pub(crate) fn target(mut self, ratio: f64) -> Self {
        self.target = Some(ratio);
        self
    }
}

/// The figure by which contenders are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Calls per second. More is better.
    Rate,
    /// The median latency. Less is better.
    Latency,
}

/// A load, and its contenders.
pub(crate) struct Contest {
    pub(crate) store: &'static str,
    pub(crate) call: &'static str,
    pub(crate) callers: usize,
    pub(crate) burst: u32,
    pub(crate) figure: Figure,
    pub(crate) ours: Contender,
    pub(crate) peers: Vec<Contender>,
}

impl Contest {
    /// The number of runs in a round.
    pub(crate) fn runs(&self) -> usize {
        1 + self.peers.len()
    }

    /// Runs every contender once in each round. The first contender changes from round to round.
    pub(crate) async fn run(
        &self,
        rounds: usize,
        warm_up: Duration,
        measured: Duration,
        mut progress: impl FnMut(&'static str),
    ) -> Result<Vec<Outcome>, Failure> {
        let plan = Plan { callers: self.callers, warm_up, measured, burst: self.burst, ..Plan::default() };
        let contenders: Vec<&Contender> = std::iter::once(&self.ours).chain(&self.peers).collect();
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); contenders.len()];
        for round in 0..rounds {
            for turn in 0..contenders.len() {
                let at = (round + turn) % contenders.len();
                let contender = contenders[at];
                progress(contender.name);
                let sample = contender.sample(plan.clone()).await?;
                if let Some(failure) = &sample.failure {
                    let (call, name) = (self.call, contender.name);
                    return Err(format!("{} calls of {name} ({call}) failed: {failure}", sample.failed).into());
                }
                samples[at].push(sample);
            }
        }
        let mut summaries = samples.into_iter().map(Summary::new);
        let Some(ours) = summaries.next() else { return Ok(Vec::new()) };
        let outcomes = self.peers.iter().zip(summaries).map(|(peer, theirs)| Outcome {
            store: self.store,
            call: self.call,
            callers: self.callers,
            figure: self.figure,
            peer: peer.name,
            target: peer.target,
            ours: ours.clone(),
            theirs,
        });
        Ok(outcomes.collect())
    }
}

/// This project compared with one peer.
pub(crate) struct Outcome {
    pub(crate) store: &'static str,
    pub(crate) call: &'static str,
    pub(crate) callers: usize,
    pub(crate) figure: Figure,
    pub(crate) peer: &'static str,
    pub(crate) target: Option<f64>,
    pub(crate) ours: Summary,
    pub(crate) theirs: Summary,
}

impl Outcome {
    /// This project's figure divided by the peer's, for each round.
    pub(crate) fn ratio(&self) -> Spread {
        self.spread(|sample| match self.figure {
            Figure::Rate => sample.rate,
            Figure::Latency => sample.latency(0.5).as_secs_f64(),
        })
    }

    /// The same ratio for the 99th percentile of the latency.
    pub(crate) fn tail(&self) -> Spread {
        self.spread(|sample| sample.latency(0.99).as_secs_f64())
    }

    /// How many times as fast this project is, for either figure.
    pub(crate) fn speed(&self) -> Spread {
        let Spread { least, median, most } = self.ratio();
        match self.figure {
            Figure::Rate => Spread { least, median, most },
            Figure::Latency => Spread { least: 1.0 / most, median: 1.0 / median, most: 1.0 / least },
        }
    }

    /// Whether the target is met, or `None` without a target.
    pub(crate) fn met(&self) -> Option<bool> {
        let median = self.ratio().median;
        self.target.map(|target| match self.figure {
            Figure::Rate => median >= target,
            Figure::Latency => median <= target,
        })
    }

    fn spread(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        let rounds = self.ours.samples().iter().zip(self.theirs.samples());
        Spread::of(rounds.map(|(ours, theirs)| figure(ours) / figure(theirs)))
    }
}
