//! A contest: the same load by this project and by its peers, in turn, round after round.

use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kv_conformance_program::bench::{Caller, Failure, Plan, Sample, Spread, Summary, measure};

type Run = Box<dyn Fn(Plan) -> BoxFuture<'static, Result<Sample, Failure>>>;

/// Somebody who makes the calls of a contest.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// What the ratio of this project to it is to be.
    pub(crate) target: Option<f64>,
    /// How many calls of the contest one of its own stands for, and by how many callers it makes them.
    carries: Option<(usize, usize)>,
    run: Run,
}

impl Contender {
    /// One whose callers are made at once, told their number.
    pub(crate) fn new<C: Caller>(
        name: &'static str,
        caller: impl Fn(usize) -> C + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::prepared(name, move |_callers| {
            let caller = caller.clone();
            async move { Ok(caller) }
        })
    }

    /// One that has to prepare before its callers can be made; it is told how many there will be.
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

    /// As one whose every call stands for so many of the contest's, and that makes them by so many callers.
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

    /// With the ratio that is to be met.
    pub(crate) fn target(mut self, ratio: f64) -> Self {
        self.target = Some(ratio);
        self
    }
}

/// What the contenders are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Calls a second: more is better.
    Rate,
    /// The median latency: less is better.
    Latency,
}

/// A load, and who is to carry it.
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
    /// How many runs a round has.
    pub(crate) fn runs(&self) -> usize {
        1 + self.peers.len()
    }

    /// Runs every contender once in each round; who is first changes from round to round.
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

/// This project beside one peer.
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
    /// This project's figure over the peer's, round by round.
    pub(crate) fn ratio(&self) -> Spread {
        self.spread(|sample| match self.figure {
            Figure::Rate => sample.rate,
            Figure::Latency => sample.latency(0.5).as_secs_f64(),
        })
    }

    /// The same for the latency that one call in a hundred exceeds.
    pub(crate) fn tail(&self) -> Spread {
        self.spread(|sample| sample.latency(0.99).as_secs_f64())
    }

    /// How many times as fast this project is, whatever it is compared by.
    pub(crate) fn speed(&self) -> Spread {
        let Spread { least, median, most } = self.ratio();
        match self.figure {
            Figure::Rate => Spread { least, median, most },
            Figure::Latency => Spread { least: 1.0 / most, median: 1.0 / median, most: 1.0 / least },
        }
    }

    /// Whether the target is met, if there is one.
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
