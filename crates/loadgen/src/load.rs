//! The closed loop: `connections` peers, each with one operation in flight until the time is up.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::arguments::{Arguments, Command, Limit};
use crate::conversation::{Answer, Conversation, Progress};
use crate::latency::Latencies;
use crate::poller::{Interest, Poller};

/// A server that says nothing for so long is broken or hung: the run ends with an error.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;

pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let mut load = Load::open(arguments)?;
    if !arguments.warmup.is_zero() {
        load.run_until(Limit::Elapsed(arguments.warmup))?;
    }
    say("ready")?;
    wait_for_go()?;
    let result = load.run_until(arguments.limit)?;
    say(&result.to_json())
}

fn say(line: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| format!("stdout: {error}"))
}

fn wait_for_go() -> Result<(), String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|error| format!("stdin: {error}"))?;
    if line.trim() == "go" { Ok(()) } else { Err(format!("expected `go`, got {line:?}")) }
}

struct Outcome {
    operations: u64,
    elapsed: Duration,
    latencies: Latencies,
}

impl Outcome {
    fn to_json(&self) -> String {
        format!(
            r#"{{"ops":{},"seconds":{:.6},"p50_us":{:.1},"p99_us":{:.1}}}"#,
            self.operations,
            self.elapsed.as_secs_f64(),
            self.latencies.percentile_us(0.5),
            self.latencies.percentile_us(0.99),
        )
    }
}

struct Peer {
    stream: TcpStream,
    interest: Interest,
    sent: usize,
    answer: Answer,
    started: Instant,
}

struct Load {
    address: SocketAddr,
    conversation: Conversation,
    /// Each operation has a connection of its own; its latency includes connecting.
    reconnect: bool,
    poller: Poller,
    /// `None`: at rest, the next operation connects.
    peers: Vec<Option<Peer>>,
    buffer: Vec<u8>,
}

impl Load {
    fn open(arguments: &Arguments) -> Result<Self, String> {
        let conversation = match arguments.command {
            Command::Http => Conversation::Http,
            Command::Echo | Command::Connect | Command::Idle | Command::EchoServer => {
                Conversation::echo(arguments.size_bytes)
            }
        };
        let mut load = Self {
            address: arguments.address,
            conversation,
            reconnect: arguments.command == Command::Connect,
            poller: Poller::new().map_err(|error| format!("epoll: {error}"))?,
            peers: (0..arguments.connections).map(|_| None).collect(),
            buffer: vec![0; RECEIVE_BUFFER_BYTES],
        };
        if !load.reconnect {
            for token in 0..load.peers.len() {
                load.connect(token)?;
            }
        }
        Ok(load)
    }

    /// Runs operations until `limit`, then lets what is in flight finish; counts all of it.
    fn run_until(&mut self, limit: Limit) -> Result<Outcome, String> {
        let started = Instant::now();
        let mut outcome = Outcome { operations: 0, elapsed: Duration::ZERO, latencies: Latencies::new() };
        let mut in_flight = 0;
        for token in 0..self.peers.len() {
            if may_start(limit, started, started, in_flight) {
                self.start(token)?;
                in_flight += 1;
            }
        }
        let mut begun = in_flight;
        let mut ready = Vec::new();
        while in_flight > 0 {
            self.poller.wait(Some(SILENCE_MAX), &mut ready).map_err(|error| format!("epoll: {error}"))?;
            if ready.is_empty() {
                return Err(format!("no answer for {SILENCE_MAX:?}, {in_flight} operations are waiting"));
            }
            for &token in &ready {
                if self.advance(token)? == Progress::Incomplete {
                    continue;
                }
                let now = Instant::now();
                outcome.latencies.record(now - self.finish(token));
                outcome.operations += 1;
                if may_start(limit, started, now, begun) {
                    self.start(token)?;
                    begun += 1;
                } else {
                    in_flight -= 1;
                }
            }
        }
        outcome.elapsed = started.elapsed();
        Ok(outcome)
    }

    fn connect(&mut self, token: usize) -> Result<(), String> {
        let started = Instant::now();
        // On loopback the handshake is done when connect(2) returns, so blocking here costs nothing.
        let stream = TcpStream::connect(self.address).map_err(|error| format!("connect: {error}"))?;
        let settle = || stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true));
        settle().map_err(|error| format!("socket option: {error}"))?;
        self.poller.add(&stream, token).map_err(|error| format!("epoll: {error}"))?;
        let peer = Peer { stream, interest: Interest::Read, sent: 0, answer: Answer::default(), started };
        self.peers[token] = Some(peer);
        Ok(())
    }

    fn start(&mut self, token: usize) -> Result<(), String> {
        let started = Instant::now();
        if self.reconnect {
            self.connect(token)?;
        }
        let peer = self.peers[token].as_mut().expect("a peer is connected before it starts");
        peer.sent = 0;
        peer.answer.restart();
        peer.started = started;
        send(peer, token, self.conversation.request(), &self.poller)
    }

    /// Sends what is left to send, and receives once: epoll is level-triggered and calls again.
    fn advance(&mut self, token: usize) -> Result<Progress, String> {
        // An event may be older than the close that its batch led to.
        let Some(peer) = self.peers[token].as_mut() else {
            return Ok(Progress::Incomplete);
        };
        send(peer, token, self.conversation.request(), &self.poller)?;
        match peer.stream.read(&mut self.buffer) {
            Ok(0) => Err("the server closed a connection before its answer was complete".into()),
            Ok(length) => peer.answer.feed(&self.conversation, &self.buffer[..length]),
            Err(error) if is_retry(&error) => Ok(Progress::Incomplete),
            Err(error) => Err(format!("receive: {error}")),
        }
    }

    /// Returns when the operation was started.
    fn finish(&mut self, token: usize) -> Instant {
        let peer = self.peers[token].as_ref().expect("a peer that finishes is connected");
        let started = peer.started;
        if self.reconnect {
            self.peers[token] = None;
        }
        started
    }
}

fn may_start(limit: Limit, started: Instant, now: Instant, begun: u64) -> bool {
    match limit {
        Limit::Elapsed(duration) => now - started < duration,
        Limit::Operations(count) => begun < count,
    }
}

fn send(peer: &mut Peer, token: usize, request: &[u8], poller: &Poller) -> Result<(), String> {
    while peer.sent < request.len() {
        match peer.stream.write(&request[peer.sent..]) {
            Ok(length) => peer.sent += length,
            Err(error) if is_retry(&error) => break,
            Err(error) => return Err(format!("send: {error}")),
        }
    }
    let interest = if peer.sent < request.len() { Interest::ReadAndWrite } else { Interest::Read };
    if interest != peer.interest {
        poller.change(&peer.stream, token, interest).map_err(|error| format!("epoll: {error}"))?;
        peer.interest = interest;
    }
    Ok(())
}

fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
