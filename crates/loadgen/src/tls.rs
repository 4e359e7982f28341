//! TLS on a channel: rustls, with the certificate that lies beside this crate's sources.
//!
//! The client knows that certificate and verifies it. It never resumes a session: every handshake is a full one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

use crate::channel::Channel;

const CERTIFICATE: &[u8] = include_bytes!("../certificate.pem");
const KEY: &[u8] = include_bytes!("../key.pem");
const NAME: &str = "localhost";

pub(crate) fn client_config() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate()?).map_err(|error| format!("certificate: {error}"))?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

pub(crate) fn server_config() -> Result<Arc<ServerConfig>, String> {
    let key = PrivateKeyDer::from_pem_slice(KEY).map_err(|error| format!("key: {error}"))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate()?], key);
    config.map(Arc::new).map_err(|error| format!("TLS: {error}"))
}

fn certificate() -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(CERTIFICATE).map_err(|error| format!("certificate: {error}"))
}

/// One side of a connection; what is written before the handshake is over leaves after it.
pub(crate) struct Session(Connection);

impl Session {
    pub(crate) fn client(config: &Arc<ClientConfig>) -> Result<Self, String> {
        let name = ServerName::try_from(NAME).map_err(|error| format!("{NAME}: {error}"))?;
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(|error| format!("TLS: {error}"))?;
        Ok(Self::unlimited(connection.into()))
    }

    pub(crate) fn server(config: &Arc<ServerConfig>) -> Result<Self, String> {
        let connection = ServerConnection::new(Arc::clone(config)).map_err(|error| format!("TLS: {error}"))?;
        Ok(Self::unlimited(connection.into()))
    }

    /// The messages are bounded by who uses this.
    fn unlimited(mut connection: Connection) -> Self {
        connection.set_buffer_limit(None);
        Self(connection)
    }

    /// For who may wait: what is written there leaves at once, behind the handshake.
    pub(crate) fn on<'a>(&'a mut self, stream: &'a mut TcpStream) -> Blocking<'a> {
        Blocking { connection: &mut self.0, stream }
    }

    /// Takes all of `data`; [`Session::flush`] sends it.
    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.writer().write_all(data)
    }

    /// False: the channel takes no more at present.
    pub(crate) fn flush(&mut self, mut channel: &Channel) -> io::Result<bool> {
        while self.0.wants_write() {
            match self.0.write_tls(&mut channel) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// What was received becomes plain text, which replaces what `plain` held. False: the peer has closed.
    pub(crate) fn decrypt(&mut self, mut received: &[u8], plain: &mut Vec<u8>) -> Result<bool, String> {
        plain.clear();
        let mut is_open = true;
        while !received.is_empty() {
            self.0.read_tls(&mut received).map_err(|error| format!("TLS: {error}"))?;
            let state = self.0.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
            is_open = is_open && !state.peer_has_closed();
            let begin = plain.len();
            plain.resize(begin + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(&mut plain[begin..]).map_err(|error| format!("TLS: {error}"))?;
        }
        Ok(is_open)
    }

    /// The orderly end; whether the peer still cares is its affair.
    pub(crate) fn close(&mut self, channel: &Channel) {
        self.0.send_close_notify();
        let _ = self.flush(channel);
    }
}

/// A session on a stream that blocks.
pub(crate) struct Blocking<'a> {
    connection: &'a mut Connection,
    stream: &'a mut TcpStream,
}

impl Read for Blocking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.connection.wants_read() {
            self.connection.complete_io(self.stream)?;
        }
        self.connection.reader().read(buffer)
    }
}

impl Write for Blocking<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.connection.writer().write(data)?;
        self.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() || self.connection.is_handshaking() {
            self.connection.complete_io(self.stream)?;
        }
        Ok(())
    }
}
