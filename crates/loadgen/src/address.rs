//! Where a server listens and what is spoken there: `tcp:127.0.0.1:9`, `tls:…`, `udp:…`, `unix:@name`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Tls(SocketAddr),
    Udp(SocketAddr),
    /// A name in Linux's abstract namespace: there is no file, so nothing is left of a server that was killed.
    Unix(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (transport, place) = text.split_once(':').ok_or("expected TRANSPORT:PLACE")?;
        let number = || place.parse().map_err(|error| format!("{place}: {error}"));
        match (transport, place.strip_prefix('@')) {
            ("tcp", _) => Ok(Self::Tcp(number()?)),
            ("tls", _) => Ok(Self::Tls(number()?)),
            ("udp", _) => Ok(Self::Udp(number()?)),
            ("unix", Some(name)) => Ok(Self::Unix(name.into())),
            ("unix", None) => Err("expected unix:@NAME".into()),
            _ => Err(format!("expected tcp, tls, udp or unix, not {transport:?}")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(place) => write!(to, "tcp:{place}"),
            Self::Tls(place) => write!(to, "tls:{place}"),
            Self::Udp(place) => write!(to, "udp:{place}"),
            Self::Unix(name) => write!(to, "unix:@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["tcp:127.0.0.1:9", "tls:[::1]:443", "udp:127.0.0.1:53", "unix:@a name"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["127.0.0.1:9", "unix:/tmp/file", "sctp:127.0.0.1:9", "tcp:localhost"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
