//! `uid`, `uid:gid`, `user` or `user:group`, by the image's own `/etc/passwd` and `/etc/group`.
//!
//! Parsed here and never by the C library, which would load the image's NSS modules. Rules as in
//! Docker: a name or a number matches either column; a number need not be in the file; without a
//! group, all groups that list the user are supplementary.
//!
//! Source: passwd(5), group(5).

use std::io::Read;

use cofferdam_proto::FailureKind;
use rustix::{
    fs::{FileType, OFlags, fstat},
    io::Errno,
};

use crate::{
    failure::{OrFail, Result, failure},
    mounts::{Root, resolve},
};

/// Largest `/etc/passwd` or `/etc/group` that is read; both come from the image.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Most supplementary groups; `NGROUPS_MAX` of linux/limits.h.
const MAX_GROUPS: usize = 65_536;

/// Whose rights a process gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups; `gid` is one, so that it cannot be shed to pass a denying entry.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl User {
    /// Whether it is root with its own group and no other.
    pub(super) fn is_plain_root(&self) -> bool {
        (self.uid, self.gid, self.groups.as_slice()) == (0, 0, &[0])
    }
}

/// The users and groups of an image.
#[derive(Debug)]
pub(super) struct Accounts {
    passwd: String,
    group: String,
    /// Who is meant when nobody is named, if that was looked up.
    nobody_named: Option<User>,
}

impl Accounts {
    /// Reads the files of `root`.
    pub(super) fn read(root: &Root) -> Result<Self> {
        Ok(Self {
            passwd: read(root, "/etc/passwd")?,
            group: read(root, "/etc/group")?,
            nobody_named: None,
        })
    }

    /// Looks up ahead who is meant when nobody is named.
    pub(super) fn ahead(root: &Root) -> Result<Self> {
        let mut accounts = Self::read(root)?;
        accounts.nobody_named = accounts.resolve("", &[]).ok();
        Ok(accounts)
    }

    /// The user that `user` means, with more groups; empty is root.
    pub(super) fn resolve(&self, user: &str, more: &[String]) -> Result<User> {
        let mut user = match &self.nobody_named {
            Some(root) if user.is_empty() => root.clone(),
            _ => find(user, &self.passwd, &self.group)?,
        };
        for name in more {
            let gid = find_group(name, &self.group)?;
            if !user.groups.contains(&gid) && user.groups.len() < MAX_GROUPS {
                user.groups.push(gid);
            }
        }
        Ok(user)
    }
}

fn read(root: &Root, path: &str) -> Result<String> {
    let failed = || format!("Could not read `{path}`");
    let kind = FailureKind::UnknownUser;
    // The image may have put a pipe there: not to wait for a writer.
    let file = match resolve::open(&root.directory, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error).or_fail(kind, failed),
    };
    let stat = fstat(&file).or_fail(kind, failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(failure(kind, format!("`{path}` is not a file")));
    }
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(file).take(MAX_FILE_BYTES + 1);
    let read = file.read_to_end(&mut bytes).or_fail(kind, failed)?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_FILE_BYTES) {
        return Err(failure(
            kind,
            format!("`{path}` is longer than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(user: &str, passwd: &str, group: &str) -> Result<User> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = passwd
        .lines()
        .filter_map(Account::parse)
        .find(|entry| entry.matches(user));
    let (uid, gid, name, home) = match (entry, id(user)) {
        (Some(entry), _) => (entry.uid, entry.gid, Some(entry.name), entry.home),
        (None, Some(uid)) => (uid, 0, None, ""),
        (None, None) => {
            let message = format!("User `{user}` is not in the image's /etc/passwd");
            return Err(failure(FailureKind::UnknownUser, message));
        }
    };
    let groups = || group.lines().filter_map(Group::parse);
    let (gid, mut groups) = match wanted_group {
        Some(wanted) => (find_group(wanted, group)?, Vec::new()),
        None => {
            let lists_user = |group: &Group<'_>| {
                name.is_some_and(|name| group.members.split(',').any(|member| member == name))
            };
            (
                gid,
                groups().filter(lists_user).map(|group| group.gid).collect(),
            )
        }
    };
    groups.insert(0, gid);
    groups.truncate(MAX_GROUPS);
    let home = if home.is_empty() { "/" } else { home };
    Ok(User {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

/// The group that a name or number means; a number need not be in the file.
fn find_group(wanted: &str, file: &str) -> Result<u32> {
    let mut groups = file.lines().filter_map(Group::parse);
    groups
        .find(|group| group.name == wanted || id(wanted) == Some(group.gid))
        .map(|group| group.gid)
        .or_else(|| id(wanted))
        .ok_or_else(|| {
            let message = format!("Group `{wanted}` is not in the image's /etc/group");
            failure(FailureKind::UnknownUser, message)
        })
}

/// A user or group number as Docker allows it: decimal, at most 2^31 - 1.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = digits.then(|| text.parse::<i32>().ok()).flatten()?;
    u32::try_from(id).ok()
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    /// `name:password:uid:gid:gecos:home:shell`; a line that is not one is skipped.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self {
            name,
            uid,
            gid,
            home,
        })
    }

    fn matches(&self, user: &str) -> bool {
        self.name == user || id(user) == Some(self.uid)
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    /// `name:password:gid:member,member`.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = id(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(Self { name, gid, members })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # comment\nbroken\nbad:x:one:1:::\n\
        web:x:33:34:Web:/var/www:/bin/sh\n\
        1000:x:5:6::/five:/bin/sh\nnohome:x:7:7\n";
    const GROUP: &str =
        "root:x:0:\nweb:x:34:\nlog:x:4:syslog,web\nssl:x:101:web\nwebmasters:x:9:webx\n";

    fn ids(user: &str) -> (u32, u32, Vec<u32>, String) {
        let user = find(user, PASSWD, GROUP).unwrap();
        (user.uid, user.gid, user.groups, user.home)
    }

    #[test]
    fn names_and_numbers_resolve_as_in_docker() {
        for (user, uid, gid, groups, home) in [
            ("", 0, 0, vec![0], "/root"),
            ("root", 0, 0, vec![0], "/root"),
            ("web", 33, 34, vec![34, 4, 101], "/var/www"),
            ("33", 33, 34, vec![34, 4, 101], "/var/www"),
            ("web:log", 33, 4, vec![4], "/var/www"),
            ("web:", 33, 34, vec![34, 4, 101], "/var/www"),
            (":web", 0, 34, vec![34], "/root"),
            ("web:999", 33, 999, vec![999], "/var/www"),
            ("4242", 4242, 0, vec![0], "/"),
            ("4242:4243", 4242, 4243, vec![4243], "/"),
            ("1000", 5, 6, vec![6], "/five"),
            ("nohome", 7, 7, vec![7], "/"),
        ] {
            assert_eq!(ids(user), (uid, gid, groups, home.to_owned()), "{user}");
        }
    }

    #[test]
    fn unknown_names_and_numbers_out_of_range_are_refused() {
        for user in [
            "nobody",
            "web:nogroup",
            "-1",
            "+5",
            "2147483648",
            "bad",
            "broken",
            "web:-1",
        ] {
            let failure = find(user, PASSWD, GROUP).unwrap_err();
            assert_eq!(failure.kind, FailureKind::UnknownUser, "{user}");
        }
    }

    #[test]
    fn an_image_without_a_passwd_has_root_and_numbers() {
        let user = find("", "", "").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (0, 0, "/"));
        assert!(find("root", "", "").is_err());
    }

    #[test]
    fn more_groups_are_added_once_each_by_name_or_number() {
        let accounts = Accounts {
            passwd: PASSWD.to_owned(),
            group: GROUP.to_owned(),
            nobody_named: None,
        };
        let more = ["log", "4", "webmasters", "999"].map(str::to_owned);
        let user = accounts.resolve("web:ssl", &more).unwrap();
        assert_eq!((user.gid, user.groups), (101, vec![101, 4, 9, 999]));
        for bad in ["nope", "-1", ""] {
            let failure = accounts.resolve("", &[bad.to_owned()]).unwrap_err();
            assert_eq!(failure.kind, FailureKind::UnknownUser, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_files_and_user_end_in_an_answer(user in ".{0,20}", passwd in "(.{0,40}\n){0,5}", group in "(.{0,40}\n){0,5}") {
            if let Ok(found) = find(&user, &passwd, &group) {
                prop_assert_eq!(found.groups[0], found.gid);
                prop_assert!(!found.home.is_empty());
            }
        }

        #[test]
        fn a_listed_user_is_found_among_others(name in "[a-z]{1,8}", uid in 0..i32::MAX as u32, noise in "([a-z]{9,12}:x:[0-9]{1,4}:1::/:/\n){0,5}") {
            let passwd = format!("{noise}{name}:x:{uid}:17::/h:/s\n");
            let found = find(&name, &passwd, "").unwrap();
            prop_assert_eq!((found.uid, found.gid, found.home.as_str()), (uid, 17, "/h"));
        }
    }
}
