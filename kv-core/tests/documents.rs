//! What the documents say is true: their links lead somewhere, the files that they name exist, and a reader who copies
//! a dependency line gets this project's crates, not a stranger's crate of the same name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every problem of a check is shown at once.
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the workspace")
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The name that failures show.
fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

/// The project's own files with this ending.
fn files(ending: &str) -> Vec<PathBuf> {
    fn collect(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("the folder can be read").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    collect(&path, ending, found);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(root(), ending, &mut found);
    assert!(!found.is_empty(), "there is no file *{ending}");
    found.sort();
    found
}

/// Each manifest of a package, with the package's name.
fn packages() -> Vec<(PathBuf, String)> {
    let name = |text: &str| {
        let (_, package) = text.split_once("[package]")?;
        let line = package.lines().find_map(|line| line.strip_prefix("name = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    let manifests = files("Cargo.toml").into_iter();
    manifests.filter_map(|manifest| name(&read(&manifest)).map(|name| (manifest, name))).collect()
}

/// The lines that a reader may copy: those of Markdown and manifests as they are, those of Rust's documentation without
/// the comment signs.
fn lines(file: &Path) -> Vec<(usize, String)> {
    let text = read(file);
    let is_rust = file.extension().is_some_and(|extension| extension == "rs");
    let documentation = |line: &str| {
        let line = line.trim_start();
        let text = line.strip_prefix("//!").or_else(|| line.strip_prefix("///"))?;
        Some(text.trim_start().to_owned())
    };
    let copied = |line: &str| if is_rust { documentation(line) } else { Some(line.trim_start().to_owned()) };
    text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, copied(line)?))).collect()
}

/// Whether this line takes one of our packages from a registry.
fn takes_from_registry(line: &str, ours: &BTreeSet<String>) -> bool {
    let command = ["cargo add ", "cargo install "].iter().find_map(|command| line.split_once(command));
    if let Some((_, arguments)) = command {
        let names = arguments.split([' ', '`', '@']).any(|word| ours.contains(word));
        return names && !["--path", "--git"].iter().any(|source| arguments.contains(source));
    }
    let Some((key, value)) = line.split_once('=') else {
        // A table such as `[dependencies.kv-core]` spreads the entry over lines, which nothing here reads.
        return ours.iter().any(|name| line.trim_end().ends_with(&format!("dependencies.{name}]")));
    };
    let key = key.trim_end().trim_end_matches('"').rsplit([' ', '`', '"']).next().unwrap_or_default();
    let name = value.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or(key);
    let is_dependency = value.trim_start().starts_with(['"', '{']) && ours.contains(name);
    let elsewhere = ["path = ", "git = ", "workspace = true"].iter().any(|source| value.contains(source));
    is_dependency && (!elsewhere || value.contains("version = "))
}

#[test]
fn dependency_lines_name_no_registry_version_of_ours() {
    let ours: BTreeSet<_> = packages().into_iter().map(|(_, name)| name).collect();
    assert!(ours.contains("kv-core"), "{ours:?}");
    let mut problems = Vec::new();
    for file in [".md", ".rs", "Cargo.toml"].into_iter().flat_map(files) {
        for (number, line) in lines(&file) {
            if takes_from_registry(&line, &ours) {
                problems.push(format!("{}:{number}: {line}", shown(&file)));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn registry_lines_are_recognised() {
    let ours = BTreeSet::from(["kv-core".to_owned()]);
    let registry = [
        "kv-core = \"0.1\"",
        "kv-core = { version = \"0.1\", default-features = false }",
        "kv-core = { path = \"kv-core\", version = \"0.1\" }",
        "kv = { package = \"kv-core\", version = \"0.1\" }",
        "[dev-dependencies.kv-core]",
        "add `kv-core = \"0.1\"` to the manifest",
        "run `cargo add kv-core@0.1`",
        "cargo install kv-core --locked",
    ];
    let elsewhere = [
        "kv-core = { path = \"../kv/kv-core\" }",
        "kv-core = { git = \"https://example.com/kv.git\", tag = \"v1\" }",
        "kv-core.workspace = true",
        "kv-core = { workspace = true, optional = true }",
        "kv-corelation = \"0.1\"",
        "kv-core = ours",
        "cargo add --path ../kv/kv-core",
        "kv-core: the handle",
    ];
    for line in registry {
        assert!(takes_from_registry(line, &ours), "{line}");
    }
    for line in elsewhere {
        assert!(!takes_from_registry(line, &ours), "{line}");
    }
}

#[test]
fn packages_have_a_page_and_are_not_published() {
    let mut problems = Vec::new();
    for (manifest, name) in packages() {
        let text = read(&manifest);
        if !text.lines().any(|line| ["publish = false", "publish.workspace = true"].contains(&line)) {
            problems.push(format!("{name} may be published under a name that is not ours"));
        }
        if text.contains("readme") {
            let page = manifest.with_file_name("README.md");
            if !text.contains("readme = \"README.md\"") || !page.is_file() {
                problems.push(format!("{name} has no README.md of its own"));
            }
        }
    }
    let workspace = read(&root().join("Cargo.toml"));
    if !workspace.lines().any(|line| line == "publish = false") {
        problems.push("the workspace does not say `publish = false`".to_owned());
    }
    assert_none(&problems);
}

#[test]
fn the_front_page_names_the_oldest_rust() {
    let manifest = read(&root().join("Cargo.toml"));
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("it is set");
    let badge = format!("rust-{}%2B", version.trim_matches('"'));
    assert!(read(&root().join("README.md")).contains(&badge), "no badge {badge}");
}

/// The targets of a page's links and pictures, and the anchors that its headings make.
struct Page {
    links: Vec<(usize, String)>,
    anchors: BTreeSet<String>,
}

impl Page {
    fn new(file: &Path) -> Self {
        let (mut links, mut anchors) = (Vec::new(), BTreeSet::new());
        let mut is_code = false;
        for (at, line) in read(file).lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            } else if !is_code {
                let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
                links.extend(targets.map(|target| (at + 1, target.to_owned())));
                if line.starts_with('#') {
                    anchors.insert(anchor(line.trim_start_matches('#')));
                }
            }
        }
        Self { links, anchors }
    }
}

/// The anchor that code hosts make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// What is wrong with a link, if anything is.
fn broken(page: &Path, target: &str) -> Option<String> {
    // Rustdoc checks its own links, and other hosts are not asked.
    if target.contains("://") || target.contains("::") {
        return None;
    }
    // The code host's own pages about a workflow, seen from the front page.
    if let Some(rest) = target.strip_prefix("../../actions/workflows/") {
        let workflow = root().join(".github/workflows").join(rest.split('/').next().unwrap_or_default());
        return (!workflow.is_file()).then(|| "there is no such workflow".to_owned());
    }
    let (path, heading) = target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
    let file = if path.is_empty() { page.to_owned() } else { page.parent()?.join(path) };
    if !file.exists() {
        return Some("there is no such file".to_owned());
    }
    let heading = heading?;
    (!Page::new(&file).anchors.contains(heading)).then(|| "there is no such heading".to_owned())
}

#[test]
fn links_lead_to_files() {
    let mut problems = Vec::new();
    let mut checked = 0;
    for file in files(".md") {
        for (line, target) in Page::new(&file).links {
            checked += 1;
            if let Some(problem) = broken(&file, &target) {
                problems.push(format!("{}:{line}: {target}: {problem}", shown(&file)));
            }
        }
    }
    assert!(checked > 20, "only {checked} links were found");
    assert_none(&problems);
}

#[test]
fn broken_links_are_recognised() {
    let page = root().join("README.md");
    for target in ["CONTRACT.md", "#addresses", "kv-etcd/README.md#a-server-to-try", "kv-core", "https://example.com/"]
    {
        assert_eq!(broken(&page, target), None, "{target}");
    }
    for target in ["CONTRAST.md", "#no-such-heading", "kv-etcd/README.md#a-server", "../../actions/workflows/no.yml"] {
        assert!(broken(&page, target).is_some(), "{target}");
    }
}

/// Paths in backticks are from the workspace's root, so that a reader can open them.
#[test]
fn files_that_pages_name_exist() {
    let is_path = |text: &str| {
        let first = text.split_once('/').map_or("", |(first, _)| first);
        !first.is_empty() && first != "target" && root().join(first).is_dir()
    };
    let mut problems = Vec::new();
    let mut checked = 0;
    for page in files(".md") {
        // Every second piece stands between backticks.
        for (number, line) in lines(&page) {
            for text in line.split('`').skip(1).step_by(2).filter(|text| !text.contains([' ', '*', '<'])) {
                if is_path(text) {
                    checked += 1;
                    if !root().join(text).exists() {
                        problems.push(format!("{}:{number}: {text} does not exist", shown(&page)));
                    }
                }
            }
        }
    }
    assert!(checked > 20, "only {checked} paths were found");
    assert_none(&problems);
}
