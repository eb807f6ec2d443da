//! The differences between the rules of one chain of nftables. Pure.
//!
//! As many rules as possible are taken as right: the longest common subsequence. All others are told.

use std::{collections::BTreeSet, iter, ops::Range};

use crate::{Difference, ObservedRule, Rule};

pub(super) fn differences(chain: &str, observed: &[ObservedRule], desired: &[Rule]) -> Vec<Difference> {
    let right = right_rules(observed, desired);
    let mut differ = Differ { chain, observed, desired, missing: Vec::new(), surplus: Vec::new(), found: Vec::new() };
    let mut before = Right { observed: 0, desired: 0 };
    let end = Right { observed: observed.len(), desired: desired.len() };
    for next in right.into_iter().chain(iter::once(end)) {
        differ.gap(before.observed..next.observed, before.desired..next.desired);
        before = Right { observed: next.observed + 1, desired: next.desired + 1 };
    }
    differ.end()
}

/// The indexes of a rule that is right.
#[derive(Clone, Copy)]
struct Right {
    observed: usize,
    desired: usize,
}

fn right_rules(observed: &[ObservedRule], desired: &[Rule]) -> Vec<Right> {
    let columns = desired.len() + 1;
    // The length of the longest common subsequence of what is left from each pair of indexes.
    let mut lengths = vec![0_usize; (observed.len() + 1) * columns];
    let at = |i: usize, j: usize| i * columns + j;
    for i in (0..observed.len()).rev() {
        for j in (0..desired.len()).rev() {
            lengths[at(i, j)] = if observed[i].is(&desired[j]) {
                lengths[at(i + 1, j + 1)] + 1
            } else {
                lengths[at(i + 1, j)].max(lengths[at(i, j + 1)])
            };
        }
    }
    let (mut i, mut j, mut right) = (0, 0, Vec::new());
    while i < observed.len() && j < desired.len() {
        if observed[i].is(&desired[j]) {
            right.push(Right { observed: i, desired: j });
            (i, j) = (i + 1, j + 1);
        } else if lengths[at(i + 1, j)] >= lengths[at(i, j + 1)] {
            i += 1;
        } else {
            j += 1;
        }
    }
    right
}

/// Collects the differences of one chain.
struct Differ<'a> {
    chain: &'a str,
    observed: &'a [ObservedRule],
    desired: &'a [Rule],
    /// Desired rules that have no counterpart between the same right rules, by index.
    missing: Vec<usize>,
    /// Observed rules that have none.
    surplus: Vec<usize>,
    found: Vec<Difference>,
}

impl Differ<'_> {
    /// Compares the rules between two that are right: a rule with the same purpose, or else one that somebody altered, is taken as the
    /// desired rule.
    fn gap(&mut self, observed: Range<usize>, desired: Range<usize>) {
        let mut left: Vec<usize> = observed.collect();
        let mut unpaired = Vec::new();
        for index in desired {
            let same = left.iter().position(|at| self.is_other_text(*at, index));
            match same {
                Some(at) => {
                    left.remove(at);
                    let detail = "is of another version, and should be replaced";
                    self.found.push(Difference::altered(self.desired_entry(index), detail));
                }
                None => unpaired.push(index),
            }
        }
        for index in unpaired {
            match left.iter().position(|at| self.observed[*at] == ObservedRule::Altered) {
                Some(at) => {
                    left.remove(at);
                    let detail = "was altered by somebody else, and should be as before";
                    self.found.push(Difference::altered(self.desired_entry(index), detail));
                }
                None => self.missing.push(index),
            }
        }
        self.surplus.extend(left);
    }

    /// A rule that is both missing in its place and there in another is out of order: one difference.
    fn end(mut self) -> Vec<Difference> {
        let mut moved = BTreeSet::new();
        for index in std::mem::take(&mut self.missing) {
            let is_it = |at: &&usize| !moved.contains(*at) && self.observed[**at].is(&self.desired[index]);
            let entry = self.desired_entry(index);
            match self.surplus.iter().find(is_it) {
                Some(at) => {
                    moved.insert(*at);
                    let detail = format!("is out of order, as number {} of its chain", at + 1);
                    self.found.push(Difference::altered(entry, detail));
                }
                None => self.found.push(Difference::missing(entry)),
            }
        }
        for at in self.surplus.iter().filter(|at| !moved.contains(*at)) {
            self.found.push(self.surplus_rule(*at));
        }
        self.found
    }

    fn surplus_rule(&self, at: usize) -> Difference {
        let (number, chain) = (at + 1, self.chain);
        match &self.observed[at] {
            ObservedRule::Marked(mark) => {
                Difference::unwanted(format!("rule found as number {number} in chain {chain} ({})", purpose(mark)))
            }
            ObservedRule::Altered => Difference::unwanted(format!("rule found as number {number} in chain {chain}"))
                .with_detail("was altered by somebody else"),
            ObservedRule::Unmarked => Difference::unwanted(format!("rule found as number {number} in chain {chain}"))
                .with_detail("was put there by somebody else"),
        }
    }

    fn desired_entry(&self, index: usize) -> String {
        format!("rule {} of chain {} ({})", index + 1, self.chain, purpose(&self.desired[index].mark))
    }

    /// Whether an observed rule has the purpose of a desired one, and another text that is desired nowhere.
    fn is_other_text(&self, at: usize, index: usize) -> bool {
        match &self.observed[at] {
            ObservedRule::Marked(mark) => {
                purpose(mark) == purpose(&self.desired[index].mark)
                    && !self.desired.iter().any(|desired| desired.mark == *mark)
            }
            ObservedRule::Altered | ObservedRule::Unmarked => false,
        }
    }
}

/// The purpose of a rule, which its mark begins with.
fn purpose(mark: &str) -> &str {
    mark.rsplit_once(' ').map_or(mark, |(purpose, _)| purpose)
}
