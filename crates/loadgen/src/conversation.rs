//! What is said on a connection, and how its end is recognised.
//!
//! An answer is checked while it arrives: a server that loses, changes or adds a byte ends the run with an error,
//! so that a broken loop never gets a figure.

/// One exchange: send `request`, then feed `Reader` until it says that the answer is complete.
pub(crate) enum Conversation {
    Echo {
        message: Vec<u8>,
    },
    Http,
    /// One byte asks for all of `content`.
    Download {
        content: Vec<u8>,
    },
}

const DOWNLOAD_REQUEST: &[u8] = b"?";
const HTTP_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: loadgen\r\nAccept: */*\r\n\r\n";
const FRAME_HEAD_BYTES: usize = size_of::<u32>();
const HTTP_HEAD_BYTES_MAX: usize = 8 * 1024;

impl Conversation {
    pub(crate) fn echo(size_bytes: usize) -> Self {
        Self::Echo { message: pattern(size_bytes) }
    }

    /// The frame is as long as was asked for, its head included.
    pub(crate) fn framed(size_bytes: usize) -> Self {
        let content = pattern(size_bytes.saturating_sub(FRAME_HEAD_BYTES));
        let mut message = (content.len() as u32).to_be_bytes().to_vec();
        message.extend(content);
        Self::Echo { message }
    }

    pub(crate) fn line(size_bytes: usize) -> Self {
        let mut message = vec![b'.'; size_bytes];
        message[size_bytes - 1] = b'\n';
        Self::Echo { message }
    }

    pub(crate) fn download(size_bytes: usize) -> Self {
        Self::Download { content: pattern(size_bytes) }
    }

    pub(crate) fn request(&self) -> &[u8] {
        match self {
            Self::Echo { message } => message,
            Self::Http => HTTP_REQUEST,
            Self::Download { .. } => DOWNLOAD_REQUEST,
        }
    }
}

/// Its period is no power of two, so that a chunk put at a wrong offset shows.
fn pattern(size_bytes: usize) -> Vec<u8> {
    (0..size_bytes).map(|index| (index % 251) as u8).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Incomplete,
    Complete,
}

/// The answer so far, of one connection.
#[derive(Default)]
pub(crate) struct Answer {
    received: usize,
    head: Vec<u8>,
    expected: Option<usize>,
}

impl Answer {
    pub(crate) fn restart(&mut self) {
        self.received = 0;
        self.head.clear();
        self.expected = None;
    }

    pub(crate) fn feed(&mut self, conversation: &Conversation, chunk: &[u8]) -> Result<Progress, String> {
        match conversation {
            Conversation::Echo { message } => self.feed_known(message, chunk),
            Conversation::Download { content } => self.feed_known(content, chunk),
            Conversation::Http => self.feed_http(chunk),
        }
    }

    fn feed_known(&mut self, message: &[u8], chunk: &[u8]) -> Result<Progress, String> {
        let end = self.received + chunk.len();
        if end > message.len() {
            return Err(format!("the server answered {end} bytes instead of {}", message.len()));
        }
        if message[self.received..end] != *chunk {
            return Err(format!("the answer differs from what was expected within bytes {} to {end}", self.received));
        }
        self.received = end;
        Ok(if end == message.len() { Progress::Complete } else { Progress::Incomplete })
    }

    fn feed_http(&mut self, chunk: &[u8]) -> Result<Progress, String> {
        self.received += chunk.len();
        if self.expected.is_none() {
            self.head.extend_from_slice(chunk);
            self.expected = response_bytes(&self.head)?;
        }
        match self.expected {
            None => Ok(Progress::Incomplete),
            Some(expected) if self.received < expected => Ok(Progress::Incomplete),
            Some(expected) if self.received == expected => Ok(Progress::Complete),
            Some(expected) => Err(format!("the server sent {} bytes for a response of {expected}", self.received)),
        }
    }
}

/// The length of head and body of a response, once its head is complete.
fn response_bytes(received: &[u8]) -> Result<Option<usize>, String> {
    let Some(head_end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        if received.len() > HTTP_HEAD_BYTES_MAX {
            return Err(format!("no end of the HTTP head within {HTTP_HEAD_BYTES_MAX} bytes"));
        }
        return Ok(None);
    };
    let head = std::str::from_utf8(&received[..head_end]).map_err(|error| format!("HTTP head: {error}"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(format!("the server answered {status:?}"));
    }
    for line in lines {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            let body: usize = value.trim().parse().map_err(|_| format!("Content-Length: {value:?}"))?;
            return Ok(Some(head_end + 4 + body));
        }
    }
    Err("the response has no Content-Length".into())
}

#[cfg(test)]
mod tests {
    use super::{Answer, Conversation, Progress};

    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    #[test]
    fn a_response_in_single_bytes_is_complete_at_its_last() {
        let mut answer = Answer::default();
        for (index, byte) in RESPONSE.iter().enumerate() {
            let progress = answer.feed(&Conversation::Http, &[*byte]).unwrap();
            assert_eq!(progress == Progress::Complete, index + 1 == RESPONSE.len());
        }
    }

    #[test]
    fn an_error_status_is_an_error() {
        let refused = Answer::default().feed(&Conversation::Http, b"HTTP/1.1 503 Busy\r\n\r\n");
        assert_eq!(refused.unwrap_err(), "the server answered \"HTTP/1.1 503 Busy\"");
    }

    #[test]
    fn an_echo_may_come_in_pieces_but_not_changed_or_longer() {
        let conversation = Conversation::echo(6);
        let mut answer = Answer::default();
        assert_eq!(answer.feed(&conversation, &[0, 1, 2]), Ok(Progress::Incomplete));
        assert!(answer.feed(&conversation, &[2]).is_err());
        assert_eq!(answer.feed(&conversation, &[3, 4, 5]), Ok(Progress::Complete));
        assert!(answer.feed(&conversation, &[6]).is_err());
    }
}
