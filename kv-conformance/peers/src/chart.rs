//! Ratios as pictures, a bar for each; more is faster.

use std::fmt::Write as _;
use std::time::Duration;

use kv_conformance_program::bench::Spread;

use crate::distance::Row;
use crate::report::Report;

/// A ratio, and what it is of.
struct Bar {
    store: &'static str,
    label: String,
    speed: Spread,
}

const ROW: f64 = 20.0;
const TOP: f64 = 58.0;
/// The ends of the axis, as positions and as ratios.
const LEFT: f64 = 330.0;
const WIDTH: f64 = 380.0;
const LEAST: f64 = 0.25;
const MOST: f64 = 16.0;

/// The position of a ratio on the axis, which is logarithmic.
fn x(ratio: f64) -> f64 {
    let part = (ratio / LEAST).ln() / (MOST / LEAST).ln();
    LEFT + WIDTH * part.clamp(0.0, 1.0)
}

/// Draws the outcomes that have a target.
pub(crate) fn svg(report: &Report) -> String {
    let bars = report.outcomes.iter().filter(|outcome| outcome.target.is_some()).map(|outcome| Bar {
        store: outcome.store,
        label: format!("{} {}, {}: {}", outcome.store, outcome.call, callers(outcome.callers), outcome.peer),
        speed: outcome.speed(),
    });
    draw("Speed relative to other clients", &bars.collect::<Vec<_>>())
}

/// Draws, for each distance, this project beside the best peer.
pub(crate) fn of_distances(rows: &[Row]) -> String {
    let shown = rows.iter().filter(|row| matches!(row.callers, 16 | 128 | 1000));
    let bars = shown.filter_map(|row| {
        let way = match row.round_trip {
            Duration::ZERO => "beside".to_owned(),
            way => format!("{} ms", way.as_millis()),
        };
        let label = format!("{way}: {} {}, {}: {}", row.store, row.call, callers(row.callers), row.best_peer()?.name);
        Some(Bar { store: row.store, label, speed: row.speed()? })
    });
    draw("Speed relative to the best other client, by the round trip to the server", &bars.collect::<Vec<_>>())
}

fn callers(number: usize) -> String {
    if number == 1 { "1 caller".to_owned() } else { format!("{number} callers") }
}

/// Draws bars; it is readable on a light and on a dark page.
fn draw(title: &str, bars: &[Bar]) -> String {
    let bottom = TOP + ROW * bars.len() as f64;
    let (width, height) = (LEFT + WIDTH + 60.0, bottom + 14.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{title}: more is \
         better (bar: median of rounds, line: range)</text>\n",
    );
    for tick in [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0] {
        let (at, colour) = (x(tick), if tick == 1.0 { "#000" } else { "#ddd" });
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{tick}</text>",
            TOP - 8.0
        );
    }
    for (row, Bar { store, label, speed }) in bars.iter().enumerate() {
        let (y, Spread { least, median, most }) = (TOP + ROW * row as f64, *speed);
        let colour = match *store {
            crate::etcd::STORE => "#3b78b0",
            crate::consul::STORE => "#b83b6a",
            _ => "#3f8f5b",
        };
        let (from, to) = (x(1.0).min(x(median)), x(1.0).max(x(median)));
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{text:.1}\">{label}</text>\
             <rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"#222\"/>\
             <text x=\"{:.1}\" y=\"{text:.1}\">{median:.2}</text>",
            y + 3.0,
            (to - from).max(1.0),
            ROW - 6.0,
            x(least),
            x(most),
            x(most).max(to) + 6.0,
            text = y + 14.0,
            middle = y + ROW / 2.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}
