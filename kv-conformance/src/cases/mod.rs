//! Every case, by subject.

mod addresses;
mod close;
mod clusters;
mod concurrency;
mod ephemeral;
mod faults;
mod foreign;
mod history;
mod isolation;
mod keys;
mod load;
mod locks;
mod model;
mod outside;
mod planned;
mod reads;
mod roots;
mod runtimes;
mod time;
mod transactions;
mod turns;
mod values;
mod watches;
mod writes;

use crate::case::Case;

const FILES: [&[Case]; 24] = [
    keys::CASES,
    values::CASES,
    roots::CASES,
    reads::CASES,
    writes::CASES,
    transactions::CASES,
    watches::CASES,
    history::CASES,
    ephemeral::CASES,
    foreign::CASES,
    locks::CASES,
    outside::CASES,
    turns::CASES,
    close::CASES,
    addresses::CASES,
    concurrency::CASES,
    model::CASES,
    faults::CASES,
    clusters::CASES,
    load::CASES,
    runtimes::CASES,
    time::CASES,
    isolation::CASES,
    planned::CASES,
];

/// Every case, file by file.
pub static CASES: &[Case] = &flat();

const fn count() -> usize {
    let (mut count, mut file) = (0, 0);
    while file < FILES.len() {
        count += FILES[file].len();
        file += 1;
    }
    count
}

#[expect(clippy::large_stack_arrays, reason = "only the compiler builds it")]
const fn flat() -> [Case; count()] {
    let mut all = [FILES[0][0]; count()];
    let (mut at, mut file) = (0, 0);
    while file < FILES.len() {
        let mut case = 0;
        while case < FILES[file].len() {
            all[at] = FILES[file][case];
            at += 1;
            case += 1;
        }
        file += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn cases_have_names_of_their_own_and_name_clauses_that_exist() {
        let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
        for case in CASES {
            for clause in case.clauses {
                assert!(kv_core::contract::sentence(clause).is_some(), "{}: {clause}", case.name);
            }
            assert!(case.sentence.ends_with('.'), "{}", case.name);
        }
    }
}
