//! Files with a generated part between two marks.

use std::path::Path;

/// Replaces the text between the lines `<!-- mark -->` and `<!-- /mark -->` of a file. A file without these lines is
/// replaced as a whole.
///
/// # Errors
/// The error of writing the file.
pub fn write_between_marks(file: &Path, mark: &str, text: &str) -> std::io::Result<()> {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let old = std::fs::read_to_string(file).unwrap_or_default();
    let parts = old.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    match parts {
        Some((before, after)) => std::fs::write(file, format!("{before}{begin}{text}{end}{after}")),
        None => std::fs::write(file, text),
    }
}
