//! Modules for Jiffy's firmware, in one file ([`abi::modules`]).

use abi::modules::{self, Entry, Header};
use zerocopy::IntoBytes;

use super::super::FilePart;
use super::contents::{Content, Part};

/// An archive of files, each with its command line; `None` if there are more than an archive takes.
pub(super) fn archive(files: Vec<(FilePart, &str)>) -> Option<Content> {
    let strings: usize = files.iter().map(|(_, string)| string.len()).sum();
    let header = modules::header(files.len(), strings)?;
    let mut data_offset = u64::from(header.head_len.get());
    let mut string_offset = (size_of::<Header>() + files.len() * size_of::<Entry>()) as u32;
    let mut head = header.as_bytes().to_vec();
    for (file, string) in &files {
        let entry = Entry {
            data_offset: data_offset.into(),
            data_len: file.len.into(),
            string_offset: string_offset.into(),
            string_len: (string.len() as u32).into(),
            reserved: 0.into(),
        };
        head.extend_from_slice(entry.as_bytes());
        data_offset += file.len;
        string_offset += string.len() as u32;
    }
    head.extend(files.iter().flat_map(|(_, string)| string.bytes()));
    Some(
        std::iter::once(Part::Bytes(head))
            .chain(files.into_iter().map(|(file, _)| Part::File(file)))
            .collect(),
    )
}
