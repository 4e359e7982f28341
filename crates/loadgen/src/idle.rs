//! Opens connections, says `{"open": N}`, and holds them until stdin closes.
//!
//! One byte goes there and back on each: an idle connection is one that was used before, with whatever its server
//! allocates at first use; and the server's queue of connections never overflows (an overflow costs a second each).

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::address::Address;
use crate::arguments::Arguments;
use crate::tls::{self, Session};

const ANSWER_MAX: Duration = Duration::from_secs(10);

pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let (place, tls) = match &arguments.address {
        Address::Tcp(place) => (place, None),
        Address::Tls(place) => (place, Some(tls::client_config()?)),
        Address::Unix(_) | Address::Udp(_) => {
            return Err(format!("idle connections are TCP's and TLS's, not {}", arguments.address));
        }
    };
    let mut open = Vec::with_capacity(arguments.connections);
    for number in 1..=arguments.connections {
        let mut stream = TcpStream::connect(place)
            .map_err(|error| format!("connection {number} of {}: {error}", arguments.connections))?;
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(|error| format!("connection {number}: {error}"))?;
        let mut session = tls.as_ref().map(Session::client).transpose()?;
        let echoed = match &mut session {
            None => echo_one_byte(&mut stream),
            Some(session) => echo_one_byte(&mut session.on(&mut stream)),
        };
        echoed.map_err(|error| format!("connection {number}: {error}"))?;
        open.push((stream, session));
    }
    println!(r#"{{"open":{}}}"#, open.len());
    io::stdin().read_to_end(&mut Vec::new()).map_err(|error| format!("stdin: {error}"))?;
    Ok(())
}

fn echo_one_byte(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0]).map_err(|error| match error.kind() {
        // What read(2) says when its time is over.
        ErrorKind::WouldBlock => io::Error::other(format!("no answer for {ANSWER_MAX:?}")),
        _ => error,
    })
}
