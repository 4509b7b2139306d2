//! The bounds that Consul's errors and configuration name: sizes, and times to live.

use std::time::Duration;

use super::excerpt;

/// Whether this is Consul's own refusal of a request because of its size.
pub(crate) fn refuses_size(body: &[u8]) -> bool {
    let text = excerpt(body);
    ["Request body", "Value for key", "Transaction contains too many"].iter().any(|known| text.starts_with(known))
}

/// The limit in bytes that a refusal because of size names: `max size: 512 bytes` or `(600 > 512 bytes)`.
pub(crate) fn size_limit(text: &str) -> Option<usize> {
    let number = |text: &str| {
        let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        if rest.starts_with(" bytes") { digits.parse().ok() } else { None }
    };
    let after = |mark: &str| number(text.rsplit_once(mark)?.1);
    after("max size: ").or_else(|| after(" > "))
}

/// The bounds in `Invalid Session TTL '5000000000', must be between [10s=24h0m0s]`.
pub(crate) fn ttl_bounds(text: &str) -> Option<(Duration, Duration)> {
    let (_, after) = text.split_once("Session TTL")?.1.split_once('[')?;
    let (min, max) = after.split_once(']')?.0.split_once('=')?;
    Some((go_duration(min)?, go_duration(max)?))
}

/// Reads a duration as Go prints it, such as `24h0m0s` or `1.5s`, with units down to the millisecond.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let seconds = match &after[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = &after[unit..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_read_from_a_refusal_because_of_size() {
        let of_value = r#"Value for key "a > 9 bytes" is too large (600 > 512 bytes)"#;
        assert_eq!(size_limit(of_value), Some(512));
        let of_body = "Request body(524300 bytes) too large, max size: 524288 bytes. See https://consul.io.";
        assert_eq!(size_limit(of_body), Some(524_288));
        assert_eq!(size_limit("Transaction contains too many operations (65 > 64)"), None);
    }

    #[test]
    fn the_bounds_of_a_ttl_are_read_from_the_refusal() {
        let text = "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]";
        assert_eq!(ttl_bounds(text), Some((Duration::from_secs(10), Duration::from_secs(86_400))));
        assert_eq!(ttl_bounds("No cluster leader"), None);
        assert_eq!(go_duration("1m0.5s"), Some(Duration::from_millis(60_500)));
        for text in ["10", "s", "1d", "-1s", "1e9h", "."] {
            assert_eq!(go_duration(text), None, "{text}");
        }
        assert_eq!(go_duration("0s"), Some(Duration::ZERO));
    }
}
