//! What the environment of a workload has for the secrets of its sandbox.

use cofferdam_proto::{TRUST_BUNDLE, TRUST_CERTIFICATE};
use cofferdam_types::NetworkSpec;

/// Variables by which programs with trust stores of their own find others. The first of each pair
/// is the name, the second whether it adds to the program's own.
const TRUST_VARIABLES: [(&str, bool); 9] = [
    ("SSL_CERT_FILE", false),
    ("CURL_CA_BUNDLE", false),
    ("REQUESTS_CA_BUNDLE", false),
    ("PIP_CERT", false),
    ("GIT_SSL_CAINFO", false),
    ("AWS_CA_BUNDLE", false),
    ("CARGO_HTTP_CAINFO", false),
    ("NODE_EXTRA_CA_CERTS", true),
    ("DENO_CERT", true),
];

/// What the environment of a new sandbox's workload has for its secrets: variables that the user
/// replaces, and those that the user's or the image's own come before.
pub(super) fn environment(spec: &NetworkSpec) -> (Vec<String>, Vec<(String, String)>) {
    if spec.secrets.is_empty() {
        return Default::default();
    }
    let secrets = spec.secrets.iter();
    let placeholders = secrets.map(|secret| format!("{}={}", secret.name, secret.placeholder));
    let trust = TRUST_VARIABLES.iter().map(|(name, adds)| {
        let file = if *adds {
            TRUST_CERTIFICATE
        } else {
            TRUST_BUNDLE
        };
        ((*name).to_owned(), format!("{name}={file}"))
    });
    (placeholders.collect(), trust.collect())
}
