//! The log of a case: what it did and saw, in order.

use std::fmt::{self, Display, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The log of one case, shared by all its clients.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    entries: Arc<Mutex<Vec<Entry>>>,
    began: Instant,
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    what: String,
    /// `None` while a call has not returned.
    result: Option<String>,
}

impl Log {
    /// The most bytes shown of a text.
    const SHOWN: usize = 400;
    /// How many entries are shown; earlier ones are left out.
    const LAST: usize = 200;

    pub(crate) fn new() -> Self {
        Self { entries: Arc::default(), began: Instant::now() }
    }

    /// Adds an entry.
    pub(crate) fn note(&self, what: impl Display) {
        let at = self.began.elapsed();
        self.entries().push(Entry { at, what: shortened(what), result: Some(String::new()) });
    }

    /// Adds a call when it begins, so that a call that never returns is visible, and later its result.
    pub(crate) async fn call<T: fmt::Debug>(
        &self,
        what: String,
        future: impl Future<Output = kv_core::Result<T>>,
    ) -> kv_core::Result<T> {
        let place = {
            let at = self.began.elapsed();
            let mut entries = self.entries();
            entries.push(Entry { at, what, result: None });
            entries.len() - 1
        };
        let result = future.await;
        let shown = match &result {
            Ok(value) => shortened(format_args!(" -> {value:?}")),
            Err(error) => shortened(format_args!(" -> error: {error}")),
        };
        self.entries()[place].result = Some(shown);
        result
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries();
        let left_out = entries.len().saturating_sub(Self::LAST);
        if left_out > 0 {
            writeln!(f, "  ({left_out} earlier ones left out)")?;
        }
        for Entry { at, what, result } in entries.iter().skip(left_out) {
            let result = result.as_deref().unwrap_or(" -> (has not returned)");
            writeln!(f, "  {:>9.3} s  {what}{result}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

/// Cuts a text to a readable length. What is cut off is not even formatted.
pub(crate) fn shortened(text: impl Display) -> String {
    let mut shortened = Shortened(String::new());
    // The error only means that the text is full.
    let _ = write!(shortened, "{text}");
    shortened.0
}

struct Shortened(String);

impl Write for Shortened {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = Log::SHOWN.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.0.push_str(&text[..end]);
        self.0.push('…');
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let short = shortened("é".repeat(Log::SHOWN));
        assert_eq!(short.chars().count(), Log::SHOWN / 2 + 1);
        assert!(short.ends_with('…'));
    }

    #[tokio::test]
    async fn a_call_shows_whether_it_returned() {
        let log = Log::new();
        let _ = log.call("quick".into(), async { Ok(1) }).await;
        let waiting = log.call("slow".into(), std::future::pending::<kv_core::Result<()>>());
        let _ = tokio::time::timeout(Duration::ZERO, waiting).await;
        let shown = log.to_string();
        assert!(shown.contains("quick -> 1\n"), "{shown}");
        assert!(shown.contains("slow -> (has not returned)\n"), "{shown}");
    }
}
