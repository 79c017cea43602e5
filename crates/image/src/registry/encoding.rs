//! `Content-Encoding`: what a server packs an answer in although it was asked not to.
//!
//! *Source:* RFC 9110 §8.4; RFC 1950, 1952, 8878.

use std::io::{self, BufRead, Read};

use reqwest::header::{CONTENT_ENCODING, HeaderMap};

/// Largest zstd window, RFC 8878 §3.1.1.1.2 recommends 2^23; servers use less.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    /// RFC 1950, zlib.
    Deflate,
    Zstd,
}

/// The coding that an answer names; none where it names none that is known. What is left coded
/// then has another digest, and is refused for that.
pub(super) fn of(headers: &HeaderMap) -> Option<Encoding> {
    let name = headers.get(CONTENT_ENCODING)?.to_str().ok()?;
    match name.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => Some(Encoding::Gzip),
        "deflate" => Some(Encoding::Deflate),
        "zstd" => Some(Encoding::Zstd),
        _ => None,
    }
}

impl Encoding {
    /// Whether `start` is the start of such a stream.
    pub(super) fn is_begun_by(self, start: &[u8]) -> bool {
        match self {
            Self::Gzip => start.starts_with(&[0x1f, 0x8b]),
            // RFC 1950 §2.2: method 8, and a multiple of 31.
            Self::Deflate => match start {
                [method, flags, ..] => {
                    method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0
                }
                _ => false,
            },
            Self::Zstd => start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
        }
    }

    /// The decoded bytes of `coded`.
    pub(super) fn decode<'a>(self, coded: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(coded)),
            Self::Deflate => Box::new(flate2::bufread::ZlibDecoder::new(coded)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(coded)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        })
    }

    /// A decoded document of at most `limit` bytes.
    pub(super) fn decode_document(self, coded: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let mut document = Vec::new();
        self.decode(coded)?
            .take(limit + 1)
            .read_to_end(&mut document)?;
        if document.len() as u64 > limit {
            return Err(io::Error::other(format!("it has more than {limit} bytes")));
        }
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_coded_document_is_decoded_up_to_a_limit() {
        let text = b"{\"schemaVersion\":2}".repeat(10);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&text).unwrap();
        for (encoding, coded) in [
            (Encoding::Gzip, gzip.finish().unwrap()),
            (Encoding::Deflate, zlib.finish().unwrap()),
            (
                Encoding::Zstd,
                zstd::encode_all(text.as_slice(), 1).unwrap(),
            ),
        ] {
            assert!(encoding.is_begun_by(&coded) && !encoding.is_begun_by(&text));
            assert_eq!(encoding.decode_document(&coded, 1000).unwrap(), text);
            assert!(encoding.decode_document(&coded, 9).is_err());
            assert!(encoding.decode_document(&coded[..8], 1000).is_err());
        }
    }

    #[test]
    fn only_known_codings_are_told() {
        let named = |name: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, name.parse().unwrap());
            of(&headers)
        };
        assert_eq!(named("x-GZIP"), Some(Encoding::Gzip));
        assert_eq!(
            (named("identity"), named("br"), named("aws-chunked")),
            (None, None, None)
        );
        assert_eq!(of(&HeaderMap::new()), None);
    }
}
