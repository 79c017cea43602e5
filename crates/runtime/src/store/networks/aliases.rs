//! The aliases of a member.

use cofferdam_types::{NetworkAttachment, valid_name};

use crate::base::error::{Error, ErrorKind, Result};

/// Aliases of one member.
const MAX_ALIASES: usize = 32;

/// Refuses aliases that cannot be.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] with the alias.
pub(crate) fn check_aliases(asked: &NetworkAttachment) -> Result<()> {
    let invalid = |what: String| Err(Error::new(ErrorKind::InvalidSpec, what));
    if asked.aliases.len() > MAX_ALIASES {
        return invalid(format!("A member has at most {MAX_ALIASES} aliases"));
    }
    // It means the guest itself to every program.
    let is_taken = |alias: &str| alias.eq_ignore_ascii_case("localhost");
    // It could be a name of the internet: that one would lead to the member instead.
    if let Some(dotted) = asked.aliases.iter().find(|alias| alias.contains('.')) {
        let what = format!("The alias `{}` has a dot", dotted.escape_debug());
        let hint = "Leave the part behind the dot out: members find the alias alone, and with \
                    `.` and the network's name behind it";
        return Err(Error::new(ErrorKind::InvalidSpec, what).hint(hint));
    }
    match asked
        .aliases
        .iter()
        .find(|alias| !valid_name(alias) || is_taken(alias))
    {
        Some(bad) => invalid(format!("`{}` is not an alias", bad.escape_debug())),
        None => Ok(()),
    }
}
