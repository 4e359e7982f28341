//! The other end of the wire for `python -m benchmarks`: load, and the native limit.
//!
//! ```text
//! hayase-loadgen echo        --address A --connections N --size S  --seconds T [--warmup-seconds W]
//! hayase-loadgen connect     --address A --connections N --size S  --seconds T [--warmup-seconds W]
//! hayase-loadgen http        --address A --connections N           --seconds T [--warmup-seconds W]
//! hayase-loadgen download    --address A --connections N --size S  --seconds T [--warmup-seconds W]
//! hayase-loadgen idle        --address A --connections N
//! hayase-loadgen echo-server --address A
//! ```
//!
//! An address is `tcp:HOST:PORT`, `tls:HOST:PORT`, `udp:HOST:PORT` or `unix:@NAME`; an echo server chooses its own
//! port or name and says it. A download is a byte that is answered by `--size` bytes.
//! `--count N` in place of `--seconds` ends after N operations. The load is a closed loop: a connection sends,
//! waits for the whole answer, checks it, and sends again.
//!
//! What must stay true: a load run talks to its parent in three lines, `ready` (out, warmed up and **nothing in
//! flight**), `go` (in), and one line of JSON (out, nothing in flight again). Between those lines the server is
//! at rest, so its CPU time can be read from outside and belongs exactly to the operations in the JSON line.
//! Everything ends by itself: load after its time or 10 s without an answer, `idle` and `echo-server` when stdin closes.

mod address;
mod arguments;
mod channel;
mod conversation;
mod datagram_server;
mod echo_server;
mod idle;
mod latency;
mod load;
mod poller;
mod tls;

use std::process::ExitCode;

use address::Address;
use arguments::{Arguments, Command};

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    match arguments.command {
        Command::Echo | Command::Framed | Command::Lines | Command::Connect | Command::Http | Command::Download => {
            load::run(&arguments)
        }
        Command::Idle => idle::run(&arguments),
        Command::EchoServer => match &arguments.address {
            Address::Udp(_) => datagram_server::run().map_err(|error| format!("echo-server: {error}")),
            Address::Tcp(_) | Address::Tls(_) | Address::Unix(_) => echo_server::run(&arguments.address),
        },
    }
}
