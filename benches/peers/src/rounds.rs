//! Taking turns: all entrants in every round, so that a drift of the machine hits all of them.

use std::time::{Duration, Instant};

use crate::Res;

/// Something that is measured once per round.
pub(crate) struct Entrant<'a> {
    pub(crate) name: String,
    pub(crate) note: String,
    /// One figure: a rate, a time or a size.
    pub(crate) turn: Box<dyn FnMut() -> Res<f64> + 'a>,
}

impl<'a> Entrant<'a> {
    pub(crate) fn new(
        name: impl Into<String>,
        note: impl Into<String>,
        turn: impl FnMut() -> Res<f64> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            note: note.into(),
            turn: Box::new(turn),
        }
    }

    /// One that could not even begin: it fails in the first round.
    pub(crate) fn broken(name: impl Into<String>, error: String) -> Self {
        Self::new(name, "", move || Err(error.clone()))
    }
}

/// What an entrant came to.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) note: String,
    /// A figure of each round, or why there are none.
    pub(crate) figures: Result<Vec<f64>, String>,
}

impl Outcome {
    pub(crate) fn figure(&self) -> Option<f64> {
        self.figures.as_ref().ok().map(|figures| median(figures))
    }
}

/// Every entrant once in each round; `between` after each turn. An entrant that fails is out.
pub(crate) fn alternate(
    rounds: usize,
    entrants: Vec<Entrant<'_>>,
    mut between: impl FnMut() -> Res<()>,
) -> Res<Vec<Outcome>> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut turns = Vec::new();
    for entrant in entrants {
        outcomes.push(Outcome {
            name: entrant.name,
            note: entrant.note,
            figures: Ok(Vec::new()),
        });
        turns.push(entrant.turn);
    }
    for _ in 0..rounds {
        for (outcome, turn) in outcomes.iter_mut().zip(&mut turns) {
            if let Ok(figures) = &mut outcome.figures {
                match turn() {
                    Ok(figure) => figures.push(figure),
                    Err(error) => outcome.figures = Err(error),
                }
                between()?;
            }
        }
    }
    Ok(outcomes)
}

/// The median of the rounds' ratios of one outcome to another.
pub(crate) fn ratio(of: &Outcome, to: &Outcome) -> Option<f64> {
    let (of, to) = (of.figures.as_ref().ok()?, to.figures.as_ref().ok()?);
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Calls per second of `work` during a slot of time; `work` does `each` of them and gets how many
/// were done before.
pub(crate) fn rate(slot: Duration, each: u64, mut work: impl FnMut(u64) -> Res<()>) -> Res<f64> {
    let started = Instant::now();
    let mut done = 0;
    loop {
        work(done)?;
        done += each;
        let took = started.elapsed();
        if took >= slot {
            return Ok(done as f64 / took.as_secs_f64());
        }
    }
}

/// Calls per second of `work(thread, count)` by so many threads during a slot of time.
pub(crate) fn rate_of_threads(
    slot: Duration,
    threads: usize,
    work: impl Fn(usize, u64) -> Res<()> + Sync,
) -> Res<f64> {
    let work = &work;
    let started = Instant::now();
    let until = started + slot;
    let counts: Res<Vec<u64>> = std::thread::scope(|scope| {
        let run = |thread| {
            move || {
                let mut count = 0;
                while Instant::now() < until {
                    work(thread, count)?;
                    count += 1;
                }
                Ok(count)
            }
        };
        let handles: Vec<_> = (0..threads).map(|n| scope.spawn(run(n))).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, Res<u64>>| {
            handle.join().unwrap_or_else(|_| Err("it panicked".into()))
        };
        handles.into_iter().map(join).collect()
    });
    let took = started.elapsed().as_secs_f64();
    Ok(counts?.iter().sum::<u64>() as f64 / took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn all_take_turns_and_one_that_fails_is_out() {
        let order = std::cell::RefCell::new(Vec::new());
        let entrant = |name: &'static str, figure: f64| {
            let order = &order;
            Entrant::new(name, "", move || {
                order.borrow_mut().push(name);
                Ok(figure)
            })
        };
        let broken = Entrant::broken("c", "no disk".into());
        let entrants = vec![entrant("a", 6.0), broken, entrant("b", 3.0)];
        let outcomes = alternate(2, entrants, || Ok(())).unwrap();
        assert_eq!(*order.borrow(), ["a", "b", "a", "b"]);
        assert_eq!(ratio(&outcomes[0], &outcomes[2]), Some(2.0));
        assert_eq!(outcomes[1].figures, Err("no disk".into()));
        assert_eq!(ratio(&outcomes[0], &outcomes[1]), None);
    }

    #[test]
    fn threads_are_counted_together() {
        let sum = std::sync::atomic::AtomicU64::new(0);
        let slot = Duration::from_millis(20);
        let rate = rate_of_threads(slot, 3, |_, _| {
            sum.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        });
        assert!(rate.unwrap() > 0.0 && sum.into_inner() > 0);
        let failed = rate_of_threads(slot, 2, |_, _| Err("no".into()));
        assert_eq!(failed, Err("no".into()));
    }
}
