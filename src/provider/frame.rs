//! Splits a vendor's byte stream into events: server-sent events by the WHATWG's rules, and lines of JSON. It must not know what the events mean.
//!
//! Where the bytes are cut on their way makes no difference to what comes out.

/// A single event or line is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTooLong;

/// One server-sent event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its type; empty stands for `message`.
    pub event: String,
    /// Its data lines, joined by line feeds.
    pub data: String,
}

/// Parses `text/event-stream` as it arrives (HTML Living Standard, 9.2.6). Ids and reconnection times are ignored: a vendor's stream is never resumed.
#[derive(Debug)]
pub struct Sse {
    line: Vec<u8>,
    event: SseEvent,
    /// A carriage return ended the last line; a line feed right behind it belongs to it.
    after_cr: bool,
    /// Only the very first line may begin with a byte order mark.
    first_line: bool,
    event_bytes_max: usize,
}

impl Sse {
    /// A parser that refuses events of more than `event_bytes_max` bytes.
    pub fn new(event_bytes_max: usize) -> Self {
        Self { line: Vec::new(), event: SseEvent::default(), after_cr: false, first_line: true, event_bytes_max }
    }

    /// Takes the next bytes and appends the events that they complete. An event that no blank line ends is never given out, as the standard says.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), FrameTooLong> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() + self.event.data.len() + self.event.event.len() > self.event_bytes_max {
                return Err(FrameTooLong);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.line_end(events);
        }
        Ok(())
    }

    fn line_end(&mut self, events: &mut Vec<SseEvent>) {
        let mut line = self.line.as_slice();
        if std::mem::take(&mut self.first_line) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            let mut event = std::mem::take(&mut self.event);
            // The line feed behind each data line makes an event with one empty data line different from one with none.
            if event.data.pop().is_some() {
                events.push(event);
            }
        } else {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let value = line.get(colon + 1..).unwrap_or_default();
            let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
            match &line[..colon] {
                b"data" => {
                    self.event.data.push_str(&value);
                    self.event.data.push('\n');
                }
                b"event" => self.event.event = value.into_owned(),
                // A comment (the colon comes first), an id, a reconnection time, or a field that nobody knows.
                _ => {}
            }
        }
        self.line.clear();
    }
}

/// Splits lines of JSON (`application/x-ndjson`) as they arrive. Blank lines are left out.
#[derive(Debug)]
pub struct Lines {
    line: Vec<u8>,
    line_bytes_max: usize,
}

impl Lines {
    /// A splitter that refuses lines of more than `line_bytes_max` bytes.
    pub fn new(line_bytes_max: usize) -> Self {
        Self { line: Vec::new(), line_bytes_max }
    }

    /// Takes the next bytes and appends the lines that they complete.
    pub fn push(&mut self, bytes: &[u8], lines: &mut Vec<Vec<u8>>) -> Result<(), FrameTooLong> {
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            if self.line.len() + part.len() > self.line_bytes_max {
                return Err(FrameTooLong);
            }
            self.line.extend_from_slice(part);
            if parts.peek().is_some() {
                lines.extend(self.finish());
            }
        }
        Ok(())
    }

    /// The line that was not ended yet; some servers leave the last line feed out.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        (!line.trim_ascii().is_empty()).then(|| line.trim_ascii().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sse(chunks: &[&[u8]]) -> Vec<SseEvent> {
        let (mut parser, mut events) = (Sse::new(1 << 16), Vec::new());
        for chunk in chunks {
            parser.push(chunk, &mut events).unwrap();
        }
        events
    }

    fn event(event: &str, data: &str) -> SseEvent {
        SseEvent { event: event.into(), data: data.into() }
    }

    #[test]
    fn events_follow_the_standard() {
        assert_eq!(sse(&[b"event: a\r\ndata: 1\r\ndata:2\r\n\r\n"]), [event("a", "1\n2")], "CRLF, and one space after the colon goes");
        assert_eq!(sse(&[b"data: 1\rdata:  2\r\r"]), [event("", "1\n 2")], "lone carriage returns end lines");
        assert_eq!(sse(&[b"\xEF\xBB\xBFdata: 1\n\n\xEF\xBB\xBFdata: 2\n\n"]), [event("", "1")], "a byte order mark only at the start");
        assert_eq!(sse(&[b": keep-alive\n\n: x\ndata: 1\n\n"]), [event("", "1")], "comments say nothing");
        assert_eq!(sse(&[b"event: a\n\ndata: 1\n\n"]), [event("", "1")], "without data nothing is sent, and the type is forgotten");
        assert_eq!(sse(&[b"data\n\ndata:\ndata\n\n"]), [event("", ""), event("", "\n")], "empty data is data");
        assert_eq!(sse(&[b"data: 1\n"]), [], "an event that is not ended is dropped");
        assert_eq!(sse(&[b"id: 7\nretry: 9\nfoo: x\ndata: {\"a\":\"b: c\"}\n\n"]), [event("", "{\"a\":\"b: c\"}")]);
    }

    #[test]
    fn sizes_are_bounded() {
        let mut events = Vec::new();
        assert_eq!(Sse::new(10).push(b"data: 12345", &mut events), Err(FrameTooLong));
        let mut parser = Sse::new(20);
        assert_eq!(parser.push(b"data: 123456\n", &mut events), Ok(()));
        assert_eq!(parser.push(b"data: 1234567890\n", &mut events), Err(FrameTooLong), "all data lines of an event count");
        assert_eq!(Lines::new(3).push(b"1234", &mut Vec::new()), Err(FrameTooLong));
    }

    #[test]
    fn lines_are_split_and_blank_ones_left_out() {
        let (mut lines, mut parser) = (Vec::new(), Lines::new(100));
        parser.push(b"{\"a\":1}\r\n\n{\"b\"", &mut lines).unwrap();
        parser.push(b":2}\n{\"c\":3}", &mut lines).unwrap();
        assert_eq!(lines, [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()]);
        assert_eq!(parser.finish(), Some(b"{\"c\":3}".to_vec()));
        assert_eq!(parser.finish(), None);
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(
            parts in prop::collection::vec(prop::sample::select(vec!["data", ":", " ", "event", "\n", "\r", "\r\n", "ä€", "{}", "\u{FEFF}"]), 0..60),
            cut_a in 0_usize..200, cut_b in 0_usize..200,
        ) {
            let bytes = parts.concat().into_bytes();
            let (a, b) = (cut_a.min(cut_b).min(bytes.len()), cut_a.max(cut_b).min(bytes.len()));
            prop_assert_eq!(sse(&[&bytes]), sse(&[&bytes[..a], &bytes[a..b], &bytes[b..]]));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(sse(&[&bytes]), sse(&single));
            let (mut whole, mut split) = (Vec::new(), Vec::new());
            Lines::new(1 << 16).push(&bytes, &mut whole).unwrap();
            let mut parser = Lines::new(1 << 16);
            for chunk in [&bytes[..a], &bytes[a..b], &bytes[b..]] { parser.push(chunk, &mut split).unwrap(); }
            prop_assert_eq!(whole, split);
        }
    }
}
