//! Lines from a stream, bounded in length and in time.

use std::io;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::time::timeout;

use crate::protocol::FRAME_OCTETS_MAX;
use crate::protocol::moving::IMPORT_OCTETS_MAX;

/// What a line that may be longer than others begins with.
const IMPORT: &[u8] = b"{\"import\":";

/// How long one line may take from its first octet to its end.
pub const LINE_TIME_MAX: Duration = Duration::from_secs(10);

/// What came of waiting for a line.
pub enum Read {
    Line,
    End,
    TooLong,
    TooSlow,
}

/// Waits for a line, without its end; idle is no fault, a line begun and not ended is. One of an import may be longer
/// than others, where `may_import` says that the client may say one.
pub async fn read_line(
    reader: &mut (impl AsyncBufReadExt + Unpin),
    line: &mut Vec<u8>,
    may_import: impl Fn() -> bool,
) -> io::Result<Read> {
    if reader.fill_buf().await?.is_empty() {
        return Ok(Read::End);
    }
    line.clear();
    let mut octets_max = FRAME_OCTETS_MAX;
    let whole = async {
        loop {
            let buffer = reader.fill_buf().await?;
            if buffer.is_empty() {
                return Ok(Read::End); // half a line, then the end: nothing was asked
            }
            let end = buffer.iter().position(|octet| *octet == b'\n');
            let octets = end.unwrap_or(buffer.len());
            if line.len() + octets > octets_max && line.starts_with(IMPORT) && may_import() {
                octets_max = IMPORT_OCTETS_MAX;
            }
            if line.len() + octets > octets_max {
                return Ok(Read::TooLong);
            }
            line.extend_from_slice(&buffer[..octets]);
            reader.consume(octets + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(Read::Line);
            }
        }
    };
    timeout(LINE_TIME_MAX, whole).await.unwrap_or(Ok(Read::TooSlow))
}

/// Takes a line that is in the buffer already; false where there is none.
pub async fn buffered_line(
    reader: &mut (impl AsyncBufReadExt + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    // A reader with octets left returns them at once; one without is asked in vain, not waited for.
    let ready = std::future::poll_fn(|context| {
        let polled = std::pin::Pin::new(&mut *reader).poll_fill_buf(context).map_ok(|buffer| {
            let end = buffer.iter().position(|octet| *octet == b'\n');
            end.filter(|end| *end <= FRAME_OCTETS_MAX).map(|end| buffer[..end].to_vec())
        });
        std::task::Poll::Ready(match polled {
            std::task::Poll::Ready(polled) => polled,
            std::task::Poll::Pending => Ok(None),
        })
    });
    let Some(found) = ready.await? else { return Ok(false) };
    reader.consume(found.len() + 1);
    *line = found;
    Ok(true)
}
