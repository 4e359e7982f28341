//! The closed loop: `connections` peers, each with one operation in flight until the time is up.

use std::io::{self, BufRead, ErrorKind, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::address::Address;
use crate::arguments::{Arguments, Command, Limit};
use crate::channel::Channel;
use crate::conversation::{Answer, Conversation, Progress};
use crate::latency::Latencies;
use crate::poller::{Interest, Poller};
use crate::tls::{self, Session};

/// A server that says nothing for so long is broken or hung: the run ends with an error.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The kernel may drop datagrams. When all peers have been silent for so long, those in flight are sent again.
const RESEND_AFTER: Duration = Duration::from_millis(100);
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
    /// Datagrams that were sent again.
    resent: u64,
    elapsed: Duration,
    latencies: Latencies,
}

impl Outcome {
    fn to_json(&self) -> String {
        format!(
            r#"{{"ops":{},"resent":{},"seconds":{:.6},"p50_us":{:.1},"p99_us":{:.1}}}"#,
            self.operations,
            self.resent,
            self.elapsed.as_secs_f64(),
            self.latencies.percentile_us(0.5),
            self.latencies.percentile_us(0.99),
        )
    }
}

struct Peer {
    channel: Channel,
    session: Option<Box<Session>>,
    interest: Interest,
    is_busy: bool,
    /// How much of the request the channel took, or the TLS session.
    sent: usize,
    answer: Answer,
    started: Instant,
}

struct Load {
    address: Address,
    tls: Option<Arc<ClientConfig>>,
    conversation: Conversation,
    /// Each operation has a connection of its own; its latency includes connecting.
    reconnect: bool,
    poller: Poller,
    /// `None`: at rest, the next operation connects.
    peers: Vec<Option<Peer>>,
    buffer: Vec<u8>,
    plain: Vec<u8>,
}

impl Load {
    fn open(arguments: &Arguments) -> Result<Self, String> {
        let conversation = match arguments.command {
            Command::Http => Conversation::Http,
            Command::Download => Conversation::download(arguments.size_bytes),
            Command::Framed => Conversation::framed(arguments.size_bytes),
            Command::Lines => Conversation::line(arguments.size_bytes),
            Command::Echo | Command::Connect | Command::Idle | Command::EchoServer => {
                Conversation::echo(arguments.size_bytes)
            }
        };
        let mut load = Self {
            address: arguments.address.clone(),
            tls: match arguments.address {
                Address::Tls(_) => Some(tls::client_config()?),
                Address::Tcp(_) | Address::Udp(_) | Address::Unix(_) => None,
            },
            conversation,
            reconnect: arguments.command == Command::Connect,
            poller: Poller::new().map_err(|error| format!("epoll: {error}"))?,
            peers: (0..arguments.connections).map(|_| None).collect(),
            buffer: vec![0; RECEIVE_BUFFER_BYTES],
            plain: Vec::new(),
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
        let mut outcome = Outcome { operations: 0, resent: 0, elapsed: Duration::ZERO, latencies: Latencies::new() };
        let mut in_flight = 0;
        for token in 0..self.peers.len() {
            if may_start(limit, started, started, in_flight) {
                self.start(token)?;
                in_flight += 1;
            }
        }
        let mut begun = in_flight;
        let mut ready = Vec::new();
        let mut last_answer = started;
        let is_lossy = matches!(self.address, Address::Udp(_));
        let patience = if is_lossy { RESEND_AFTER } else { SILENCE_MAX };
        while in_flight > 0 {
            self.poller.wait(Some(patience), &mut ready).map_err(|error| format!("epoll: {error}"))?;
            if ready.is_empty() {
                if is_lossy && last_answer.elapsed() < SILENCE_MAX {
                    outcome.resent += self.resend()?;
                    continue;
                }
                return Err(format!("no answer for {SILENCE_MAX:?}, {in_flight} operations are waiting"));
            }
            for &token in &ready {
                if self.advance(token)? == Progress::Incomplete {
                    continue;
                }
                let now = Instant::now();
                last_answer = now;
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
        let channel = Channel::connect(&self.address).map_err(|error| format!("connect: {error}"))?;
        self.poller.add(&channel, token).map_err(|error| format!("epoll: {error}"))?;
        self.peers[token] = Some(Peer {
            channel,
            session: self.tls.as_ref().map(Session::client).transpose()?.map(Box::new),
            interest: Interest::Read,
            is_busy: false,
            sent: 0,
            answer: Answer::default(),
            started,
        });
        Ok(())
    }

    fn start(&mut self, token: usize) -> Result<(), String> {
        let started = Instant::now();
        if self.reconnect {
            self.connect(token)?;
        }
        let peer = self.peers[token].as_mut().expect("a peer is connected before it starts");
        peer.sent = 0;
        peer.is_busy = true;
        peer.answer.restart();
        peer.started = started;
        send(peer, token, self.conversation.request(), &self.poller)
    }

    /// Asks again whoever has no answer; returns how many that were.
    fn resend(&mut self) -> Result<u64, String> {
        let mut count = 0;
        for (token, peer) in self.peers.iter_mut().enumerate() {
            if let Some(peer) = peer
                && peer.is_busy
            {
                peer.sent = 0;
                send(peer, token, self.conversation.request(), &self.poller)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Sends what is left to send, and receives once: epoll is level-triggered and calls again.
    fn advance(&mut self, token: usize) -> Result<Progress, String> {
        // An event may be older than the close that its batch led to.
        let Some(peer) = self.peers[token].as_mut() else {
            return Ok(Progress::Incomplete);
        };
        send(peer, token, self.conversation.request(), &self.poller)?;
        let length = match peer.channel.receive(&mut self.buffer) {
            Ok(0) => return Err("the server closed a connection before its answer was complete".into()),
            Ok(length) => length,
            Err(error) if is_retry(&error) => return Ok(Progress::Incomplete),
            Err(error) => return Err(format!("receive: {error}")),
        };
        let received = &self.buffer[..length];
        let Some(session) = peer.session.as_mut() else {
            return peer.answer.feed(&self.conversation, received);
        };
        if !session.decrypt(received, &mut self.plain)? {
            return Err("the server ended TLS before its answer was complete".into());
        }
        let progress = peer.answer.feed(&self.conversation, &self.plain)?;
        // The handshake may have something to say.
        send(peer, token, self.conversation.request(), &self.poller)?;
        Ok(progress)
    }

    /// Returns when the operation was started.
    fn finish(&mut self, token: usize) -> Instant {
        let peer = self.peers[token].as_mut().expect("a peer that finishes is connected");
        let started = peer.started;
        peer.is_busy = false;
        if self.reconnect {
            if let Some(session) = peer.session.as_mut() {
                session.close(&peer.channel);
            }
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
    let is_done = match peer.session.as_mut() {
        None => send_plain(&peer.channel, &mut peer.sent, request),
        Some(session) => {
            let rest = &request[std::mem::replace(&mut peer.sent, request.len())..];
            session.write(rest).and_then(|()| session.flush(&peer.channel))
        }
    };
    let is_done = is_done.map_err(|error| format!("send: {error}"))?;
    let interest = if is_done { Interest::Read } else { Interest::ReadAndWrite };
    if interest != peer.interest {
        poller.change(&peer.channel, token, interest).map_err(|error| format!("epoll: {error}"))?;
        peer.interest = interest;
    }
    Ok(())
}

/// False: the channel takes no more at present.
fn send_plain(channel: &Channel, sent: &mut usize, request: &[u8]) -> io::Result<bool> {
    while *sent < request.len() {
        match channel.send(&request[*sent..]) {
            Ok(length) => *sent += length,
            Err(error) if is_retry(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
