//! Looks for words in bytes that come in pieces.

/// The first of `words` in `bytes`: its place and its index.
pub(crate) fn find<W: AsRef<[u8]>>(bytes: &[u8], words: &[W]) -> Option<(usize, usize)> {
    let found = words.iter().enumerate().filter_map(|(index, word)| {
        let word = word.as_ref();
        let (first, _) = word.split_first()?;
        let mut at = 0;
        loop {
            at += bytes.get(at..)?.iter().position(|byte| byte == first)?;
            if bytes.get(at..)?.starts_with(word) {
                return Some((at, index));
            }
            at += 1;
        }
    });
    found.min()
}

/// How many bytes at the end of `bytes` may be the beginning of one of `words`.
pub(crate) fn partial<W: AsRef<[u8]>>(bytes: &[u8], words: &[W]) -> usize {
    let of = |word: &[u8]| {
        let most = word.len().saturating_sub(1).min(bytes.len());
        (1..=most)
            .rev()
            .find(|length| bytes.ends_with(&word[..*length]))
    };
    words
        .iter()
        .filter_map(|word| of(word.as_ref()))
        .max()
        .unwrap_or(0)
}

/// Replaces each of `words` by the text of the same index. Returns whether there was one.
pub(crate) fn replace<W: AsRef<[u8]>, T: AsRef<[u8]>>(
    bytes: &[u8],
    words: &[W],
    texts: &[T],
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((at, index)) = find(rest, words) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(texts[index].as_ref());
        rest = &rest[at + words[index].as_ref().len()..];
    }
    if rest.len() == bytes.len() {
        return None;
    }
    out.extend_from_slice(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_found_and_every_one_replaced() {
        assert_eq!(find(b"xxabab", &["ba", "ab"]), Some((2, 1)));
        assert_eq!(find(b"xx", &["ba"]), None);
        assert_eq!(find::<&str>(b"xx", &[]), None);
        let replaced = replace(b"1ab2ab3", &["ab"], &["long text"]);
        assert_eq!(replaced.unwrap(), b"1long text2long text3");
        assert_eq!(replace(b"123", &["ab"], &["x"]), None);
    }

    #[test]
    fn the_beginning_of_a_word_at_the_end_is_seen() {
        assert_eq!(partial(b"xxse", &["secret"]), 2);
        assert_eq!(partial(b"xxsecret", &["secret"]), 0);
        assert_eq!(partial(b"s", &["secret", "sun"]), 1);
        assert_eq!(partial(b"", &["secret"]), 0);
    }
}
