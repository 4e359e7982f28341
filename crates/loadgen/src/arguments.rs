//! The command line. Only the benchmark runner writes it, so it is strict: unknown or missing words are errors.

use std::str::FromStr;
use std::time::Duration;

use crate::address::Address;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Echo,
    /// As `Echo`, for servers that read frames: four bytes of length, then as many as they say.
    Framed,
    /// As `Echo`, for servers that read lines.
    Lines,
    Connect,
    Http,
    Download,
    Idle,
    EchoServer,
}

/// When the measured part ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    Elapsed(Duration),
    Operations(u64),
}

#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) command: Command,
    /// Who is asked; for the echo server, what it speaks (its place is its own choice).
    pub(crate) address: Address,
    pub(crate) connections: usize,
    pub(crate) size_bytes: usize,
    pub(crate) warmup: Duration,
    pub(crate) limit: Limit,
}

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let command = match words.next().as_deref() {
            Some("echo") => Command::Echo,
            Some("framed") => Command::Framed,
            Some("lines") => Command::Lines,
            Some("connect") => Command::Connect,
            Some("http") => Command::Http,
            Some("download") => Command::Download,
            Some("idle") => Command::Idle,
            Some("echo-server") => Command::EchoServer,
            other => {
                return Err(format!(
                    "expected echo, framed, lines, connect, http, download, idle or echo-server, not {other:?}"
                ));
            }
        };
        let mut parsed = Self {
            command,
            address: Address::Unix(String::new()),
            connections: 1,
            size_bytes: 64,
            warmup: Duration::ZERO,
            limit: Limit::Elapsed(Duration::from_secs(1)),
        };
        let mut has_address = false;
        while let Some(name) = words.next() {
            let text = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--address" => {
                    parsed.address = text.parse().map_err(|reason| format!("{name}: {reason}"))?;
                    has_address = true;
                }
                "--connections" => parsed.connections = value(&name, &text)?,
                "--size" => parsed.size_bytes = value(&name, &text)?,
                "--warmup-seconds" => parsed.warmup = seconds(&name, &text)?,
                "--seconds" => parsed.limit = Limit::Elapsed(seconds(&name, &text)?),
                "--count" => parsed.limit = Limit::Operations(value(&name, &text)?),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        if parsed.connections == 0 || parsed.size_bytes == 0 {
            return Err("--connections and --size must be at least 1".into());
        }
        if !has_address {
            return Err("--address is missing".into());
        }
        Ok(parsed)
    }
}

fn value<T: FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name}: cannot read {text:?}"))
}

fn seconds(name: &str, text: &str) -> Result<Duration, String> {
    let number: f64 = value(name, text)?;
    Duration::try_from_secs_f64(number).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Command, Limit};

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn a_count_replaces_the_seconds() {
        let arguments = parse("connect --address tcp:127.0.0.1:9 --connections 3 --count 7").unwrap();
        assert_eq!(arguments.command, Command::Connect);
        assert_eq!(arguments.connections, 3);
        assert_eq!(arguments.limit, Limit::Operations(7));
    }

    #[test]
    fn a_load_without_an_address_is_refused() {
        assert_eq!(parse("echo --size 5").unwrap_err(), "--address is missing");
    }

    #[test]
    fn an_unknown_option_is_named() {
        assert_eq!(parse("echo --speed 5").unwrap_err(), "unknown option --speed");
    }
}
