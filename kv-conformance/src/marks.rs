//! Files of which a program writes a part, between two marks.

use std::path::Path;

/// Replaces what stands between the lines `<!-- mark -->` and `<!-- /mark -->` of a file; a file without them is
/// replaced whole.
///
/// # Errors
/// Those of writing the file.
pub fn write_between_marks(file: &Path, mark: &str, text: &str) -> std::io::Result<()> {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let old = std::fs::read_to_string(file).unwrap_or_default();
    let parts = old.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    match parts {
        Some((before, after)) => std::fs::write(file, format!("{before}{begin}{text}{end}{after}")),
        None => std::fs::write(file, text),
    }
}
