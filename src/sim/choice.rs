//! What a power cut decides: asked one question after the other, so that a caller can draw the
//! answers or go through all of them.

use super::rng::{Rng, fold, mix};

/// Answers the questions of one power cut. Answer 0 always means "the newest survived", answer 1
/// "nothing since the last sync did"; further ones lie between.
pub(super) struct Chooser<'a> {
    answer: &'a mut dyn FnMut(usize) -> usize,
    /// What was answered so far; details that are not worth a question are drawn from it.
    history: u64,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(seed: u64, answer: &'a mut dyn FnMut(usize) -> usize) -> Self {
        Self {
            answer,
            history: mix(seed),
        }
    }

    /// One of `n` possibilities; not asked if there is only one.
    pub(super) fn pick(&mut self, n: usize) -> usize {
        if n <= 1 {
            return 0;
        }
        let answer = (self.answer)(n);
        assert!(answer < n, "an answer of {answer} among {n}");
        self.history = fold(self.history, answer as u64);
        answer
    }

    /// A detail below `n`, the same for the same answers.
    pub(super) fn detail(&mut self, n: usize) -> usize {
        self.history = fold(self.history, 0x5eed);
        usize::try_from(self.history % (n.max(1) as u64)).unwrap_or(0)
    }
}

/// How a drawn power cut leans; each kind finds other defects.
#[derive(Clone, Copy)]
enum Mood {
    Even,
    MostSurvives,
    MostIsLost,
    NewOrLost,
}

/// Answers drawn from a seed.
pub(super) fn drawn(seed: u64) -> impl FnMut(usize) -> usize {
    let mut rng = Rng::new(seed);
    let moods = [
        Mood::Even,
        Mood::MostSurvives,
        Mood::MostIsLost,
        Mood::NewOrLost,
    ];
    let mood = moods[rng.index(moods.len())];
    move |n| match mood {
        Mood::MostSurvives if rng.below(8) != 0 => 0,
        Mood::MostIsLost if rng.below(8) != 0 => 1,
        Mood::NewOrLost => rng.index(2),
        _ => rng.index(n),
    }
}

/// Goes through all answers to a series of questions in which later ones may depend on earlier
/// answers: each round repeats a prefix and then answers 0.
#[derive(Default)]
pub(super) struct Rounds {
    /// (answer, possibilities) of the round before, or of this one up to `at`.
    path: Vec<(usize, usize)>,
    at: usize,
}

impl Rounds {
    pub(super) fn answer(&mut self, n: usize) -> usize {
        if self.at == self.path.len() {
            self.path.push((0, n));
        }
        let (answer, _) = self.path[self.at];
        self.at += 1;
        answer
    }

    /// Steps on to the next round; false after the last one.
    pub(super) fn next_round(&mut self) -> bool {
        self.path.truncate(self.at);
        self.at = 0;
        while let Some((answer, n)) = self.path.pop() {
            if answer + 1 < n {
                self.path.push((answer + 1, n));
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_visit_every_leaf_of_a_tree_once() {
        let mut rounds = Rounds::default();
        let mut leaves = Vec::new();
        loop {
            let first = rounds.answer(3);
            // The second question is asked after one of the answers only.
            let second = if first == 1 { rounds.answer(2) } else { 9 };
            leaves.push((first, second));
            if !rounds.next_round() {
                break;
            }
        }
        assert_eq!(leaves, [(0, 9), (1, 0), (1, 1), (2, 9)]);
    }
}
