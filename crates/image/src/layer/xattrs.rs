//! Extended attributes of an entry: which are kept, and in what form.
//!
//! *Source:* xattr(7) for the namespaces; the list of what is left out follows `umoci`.

use super::quoted;
use crate::{
    erofs::{MAX_XATTR_BODY_BYTES, MAX_XATTR_VALUE_BYTES, xattr_body_bytes},
    error::Result,
    tree::{Limits, Xattr, XattrNamespace, too_large},
};

/// Longest full name of an attribute: `XATTR_NAME_MAX`, Linux limits.h.
const MAX_NAME_BYTES: usize = 255;

/// The attributes to keep out of the records of the entry at `path`.
pub(super) fn kept(
    records: Vec<(Vec<u8>, Vec<u8>)>,
    path: &[u8],
    limits: &Limits,
) -> Result<Box<[Xattr]>> {
    let mut kept = std::collections::BTreeMap::new();
    let mut total = 0;
    for (full_name, value) in records {
        let Some((namespace, name)) = split(&full_name) else {
            continue;
        };
        total += (full_name.len() + value.len()) as u64;
        if total > limits.max_xattr_bytes {
            let limit = limits.max_xattr_bytes;
            return Err(too_large(format!(
                "The attributes of {} have more than {limit} bytes",
                quoted(path)
            )));
        }
        if full_name.len() > MAX_NAME_BYTES || value.len() > MAX_XATTR_VALUE_BYTES {
            return Err(too_large(format!(
                "The attribute {} of {} is too long",
                quoted(&full_name),
                quoted(path)
            )));
        }
        kept.insert((namespace, name.into()), value.into_boxed_slice());
    }
    let xattrs: Box<[Xattr]> = kept
        .into_iter()
        .map(|((namespace, name), value)| Xattr {
            namespace,
            name,
            value,
        })
        .collect();
    if xattr_body_bytes(&xattrs) > MAX_XATTR_BODY_BYTES {
        return Err(too_large(format!(
            "The attributes of {} do not fit into an inode",
            quoted(path)
        )));
    }
    Ok(xattrs)
}

/// Namespace and rest of a name that is kept.
fn split(full_name: &[u8]) -> Option<(XattrNamespace, &[u8])> {
    match full_name {
        // Labels of the build host's policy.
        b"security.selinux" => return None,
        b"system.posix_acl_access" => return Some((XattrNamespace::AclAccess, b"")),
        b"system.posix_acl_default" => return Some((XattrNamespace::AclDefault, b"")),
        _ => {}
    }
    let spaces = [
        (&b"user."[..], XattrNamespace::User),
        (b"trusted.", XattrNamespace::Trusted),
        (b"security.", XattrNamespace::Security),
    ];
    let (namespace, name) = spaces
        .into_iter()
        .find_map(|(prefix, namespace)| Some((namespace, full_name.strip_prefix(prefix)?)))?;
    // What overlayfs believes about its lower layers is not for an image to say: `redirect` and
    // `metacopy` would show one file in another's place (Linux overlayfs.rst).
    let is_overlay = namespace == XattrNamespace::Trusted && name.starts_with(b"overlay.");
    (!name.is_empty() && !name.contains(&0) && !is_overlay).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(records: &[(&str, &str)]) -> Vec<(XattrNamespace, String, String)> {
        let records = records
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        kept(records, b"x", &Limits::default())
            .unwrap()
            .iter()
            .map(|xattr| (xattr.namespace, text(&xattr.name), text(&xattr.value)))
            .collect()
    }

    #[test]
    fn host_policy_and_overlay_state_are_left_out() {
        assert_eq!(
            names(&[
                ("security.selinux", "label"),
                ("trusted.overlay.redirect", "/etc/shadow"),
                ("system.nfs4_acl", "x"),
                ("com.apple.x", "x"),
                ("user.", "x"),
            ]),
            []
        );
    }

    #[test]
    fn attributes_are_sorted_and_the_last_record_counts() {
        assert_eq!(
            names(&[
                ("trusted.b", "1"),
                ("user.z", "1"),
                ("user.a", "1"),
                ("user.z", "2")
            ]),
            [
                (XattrNamespace::User, "a".into(), "1".into()),
                (XattrNamespace::User, "z".into(), "2".into()),
                (XattrNamespace::Trusted, "b".into(), "1".into()),
            ]
        );
    }

    #[test]
    fn attributes_past_the_limit_are_refused() {
        let limits = Limits {
            max_xattr_bytes: 10,
            ..Limits::default()
        };
        let records = vec![(b"user.a".to_vec(), vec![0; 5])];
        assert!(kept(records, b"x", &limits).is_err());
    }
}
