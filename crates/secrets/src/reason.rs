//! Why a server could not be verified, as a user and a guest read it.

use std::io;

use rustls::{CertificateError, Error};

/// A phrase behind "Could not verify the server". The texts of `rustls` and of its verifier are for
/// programmers: they have names of types in them.
pub(crate) fn reason(error: &io::Error) -> String {
    let of_tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match of_tls {
        None => match error.kind() {
            io::ErrorKind::TimedOut => "the server did not answer in time".to_owned(),
            io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
            _ => error.to_string(),
        },
        Some(Error::InvalidCertificate(why)) => certificate(why).to_owned(),
        Some(Error::NoCertificatesPresented) => "the server has no certificate".to_owned(),
        Some(Error::AlertReceived(alert)) => {
            let text = format!("{alert:?}");
            format!("the server refused the connection (TLS alert `{text}`)")
        }
        Some(Error::InvalidMessage(_)) => "the server does not speak TLS".to_owned(),
        Some(_) => "the TLS handshake with the server failed".to_owned(),
    }
}

fn certificate(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name"
        }
        CertificateError::UnknownIssuer => {
            "its certificate is signed by no authority that this host trusts"
        }
        CertificateError::Revoked => "its certificate was revoked",
        CertificateError::BadEncoding | CertificateError::BadSignature => {
            "its certificate is damaged"
        }
        // The verifier has an error of its own for an authority's certificate in a server's place,
        // which is how a certificate is made that signs itself.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate signs itself, and this host does not trust it"
        }
        _ => "its certificate is not accepted",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{InvalidMessage, OtherError};

    use super::*;

    fn of(error: Error) -> String {
        reason(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_reason_is_a_phrase_and_no_name_of_a_type() {
        let own = OtherError(Arc::new(io::Error::other("CaUsedAsEndEntity")));
        let own = of(Error::InvalidCertificate(CertificateError::Other(own)));
        assert_eq!(
            own,
            "its certificate signs itself, and this host does not trust it"
        );
        let unknown = of(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(unknown.contains("no authority"), "{unknown}");
        let plain = of(Error::InvalidMessage(InvalidMessage::InvalidContentType));
        assert_eq!(plain, "the server does not speak TLS");
        for text in [own, unknown, plain, of(Error::DecryptError)] {
            assert!(!text.contains(['(', '{', ':']), "{text}");
        }
        let late = reason(&io::ErrorKind::TimedOut.into());
        assert_eq!(late, "the server did not answer in time");
    }
}
