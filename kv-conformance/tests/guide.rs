//! The guide shows the example backend as it is: that backend, which is built and tested by the suite, contains each
//! excerpt.

use std::fs;
use std::path::Path;

/// The most that an author should have to write.
const MOST_CODE: usize = 320;
const MOST_TEST: usize = 10;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the code blocks of a page, each with its language and its lines.
fn blocks(page: &str) -> Vec<(String, Vec<String>)> {
    let mut blocks: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) if !inside => {
                blocks.push((language.to_owned(), Vec::new()));
                inside = true;
            }
            Some(_) => inside = false,
            None if inside => blocks.last_mut().expect("it was begun").1.push(line.trim().to_owned()),
            None => {}
        }
    }
    blocks
}

#[test]
fn every_excerpt_is_of_the_backend() {
    let sources: Vec<Vec<String>> =
        ["backend-example/src/lib.rs", "backend-example/tests/conformance.rs", "backend-example/Cargo.toml"]
            .map(|path| read(path).lines().map(|line| line.trim().to_owned()).collect())
            .into();
    let blocks = blocks(&read("src/guide.md"));
    assert!(blocks.len() >= 10, "the guide has {} excerpts", blocks.len());
    for (language, lines) in blocks {
        assert!(["rust,ignore", "toml"].contains(&&*language), "{language}: nothing compares such a block");
        for excerpt in lines.split(String::is_empty) {
            let found = sources.iter().any(|source| source.windows(excerpt.len()).any(|window| window == excerpt));
            assert!(found, "the backend does not contain this:\n{}", excerpt.join("\n"));
        }
    }
}

#[test]
fn a_backend_is_small() {
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    let code = read("backend-example/src/lib.rs").lines().filter(is_code).count();
    assert!(code <= MOST_CODE, "{code} lines of code");
    let test = read("backend-example/tests/conformance.rs").lines().count();
    assert!(test <= MOST_TEST, "{test} lines of test");
}
