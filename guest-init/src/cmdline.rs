//! The kernel's command line.

/// How many words follow the `--` of a kernel's command line. The kernel hands these to init, as its last
/// arguments, after whatever other words it did not understand.
pub fn words_after_dashes(cmdline: &[u8]) -> usize {
    let mut words = words(cmdline);
    words.by_ref().find(|word| unquoted(word) == b"--");
    words.count()
}

/// Splits as the kernel does (`lib/cmdline.c`, `next_arg`): at white space outside double quotes.
fn words(cmdline: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let blank = move |byte: &u8| {
        quoted ^= *byte == b'"';
        // The kernel's isspace also takes the vertical tab and the no-break space of Latin 1.
        !quoted && (byte.is_ascii_whitespace() || matches!(*byte, 0x0b | 0xa0))
    };
    cmdline.split(blank).filter(|word| !word.is_empty())
}

fn unquoted(word: &[u8]) -> &[u8] {
    match word {
        [b'"', inner @ .., b'"'] => inner,
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::words_after_dashes;
    use proptest::prelude::*;

    #[test]
    fn counts_like_the_kernel() {
        let cases: [(&[u8], usize); 9] = [
            (b"", 0),
            (b"quiet splash\n", 0),
            (b"quiet --\n", 0),
            (b"quiet -- ls\n", 1),
            (b"quiet -- ls  -l\t/dev \n", 3),
            (b"-- sh -c \"echo a b\"", 3),
            (b"x=\"a -- b\" c", 0),
            (b"a -- b -- c", 3),
            (b"a---b --c \"--\" d", 1),
        ];
        for (cmdline, count) in cases {
            assert_eq!(words_after_dashes(cmdline), count, "{}", cmdline.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn plain_words_are_counted(before in prop::collection::vec("[a-z=.]{1,8}", 0..5),
                                   after in prop::collection::vec("[a-z=.-]{1,8}", 0..5)) {
            let line = std::format!("{} -- {}\n", before.join(" "), after.join("  "));
            prop_assert_eq!(words_after_dashes(line.as_bytes()), after.len());
        }

        #[test]
        fn any_bytes_are_taken(line in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(words_after_dashes(&line) <= line.len());
        }
    }
}
